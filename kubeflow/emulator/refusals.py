"""Refuses what Vertex AI would refuse, when a job is submitted and not an hour later."""

from __future__ import annotations

import re
from graphlib import CycleError, TopologicalSorter
from typing import Any

from kubeflow.emulator.expressions import walk
from kubeflow.emulator.graph import dependencies, inputs, producer
from kubeflow.emulator.values import plain

_JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")
_LABEL = re.compile(r"[\w-]{0,63}")
_SCHEMAS = ("2.0.0", "2.1.0")
_POLICIES = [f"PIPELINE_FAILURE_POLICY_{name}" for name in ("UNSPECIFIED", "FAIL_SLOW", "FAIL_FAST")]
_KINDS = ("container", "resolver", "importer")
_CHECKS: dict[str, Any] = {
    "STRING": lambda value: isinstance(value, str),
    "NUMBER_INTEGER": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)) and value % 1 == 0,
    "NUMBER_DOUBLE": lambda value: not isinstance(value, bool) and isinstance(value, (int, float)),
    "BOOLEAN": lambda value: isinstance(value, bool),
    "LIST": lambda value: isinstance(value, list),
    "STRUCT": lambda value: isinstance(value, dict),
}
_LEGACY = {"STRING": "stringValue", "INT": "intValue", "DOUBLE": "doubleValue"}


