"""A pipeline as a job of Vertex AI Pipelines: its places, and the compiled PipelineJob."""

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
"""Below `pipeline.root`: the job as it was submitted last, a google.cloud.aiplatform.v1.PipelineJob."""

COMMAND = ["python", "-m", "pipelines.run_vertex_task"]

STAND_INS = {"project": "local-project", "region": "local-vertex1", "image": "local"}
"""What a job on this machine's Vertex names where the configuration says nothing: it looks at none of them."""


class Compiled(NamedTuple):
    """A compiled pipeline.

    Fields:
      job: a PipelineJob as JSON, with what the configuration gives the runtime parameters.
      nodes: the pipeline's nodes in their order. A resolver is two tasks of the job.
    """

    job: dict[str, Any]
    nodes: list[str]

    @property
    def text(self) -> str:
        """The job, the same for the same inputs, byte by byte."""
        return json.dumps(self.job, indent=1, sort_keys=True) + "\n"


def placed(config: Settings) -> Settings:
    """The configuration with every place as the nodes see it.

    Raises:
      UsageError: a setting of `vertex` is missing, or a place is one that the nodes do not see.
    """
    vertex = config.vertex
    if vertex.is_local:
        names = {name: getattr(vertex, name) or stand_in for name, stand_in in STAND_INS.items()}
        vertex = vertex.model_copy(update=names)
    for name in ("project", "region", "image"):
        if not getattr(vertex, name):
            raise UsageError(f"vertex.{name} is missing; give it with --{name}")

    def place(key: str, given: str) -> str:
        if vertex.is_local and given.startswith("gs://") and "STORAGE_EMULATOR_HOST" not in os.environ:
            raise UsageError(
                f"{key} {given}: a local Vertex uses no Google Cloud; give a folder, or set STORAGE_EMULATOR_HOST to "
                "the address of a Cloud Storage emulator"
            )
        if Path(given).is_absolute() and not vertex.is_local:
            raise UsageError(f"{key} {given} is a folder that Vertex does not see; give a gs:// place")
        if places.is_remote(given):
            return given
        if vertex.is_local:
            return str(Path(given).resolve())
        if not vertex.bucket:
            raise UsageError(f"{key} {given} lies in a bucket, and vertex.bucket is missing; give it with --bucket")
        return f"gs://{vertex.bucket}/{posixpath.normpath(given)}"

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
    """Compiles the pipeline, without a network.

    Args:
      config: with `placed` places.

    Raises:
      UsageError: `vertex.machines` names what is not a node.
      RetakeError: the weights file cannot be read.
    """
    weights = weights_of(config)
    with quiet.imports():  # Google's clients warn of what Python they are going to need.
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
    # The baseline is the model that was blessed last besides the candidate, as with BaselineStrategy elsewhere.
    _leave_out(job["pipelineSpec"], "Resolver", "current_model", "candidate", "Trainer", "model")
    if config.trainer.asks_model_in_service:  # As with StartStrategy elsewhere.
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
    """Leaves blessings out whose property `name` is the address of what this run's `producer` makes as `output`.

    The resolver takes it by the name `channel`.

    TFX's query takes the last blessing of all, and waits for nothing. A run with nothing new would compare its cached
    model with itself, and push it again.
    """
    task_name = f"{resolver}-model-blessing-resolver"
    task = specification["root"]["dag"]["tasks"][task_name]
    made = specification["components"][producer]["outputDefinitions"]["artifacts"][output]
    specification["components"][task_name]["inputDefinitions"] = {"artifacts": {channel: made}}
    made_by = {"producerTask": producer, "outputArtifactKey": output}
    task["inputs"] = {"artifacts": {channel: {"taskOutputArtifact": made_by}}}
    task["dependentTasks"] = [producer]
    executor = specification["deploymentSpec"]["executors"][f"{task_name}_executor"]
    query = executor["resolver"]["outputArtifactQueries"]["model_blessing"]
    query["filter"] += f" AND metadata.{name}.string_value!=\"{{{{$.inputs.artifacts['{channel}'].uri}}}}\""


def weights_of(config: Settings) -> Weights:
    """What `model.weights` comes to, as the nodes see it; a file of this machine is uploaded with the job.

    Raises:
      RetakeError: the weights file cannot be read.
    """
    if config.vertex.is_local:
        return weight_files.resolve(config.model)
    if config.model.weights == "auto" and not config.model.known.from_scratch:
        return Weights("imagenet", "")  # What can be had from here says nothing of what can be had there.
    weights, fingerprint = weight_files.resolve(config.model)
    if fingerprint:
        # Where the service shows buckets to every node as folders.
        root = config.pipeline.root.removeprefix("gs://")
        weights = f"/gcs/{root}/weights/{fingerprint[:16]}-{Path(weights).name}"
    return Weights(weights, fingerprint)
