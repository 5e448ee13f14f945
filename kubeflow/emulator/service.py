"""The part of the Vertex AI PipelineService that google-cloud-aiplatform uses, on its REST transport."""

from __future__ import annotations

import fcntl
import json
import os
import re
import threading
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from kubeflow.emulator import job as jobs
from kubeflow.emulator import listing
from kubeflow.emulator.expressions import walk
from kubeflow.emulator.process import tail
from kubeflow.emulator.refusals import ApiError, check, invalid
from kubeflow.emulator.store import Store, now

Document = dict[str, Any]

HOST = "127.0.0.1"
MAX_BYTES = 16 * 2**20

_ENDED = ("PIPELINE_STATE_SUCCEEDED", "PIPELINE_STATE_FAILED", "PIPELINE_STATE_CANCELLED")
_OUTPUT_ONLY = ("name", "createTime", "startTime", "endTime", "updateTime", "state", "jobDetail", "error")
_PARENT = r"/v1/(?P<parent>projects/[^/]+/locations/[^/]+)/pipelineJobs"
_JOB = rf"{_PARENT}/(?P<job_id>[^/:]+)"
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


class Emulator:
    """The service: jobs that run in this process's threads, and a store that outlives it."""

    def __init__(self, root: Path, parallel: int) -> None:
        self.logs = root / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._alone = (root / "lock").open("w")
        try:
            fcntl.flock(self._alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"{root} is in use by another emulator: end that, or give another --root") from None
        self._store = Store(root / "emulator.sqlite")
        self._slots = threading.Semaphore(parallel)
        self._running: dict[str, jobs.Job] = {}
        self._lock = threading.Lock()

    def go_on(self) -> int:
        """Takes up the jobs that an earlier emulator left, and returns how many."""
        left = [document for document in self._store.jobs() if document["state"] not in _ENDED]
        for document in reversed(left):
            self._start(document)
        return len(left)

    def leave(self) -> None:
        """Ends all processes; their jobs are taken up again by the next emulator of this root."""
        for job in list(self._running.values()):
            job.leave()

    def _start(self, document: Document) -> None:
        job = self._running[document["name"]] = jobs.Job(document, self._store, self.logs, self._slots)

        def run() -> None:
            job.run()
            with self._lock:
                if self._running.get(document["name"]) is job:  # And not another one of that name.
                    del self._running[document["name"]]

        threading.Thread(target=run, name=document["name"]).start()

    def create(self, parent: str, query: dict[str, str], body: Document) -> Document:
        pipeline = re.sub("[^a-z0-9]+", "-", str(walk(body, ".pipeline_spec.pipeline_info.name")).lower()).strip("-")
        job_id = query.get("pipelineJobId") or f"{pipeline}-{re.sub('[^0-9]', '', now())}"
        document = {**body}
        try:
            check(job_id, document)
        except (AttributeError, KeyError, TypeError) as error:
            raise invalid(f"The PipelineJob is malformed ({type(error).__name__}: {error}).") from None
        document = {key: value for key, value in document.items() if key not in _OUTPUT_ONLY}
        contexts = f"{parent}/metadataStores/default/contexts"
        document |= {
            "name": f"{parent}/pipelineJobs/{job_id}",
            "createTime": now(),
            "updateTime": now(),
            "state": "PIPELINE_STATE_PENDING",
            "jobDetail": {
                "pipelineContext": {"name": f"{contexts}/{pipeline}", "schemaTitle": "system.Pipeline"},
                "pipelineRunContext": {"name": f"{contexts}/{job_id}", "schemaTitle": "system.PipelineRun"},
                "taskDetails": [],
            },
        }
        with self._lock:
            if not self._store.add_job(document):
                raise ApiError(409, "ALREADY_EXISTS", f"The PipelineJob {document['name']} already exists.")
            told: Document = json.loads(json.dumps(document))
            self._start(document)
        return told

    def get(self, parent: str, job_id: str, **_ignored: Any) -> Document:
        name = f"{parent}/pipelineJobs/{job_id}"
        document = self._store.job(name)
        if document is None:
            raise ApiError(404, "NOT_FOUND", f"The PipelineJob {name} is not found.")
        return document

    def list(self, parent: str, query: dict[str, str], **_ignored: Any) -> Document:
        """Lists jobs; `-` stands for every project and every location."""
        pattern = re.compile(re.escape(parent).replace(r"/\-", "/[^/]+") + "/pipelineJobs/.*")
        try:
            wanted = listing.wanted(query.get("filter", ""))
            told = [each for each in self._store.jobs() if pattern.match(each["name"]) and wanted(each)]
            told = listing.in_order(told, query.get("orderBy", ""))
            part = listing.page(query.get("pageSize", ""), query.get("pageToken", ""))
        except (TypeError, ValueError) as error:
            raise invalid(str(error)) from None
        page = [_without_tasks(each) for each in told[part]]
        if mask := query.get("readMask"):
            page = [_masked(each, mask.split(",")) for each in page]
        more = {"nextPageToken": str(part.stop)} if part.stop < len(told) else {}
        return {"pipelineJobs": page, **more}

    def cancel(self, parent: str, job_id: str, **_ignored: Any) -> Document:
        with self._lock:
            document = self.get(parent, job_id)
            job = self._running.get(document["name"])
            if document["state"] in _ENDED or not job or not job.cancel():
                document = self.get(parent, job_id)
                told = f"The PipelineJob {document['name']} is in state {document['state']} and cannot be cancelled."
                raise ApiError(400, "FAILED_PRECONDITION", told)
        return {}

    def delete(self, parent: str, job_id: str, **_ignored: Any) -> Document:
        with self._lock:
            document = self.get(parent, job_id)
            if document["state"] not in _ENDED:
                told = f"The PipelineJob {document['name']} is in state {document['state']}: cancel it first."
                raise ApiError(400, "FAILED_PRECONDITION", told)
            self._store.delete_job(document["name"])
        for detail in document["jobDetail"]["taskDetails"]:
            jobs.log_file(self.logs, detail["taskId"]).unlink(missing_ok=True)
        response = {"@type": "type.googleapis.com/google.protobuf.Empty"}
        return {"name": f"{parent}/operations/delete-{job_id}", "done": True, "response": response}

    def log(self, task_id: str, **_ignored: Any) -> bytes:
        return tail(jobs.log_file(self.logs, task_id))


