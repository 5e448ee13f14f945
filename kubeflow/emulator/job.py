"""Runs one job: walks the graph of its tasks, and writes down what becomes of each."""

from __future__ import annotations

import hashlib
import json
import random
import re
import sys
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from kubeflow.emulator import files
from kubeflow.emulator.expressions import holds, substitute, walk
from kubeflow.emulator.process import Processes, end_leftover
from kubeflow.emulator.store import Store, now

Document = dict[str, Any]

DONE = ("SUCCEEDED", "SKIPPED")
"""States of a task whose outputs are there; SKIPPED ones come from the cache."""
FINAL = (*DONE, "FAILED", "CANCELLED", "NOT_TRIGGERED")

_EXECUTION = {"PENDING": "NEW", "NOT_TRIGGERED": "NEW", "SUCCEEDED": "COMPLETE", "SKIPPED": "CACHED"}
"""States of a task's execution, where they are not called the same."""
# google.rpc.Code: Vertex has FAILED_PRECONDITION for jobs and tasks that failed.
_CANCELLED, _FAILED, _INTERNAL, _UNAVAILABLE = 1, 9, 13, 14


class TaskError(Exception):
    """A task failed, and this is why."""


@dataclass
class Outcome:
    """What a task hands on to others."""

    state: str
    artifacts: dict[str, list[Document]] = field(default_factory=dict)
    parameters: Document = field(default_factory=dict)
    error: Document | None = None


@dataclass
class Scope:
    """Where a task stands: the graph around it."""

    detail: Document
    prefix: str = ""
    artifacts: dict[str, list[Document]] = field(default_factory=dict)
    parameters: Document = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)


