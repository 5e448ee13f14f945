"""Servers of this machine that stand for Google Cloud: a bucket, a Vertex AI, the function, and its queue of tasks.

The demo and the tests use them. README.md says how they differ from the real services.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from retake.errors import RetakeError

FUNCTION = Path(__file__).parent / "cloud_function"
FRAMEWORK = Path(__file__).parents[1] / ".function" / "venv" / "bin" / "functions-framework"
FINALIZED = "google.cloud.storage.object.v1.finalized"
HOST = "127.0.0.1"
PATIENCE_SECONDS = 120


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [listener.getsockname()[1] for listener in listeners]


def storage_command(root: Path, port: int) -> list[str]:
    """Serves buckets, whose objects are files of the folder $STORAGE_DIR in `root`."""
    options = ["--data-dir", str(root), "start", "--quiet", "--host", HOST, "--port", str(port)]
    return [sys.executable, "-m", "gcp_storage_emulator", *options]


def vertex_command(root: Path, port: int, *options: str) -> list[str]:
    """Serves Vertex AI Pipelines, with its history in `root`."""
    return [sys.executable, "-m", "kubeflow.emulator", "--root", str(root), "--port", str(port), *options]


def function_command(port: int) -> list[str]:
    """Serves the function under functions-framework."""
    source = ["--source", str(FUNCTION / "main.py"), "--target", "on_event"]
    return [str(FRAMEWORK), *source, "--host", HOST, "--port", str(port)]


def function_environment(home: Path, settings: dict[str, str]) -> dict[str, str]:
    """The variables of the function: without credentials of whoever is at this machine."""
    return {**{key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}, "HOME": str(home), **settings}


@contextmanager
def serving(url: str, command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """Runs a server in a process of its own, and ends it.

    Raises:
      RetakeError: it does not come up.
    """
    log.parent.mkdir(exist_ok=True)
    with log.open("a") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        end = time.monotonic() + PATIENCE_SECONDS
        while not _answers(url):
            if process.poll() is not None or time.monotonic() > end:
                lines = log.read_text().strip().splitlines() or ["its log is empty"]
                raise RetakeError(f"{log.stem} does not come up: {lines[-1]}; its whole log is {log}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _answers(url: str) -> bool:
    try:
        urlopen(url, timeout=5).close()  # noqa: S310
    except HTTPError:
        return True  # Not all have something to show there.
    except OSError:
        return False
    return True


def stored_event(blob: Any, identity: str) -> tuple[dict[str, str], bytes]:
    """The headers and the body of the event that Eventarc sends for a stored object."""
    headers = {
        "ce-id": identity,
        "ce-type": FINALIZED,
        "ce-source": f"//storage.googleapis.com/projects/_/buckets/{blob.bucket.name}",
        "ce-subject": f"objects/{blob.name}",
        "ce-specversion": "1.0",
        "Content-Type": "application/json",
    }
    data = {
        "bucket": blob.bucket.name,
        "name": blob.name,
        "generation": str(blob.generation),
        "size": str(blob.size),
        "timeCreated": blob.time_created.isoformat(),
    }
    return headers, json.dumps(data).encode()


def post(url: str, headers: dict[str, str], body: bytes) -> int:
    """Posts a body, and returns the status of the answer.

    Raises:
      OSError: nobody answers.
    """
    try:
        with urlopen(Request(url, body, headers), timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            return int(answer.status)
    except HTTPError as error:
        return error.code


class CloudTasks:
    """Context manager: a queue of Cloud Tasks, as far as the function uses it.

    It delivers a task when its time has come, one at a time, and again every few seconds until the function takes it.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer((HOST, 0), self._handler())
        self.url = f"http://{HOST}:{self.server.server_port}"
        self._ended = threading.Event()

    def __enter__(self) -> CloudTasks:
        for work in (self.server.serve_forever, self.dispatch):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.server.shutdown()
        self.server.server_close()

    def dispatch(self) -> None:
        """Delivers the tasks, until this context ends."""
        taken: set[str] = set()
        while not self._ended.wait(1):
            with self.lock:
                waiting = [task for name, task in self.tasks.items() if name not in taken]
            for task in waiting:
                due = datetime.fromisoformat(task["scheduleTime"]) <= datetime.now(timezone.utc)
                if due and not self._ended.is_set() and self.deliver(task):
                    taken.add(task["name"])

    @staticmethod
    def deliver(task: dict[str, Any]) -> bool:
        """Makes a task's request, and returns whether its receiver took it."""
        request = task["httpRequest"]
        try:
            return post(request["url"], request["headers"], base64.b64decode(request["body"])) == 200
        except OSError:
            return False

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        """The status and the document that a request is answered with; status 0 hangs up."""
        if method == "POST" and target.endswith("/tasks"):
            return self.create(self.tasks, body["task"]["name"], body["task"])
        return 404, {"error": {"code": 404, "message": f"this queue has no method {method} {target}"}}

    def create(self, place: dict[str, Any], name: str, what: Any) -> tuple[int, Any]:
        with self.lock:
            if name in place:
                return 409, {"error": {"code": 409, "message": f"{name} already exists"}}
            place[name] = what
        return 200, what

    def _handler(service) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, answer = service.answer(self.command, self.path, json.loads(body or "null"))
                if status:
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(json.dumps(answer).encode())

            do_GET = do_POST

            def log_message(self, *_: object) -> None:
                pass

        return Handler
