"""Refuses at submission the jobs that Vertex AI refuses, so that they do not fail an hour later."""

from __future__ import annotations

import re
import runpy
import warnings
from functools import lru_cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import distribution
from typing import Any

from google.protobuf import json_format

from kubeflow.emulator.documents import Document, walk
from kubeflow.emulator.expressions import parse, placeholders
from kubeflow.emulator.graph import dependencies, inputs, producer
from kubeflow.emulator.values import constant, plain

_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
_LABEL = re.compile(r"[^\W\d_][\w-]{0,62}:[\w-]{0,63}")
_PARENT = re.compile(r"projects/[a-zA-Z0-9][\w.:-]{0,127}/locations/[a-zA-Z0-9][\w-]{0,62}")
_ROOT = re.compile(r"(gs://[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9](?=/|$)|/)[^\x00-\x1f\x7f]*")
_NAMED = re.compile(r"\.?(inputs|outputs)\.(artifacts|parameters)\['([^']*)'\]")
_SCHEMAS = ("2.0.0", "2.1.0")
_KINDS = ("container", "resolver", "importer")
MAX_TASKS, MAX_DEPTH = 1000, 20
"""Most tasks of a job, including the tasks of nested graphs, and the deepest nesting of graphs."""
_NAMES = {
    "task": (".dag.tasks",),
    "input": (".inputDefinitions.artifacts", ".inputDefinitions.parameters"),
    "output": (".outputDefinitions.artifacts", ".outputDefinitions.parameters"),
}
"""Names that become names of files and folders, or parts of placeholders."""
_RESERVED = ("executor_output.json", "output_parameters")
"""Names of the emulator's own files beside the outputs of a task."""
_WIRES = {"artifacts": "Artifact", "parameters": "Parameter"}
_CHECKS: Document = {
    "STRING": lambda value: isinstance(value, str),
    "NUMBER_INTEGER": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)) and value % 1 == 0,
    "NUMBER_DOUBLE": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)),
    "BOOLEAN": lambda value: isinstance(value, bool),
    "LIST": lambda value: isinstance(value, list),
    "STRUCT": lambda value: isinstance(value, dict),
}
_CHECKS |= {"INT": _CHECKS["NUMBER_INTEGER"], "DOUBLE": _CHECKS["NUMBER_DOUBLE"]}  # As schema 2.0.0 calls them.