class Job:
    """A job that is to run, or to go on."""

    def __init__(self, document: Document, store: Store, logs: Path, slots: threading.Semaphore) -> None:
        self._document, self._store, self._logs, self._slots = document, store, logs, slots
        self._spec = document["pipelineSpec"]
        self._legacy = self._spec["schemaVersion"] == "2.0.0"
        self._executors = walk(self._spec, ".deploymentSpec.executors") or {}
        self._context = self._spec["pipelineInfo"]["name"]
        self._parent, self._id = document["name"].split("/pipelineJobs/")
        self._details: list[Document] = document["jobDetail"]["taskDetails"]
        self._lock = threading.RLock()
        self._failed = False
        self.processes = Processes()
        self.left = False  # The emulator itself is ending: what is written stays as it is, and is taken up again.

    def run(self) -> None:
        """Runs the job, or what is left of it, to its end."""
        for detail in self._details:
            if detail["state"] not in FINAL:
                end_leftover(self._log(detail), _pid(detail))
                if "executorDetail" in detail:
                    message = "The emulator was ended while the task ran; it is run again."
                    self._enter(detail, "PENDING", {"code": _UNAVAILABLE, "message": message})
        with self._lock:
            if self._document["state"] == "PIPELINE_STATE_CANCELLING":
                self.processes.stopped.set()
            else:
                started = self._document.get("startTime", now())
                self._change(self._document, state="PIPELINE_STATE_RUNNING", startTime=started)
        root = self._detail(self._id, self._id, {}, "system.Run")
        scope = Scope(root, parameters=self._given())
        self._execution(root, "input:", scope.parameters)
        self._enter(root, "RUNNING")
        try:
            outcome = self._run_graph(self._spec["root"], scope)
        except Exception as error:
            outcome = Outcome("FAILED", error={"code": _INTERNAL, "message": f"{type(error).__name__}: {error}"})
        self._finish(root, outcome)
        if self.left:
            return
        self._change(
            self._document,
            state=f"PIPELINE_STATE_{outcome.state}",
            endTime=now(),
            **({"error": outcome.error} if outcome.error else {}),
        )

    def cancel(self) -> None:
        """Ends the job's tasks; returns when that has begun."""
        self._change(self._document, state="PIPELINE_STATE_CANCELLING")
        threading.Thread(target=self.processes.stop, daemon=True).start()

    def leave(self) -> None:
        """Ends the job's processes, for another emulator to take it up again."""
        self.left = True
        self.processes.stop(grace=1)

    def _run_graph(self, component: Document, scope: Scope) -> Outcome:
        tasks = component["dag"]["tasks"]
        upstream = {name: dependencies(task, tasks) for name, task in tasks.items()}
        running: dict[Future[Outcome], str] = {}
        waiting = dict(tasks)
        with ThreadPoolExecutor(len(tasks)) as pool:
            while True:
                for name in [name for name in waiting if upstream[name] <= scope.done.keys()]:
                    running[pool.submit(self._run_task, name, waiting.pop(name), upstream[name], scope)] = name
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED)[0]:
                    scope.done[running.pop(future)] = future.result()
        if self.processes.stopped.is_set():
            error = {"code": _CANCELLED, "message": f"The job {self._id} was cancelled."}
            return Outcome("CANCELLED", error=error)
        if failed := sorted(name for name, outcome in scope.done.items() if outcome.state == "FAILED"):
            told = f"The DAG failed because some tasks failed. The failed tasks are: [{', '.join(failed)}]."
            return Outcome("FAILED", error={"code": _FAILED, "message": told})
        outputs = component["dag"].get("outputs", {})
        selected = {key: output["artifactSelectors"] for key, output in outputs.get("artifacts", {}).items()}
        return Outcome(
            "SUCCEEDED",
            {
                key: [a for s in several for a in scope.done[s["producerSubtask"]].artifacts[s["outputArtifactKey"]]]
                for key, several in selected.items()
            },
            {
                key: scope.done[one["producerSubtask"]].parameters[one["outputParameterKey"]]
                for key, output in outputs.get("parameters", {}).items()
                if (one := output.get("valueFromParameter"))
            },
        )

    def _run_task(self, name: str, task: Document, upstream: set[str], scope: Scope) -> Outcome:
        component = self._spec["components"][task["componentRef"]["name"]]
        executor = self._executors.get(component.get("executorLabel"), {})
        kind = "system.DagExecution" if "dag" in component else f"system.{next(iter(executor)).title()}Execution"
        unique = f"{scope.prefix}{name}"
        if self.processes.stopped.is_set() and all(each["taskUniqueName"] != unique for each in self._details):
            return Outcome("NOT_TRIGGERED")
        detail = self._detail(name, unique, {"parentTaskId": scope.detail["taskId"]}, kind)
        if detail["state"] in FINAL:
            return self._earlier(detail)
        try:
            outcome = self._try_task(task, upstream, scope, detail, component, executor)
        except Exception as error:  # Whatever it is, it is this task's end and not the emulator's.
            told = str(error) if isinstance(error, TaskError) else f"{type(error).__name__}: {error}"
            outcome = Outcome("FAILED", error={"code": _FAILED, "message": f"The task {name} failed: {told}"})
        if outcome.state not in DONE and self.processes.stopped.is_set():
            outcome = Outcome("CANCELLED", error={"code": _CANCELLED, "message": f"The task {name} was cancelled."})
        self._failed |= outcome.state == "FAILED"
        self._finish(detail, outcome)
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
        artifacts = {key: self._artifact(source, scope) for key, source in _inputs(task, "artifacts")}
        types = walk(component, ".inputDefinitions.parameters") or {}
        given = {key: self._parameter(source, scope) for key, source in _inputs(task, "parameters")}
        defaults = {key: each["defaultValue"] for key, each in types.items() if "defaultValue" in each}
        parameters = {
            key: _typed(value, types.get(key, {})) for key, value in {**defaults, **given}.items() if value is not None
        }
        view = {"inputs": {"artifacts": _lists(artifacts), "parameters": parameters, "parameterValues": parameters}}
        if not holds(policy.get("condition", ""), view):
            return Outcome("NOT_TRIGGERED")
        detail["inputs"] = _resources(artifacts)
        self._execution(detail, "input:", parameters)
        if "dag" in component:
            self._enter(detail, "RUNNING")
            inner = Scope(detail, f"{detail['taskUniqueName']}.", artifacts, {**scope.parameters, **parameters})
            return self._run_graph(component, inner)
        if "resolver" in executor:
            self._enter(detail, "RUNNING")
            return self._resolve(executor["resolver"], view)
        if "importer" in executor:
            self._enter(detail, "RUNNING")
            return self._import(executor["importer"], component, scope, parameters)
        return self._run_container(task, detail, component, executor["container"], view)

    def _resolve(self, resolver: Document, view: Document) -> Outcome:
        def query(spec: Document) -> list[Document]:
            try:
                filter_ = substitute(spec.get("filter", ""), partial(_find, view))
            except LookupError:  # What it asks about was not found itself.
                return []
            return self._store.artifacts(self._context, filter_, int(spec.get("limit") or 1))

        return Outcome("SUCCEEDED", {key: query(spec) for key, spec in resolver["outputArtifactQueries"].items()})

    def _import(self, importer: Document, component: Document, scope: Scope, parameters: Document) -> Outcome:
        uri = _value(importer["artifactUri"], {**scope.parameters, **parameters})
        (key,) = component["outputDefinitions"]["artifacts"]
        made = _artifact(importer["typeSchema"], uri, importer.get("metadata", {}), "LIVE")
        found = () if importer.get("reimport") else self._store.artifacts(self._context, f"uri={json.dumps(uri)}", 1000)
        same = [each for each in found if (each["type"], each["metadata"]) == (made["type"], made["metadata"])]
        return Outcome(
            "SUCCEEDED", {key: [same[0] if same else self._store.add_artifact(self._parent, self._context, made)]}
        )

    def _run_container(
        self, task: Document, detail: Document, component: Document, container: Document, view: Document
    ) -> Outcome:
        folder = "/".join(
            [
                self._document["runtimeConfig"]["gcsOutputDirectory"].rstrip("/"),
                self._parent.split("/")[1],
                self._id,
                f"{detail['taskName']}_{detail['taskId']}",
            ]
        )
        files.make_folder(folder)
        detail.pop("executorDetail", None)
        definitions = component.get("outputDefinitions", {})
        outputs = {
            key: self._store.add_artifact(
                self._parent,
                self._context,
                _artifact(each["artifactType"], f"{folder}/{key}", each.get("metadata", {}), "PENDING"),
            )
            for key, each in definitions.get("artifacts", {}).items()
        }
        output_file = f"{folder}/executor_output.json"
        view["outputs"] = {
            "outputFile": output_file,
            "parameters": {
                key: {"outputFile": f"{folder}/output_parameters/{key}"} for key in definitions.get("parameters", {})
            },
            "artifacts": _lists({key: [each] for key, each in outputs.items()}),
        }
        if view["outputs"]["parameters"]:
            files.make_folder(f"{folder}/output_parameters")
        files.remove(output_file)  # Of an attempt that a crash has ended.
        if hook := walk(container, ".lifecycle.preCacheCheck"):
            self._execute(detail, {**container, "args": [], **hook}, view, "preCachingCheckJob", {})
            told = json.loads(files.read(output_file) or "{}")
            types = walk(component, ".inputDefinitions.parameters") or {}
            whole = {"parameterType": "NUMBER_INTEGER"}  # What a hook adds is declared nowhere, such as a span.
            view["inputs"]["parameters"].update(
                {key: _typed(value, types.get(key, whole)) for key, value in _told_parameters(told).items()}
            )
            for key, each in outputs.items():
                each["metadata"].update(walk(told, f".artifacts['{key}'].artifacts[0].metadata") or {})
            view["outputs"]["artifacts"] = _lists({key: [each] for key, each in outputs.items()})
            self._execution(detail, "input:", view["inputs"]["parameters"])
        key = self._cache_key(container, definitions, view)
        caching = walk(task, ".cachingOptions.enableCache")
        if caching and (cached := self._store.cached(key)) and not files.is_gone(cached["folder"]):
            found = {
                name: [self._store.artifact(each) for each in names] for name, names in cached["artifacts"].items()
            }
            return Outcome("SKIPPED", found, cached["parameters"])
        self._execute(detail, container, view, "mainJob", task.get("retryPolicy", {}))
        told = json.loads(files.read(output_file) or "{}")
        for name, each in outputs.items():
            if artifact := walk(told, f".artifacts['{name}'].artifacts[0]"):
                # The type is not told, and is kept.
                each.update(metadata=artifact.get("metadata", each["metadata"]), uri=artifact.get("uri", each["uri"]))
            each["state"] = "LIVE"
            self._store.update_artifact(each)
        parameters = _told_parameters(told)
        for name, output in view["outputs"]["parameters"].items():
            if name not in parameters and (text := files.read(output["outputFile"])) is not None:
                parameters[name] = _parsed(text, definitions["parameters"][name])
        names = {name: [each["name"]] for name, each in outputs.items()}
        self._store.cache(key, {"folder": folder, "artifacts": names, "parameters": parameters})
        return Outcome("SUCCEEDED", {name: [each] for name, each in outputs.items()}, parameters)

    def _cache_key(self, container: Document, definitions: Document, view: Document) -> str:
        inputs = {
            key: [each["name"] for each in several["artifacts"]] for key, several in view["inputs"]["artifacts"].items()
        }
        told = [self._parent, self._context, container, definitions, view["inputs"]["parameters"], inputs]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def _execute(self, detail: Document, container: Document, view: Document, job: str, retry: Document) -> None:
        command = self._command(detail, container, view)
        environment = {each["name"]: each.get("value", "") for each in container.get("env", [])}
        tries, delay = 1 + int(retry.get("maxRetryCount", 0)), _seconds(retry.get("backoffDuration", "0s"))

        def started(pid: int) -> None:
            self._pid(detail, job, pid)

        for attempt in range(1, tries + 1):
            with self._slots:
                if job == "mainJob":  # An attempt finds nothing of the one before.
                    for artifact in view["outputs"]["artifacts"].values():
                        files.remove(artifact["artifacts"][0]["uri"])
                self._pid(detail, job, None)
                self._enter(detail, "RUNNING")
                code = self.processes.run(command, environment, self._log(detail), started)
            if code == 0:
                return
            told = f"exited with status {code}: {self._last_words(detail)} (log: {self._log(detail)})"
            if attempt == tries or self.processes.stopped.is_set():
                raise TaskError(told)
            self._enter(detail, "PENDING", {"code": _FAILED, "message": told})
            self.processes.stopped.wait(delay)
            delay = min(
                delay * float(retry.get("backoffFactor", 2)), _seconds(retry.get("backoffMaxDuration", "3600s"))
            )

    def _command(self, detail: Document, container: Document, view: Document) -> list[str]:
        def find(path: str) -> Any:
            if not path:
                return {"inputs": self._executor_inputs(view), "outputs": view["outputs"]}
            known = {
                ".pipeline_job_uuid": self._id,
                ".pipeline_job_name": self._id,
                ".pipeline_job_resource_name": self._document["name"],
                ".pipeline_task_uuid": detail["taskId"],
                ".pipeline_task_name": detail["taskName"],
                ".pipeline_root": self._document["runtimeConfig"]["gcsOutputDirectory"],
            }
            if path in known:
                return known[path]
            return _find(view, path)

        if not container.get("command"):
            raise TaskError("it names no command, and the entry point of its image is not known here")
        try:
            words = [substitute(word, find) for word in [*container["command"], *container.get("args", [])]]
        except LookupError as error:
            raise TaskError(error.args[0]) from None
        return [sys.executable if words[0] in ("python", "python3") else words[0], *words[1:]]

    def _executor_inputs(self, view: Document) -> Document:
        inputs = view["inputs"]
        if self._legacy:
            legacy = {key: _legacy_value(value) for key, value in inputs["parameters"].items()}
            return {"artifacts": inputs["artifacts"], "parameters": legacy}
        return {"artifacts": inputs["artifacts"], "parameterValues": inputs["parameters"]}

    def _artifact(self, source: Document, scope: Scope) -> list[Document]:
        if "componentInputArtifact" in source:
            return scope.artifacts.get(source["componentInputArtifact"], [])
        output = source["taskOutputArtifact"]
        return scope.done[output["producerTask"]].artifacts.get(output["outputArtifactKey"], [])

    def _parameter(self, source: Document, scope: Scope) -> Any:
        if "componentInputParameter" in source:
            return scope.parameters.get(source["componentInputParameter"])
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            return scope.done[producer(output["producerTask"], scope.done)].parameters.get(output["outputParameterKey"])
        if "taskFinalStatus" in source:
            name = source["taskFinalStatus"]["producerTask"]
            told = {"state": scope.done[name].state, "pipelineJobResourceName": self._document["name"]}
            return json.dumps({**told, "pipelineTaskName": name, "error": scope.done[name].error or {}})
        return _value(source["runtimeValue"], scope.parameters)

    def _given(self) -> Document:
        """The job's parameters, with defaults for what is not given."""
        declared = walk(self._spec, ".root.inputDefinitions.parameters") or {}
        config = self._document["runtimeConfig"]
        legacy = {key: plain(value) for key, value in config.get("parameters", {}).items()}
        values = {
            **{key: each["defaultValue"] for key, each in declared.items() if "defaultValue" in each},
            **(legacy if self._legacy else config.get("parameterValues", {})),
        }
        return {key: _typed(value, declared.get(key, {})) for key, value in values.items()}

    def _fails_fast(self) -> bool:
        return self._document["runtimeConfig"].get("failurePolicy") == "PIPELINE_FAILURE_POLICY_FAIL_FAST"

    def _detail(self, name: str, unique: str, parent: Document, kind: str) -> Document:
        """What is told of a task; of an earlier emulator's, where there is."""
        with self._lock:
            for detail in self._details:
                if detail["taskUniqueName"] == unique:
                    return detail
            identity = str(random.SystemRandom().getrandbits(62))
            detail = {
                "taskId": identity,
                **parent,
                "taskName": name,
                "taskUniqueName": unique,
                "createTime": now(),
                "state": "PENDING",
                "pipelineTaskStatus": [{"updateTime": now(), "state": "PENDING"}],
                "execution": {
                    "name": f"{self._parent}/metadataStores/default/executions/{identity}",
                    "displayName": name,
                    "state": "NEW",
                    "schemaTitle": kind,
                    "schemaVersion": "0.0.1",
                    "createTime": now(),
                    "metadata": {},
                },
            }
            self._details.append(detail)
            self._save()
            return detail

    def _earlier(self, detail: Document) -> Outcome:
        artifacts = {
            key: [self._store.artifact(each["name"]) for each in several.get("artifacts", [])]
            for key, several in detail.get("outputs", {}).items()
        }
        told = detail["execution"]["metadata"]
        parameters = {key[len("output:") :]: value for key, value in told.items() if key.startswith("output:")}
        self._failed |= detail["state"] == "FAILED"
        return Outcome(detail["state"], artifacts, parameters, detail.get("error"))

    def _enter(self, detail: Document, state: str, error: Document | None = None) -> None:
        with self._lock:
            if detail["state"] == state:
                return
            detail["pipelineTaskStatus"].append(
                {"updateTime": now(), "state": state, **({"error": error} if error else {})}
            )
            detail["execution"]["state"] = _EXECUTION.get(state, state)
            times = {"startTime": detail.get("startTime", now())} if state != "PENDING" else {}
            self._change(detail, state=state, **times)

    def _finish(self, detail: Document, outcome: Outcome) -> None:
        if self.left and outcome.state == "CANCELLED":
            return
        with self._lock:
            detail["outputs"] = _resources(outcome.artifacts)
            self._execution(detail, "output:", outcome.parameters)
            if outcome.error:
                detail["error"] = outcome.error
            detail.setdefault("startTime", now())
            detail["endTime"] = detail["execution"]["updateTime"] = now()
            self._enter(detail, outcome.state)

    def _execution(self, detail: Document, prefix: str, values: Document) -> None:
        detail["execution"]["metadata"].update({f"{prefix}{key}": value for key, value in values.items()})

    def _pid(self, detail: Document, job: str, pid: int | None) -> None:
        """Notes a process as the custom job that Vertex would run the container in."""
        with self._lock:
            told = detail.setdefault("executorDetail", {}).setdefault("containerDetail", {})
            told[job] = f"{self._parent}/customJobs/{pid}" if pid else ""
            self._save()

    def _change(self, document: Document, **fields: Any) -> None:
        with self._lock:
            document.update(fields)
            self._save()

    def _save(self) -> None:
        self._document["updateTime"] = now()
        self._store.update_job(self._document)

    def _log(self, detail: Document) -> Path:
        return log_file(self._logs, detail["taskId"])

    def _last_words(self, detail: Document) -> str:
        lines = [
            line.strip() for line in self._log(detail).read_text(errors="replace")[-20000:].splitlines() if line.strip()
        ]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt|Exit)\b", line)]
        return (errors or lines or ["it said nothing"])[-1][:1000]


