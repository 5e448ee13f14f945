"""A job's document: the states of the job and its tasks, as the API shows them. Every change is written to disk."""

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
"""States of a task that has outputs. The outputs of a SKIPPED task come from the cache."""
FINAL = (*DONE, "FAILED", "CANCELLED", "NOT_TRIGGERED")

# google.rpc.Code: Vertex uses FAILED_PRECONDITION for jobs and tasks that failed.
CANCELLED, FAILED, INTERNAL, UNAVAILABLE = 1, 9, 13, 14

_EXECUTION = {"PENDING": "NEW", "NOT_TRIGGERED": "NEW", "SUCCEEDED": "COMPLETE", "SKIPPED": "CACHED"}
"""Names of a task's states in its execution, where they differ."""


@dataclass
class Outcome:
    """A task's final state, and its outputs for later tasks."""

    state: str
    artifacts: Artifacts = field(default_factory=dict)
    parameters: Document = field(default_factory=dict)
    error: Document | None = None


class Record:
    """A job's document. A task's part of it is called its detail.

    Changes are written at once. If the disk is full, a change stays in memory until the next change or `save`.
    """

    def __init__(self, document: Document, store: Store) -> None:
        self.document, self.store = document, store
        self.details: list[Document] = document["jobDetail"]["taskDetails"]
        self.parent, self.job_id = document["name"].split("/pipelineJobs/")
        self.lock = threading.RLock()

    def change(self, **fields: Any) -> None:
        """Changes fields of the job's document."""
        with self.lock:
            self.document.update(fields)
            self._save()

    def find(self, unique: str) -> Document | None:
        """The detail of a task, or None if the task has not begun."""
        return next((detail for detail in self.details if detail["taskUniqueName"] == unique), None)

    def begin(self, name: str, unique: str, kind: str, **parent: str) -> Document:
        """The detail of a task. If the task has not begun, its detail is added."""
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
            names = {"taskId": identity, "taskName": name, "taskUniqueName": unique, "createTime": now(), **parent}
            detail = {**names, "state": "", "pipelineTaskStatus": [], "execution": execution}
            self.details.append(detail)
            self.enter(detail, "PENDING")
            return detail

    def enter(self, detail: Document, state: str, error: Document | None = None) -> None:
        """Puts a task into a state, with the error that caused it."""
        with self.lock:
            if detail["state"] != state:
                status = {"updateTime": now(), "state": state, **({"error": error} if error else {})}
                detail["pipelineTaskStatus"].append(status)
                detail["execution"]["state"] = _EXECUTION.get(state, state)
                detail["state"] = state
                if state != "PENDING":  # A waiting task has no results that the next emulator would need.
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
        metadata = detail["execution"]["metadata"].items()
        parameters = {key[len("output:") :]: value for key, value in metadata if key.startswith("output:")}
        return Outcome(detail["state"], artifacts, parameters, detail.get("error"))

    def note_process(self, detail: Document, job: str, pid: int | None) -> None:
        """Notes a task's process. The API shows it as the custom job in which Vertex would run the container."""
        with self.lock:
            container = detail.setdefault("executorDetail", {}).setdefault("containerDetail", {})
            container[job] = f"{self.parent}/customJobs/{pid}" if pid else ""

    @staticmethod
    def _note(detail: Document, direction: str, values: Document) -> None:
        detail["execution"]["metadata"].update({f"{direction}:{key}": value for key, value in values.items()})

    def text(self) -> str:
        """The document as JSON."""
        with self.lock:
            return json.dumps(self.document)

    def save(self) -> bool:
        """Writes the document. Returns False if the store cannot be written."""
        try:
            with self.lock:
                self.store.update_job(self.document["name"], self.text())
        except sqlite3.Error:
            return False
        return True

    def _save(self) -> None:
        self.document["updateTime"] = now()
        self.save()