class ApiError(Exception):
    """A google.rpc.Status that a call is answered with."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code, self.status = code, status


def invalid(message: str) -> ApiError:
    return ApiError(400, "INVALID_ARGUMENT", message)


def check(job_id: str, job: dict[str, Any]) -> None:
    """Checks a job that is to be created.

    Raises:
      ApiError: it cannot be.
    """
    if not _JOB_ID.fullmatch(job_id):
        raise invalid(f"Invalid pipeline job ID {job_id!r}: it must match [a-z][-a-z0-9]{{0,127}}.")
    if len(job.get("displayName", "")) > 128:
        raise invalid("display_name must be at most 128 characters long.")
    for key, value in job.get("labels", {}).items():
        if not (key and _LABEL.fullmatch(key) and _LABEL.fullmatch(value) and (key + value).lower() == key + value):
            raise invalid(f"Invalid label {key!r}: {value!r}: lowercase letters, digits, _ and -, at most 63 of them.")
    spec, config = job.get("pipelineSpec"), job.get("runtimeConfig", {})
    if not isinstance(spec, dict) or not spec:
        raise invalid("pipeline_spec is required: templates from a registry are not read here.")
    if spec.get("schemaVersion") not in _SCHEMAS:
        told = f"pipeline_spec.schema_version {spec.get('schemaVersion')!r} is not supported"
        raise invalid(f"{told}; supported are {' and '.join(_SCHEMAS)}.")
    if not walk(spec, ".pipelineInfo.name"):
        raise invalid("pipeline_spec.pipeline_info.name is required.")
    root = config.get("gcsOutputDirectory", "")
    if not root.startswith(("gs://", "/")):
        told = "a gs:// path or, here only, an absolute path of this machine"
        raise invalid(f"runtime_config.gcs_output_directory {root!r} must be {told}.")
    policy = config.get("failurePolicy", 0)
    config["failurePolicy"] = policy = _POLICIES[policy] if policy in range(3) else policy
    if policy not in _POLICIES:
        raise invalid(f"Invalid runtime_config.failure_policy {policy!r}.")
    _check_parameters(spec, config)
    _check_graph("root", spec.get("root", {}), spec)
    for name, component in spec.get("components", {}).items():
        _check_component(name, component, spec)


def _check_parameters(spec: dict[str, Any], config: dict[str, Any]) -> None:
    legacy = spec["schemaVersion"] == "2.0.0"
    mine, other = ("parameters", "parameterValues") if legacy else ("parameterValues", "parameters")
    if config.get(other):
        raise invalid(f"runtime_config.{other} does not go with schema_version {spec['schemaVersion']}: use {mine}.")
    given, declared = config.get(mine, {}), walk(spec, ".root.inputDefinitions.parameters") or {}
    for name, value in given.items():
        if name not in declared:
            told = ", ".join(sorted(declared)) or "none"
            raise invalid(f"Unknown runtime parameter {name!r}: the pipeline's parameters are {told}.")
        type_ = declared[name].get("parameterType") or declared[name].get("type")
        if legacy:
            fits = isinstance(value, dict) and list(value) == [_LEGACY.get(type_)] and _parses(value)
        else:
            fits = _CHECKS.get(type_, lambda _: True)(value)
        if not fits:
            raise invalid(f"Invalid value {value!r} of the runtime parameter {name!r}: it must be of type {type_}.")
    for name, each in declared.items():
        if name not in given and "defaultValue" not in each and not each.get("isOptional"):
            raise invalid(f"The runtime parameter {name!r} is required and has neither a value nor a default.")


def _parses(value: dict[str, Any]) -> bool:
    try:
        plain(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_component(name: str, component: dict[str, Any], spec: dict[str, Any]) -> None:
    if "dag" in component:
        _check_graph(f"component {name!r}", component, spec)
        return
    executor = walk(spec, ".deploymentSpec.executors") or {}
    label = component.get("executorLabel")
    if label not in executor:
        raise invalid(f"Component {name!r} names the executor {label!r}, which deployment_spec does not have.")
    if not set(executor[label]) & set(_KINDS):
        told = f"executors of kind {', '.join(executor[label])} ({label!r})"
        raise ApiError(501, "UNIMPLEMENTED", f"This emulator does not run {told}; it runs {', '.join(_KINDS)}.")


def _check_graph(where: str, component: dict[str, Any], spec: dict[str, Any]) -> None:
    tasks = walk(component, ".dag.tasks")
    if not tasks:
        raise invalid(f"There are no tasks in the {where} of pipeline_spec.")
    components = spec.get("components", {})
    referenced = {name: components.get(walk(task, ".componentRef.name")) for name, task in tasks.items()}
    for name, task in tasks.items():
        own = referenced[name]
        if own is None:
            raise invalid(
                f"Task {name!r} names the component {walk(task, '.componentRef.name')!r}, which is not there."
            )
        if "parameterIterator" in task or "artifactIterator" in task:
            raise ApiError(501, "UNIMPLEMENTED", f"Task {name!r} is a loop, which this emulator does not run.")
        if unknown := sorted(dependencies(task, tasks) - tasks.keys()):
            raise invalid(f"Task {name!r} depends on {', '.join(unknown)}, which is no task of the {where}.")
        for kind, key in (("artifacts", "Artifact"), ("parameters", "Parameter")):
            wired, declared = inputs(task, kind), walk(own, f".inputDefinitions.{kind}") or {}
            for input_, each in declared.items():
                if input_ not in wired and "defaultValue" not in each and not each.get("isOptional"):
                    raise invalid(f"Task {name!r} lacks its required input {input_!r} ({kind}).")
            for input_, source in wired.items():
                if "parameterExpressionSelector" in source:
                    raise ApiError(501, "UNIMPLEMENTED", f"Task {name!r} selects a part of {input_!r}: not run here.")
                if output := source.get(f"taskOutput{key}"):
                    maker = producer(output["producerTask"], tasks)
                    made = walk(referenced[maker], f".outputDefinitions.{kind}") or {}
                    if output[f"output{key}Key"] not in made:
                        told = f"{output[f'output{key}Key']!r} of {maker!r}, which has no such output"
                        raise invalid(f"Task {name!r} takes its input {input_!r} from {told} ({kind}).")
    try:
        TopologicalSorter({name: dependencies(task, tasks) for name, task in tasks.items()}).prepare()
    except CycleError as error:
        raise invalid(f"The tasks of the {where} depend on each other: {' → '.join(error.args[1])}.") from None
