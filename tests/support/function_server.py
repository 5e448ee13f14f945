"""The Cloud Function under the real functions-framework, and stand-ins for the services that it calls.

Cloud Storage is gcp-storage-emulator. Vertex AI and Cloud Tasks are one HTTP server that keeps what it receives.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubeflow import stand_ins
from kubeflow.stand_ins import CloudTasks, post


def binary_event(url: str, kind: str, data: Any) -> int:
    """Sends a CloudEvent as Eventarc does."""
    headers = {"ce-id": str(uuid.uuid4()), "ce-type": kind, "ce-source": "//storage", "ce-specversion": "1.0"}
    return post(url, {**headers, "Content-Type": "application/json"}, json.dumps(data).encode())


def structured_event(url: str, kind: str, data: Any) -> int:
    """Sends a CloudEvent as one JSON document."""
    event = {"id": str(uuid.uuid4()), "type": kind, "source": "//storage", "specversion": "1.0", "data": data}
    return post(url, {"Content-Type": "application/cloudevents+json"}, json.dumps(event).encode())


class GoogleApis(CloudTasks):
    """Context manager: PipelineService and Cloud Tasks, as far as the function uses them. Tests deliver the tasks.

    Fields:
      runs: PipelineJobs by id.
      tasks: tasks by full name.
      answers: statuses for the next calls, in place of doing what they ask; 0 hangs up.
      clock: tells the time at which runs are created.
    """

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, dict[str, Any]] = {}
        self.answers: list[int] = []
        self.clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)

    def dispatch(self) -> None:
        pass

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        address = urlsplit(target)
        query = {key: value for key, [value] in parse_qs(address.query).items()}
        with self.lock:
            status = self.answers.pop(0) if self.answers else None
        if status is not None:
            return status, {"error": {"code": status, "message": "as the test wants it"}}
        if address.path.endswith("/tasks"):
            return super().answer(method, target, body)
        if method == "POST":
            run = {
                **body,
                "name": f"{address.path.removeprefix('/v1/')}/{query['pipelineJobId']}",
                "state": "PIPELINE_STATE_RUNNING",
                "createTime": self.clock().isoformat().replace("+00:00", "Z"),
            }
            return self.create(self.runs, query["pipelineJobId"], run)
        key, _, value = query["filter"].removeprefix("labels.").partition("=")
        with self.lock:
            found = [run for run in self.runs.values() if run["labels"].get(key) == json.loads(value)]
        assert query["orderBy"] == "create_time desc"
        found.sort(key=lambda run: datetime.fromisoformat(run["createTime"].rstrip("Z")), reverse=True)
        return 200, {"pipelineJobs": found[: int(query["pageSize"])]} if found else {}


class FunctionServer:
    """Context manager: the function as a process.

    Args:
      environment: its variables.
      log: the file for what it says.
    """

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.log, [self.port] = log, stand_ins.free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = stand_ins.function_environment(log.parent, {"RETAKE_URL": self.url, **environment})

    def __enter__(self) -> FunctionServer:
        command = stand_ins.function_command(self.port)
        self.process = stand_ins.serving(self.url, command, self.environment, self.log)
        self.process.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.process.__exit__(None, None, None)

    def deliver(self, task: dict[str, Any]) -> int:
        """Calls the function as Cloud Tasks would for a task."""
        request = task["httpRequest"]
        return post(request["url"], request["headers"], base64.b64decode(request["body"]))

    def entries(self) -> list[dict[str, Any]]:
        """What it logged as JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith('{"severity"')]
