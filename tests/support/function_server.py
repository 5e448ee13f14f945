"""The Cloud Function under the real functions-framework, and stand-ins for the services that it calls.

Cloud Storage is gcp-storage-emulator. Vertex AI and Cloud Tasks are one HTTP server that keeps what it is sent.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import Request, urlopen

from kubeflow import demo
from pipelines.local_airflow.server import free_port


def send(url: str, headers: dict[str, str], body: bytes) -> int:
    """Posts a body, and returns the status of the answer."""
    try:
        with urlopen(Request(url, body, headers), timeout=60) as answer:  # noqa: S310
            return answer.status
    except HTTPError as error:
        return error.code


def binary_event(url: str, kind: str, data: Any) -> int:
    """Sends a CloudEvent as Eventarc does."""
    headers = {"ce-id": str(uuid.uuid4()), "ce-type": kind, "ce-source": "//storage", "ce-specversion": "1.0"}
    return send(url, {**headers, "Content-Type": "application/json"}, json.dumps(data).encode())


def structured_event(url: str, kind: str, data: Any) -> int:
    """Sends a CloudEvent as one JSON document."""
    event = {"id": str(uuid.uuid4()), "type": kind, "source": "//storage", "specversion": "1.0", "data": data}
    return send(url, {"Content-Type": "application/cloudevents+json"}, json.dumps(event).encode())


class GoogleApis:
    """Context manager: PipelineService and Cloud Tasks, as far as the function uses them.

    Fields:
      runs: PipelineJobs by id.
      tasks: tasks by full name.
      answers: statuses for the next calls, in place of doing what they ask; 0 hangs up.
      clock: tells the time at which runs are created.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.tasks: dict[str, dict[str, Any]] = {}
        self.answers: list[int] = []
        self.clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> GoogleApis:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        address = urlsplit(target)
        query = {key: value for key, [value] in parse_qs(address.query).items()}
        with self.lock:
            if self.answers:
                status = self.answers.pop(0)
                return status, {"error": {"code": status, "message": "as the test wants it"}}
            if address.path.endswith("/tasks"):
                return self.create(self.tasks, body["task"]["name"], body["task"])
            if method == "POST":
                run = {
                    **body,
                    "name": f"{address.path.removeprefix('/v1/')}/{query['pipelineJobId']}",
                    "state": "PIPELINE_STATE_RUNNING",
                    "createTime": self.clock().isoformat().replace("+00:00", "Z"),
                }
                return self.create(self.runs, query["pipelineJobId"], run)
            key, _, value = query["filter"].removeprefix("labels.").partition("=")
            found = [run for run in self.runs.values() if run["labels"].get(key) == json.loads(value)]
            assert query["orderBy"] == "create_time desc"
            found.sort(key=lambda run: datetime.fromisoformat(run["createTime"].rstrip("Z")), reverse=True)
            return 200, {"pipelineJobs": found[: int(query["pageSize"])]} if found else {}

    @staticmethod
    def create(place: dict[str, Any], name: str, what: Any) -> tuple[int, Any]:
        if name in place:
            return 409, {"error": {"code": 409, "message": f"{name} already exists"}}
        place[name] = what
        return 200, what

    def handler(apis) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = apis.answer(self.command, self.path, json.loads(body or "null"))
                if status:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(json.dumps(answer).encode())

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        return Handler


class FunctionServer:
    """Context manager: the function as a process.

    Args:
      environment: its variables.
      log: the file for what it says.
    """

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log, self.port = log, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Credentials of whoever runs the tests are none of the function's.
        kept = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG")}
        self.environment = {**kept, "HOME": str(log.parent), "RETAKE_URL": self.url, **environment}

    def __enter__(self) -> FunctionServer:
        self.process = demo.serving(self.url, demo.function_command(str(self.port)), self.environment, self.log)
        self.process.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__(None, None, None)

    def deliver(self, task: dict[str, Any]) -> int:
        """Calls the function as Cloud Tasks would for a task."""
        request = task["httpRequest"]
        return send(request["url"], request["headers"], base64.b64decode(request["body"]))

    def entries(self) -> list[dict[str, Any]]:
        """What it logged as JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith('{"severity"')]