def log_file(logs: Path, task_id: str) -> Path:
    return logs / f"{task_id}.log"


def producer(name: str, tasks: Any) -> str:
    """The task of a name; TFX appends `_task` to those whose values are parameters of others."""
    return name if name in tasks else name.removesuffix("_task")


def dependencies(task: Document, tasks: Any) -> set[str]:
    """The tasks that a task needs."""
    named = {walk(each, ".taskOutputArtifact.producerTask") for _, each in _inputs(task, "artifacts")}
    for _, each in _inputs(task, "parameters"):
        named |= {walk(each, ".taskOutputParameter.producerTask"), walk(each, ".taskFinalStatus.producerTask")}
    return {producer(name, tasks) for name in {*named, *task.get("dependentTasks", [])} if name}


def plain(value: Any) -> Any:
    """A value of schema 2.0.0, such as {"intValue": "3"}, as what it is."""
    if "intValue" in value:
        return int(value["intValue"])
    if "doubleValue" in value:
        return float(value["doubleValue"])
    return value.get("stringValue", "")


def resource(artifact: Document) -> Document:
    """An artifact as the API shows it."""
    return {key: value for key, value in artifact.items() if key != "type"}


def _find(view: Document, path: str) -> Any:
    """What a placeholder stands for, None for nothing; an artifact's name is short for the first of its list."""
    short = re.fullmatch(r"(\.(?:in|out)puts\.artifacts\['[^']*'\])\.(?!artifacts)(\w+)(.*)", path)
    if not short:
        return walk(view, path)
    artifact, name = walk(view, f"{short[1]}.artifacts[0]"), short[2]
    if name == "value" and artifact:
        return files.read(artifact["uri"]) or files.read(f"{artifact['uri']}/value")
    return walk(artifact, f".{'uri' if name == 'path' else name}{short[3]}")


