"""Compiles a pipeline into a job of Vertex AI Pipelines, and turns its places into places that Vertex sees."""

from __future__ import annotations

import json
import os
import posixpath
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.settings import Settings
from retake import places, quiet
from retake import weights as weight_files
from retake.errors import UsageError
from retake.weights import Weights

SPECIFICATION = "pipeline.json"
"""Below `pipeline.root`: the last submitted job, a google.cloud.aiplatform.v1.PipelineJob."""

COMMAND = ["python", "-m", "pipelines.run_vertex_task"]

STAND_INS = {"project": "local-project", "region": "local-vertex1", "image": "local"}
"""Defaults for a job on the local Vertex, which ignores these settings."""


class Compiled(NamedTuple):
    """A compiled pipeline.

    Fields:
      job: a PipelineJob as JSON, with the configured values of the runtime parameters.
      nodes: the pipeline's nodes in their order. A resolver becomes two tasks of the job.
    """

    job: dict[str, Any]
    nodes: list[str]

    @property
    def text(self) -> str:
        """The job as JSON. Equal jobs give equal bytes."""
        return json.dumps(self.job, indent=1, sort_keys=True) + "\n"


def placed(config: Settings) -> Settings:
    """The configuration with every place as the nodes see it.

    Raises:
      UsageError: a setting of `vertex` is missing, or the nodes cannot see a place.
    """
    vertex = config.vertex
    if vertex.is_local:
        names = {name: getattr(vertex, name) or stand_in for name, stand_in in STAND_INS.items()}
        vertex = vertex.model_copy(update=names)
    for name in ("project", "region", "image"):
        if not getattr(vertex, name):
            raise UsageError(f"vertex.{name} is missing; give it with --{name}")

    def place(key: str, value: str) -> str:
        if vertex.is_local and value.startswith("gs://") and "STORAGE_EMULATOR_HOST" not in os.environ:
            raise UsageError(
                f"{key} {value}: a local Vertex uses no Google Cloud; give a folder, or set STORAGE_EMULATOR_HOST to "
                "the address of a Cloud Storage emulator"
            )
        if Path(value).is_absolute() and not vertex.is_local:
            raise UsageError(f"{key} {value} is a folder that Vertex does not see; give a gs:// place")
        if places.is_remote(value):
            return value
        if vertex.is_local:
            return str(Path(value).resolve())
        if not vertex.bucket:
            raise UsageError(f"{key} {value} lies in a bucket, and vertex.bucket is missing; give it with --bucket")
        return f"gs://{vertex.bucket}/{posixpath.normpath(value)}"

    config = places.mapped(config, place)
    root = config.pipeline.root
    stand_for = {**vertex.model_dump(include={"project", "region", "image", "service_account"}), "root": root}
    arguments = [_filled(argument, stand_for) for argument in config.beam.arguments]
    return config.model_copy(
        update={
            "vertex": vertex,
            "beam": config.beam.model_copy(update={"arguments": arguments}),
        }
    )


