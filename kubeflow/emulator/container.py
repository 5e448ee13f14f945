"""Runs a task's container as a process: the pre-cache hook, the cache lookup, the command, and its outputs."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from kubeflow.emulator import files, values
from kubeflow.emulator.documents import Document, walk
from kubeflow.emulator.expressions import MAX_FILLED, substitute
from kubeflow.emulator.process import HEADER, Processes, tail
from kubeflow.emulator.record import FAILED, Outcome, Record
from kubeflow.emulator.refusals import ApiError, read_message

_KEY = ("image", "command", "args", "env", "lifecycle")
"""Fields of a container that its outputs depend on; they are part of the cache key."""
_OUTPUT_FILE = "executor_output.json"
_ERROR = re.compile(r"[\w.]*(Error|Exception|Interrupt|Exit)\b")


class TaskError(Exception):
    """A task failed; the text is the reason."""


class Container:
    """The container of one task.

    Args:
      record: the job's record.
      detail: the task's part of the record.
      task: the task's specification.
      component: the component's specification.
      spec: the container's specification.
      input_values: the task's `inputs`, parameters as plain values.
      log: the file for the output of the task's processes.
    """

    def __init__(
        self,
        record: Record,
        detail: Document,
        task: Document,
        component: Document,
        spec: Document,
        input_values: Document,
        log: Path,
    ) -> None:
        self._record, self._detail, self._task, self._component = record, detail, task, component
        self._spec, self._log, self._store = spec, log, record.store
        self._context = record.document["pipelineSpec"]["pipelineInfo"]["name"]
        self._root = record.document["runtimeConfig"]["gcsOutputDirectory"].rstrip("/")
        project = record.parent.split("/")[1]
        self._place = f"{project}/{record.job_id}/{detail['taskName']}_{detail['taskId']}"
        self._folder = f"{self._root}/{self._place}"
        self._definitions = component.get("outputDefinitions", {})
        self._view: Document = {"inputs": input_values}

    def run(self, processes: Processes, slots: threading.Semaphore) -> Outcome:
        """Runs the container, or takes its outputs from the cache.

        Raises:
          TaskError: the task failed.
        """
        execute = partial(self._execute, processes, slots)
        outputs = self._prepare()
        if hook := walk(self._spec, ".lifecycle.preCacheCheck"):
            execute({**self._spec, "args": [], **hook}, "preCachingCheckJob", {})
            self._merge(hook_output=self._output(), outputs=outputs)
        key = self._cache_key()
        cached = self._store.cached(key) if walk(self._task, ".cachingOptions.enableCache") else None
        if cached and not any(map(files.is_gone, cached["places"])):
            found = {name: [self._store.artifact(each)] for name, each in cached["artifacts"].items()}
            return Outcome("SKIPPED", found, cached["parameters"])
        execute(self._spec, "mainJob", self._task.get("retryPolicy", {}))
        parameters = self._collect(outputs)
        names = {name: each["name"] for name, each in outputs.items()}
        places = [self._folder, *(each["uri"] for each in outputs.values())]
        places = [place for place in places if not files.is_gone(place)]
        self._store.cache(key, {"places": places, "artifacts": names, "parameters": parameters})
        return Outcome("SUCCEEDED", {name: [each] for name, each in outputs.items()}, parameters)

    def _prepare(self) -> dict[str, Document]:
        files.make_folder(self._folder)
        self._detail.pop("executorDetail", None)
        outputs = {}
        for key, each in self._definitions.get("artifacts", {}).items():
            uri, metadata = f"{self._folder}/{key}", each.get("metadata", {})
            artifact = values.artifact(each["artifactType"], uri, metadata, "PENDING")
            outputs[key] = self._store.add_artifact(self._record.parent, self._context, artifact)
        parameters = self._definitions.get("parameters", {})
        if parameters:
            files.make_folder(f"{self._folder}/output_parameters")
        self._view["outputs"] = {
            "outputFile": f"{self._folder}/{_OUTPUT_FILE}",
            "parameters": {key: {"outputFile": f"{self._folder}/output_parameters/{key}"} for key in parameters},
            "artifacts": values.for_tasks({key: [each] for key, each in outputs.items()}),
        }
        files.remove(self._root, f"{self._place}/{_OUTPUT_FILE}")  # An attempt that crashed may have left one.
        return outputs

    def _output(self) -> Document:
        """The ExecutorOutput that a command has written; empty if it has written none.

        Raises:
          TaskError: the file is not an ExecutorOutput.
        """
        file = self._view["outputs"]["outputFile"]
        try:
            # NaN becomes a text, because other readers of JSON refuse it as a number.
            output = values.read_json(files.read(file) or "{}", str)
            read_message(output, "ExecutorOutput", ignore_unknown_fields=True)
        except (ValueError, ApiError) as error:
            raise TaskError(f"{file} cannot be read: {error}") from None
        return output

    def _merge(self, hook_output: Document, outputs: dict[str, Document]) -> None:
        """Merges the hook's output into the command's inputs and the cache key."""
        declared = walk(self._component, ".inputDefinitions.parameters") or {}
        whole = {
            "parameterType": "NUMBER_INTEGER"
        }  # The component need not declare a hook's parameters, such as a span.
        found = values.parameters_of(hook_output).items()
        self._view["inputs"]["parameters"].update({k: values.typed(v, declared.get(k, whole)) for k, v in found})
        for key, each in outputs.items():
            each["metadata"].update(walk(hook_output, f".artifacts['{key}'].artifacts[0].metadata") or {})
        self._record.took(self._detail, self._view["inputs"]["parameters"])

    def _cache_key(self) -> str:
        view = self._view["inputs"]
        names = {key: [each["name"] for each in several["artifacts"]] for key, several in view["artifacts"].items()}
        spec = {key: self._spec.get(key) for key in _KEY}
        parts = [self._record.parent, self._context, spec, self._definitions, view["parameters"], names]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _execute(
        self, processes: Processes, slots: threading.Semaphore, container: Document, job: str, retry: Document
    ) -> None:
        command = self._command(container)
        environment = {each["name"]: each.get("value", "") for each in container.get("env", [])}
        tries, delay = 1 + int(retry.get("maxRetryCount", 0)), _seconds(retry.get("backoffDuration", "0s"))
        for attempt in range(1, tries + 1):
            with _slot(slots, processes.stopped):
                if job == "mainJob":  # Removes the outputs of an earlier attempt.
                    for key in self._view["outputs"]["artifacts"]:
                        files.remove(self._root, f"{self._place}/{key}")
                self._record.note_process(self._detail, job, None)
                self._record.enter(self._detail, "RUNNING")
                started = partial(self._record.note_process, self._detail, job)
                before = self._log.stat().st_size if self._log.exists() else 0
                code = processes.run(command, environment, self._log, started)
            if code == 0:
                return
            message = f"exited with status {code}: {self._error_line(before)} (log: {self._log})"
            if attempt == tries or processes.stopped.is_set():
                raise TaskError(message)
            self._record.enter(self._detail, "PENDING", {"code": FAILED, "message": message})
            processes.stopped.wait(delay)
            most = _seconds(retry.get("backoffMaxDuration", "3600s"))
            delay = min(delay * float(retry.get("backoffFactor", 2)), most)

    def _command(self, container: Document) -> list[str]:
        if not container.get("command"):
            raise TaskError("it names no command, and the entry point of its image is not known here")
        words: list[str] = []
        try:
            for word in [*container["command"], *container.get("args", [])]:
                words.append(substitute(word, self._find, MAX_FILLED - sum(map(len, words))))
        except LookupError as error:
            raise TaskError(error.args[0]) from None
        return [sys.executable if words[0] in ("python", "python3") else words[0], *words[1:]]

    def _find(self, path: str) -> Any:
        view = self._view["inputs"]
        if not path:
            # Each schema has its own form of parameters, and an executor reads only that of its schema.
            old = self._record.document["pipelineSpec"]["schemaVersion"] == "2.0.0"
            legacy = {"parameters": {key: values.legacy(value) for key, value in view["parameters"].items()}}
            parameters = legacy if old else {"parameterValues": view["parameters"]}
            return {"inputs": {"artifacts": view["artifacts"], **parameters}, "outputs": self._view["outputs"]}
        known = {
            ".pipeline_job_uuid": self._record.job_id,
            ".pipeline_job_name": self._record.job_id,
            ".pipeline_job_resource_name": self._record.document["name"],
            ".pipeline_task_uuid": self._detail["taskId"],
            ".pipeline_task_name": self._detail["taskName"],
            ".pipeline_root": self._record.document["runtimeConfig"]["gcsOutputDirectory"],
        }
        return known.get(path) or find(self._view, path)

    def _collect(self, outputs: dict[str, Document]) -> Document:
        """Stores the artifacts that the command has written, and returns its output parameters."""
        document = self._output()
        for name, each in outputs.items():
            # The type of the artifact stays as the component declares it.
            artifact = walk(document, f".artifacts['{name}'].artifacts[0]") or {}
            each.update({key: artifact[key] for key in ("uri", "metadata") if key in artifact}, state="LIVE")
            self._store.update_artifact(each)
        parameters = values.parameters_of(document)
        for name, output in self._view["outputs"]["parameters"].items():
            if name not in parameters and (text := files.read(output["outputFile"])) is not None:
                parameters[name] = values.parsed(text, self._definitions["parameters"][name])
        return parameters

    def _error_line(self, since: int) -> str:
        log = tail(self._log, since).decode(errors="replace").splitlines()
        lines = [line for each in log if (line := each.strip()) and not line.startswith(HEADER)]
        return ([line for line in lines if _ERROR.match(line)] or lines or ["it said nothing"])[-1][:1000]


def find(view: Document, path: str) -> Any:
    """The value of a placeholder's path, or None. A path may leave out the list index of an artifact: it takes [0]."""
    short = re.fullmatch(r"(\.(?:in|out)puts\.artifacts\['[^']*'\])\.(?!artifacts)(\w+)(.*)", path)
    if not short:
        return walk(view, path)
    artifact, name = walk(view, f"{short[1]}.artifacts[0]"), short[2]
    if name == "value" and artifact:
        return files.read(artifact["uri"]) or files.read(f"{artifact['uri']}/value")
    return walk(artifact, f".{'uri' if name == 'path' else name}{short[3]}")


@contextmanager
def _slot(slots: threading.Semaphore, stopped: threading.Event) -> Iterator[None]:
    while not slots.acquire(timeout=0.2):
        if stopped.is_set():
            raise TaskError("it was cancelled before it began")
    try:
        yield
    finally:
        slots.release()


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))