class ApiError(Exception):
    """The google.rpc.Status of a refused call."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", message)


def check(parent: str, job_id: str, body: Document) -> Document:
    """Checks a new job, and returns its document in the form that the service reads.

    Raises:
      ApiError: the job is refused.
    """
    if not _PARENT.fullmatch(parent):
        raise invalid(f"Invalid parent {parent!r}: it must be projects/PROJECT/locations/LOCATION.")
    if not _JOB_ID.fullmatch(job_id):
        raise invalid(f"Invalid pipeline job ID {job_id!r}: it must match [a-z][-a-z0-9]{{0,127}}.")
    spec = body.get("pipelineSpec", body.get("pipeline_spec"))
    if not isinstance(spec, dict) or not spec:
        raise invalid("pipeline_spec is required: templates from a registry are not read here.")
    job = read_message(body, "PipelineJob")
    spec = job["pipelineSpec"] = read_message(spec, "PipelineSpec")
    spec["deploymentSpec"] = read_message(spec.get("deploymentSpec", {}), "PipelineDeploymentConfig")
    if len(job.get("displayName", "")) > 128:
        raise invalid("display_name must be at most 128 characters long.")
    labels = job.get("labels", {})
    if len(labels) > 64:
        raise invalid(f"There are {len(labels)} labels; at most 64 are allowed.")
    for key, value in labels.items():
        if not _LABEL.fullmatch(label := f"{key}:{value}") or label != label.lower():
            rule = "lowercase letters, digits, _ and -, at most 63 of them, and a letter begins the key"
            raise invalid(f"Invalid label {key!r}: {value!r}: {rule}.")
    if spec.get("schemaVersion") not in _SCHEMAS:
        reason = f"pipeline_spec.schema_version {spec.get('schemaVersion')!r} is not supported"
        raise invalid(f"{reason}; supported are {' and '.join(_SCHEMAS)}.")
    if not walk(spec, ".pipelineInfo.name"):
        raise invalid("pipeline_spec.pipeline_info.name is required.")
    config = job.get("runtimeConfig", {})
    root = config.get("gcsOutputDirectory", "")
    if not _ROOT.fullmatch(root):
        rule = "a path in a bucket, gs://BUCKET/…, or, here only, an absolute path of this machine"
        raise invalid(f"runtime_config.gcs_output_directory {root!r} must be {rule}.")
    if isinstance(config.get("failurePolicy"), int):
        raise invalid(f"Invalid runtime_config.failure_policy {config['failurePolicy']}.")
    _check_parameters(spec, config)
    _check_names(spec)
    _check_nesting(spec)
    _check_graph("root", spec.get("root", {}), spec)
    for name, component in spec.get("components", {}).items():
        _check_component(name, component, spec)
    return job


@lru_cache
def _message(name: str) -> Any:
    """The published protobuf class of a message. It is loaded on first use, because PipelineJob takes a second.

    The schema of pipelines is one file of the package kfp-pipeline-spec, which TFX's own executors read too. The file
    is run by its path: an import by name would also import the SDK of Kubeflow Pipelines, if that is installed.
    """
    if name != "PipelineJob":  # The schema file has an outdated PipelineJob too, from before Vertex AI.
        file = distribution("kfp-pipeline-spec").locate_file("kfp/pipeline_spec/pipeline_spec_pb2.py")
        return _schema(str(file))[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The library warns about the version of Python.
        from google.cloud.aiplatform_v1.types import PipelineJob

    return type(PipelineJob.pb(PipelineJob()))


_schema = lru_cache(runpy.run_path)


def read_message(document: Any, message: str, **options: bool) -> Document:
    """Converts the JSON document of a message to one form: names in camelCase, enums by name, no defaults.

    Args:
      options: options of `json_format.ParseDict`.

    Raises:
      ApiError: the document does not fit the message.
    """
    try:
        return json_format.MessageToDict(json_format.ParseDict(document, _message(message)(), **options))
    except RecursionError:
        raise invalid(f"The {message} is nested too deep.") from None
    except (json_format.Error, AttributeError, TypeError, ValueError) as error:
        raise invalid(f"The {message} is malformed: {str(error).splitlines()[0]}") from None


def _check_parameters(spec: Document, config: Document) -> None:
    legacy = spec["schemaVersion"] == "2.0.0"
    mine, other = ("parameters", "parameterValues") if legacy else ("parameterValues", "parameters")
    if config.get(other):
        raise invalid(f"runtime_config.{other} does not go with schema_version {spec['schemaVersion']}: use {mine}.")
    parameters, declared = config.get(mine, {}), walk(spec, ".root.inputDefinitions.parameters") or {}
    for name, value in parameters.items():
        if name not in declared:
            known = ", ".join(sorted(declared)) or "none"
            raise invalid(f"Unknown runtime parameter {name!r}: the pipeline's parameters are {known}.")
        if not _fits(plain(value) if legacy else value, declared[name]):
            rule = f"it must be of type {_type(declared[name])}"
            raise invalid(f"Invalid value {value!r} of the runtime parameter {name!r}: {rule}.")
    for name, each in declared.items():
        if name not in parameters and "defaultValue" not in each and not each.get("isOptional"):
            raise invalid(f"The runtime parameter {name!r} is required and has neither a value nor a default.")


def _type(declared: Document) -> Any:
    return declared.get("parameterType") or declared.get("type")


def _fits(value: Any, declared: Document) -> bool:
    return _CHECKS.get(_type(declared), lambda _: True)(value)


def _check_names(spec: Document) -> None:
    for where, component in {"root": spec.get("root", {}), **spec.get("components", {})}.items():
        for kind, paths in _NAMES.items():
            for name in [name for path in paths for name in walk(component, path) or {}]:
                reserved = kind == "output" and name in _RESERVED
                if reserved or not _is_name(name):
                    reason = "a name has 1 to 200 bytes, no slash and no control character, and is not . or .."
                    reason = "a file beside the outputs of a task has this name" if reserved else reason
                    raise invalid(f"Invalid name {name[:200]!r} ({kind} of {where[:200]!r}): {reason}.")


def _is_name(name: str) -> bool:
    return name.isprintable() and "/" not in name and name not in (".", "..") and 0 < len(name.encode()) <= 200


def _check_nesting(spec: Document) -> None:
    def within(component: Document) -> list[str]:
        return [walk(task, ".componentRef.name") for task in (walk(component, ".dag.tasks") or {}).values()]

    graphs = {**spec.get("components", {}), "": spec.get("root", {})}
    inner = {name: within(component) for name, component in graphs.items()}
    tasks: dict[str, int] = {}
    depth: dict[str, int] = {}
    try:
        for name in TopologicalSorter(inner).static_order():
            tasks[name] = sum(1 + tasks[each] for each in inner.get(name, []))
            depth[name] = 1 + max((depth[each] for each in inner.get(name, [])), default=0)
    except CycleError as error:
        raise invalid(f"A component of pipeline_spec contains itself: {' → '.join(error.args[1])}.") from None
    if tasks[""] > MAX_TASKS:
        raise invalid(f"The pipeline has {tasks['']} tasks; at most {MAX_TASKS} are run here.")
    if depth[""] > MAX_DEPTH:
        raise invalid(f"The graphs of pipeline_spec are nested {depth['']} deep; at most {MAX_DEPTH} are run here.")


def _check_component(name: str, component: Document, spec: Document) -> None:
    if "dag" in component:
        _check_graph(f"component {name!r}", component, spec)
        return
    executor = walk(spec, ".deploymentSpec.executors") or {}
    label = component.get("executorLabel")
    if label not in executor:
        raise invalid(f"Component {name!r} names the executor {label!r}, which deployment_spec does not have.")
    if not set(executor[label]) & set(_KINDS):
        kind = f"executors of kind {', '.join(executor[label])} ({label!r})"
        raise ApiError(501, "UNIMPLEMENTED", f"This emulator does not run {kind}; it runs {', '.join(_KINDS)}.")
    if container := executor[label].get("container"):
        if not container.get("image"):
            raise invalid(f"The container {label!r} names no image.")
        for word in [*container.get("command", []), *container.get("args", [])]:
            for path in placeholders(word):
                # The component need not declare the parameters that a hook adds.
                _check_named(path, component, f"A placeholder of component {name!r}", "lifecycle" in container)


def _check_named(path: str, component: Document, where: str, hooked: bool = False) -> None:
    named = _NAMED.match(path)
    if not named or (hooked and named[2] == "parameters"):
        return
    if named[3] not in (walk(component, f".{named[1][:-1]}Definitions.{named[2]}") or {}):
        raise invalid(f"{where} stands for {path}, which its component does not declare.")


def _check_graph(where: str, component: Document, spec: Document) -> None:
    tasks = walk(component, ".dag.tasks")
    if not tasks:
        raise invalid(f"There are no tasks in the {where} of pipeline_spec.")
    components = spec.get("components", {})
    referenced = {name: components.get(walk(task, ".componentRef.name")) for name, task in tasks.items()}
    for name, own in referenced.items():
        if own is None:
            component_name = walk(tasks[name], ".componentRef.name")
            raise invalid(f"Task {name!r} names the component {component_name!r}, which is not there.")
    for name, task in tasks.items():
        own = referenced[name]
        if "parameterIterator" in task or "artifactIterator" in task:
            raise ApiError(501, "UNIMPLEMENTED", f"Task {name!r} is a loop, which this emulator does not run.")
        if unknown := sorted(dependencies(task, tasks) - tasks.keys()):
            raise invalid(f"Task {name!r} depends on {', '.join(unknown)}, which is no task of the {where}.")
        _check_condition(name, walk(task, ".triggerPolicy.condition") or "", own)
        for kind, key in _WIRES.items():
            wired, declared = inputs(task, kind), walk(own, f".inputDefinitions.{kind}") or {}
            for input_, each in declared.items():
                if input_ not in wired and "defaultValue" not in each and not each.get("isOptional"):
                    raise invalid(f"Task {name!r} lacks its required input {input_!r} ({kind}).")
            for input_, source in wired.items():
                if input_ not in declared:
                    raise invalid(f"Task {name!r} is given {input_!r}, no input of its component ({kind}).")
                if "parameterExpressionSelector" in source:
                    raise ApiError(501, "UNIMPLEMENTED", f"Task {name!r} selects a part of {input_!r}: not run here.")
                where_from = f"Task {name!r} takes its input {input_!r} from"
                if not source:
                    raise invalid(f"{where_from} nothing.")
                if output := source.get(f"taskOutput{key}"):
                    _check_output(where_from, output["producerTask"], output[f"output{key}Key"], kind, referenced)
                above = source.get(f"componentInput{key}") or walk(source, ".runtimeValue.runtimeParameter")
                # A nested graph, such as the graph of TFX's exit handlers, sees the pipeline's parameters too.
                known = [walk(each, f".inputDefinitions.{kind}") or {} for each in (component, spec["root"])]
                if above and not any(above in each for each in known):
                    raise invalid(f"{where_from} {above!r}, which is no input of the {where} ({kind}).")
                value = constant(source.get("runtimeValue", {}), {})
                if value is not None and "{{$" not in str(value) and not _fits(value, each := declared[input_]):
                    raise invalid(f"{where_from} the constant {value!r}: it must be of type {_type(each)}.")
    for kind, key in _WIRES.items():
        for name, output in (walk(component, f".dag.outputs.{kind}") or {}).items():
            if "valueFromOneof" in output:
                raise ApiError(501, "UNIMPLEMENTED", f"The {where} selects its output {name!r}: not run here.")
            for each in output["artifactSelectors"] if kind == "artifacts" else [output["valueFromParameter"]]:
                where_from = f"The {where} takes its output {name!r} from"
                _check_output(where_from, each["producerSubtask"], each[f"output{key}Key"], kind, referenced)
    try:
        TopologicalSorter({name: dependencies(task, tasks) for name, task in tasks.items()}).prepare()
    except CycleError as error:
        raise invalid(f"The tasks of the {where} depend on each other: {' → '.join(error.args[1])}.") from None


def _check_output(where_from: str, task: str, output: str, kind: str, components: Document) -> None:
    maker = producer(task, components)
    if output not in (walk(components.get(maker), f".outputDefinitions.{kind}") or {}):
        raise invalid(f"{where_from} {output!r} of {maker!r}, which has no such output ({kind}).")


def _check_condition(task: str, condition: str, component: Document) -> None:
    def judge(path: str, sign: str, value: Any) -> Any:
        _check_named(path, component, f"The condition of task {task!r}")
        return value

    try:
        parse(condition, judge)
    except ValueError as error:
        raise invalid(f"The condition of task {task!r} cannot be read: {error}.") from None