def _filled(text: str, stand_for: dict[str, str]) -> str:
    for name, value in stand_for.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def compile(config: Settings) -> Compiled:
    """Compiles the pipeline without network access.

    Args:
      config: the configuration, as `placed` returns it.

    Raises:
      UsageError: `vertex.machines` names an unknown node.
      RetakeError: the weights file cannot be read.
    """
    weights = weights_of(config)
    with quiet.imports():  # Google's clients warn about old versions of Python.
        from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
        from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

        from pipelines import factory

    pipeline = factory.build(config, config.pipeline.root, weights, LatestBlessedModelStrategy)
    settings = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
        default_image=config.vertex.image, default_commands=[*COMMAND, "executor"], use_pipeline_spec_2_1=True
    )
    job = kubeflow_v2_dag_runner.KubeflowV2DagRunner(settings).run(
        pipeline, parameter_values=factory.parameters(config), write_out=False
    )
    job["labels"] = {**job["labels"], **config.vertex.labels}
    job["runtimeConfig"]["failurePolicy"] = "PIPELINE_FAILURE_POLICY_FAIL_FAST"
    if config.vertex.service_account:
        job["serviceAccount"] = config.vertex.service_account
    tasks = job["pipelineSpec"]["root"]["dag"]["tasks"]
    executors = job["pipelineSpec"]["deploymentSpec"]["executors"]
    nodes = [component.id for component in pipeline.components]
    containers = {node: executors[f"{node}_executor"]["container"] for node in nodes if node in tasks}
    containers["ExampleGen"]["lifecycle"]["preCacheCheck"]["command"] = [*COMMAND, "hook"]
    # As with BaselineStrategy of the other runners, the baseline is the last blessed model besides the candidate.
    _leave_out(job["pipelineSpec"], "Resolver", "current_model", "candidate", "Trainer", "model")
    if config.trainer.asks_model_in_service:  # As with StartStrategy of the other runners.
        _leave_out(job["pipelineSpec"], "StartResolver", "examples", "examples", "ExampleGen", "examples")
    machines = config.vertex.machines
    if unknown := sorted(set(machines) - {"*", *containers}):
        raise UsageError(
            f"vertex.machines: there is no node {', '.join(unknown)}; there are * and {', '.join(containers)}"
        )
    for node, container in containers.items():
        if machine := machines.get(node, machines.get("*")):
            container["resources"] = {"cpuLimit": machine.cpus, "memoryLimit": machine.memory_gb}
            if machine.accelerator:
                accelerator = {"type": machine.accelerator, "count": str(machine.accelerators)}
                container["resources"]["accelerator"] = accelerator
            container["image"] = machine.image or container["image"]
        if config.vertex.retries:
            tasks[node]["retryPolicy"] = {"maxRetryCount": config.vertex.retries}
    return Compiled(job, nodes)


def _leave_out(
    specification: dict[str, Any], resolver: str, name: str, channel: str, producer: str, output: str
) -> None:
    """Makes a resolver ignore the blessings whose property `name` is the address of this run's own artifact.

    The artifact is the `output` of `producer`; the resolver gets it as its input `channel`.

    TFX's query takes the last of all blessings, and does not wait for another task. In a run without new records, it
    would compare the cached model with itself, and push it again.
    """
    task_name = f"{resolver}-model-blessing-resolver"
    task = specification["root"]["dag"]["tasks"][task_name]
    artifact = specification["components"][producer]["outputDefinitions"]["artifacts"][output]
    specification["components"][task_name]["inputDefinitions"] = {"artifacts": {channel: artifact}}
    source = {"producerTask": producer, "outputArtifactKey": output}
    task["inputs"] = {"artifacts": {channel: {"taskOutputArtifact": source}}}
    task["dependentTasks"] = [producer]
    executor = specification["deploymentSpec"]["executors"][f"{task_name}_executor"]
    query = executor["resolver"]["outputArtifactQueries"]["model_blessing"]
    query["filter"] += f" AND metadata.{name}.string_value!=\"{{{{$.inputs.artifacts['{channel}'].uri}}}}\""


def weights_of(config: Settings) -> Weights:
    """The resolved `model.weights`, as the nodes see them. A weights file of this machine is uploaded with the job.

    Raises:
      RetakeError: the weights file cannot be read.
    """
    if config.vertex.is_local:
        return weight_files.resolve(config.model)
    if config.model.weights == "auto" and not config.model.known.from_scratch:
        return Weights("imagenet", "")  # Vertex may reach other addresses than this machine.
    weights, fingerprint = weight_files.resolve(config.model)
    if fingerprint:
        # The service mounts every bucket as a folder below /gcs.
        root = config.pipeline.root.removeprefix("gs://")
        weights = f"/gcs/{root}/weights/{fingerprint[:16]}-{Path(weights).name}"
    return Weights(weights, fingerprint)
