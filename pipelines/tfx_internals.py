"""Undocumented parts of TFX that this project needs: its launcher of a node, and its entry points on Vertex.

The next TFX may change them, so only this file uses them. `components` also subclass TFX's executors and drivers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, outputs_utils, runtime_parameter_utils
from tfx.proto.orchestration import executable_spec_pb2, pipeline_pb2

from pipelines import artifacts
from retake.errors import RetakeError

_ = executable_spec_pb2  # A compiled pipeline contains its messages, which can be parsed after this import.


def parsed(ir: dict[str, Any]) -> pipeline_pb2.Pipeline:
    """Parses a compiled pipeline from its JSON."""
    return json_format.ParseDict(ir, pipeline_pb2.Pipeline())


def bind(pipeline: pipeline_pb2.Pipeline, run_id: str, parameters: dict[str, Any]) -> None:
    """Puts the run's id and the runtime parameters into a compiled pipeline, in place."""
    runtime_parameter_utils.substitute_runtime_parameter(pipeline, {"pipeline-run-id": run_id, **parameters})


class Launcher(launcher.Launcher):
    """Checks a node's inputs for damage, empties its output folders, and syncs its outputs to disk."""

    def _run_executor(self, execution_info: Any) -> Any:
        for key, inputs in execution_info.input_dict.items():
            for artifact in inputs:
                # The Evaluator works without a baseline.
                if key != "baseline_model" and (damage := artifacts.damage(artifact.mlmd_artifact)):
                    raise RetakeError(f"{damage}; start a new run: it makes this output again")
        # A killed attempt, or an attempt that is missing in the metadata store, may have left files.
        outputs_utils.make_output_dirs(execution_info.output_dict)
        outputs_utils.remove_output_dirs(execution_info.output_dict)
        output = super()._run_executor(execution_info)
        try:
            artifacts.settle(artifact for of_key in output.output_artifacts.values() for artifact in of_key.artifacts)
        except RetakeError:
            outputs_utils.remove_output_dirs(execution_info.output_dict)  # TFX does this if the executor fails.
            raise
        return output


def launch(pipeline: pipeline_pb2.Pipeline, node_id: str, connection: Any) -> Any:
    """Runs a node, or takes its outputs from the cache.

    Args:
      pipeline: with its parameters bound.
      node_id: for example `Trainer`.
      connection: ML Metadata's ConnectionConfig.

    Returns:
      The node's metadata_store_pb2.Execution; None if inputs are missing, for which TFX raises no error.

    Raises:
      Exception: an error of the node's driver or executor.
    """
    node = next(n.pipeline_node for n in pipeline.nodes if n.pipeline_node.node_info.id == node_id)
    deployment = runner_utils.extract_local_deployment_config(pipeline)
    info = Launcher(
        pipeline_node=node,
        mlmd_connection=metadata.Metadata(connection),
        pipeline_info=pipeline.pipeline_info,
        pipeline_runtime_spec=pipeline.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
    ).launch()
    if not info or not info.execution_id:
        return None
    with metadata.Metadata(connection) as handle:
        [execution] = handle.store.get_executions_by_id([info.execution_id])
    return execution


class Entry:
    """An entry point of TFX that a task of Vertex runs: `parse` reads its flags, `main` runs it."""

    def __init__(self, role: str):
        """Makes an entry point. `role` is `hook` (before the cache look-up of ExampleGen) or `executor`."""
        if role == "hook":
            from tfx.orchestration.kubeflow.v2.file_based_example_gen import driver as module

            from components.example_gen import RecordsProcessor

            module.input_processor.FileBasedInputProcessor = RecordsProcessor
        else:
            from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor as module
        self.main: Callable[[Any], None] = module.main
        self.parse: Callable[[list[str]], Any] = module._parse_flags