def _inputs(task: Document, kind: str) -> Any:
    return (walk(task, f".inputs.{kind}") or {}).items()


def _artifact(type_: Document, uri: str, metadata: Document, state: str) -> Document:
    schema = yaml.safe_load(type_.get("instanceSchema") or "{}")
    title = type_.get("schemaTitle") or schema.get("title", "system.Artifact")
    version = type_.get("schemaVersion", "0.0.1")
    told = {"displayName": uri.rpartition("/")[2], "schemaTitle": title, "schemaVersion": version}
    return {"type": type_, "uri": uri, "metadata": dict(metadata), "state": state, **told}


def _lists(artifacts: dict[str, list[Document]]) -> Document:
    """Artifacts as a task is told of them."""
    told = ("name", "type", "uri", "metadata")
    return {
        key: {"artifacts": [{name: each[name] for name in told} for each in some]} for key, some in artifacts.items()
    }


def _resources(artifacts: dict[str, list[Document]]) -> Document:
    return {key: {"artifacts": [resource(each) for each in several]} for key, several in artifacts.items()}


def _value(source: Document, parameters: Document) -> Any:
    if "runtimeParameter" in source:
        return parameters.get(source["runtimeParameter"])
    return plain(source["constantValue"]) if "constantValue" in source else source.get("constant")


def _typed(value: Any, declared: Document) -> Any:
    """A whole number as one: JSON knows no other numbers than floats."""
    whole = {declared.get("parameterType"), declared.get("type")} & {"NUMBER_INTEGER", "INT"}
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def _legacy_value(value: Any) -> Document:
    if isinstance(value, (bool, list, dict)):
        return {"stringValue": json.dumps(value)}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def _told_parameters(output: Document) -> Document:
    return {
        **{key: plain(value) for key, value in output.get("parameters", {}).items()},
        **output.get("parameterValues", {}),
    }


def _parsed(text: str, declared: Document) -> Any:
    return text if "STRING" in (declared.get("parameterType"), declared.get("type")) else json.loads(text)


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def _pid(detail: Document) -> int | None:
    told = walk(detail, ".executorDetail.containerDetail") or {}
    jobs = told.get("mainJob") or told.get("preCachingCheckJob")
    return int(jobs.rpartition("/")[2]) if jobs else None
