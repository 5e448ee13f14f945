"""Walks the graph of a job's tasks."""

from __future__ import annotations

import json
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kubeflow.emulator import values
from kubeflow.emulator.container import Container, TaskError, find
from kubeflow.emulator.documents import Document, walk
from kubeflow.emulator.expressions import holds, substitute
from kubeflow.emulator.graph import dependencies, inputs, producer
from kubeflow.emulator.node_server import NodeServer
from kubeflow.emulator.process import Processes
from kubeflow.emulator.record import CANCELLED, DONE, FAILED, FINAL, INTERNAL, UNAVAILABLE, Outcome, Record
from kubeflow.emulator.store import Store, now
from kubeflow.emulator.values import Artifacts

_THREADS = 64
"""Most threads for the tasks of one graph; most of them wait for a process to end."""


@dataclass
class Scope:
    """The graph around a task: its owner's detail, its input artifacts and parameters, and its finished tasks."""

    detail: Document
    prefix: str = ""
    artifacts: Artifacts = field(default_factory=dict)
    parameters: Document = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)


class Job:
    """A job: new, or unfinished and left by an earlier emulator."""

    def __init__(
        self,
        document: Document,
        store: Store,
        logs: Path,
        slots: threading.Semaphore,
        nodes: NodeServer | None = None,
    ) -> None:
        self._record, self._store, self._logs, self._slots = Record(document, store), store, logs, slots
        self._spec = document["pipelineSpec"]
        self._context = self._spec["pipelineInfo"]["name"]
        self._failed = False
        self._processes = Processes(logs, nodes)
        self._left = False

    def run(self) -> None:
        """Runs the job, or its unfinished tasks, to its end."""
        record = self._record
        for detail in record.details:
            if detail["state"] not in FINAL and "executorDetail" in detail:
                message = "The emulator was ended while the task ran; it is run again."
                record.enter(detail, "PENDING", {"code": UNAVAILABLE, "message": message})
        with record.lock:
            if record.document["state"] == "PIPELINE_STATE_CANCELLING":
                self._processes.stopped.set()
            else:
                record.change(state="PIPELINE_STATE_RUNNING", startTime=record.document.get("startTime", now()))
        root = record.begin(record.job_id, record.job_id, "system.Run")
        try:
            scope = Scope(root, parameters=self._parameters())
            record.took(root, scope.parameters)
            record.enter(root, "RUNNING")
            outcome = self._run_graph(self._spec["root"], scope)
        except Exception as error:
            outcome = Outcome("FAILED", error={"code": INTERNAL, "message": f"{type(error).__name__}: {error}"})
        if not self._left:
            record.finish(root, outcome)
            error_field = {"error": outcome.error} if outcome.error else {}
            record.change(state=f"PIPELINE_STATE_{outcome.state}", endTime=now(), **error_field)

    def cancel(self) -> bool:
        """Starts to end the job's tasks. Returns False if the job had already ended."""
        with self._record.lock:
            if "endTime" in self._record.document:
                return False
            self._record.change(state="PIPELINE_STATE_CANCELLING")
        threading.Thread(target=self._processes.stop, daemon=True).start()
        return True

    def document(self) -> Document:
        """The job's document as of its last change."""
        return json.loads(self._record.text())

    def save(self) -> bool:
        """Writes the changes that a full disk has kept in memory. Returns False if the disk is still full."""
        return self._record.save()

    def leave(self) -> None:
        """Ends the job's processes. The job stays unfinished in the store, and the next emulator resumes it."""
        self._left = True
        self._processes.stop(grace=1)

    def _run_graph(self, component: Document, scope: Scope) -> Outcome:
        tasks = component["dag"]["tasks"]
        upstream = {name: dependencies(task, tasks) for name, task in tasks.items()}
        running: dict[Future[Outcome], str] = {}
        waiting = dict(tasks)
        with ThreadPoolExecutor(min(len(tasks), _THREADS)) as pool:
            while True:
                for name in [name for name in waiting if upstream[name] <= scope.done.keys()]:
                    running[pool.submit(self._run_task, name, waiting.pop(name), upstream[name], scope)] = name
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED)[0]:
                    scope.done[running.pop(future)] = future.result()
        if self._processes.stopped.is_set():
            error = {"code": CANCELLED, "message": f"The job {self._record.job_id} was cancelled."}
            return Outcome("CANCELLED", error=error)
        if failed := sorted(name for name, outcome in scope.done.items() if outcome.state == "FAILED"):
            message = f"The DAG failed because some tasks failed. The failed tasks are: [{', '.join(failed)}]."
            return Outcome("FAILED", error={"code": FAILED, "message": message})
        outcome = Outcome("SUCCEEDED")
        for key, output in (walk(component, ".dag.outputs.artifacts") or {}).items():
            selected = [(each["producerSubtask"], each["outputArtifactKey"]) for each in output["artifactSelectors"]]
            lists = [scope.done[task].artifacts.get(name, []) for task, name in selected]
            outcome.artifacts[key] = [artifact for several in lists for artifact in several]
        for key, output in (walk(component, ".dag.outputs.parameters") or {}).items():
            one = output["valueFromParameter"]
            found = scope.done[one["producerSubtask"]].parameters
            if one["outputParameterKey"] in found:  # It is missing if its task was not triggered.
                outcome.parameters[key] = found[one["outputParameterKey"]]
        return outcome

    def _run_task(self, name: str, task: Document, upstream: set[str], scope: Scope) -> Outcome:
        component = self._spec["components"][task["componentRef"]["name"]]
        executor = (walk(self._spec, ".deploymentSpec.executors") or {}).get(component.get("executorLabel"), {})
        kind = "Dag" if "dag" in component else next(iter(executor)).title()
        unique = f"{scope.prefix}{name}"
        if self._processes.stopped.is_set() and not self._record.find(unique):
            return Outcome("NOT_TRIGGERED")
        parent = scope.detail["taskId"]
        detail = self._record.begin(name, unique, f"system.{kind}Execution", parentTaskId=parent)
        if detail["state"] in FINAL:
            outcome = self._record.outcome(detail)
            self._failed |= outcome.state == "FAILED"
            return outcome
        try:
            outcome = self._try_task(task, upstream, scope, detail, component, executor)
        except Exception as error:  # Any error fails this task; the emulator goes on.
            reason = str(error) if isinstance(error, TaskError) else f"{type(error).__name__}: {error}"
            outcome = Outcome("FAILED", error={"code": FAILED, "message": f"The task {name} failed: {reason}"})
        if outcome.state not in DONE and self._processes.stopped.is_set():
            outcome = Outcome("CANCELLED", error={"code": CANCELLED, "message": f"The task {name} was cancelled."})
        self._failed |= outcome.state == "FAILED"
        if not (self._left and outcome.state == "CANCELLED"):
            self._record.finish(detail, outcome)
        return outcome

    def _try_task(
        self,
        task: Document,
        upstream: set[str],
        scope: Scope,
        detail: Document,
        component: Document,
        executor: Document,
    ) -> Outcome:
        policy = task.get("triggerPolicy", {})
        if policy.get("strategy") != "ALL_UPSTREAM_TASKS_COMPLETED" and (
            any(scope.done[each].state not in DONE for each in upstream) or (self._failed and self._fails_fast())
        ):
            return Outcome("NOT_TRIGGERED")
        artifacts = {key: self._artifact(source, scope) for key, source in inputs(task, "artifacts").items()}
        sent = {key: self._parameter(source, scope) for key, source in inputs(task, "parameters").items()}
        parameters = values.with_defaults(sent, walk(component, ".inputDefinitions.parameters") or {})
        view = {"artifacts": values.for_tasks(artifacts), "parameters": parameters, "parameterValues": parameters}
        if not holds(policy.get("condition", ""), {"inputs": view}):
            return Outcome("NOT_TRIGGERED")
        self._record.took(detail, parameters, artifacts)
        if "container" in executor:
            log = log_file(self._logs, detail["taskId"])
            container = Container(self._record, detail, task, component, executor["container"], view, log)
            return container.run(self._processes, self._slots)
        self._record.enter(detail, "RUNNING")
        if "dag" in component:
            inner = Scope(detail, f"{detail['taskUniqueName']}.", artifacts, {**scope.parameters, **parameters})
            return self._run_graph(component, inner)
        if "resolver" in executor:
            return self._resolve(executor["resolver"], view)
        return self._import(executor["importer"], component, {**scope.parameters, **parameters})

    def _resolve(self, resolver: Document, view: Document) -> Outcome:
        def query(spec: Document) -> list[Document]:
            try:
                filter_ = substitute(spec.get("filter", ""), partial(find, {"inputs": view}))
            except LookupError:  # The filter refers to an artifact that another resolver has not found.
                return []
            return self._store.artifacts(self._context, filter_, int(spec.get("limit") or 1))

        return Outcome("SUCCEEDED", {key: query(spec) for key, spec in resolver["outputArtifactQueries"].items()})

    def _import(self, importer: Document, component: Document, parameters: Document) -> Outcome:
        uri = values.constant(importer["artifactUri"], parameters)
        imported = values.artifact(importer["typeSchema"], uri, importer.get("metadata", {}), "LIVE")
        known = [] if importer.get("reimport") else self._store.artifacts(self._context, "")
        alike = ("uri", "type", "metadata")
        same = [each for each in known if [each[key] for key in alike] == [imported[key] for key in alike]]
        found = same[0] if same else self._store.add_artifact(self._record.parent, self._context, imported)
        return Outcome("SUCCEEDED", {key: [found] for key in component["outputDefinitions"]["artifacts"]})

    def _artifact(self, source: Document, scope: Scope) -> list[Document]:
        if "componentInputArtifact" in source:
            return scope.artifacts.get(source["componentInputArtifact"], [])
        output = source["taskOutputArtifact"]
        return scope.done[producer(output["producerTask"], scope.done)].artifacts.get(output["outputArtifactKey"], [])

    def _parameter(self, source: Document, scope: Scope) -> Any:
        if "componentInputParameter" in source:
            return scope.parameters.get(source["componentInputParameter"])
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            return scope.done[producer(output["producerTask"], scope.done)].parameters.get(output["outputParameterKey"])
        if "taskFinalStatus" in source:
            name = source["taskFinalStatus"]["producerTask"]
            outcome = scope.done[name]
            status = {"state": outcome.state, "error": outcome.error or {}, "pipelineTaskName": name}
            return json.dumps({**status, "pipelineJobResourceName": self._record.document["name"]})
        return values.constant(source["runtimeValue"], scope.parameters)

    def _parameters(self) -> Document:
        """The job's parameters; a parameter without a value has its default."""
        config = self._record.document["runtimeConfig"]
        legacy = {key: values.plain(value) for key, value in config.get("parameters", {}).items()}
        declared = walk(self._spec, ".root.inputDefinitions.parameters") or {}
        return values.with_defaults({**legacy, **config.get("parameterValues", {})}, declared)

    def _fails_fast(self) -> bool:
        return self._record.document["runtimeConfig"].get("failurePolicy") == "PIPELINE_FAILURE_POLICY_FAIL_FAST"


def log_file(logs: Path, task_id: str) -> Path:
    """The file of a task's log."""
    return logs / f"{task_id}.log"
