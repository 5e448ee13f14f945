"""The part of the Vertex AI PipelineService that google-cloud-aiplatform uses."""

from __future__ import annotations

import fcntl
import json
import re
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Any

from kubeflow.emulator import job as jobs
from kubeflow.emulator import listing
from kubeflow.emulator.documents import Document, walk
from kubeflow.emulator.node_server import NodeServer
from kubeflow.emulator.process import end_leftovers, of_task, tail
from kubeflow.emulator.refusals import ApiError, check, invalid
from kubeflow.emulator.store import ENDED, Store, now

_OUTPUT_ONLY = ("name", "createTime", "startTime", "endTime", "updateTime", "state", "jobDetail", "error")


class InUse(Exception):
    """Another emulator uses the root."""


class Emulator:
    """The service. Jobs run in threads of this process; the store is a file.

    Args:
      root: the folder of the history and the logs.
      parallel: how many tasks run at once.
      forks: whether a node server runs this project's tasks.

    Raises:
      InUse: another emulator uses the root.
      OSError: the root cannot be written to.
      sqlite3.Error: the history cannot be read.
    """

    def __init__(self, root: Path, parallel: int, forks: bool = True) -> None:
        self.logs = root / "logs"
        for folder in (root, self.logs):
            folder.mkdir(0o700, parents=True, exist_ok=True)
        # Only this user may read logs and parameters. SQLite gives the files beside its own the same mode.
        self.logs.chmod(0o700)
        for name in ("lock", "emulator.sqlite"):
            (root / name).touch(0o600)
            (root / name).chmod(0o600)
        self._alone = (root / "lock").open("w")
        try:
            fcntl.flock(self._alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"{root} is in use by another emulator") from None
        self._store = Store(root / "emulator.sqlite")
        self._slots = threading.Semaphore(parallel)
        self._running: dict[str, jobs.Job] = {}
        self._lock = threading.Lock()
        self._nodes = NodeServer(of_task(self.logs), self.logs / "node-server.log") if forks else None

    def go_on(self) -> int:
        """Resumes the unfinished jobs of an earlier emulator, and returns their number."""
        left = self._store.unfinished_jobs()
        if left:
            end_leftovers(self.logs)
        for document in left:
            self._start(document)
        return len(left)

    def leave(self) -> None:
        """Ends all processes. The next emulator of this root resumes their jobs."""
        for job in list(self._running.values()):
            job.leave()
        if self._nodes:
            self._nodes.end()

    def _start(self, document: Document) -> None:
        job = self._running[document["name"]] = jobs.Job(document, self._store, self.logs, self._slots, self._nodes)

        def run() -> None:
            job.run()
            while not self._forget(document["name"], job):
                time.sleep(1)

        threading.Thread(target=run, name=document["name"]).start()

    def _forget(self, name: str, job: jobs.Job) -> bool:
        """Drops an ended job once its document is written. Returns False if the document cannot be written yet."""
        with self._lock:
            if self._running.get(name) is job:  # The name may belong to a newer job.
                if not job.save():
                    return False
                del self._running[name]
        return True

    def _latest(self, document: Document) -> Document:
        """The latest document of a job. On a full disk, the stored document is older than a running job's."""
        job = self._running.get(document["name"])
        return job.document() if job else document

    def create(self, parent: str, query: dict[str, str], body: Document) -> Document:
        pipeline = re.sub("[^a-z0-9]+", "-", str(walk(body, ".pipeline_spec.pipeline_info.name")).lower()).strip("-")
        job_id = query.get("pipelineJobId") or f"{pipeline}-{re.sub('[^0-9]', '', now())}"
        try:
            document = check(parent, job_id, body)
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
            response: Document = json.loads(json.dumps(document))
            try:
                self._start(document)
            except RuntimeError as error:  # The system gives no more threads.
                del self._running[document["name"]]
                self._store.delete_job(document["name"])
                raise ApiError(429, "RESOURCE_EXHAUSTED", f"Too many jobs are running: {error}.") from None
        return response

    def get(self, parent: str, job_id: str, **_ignored: Any) -> Document:
        name = f"{parent}/pipelineJobs/{job_id}"
        document = self._store.job(name)
        if document is None:
            raise ApiError(404, "NOT_FOUND", f"The PipelineJob {name} is not found.")
        return self._latest(document)

    def list(self, parent: str, query: dict[str, str], **_ignored: Any) -> Document:
        """Lists jobs; `-` stands for every project and every location."""
        pattern = re.compile(re.escape(parent).replace(r"/\-", "/[^/]+") + "/pipelineJobs/.*")
        try:
            wanted = listing.wanted(query.get("filter", ""))
            part = listing.page(query.get("pageSize", ""), query.get("pageToken", ""))
            known = (_without_tasks(self._latest(job)) for job in self._store.jobs() if pattern.match(job["name"]))
            found = listing.in_order(filter(wanted, known), query.get("orderBy", ""))
            page = [*islice(found, part.start, part.stop + 1)]
            more = {"nextPageToken": str(part.stop)} if len(page) > part.stop - part.start else {}
            page = page[: part.stop - part.start]
            if mask := query.get("readMask"):
                page = [_masked(each, mask.split(",")) for each in page]
        except (AttributeError, TypeError, ValueError) as error:
            raise invalid(str(error)) from None
        return {"pipelineJobs": page, **more}

    def cancel(self, parent: str, job_id: str, **_ignored: Any) -> Document:
        with self._lock:
            document = self.get(parent, job_id)
            job = self._running.get(document["name"])
            if document["state"] in ENDED or not job or not job.cancel():
                document = self.get(parent, job_id)
                message = f"The PipelineJob {document['name']} is in state {document['state']} and cannot be cancelled."
                raise ApiError(400, "FAILED_PRECONDITION", message)
        return {}

    def delete(self, parent: str, job_id: str, **_ignored: Any) -> Document:
        with self._lock:
            document = self.get(parent, job_id)
            if document["state"] not in ENDED:
                message = f"The PipelineJob {document['name']} is in state {document['state']}: cancel it first."
                raise ApiError(400, "FAILED_PRECONDITION", message)
            self._store.delete_job(document["name"])
            self._running.pop(document["name"], None)
        for detail in document["jobDetail"]["taskDetails"]:
            jobs.log_file(self.logs, detail["taskId"]).unlink(missing_ok=True)
        response = {"@type": "type.googleapis.com/google.protobuf.Empty"}
        return {"name": f"{parent}/operations/delete-{job_id}", "done": True, "response": response}

    def log(self, task_id: str, **_ignored: Any) -> bytes:
        return tail(jobs.log_file(self.logs, task_id))


def _without_tasks(document: Document) -> Document:
    """A job's document without the details of its tasks, as a list shows it."""
    detail = {key: value for key, value in document["jobDetail"].items() if key != "taskDetails"}
    return {**document, "jobDetail": detail}


def _masked(document: Document, paths: list[str]) -> Document:
    masked: Document = {}
    for path in paths:
        value = walk(document, path)
        if value is None:
            continue
        *above, last = [re.sub("_(.)", lambda match: match[1].upper(), name) for name in path.split(".")]
        at = masked
        for name in above:
            at = at.setdefault(name, {})
        at[last] = value
    return masked
