"""What is told of a job: its states and those of its tasks, as the API shows them, on disk with every change."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from dataclasses import dataclass, field
from typing import Any

from kubeflow.emulator.documents import Document
from kubeflow.emulator.store import Store, now
from kubeflow.emulator.values import Artifacts, for_api

DONE = ("SUCCEEDED", "SKIPPED")
"""States of a task whose outputs are there; SKIPPED ones come from the cache."""
FINAL = (*DONE, "FAILED", "CANCELLED", "NOT_TRIGGERED")

# google.rpc.Code: Vertex has FAILED_PRECONDITION for jobs and tasks that failed.
CANCELLED, FAILED, INTERNAL, UNAVAILABLE = 1, 9, 13, 14

_EXECUTION = {"PENDING": "NEW", "NOT_TRIGGERED": "NEW", "SUCCEEDED": "COMPLETE", "SKIPPED": "CACHED"}
"""States of a task's execution, where they are not called the same."""


@dataclass
class Outcome:
    """How a task ended, and what it hands on to others."""

    state: str
    artifacts: Artifacts = field(default_factory=dict)
    parameters: Document = field(default_factory=dict)
    error: Document | None = None


class Record:
    """A job's document. A task's part of it is called its detail.

    Changes are written at once. Where the disk is full they are kept, and written with the next one or by `save`.
    """

    def __init__(self, document: Document, store: Store) -> None:
        self.document, self.store = document, store
        self.details: list[Document] = document["jobDetail"]["taskDetails"]
        self.parent, self.job_id = document["name"].split("/pipelineJobs/")
        self.lock = threading.RLock()

    def change(self, **fields: Any) -> None:
        """Changes what is told of the job."""
        with self.lock:
            self.document.update(fields)
            self._save()

    def find(self, unique: str) -> Document | None:
        """The detail of a task, where it has begun."""
        return next((detail for detail in self.details if detail["taskUniqueName"] == unique), None)

    def begin(self, name: str, unique: str, kind: str, **parent: str) -> Document:
        """The detail of a task, a new one where it has not begun."""
        with self.lock:
            if detail := self.find(unique):
                return detail
            identity = str(random.SystemRandom().getrandbits(62))
            execution = {
                "name": f"{self.parent}/metadataStores/default/executions/{identity}",
                "displayName": name,
                "schemaTitle": kind,
                "schemaVersion": "0.0.1",
                "createTime": now(),
                "metadata": {},
            }
            told = {"taskId": identity, "taskName": name, "taskUniqueName": unique, "createTime": now(), **parent}
            detail = {**told, "state": "", "pipelineTaskStatus": [], "execution": execution}
            self.details.append(detail)
            self.enter(detail, "PENDING")
            return detail

    def enter(self, detail: Document, state: str, error: Document | None = None) -> None:
        """Puts a task into a state, with the reason for it."""
        with self.lock:
            if detail["state"] != state:
                status = {"updateTime": now(), "state": state, **({"error": error} if error else {})}
                detail["pipelineTaskStatus"].append(status)
                detail["execution"]["state"] = _EXECUTION.get(state, state)
                detail["state"] = state
                if state != "PENDING":  # A task that only waits has left nothing that another emulator must know.
                    detail.setdefault("startTime", now())
                    self._save()

    def took(self, detail: Document, parameters: Document, artifacts: Artifacts | None = None) -> None:
        """Notes a task's inputs."""
        with self.lock:
            self._note(detail, "input", parameters)
            detail["inputs"] = for_api(artifacts) if artifacts is not None else detail.get("inputs", {})

    def finish(self, detail: Document, outcome: Outcome) -> None:
        """Ends a task."""
        with self.lock:
            detail["outputs"] = for_api(outcome.artifacts)
            self._note(detail, "output", outcome.parameters)
            if outcome.error:
                detail["error"] = outcome.error
            detail.setdefault("startTime", now())
            detail["endTime"] = detail["execution"]["updateTime"] = now()
            self.enter(detail, outcome.state)

    def outcome(self, detail: Document) -> Outcome:
        """The outcome of a task that an earlier emulator has finished."""
        artifacts = {
            key: [self.store.artifact(each["name"]) for each in several["artifacts"]]
            for key, several in detail.get("outputs", {}).items()
        }
        told = detail["execution"]["metadata"].items()
        parameters = {key[len("output:") :]: value for key, value in told if key.startswith("output:")}
        return Outcome(detail["state"], artifacts, parameters, detail.get("error"))

    def note_process(self, detail: Document, job: str, pid: int | None) -> None:
        """Notes a task's process as the custom job that Vertex would run the container in."""
        with self.lock:
            told = detail.setdefault("executorDetail", {}).setdefault("containerDetail", {})
            told[job] = f"{self.parent}/customJobs/{pid}" if pid else ""

    @staticmethod
    def _note(detail: Document, direction: str, values: Document) -> None:
        detail["execution"]["metadata"].update({f"{direction}:{key}": value for key, value in values.items()})

    def text(self) -> str:
        """The document as JSON."""
        with self.lock:
            return json.dumps(self.document)

    def save(self) -> bool:
        """Writes the document, and tells whether it could."""
        try:
            with self.lock:
                self.store.update_job(self.document["name"], self.text())
        except sqlite3.Error:
            return False
        return True

    def _save(self) -> None:
        self.document["updateTime"] = now()
        self.save()