def serve(emulator: Emulator, port: int) -> ThreadingHTTPServer:
    """A server on this machine's own address; 0 is any free port."""
    server = ThreadingHTTPServer((HOST, port), type("Handler", (_Handler,), {"emulator": emulator}))
    server.daemon_threads = True
    return server


_METHODS: list[tuple[str, str, Callable[..., Document | bytes]]] = [
    ("GET", r"/logs/(?P<task_id>\d+)", Emulator.log),
    ("GET", _JOB, Emulator.get),
    ("GET", _PARENT, Emulator.list),
    ("POST", _PARENT, Emulator.create),
    ("POST", rf"{_JOB}:cancel", Emulator.cancel),
    ("DELETE", _JOB, Emulator.delete),
]


class _Handler(BaseHTTPRequestHandler):
    emulator: Emulator
    protocol_version = "HTTP/1.1"
    timeout = 60

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        try:
            self._refuse_strangers()
            body = self._body()
            if self.command == "GET" and path in _FILES:
                name, type_ = _FILES[path]
                self._answer(200, (Path(__file__).parent / name).read_bytes(), type_)
                return
            for command, pattern, method in _METHODS:
                if command == self.command and (match := re.fullmatch(pattern, path)):
                    query = {key: values[-1] for key, values in parse_qs(urlsplit(self.path).query).items()}
                    told = method(self.emulator, **match.groupdict(), query=query, body=body)
                    if isinstance(told, bytes):
                        self._answer(200, told, "text/plain")
                    else:
                        self._answer(200, json.dumps(told).encode(), "application/json")
                    return
            raise ApiError(404, "NOT_FOUND", f"This emulator has no method {self.command} {path}.")
        except ApiError as error:
            self._fail(error)
        except Exception as error:
            traceback.print_exc()
            self._fail(ApiError(500, "INTERNAL", f"{type(error).__name__}: {error}"))

    do_GET = do_POST = do_DELETE = _handle

    def _fail(self, error: ApiError) -> None:
        self.close_connection = True  # What the request still holds is not read.
        status = {"code": error.code, "message": str(error), "status": error.status}
        self._answer(error.code, json.dumps({"error": status}).encode(), "application/json")

    def _refuse_strangers(self) -> None:
        """Refuses web pages that a browser here has open: a job is a command."""
        host = f"{self.headers.get('Host', '')}".partition(":")[0]
        origin = self.headers.get("Origin")
        if host not in (HOST, "localhost") or (origin and urlsplit(origin).netloc != self.headers["Host"]):
            raise ApiError(403, "PERMISSION_DENIED", f"Only {HOST} and localhost are served here.")

    def _body(self) -> Document:
        try:
            size = int(self.headers.get("Content-Length", 0))
        except ValueError:
            raise invalid("Content-Length is not a number.") from None
        if not 0 <= size <= MAX_BYTES:
            raise ApiError(413, "INVALID_ARGUMENT", f"The request has {size} bytes; at most {MAX_BYTES} are taken.")
        try:
            told = json.loads(self.rfile.read(size) or "{}")
        except ValueError as error:
            raise invalid(f"Invalid JSON payload: {error}.") from None
        if not isinstance(told, dict):
            raise invalid("Invalid JSON payload: an object was expected.")
        return told

    def _answer(self, code: int, body: bytes, type_: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", f"{type_}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", "default-src 'self'; img-src data:; frame-ancestors 'none'")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        if os.environ.get("EMULATOR_VERBOSE"):
            super().log_message(format, *arguments)


def _without_tasks(document: Document) -> Document:
    """A job as it is listed: what is told of its tasks is not part of that."""
    detail = {key: value for key, value in document["jobDetail"].items() if key != "taskDetails"}
    return {**document, "jobDetail": detail}


def _masked(document: Document, paths: list[str]) -> Document:
    told: Document = {}
    for path in paths:
        value = walk(document, path)
        if value is None:
            continue
        *above, last = [re.sub("_(.)", lambda match: match[1].upper(), name) for name in path.split(".")]
        at = told
        for name in above:
            at = at.setdefault(name, {})
        at[last] = value
    return told
