"""Runs one node of a compiled pipeline and tells from ML Metadata how it went."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from ml_metadata.proto import metadata_store_pb2
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto.orchestration import pipeline_pb2

from retake.errors import RetakeError


class NodeRun(NamedTuple):
    """How a node went, and its MLMD execution."""

    state: str
    seconds: float
    cached: bool
    execution: metadata_store_pb2.Execution


def bind(pipeline: pipeline_pb2.Pipeline, run_id: str, parameters: dict[str, Any]) -> None:
    """Puts the run's id and the runtime parameters into a compiled pipeline, in place."""
    runtime_parameter_utils.substitute_runtime_parameter(pipeline, {"pipeline-run-id": run_id, **parameters})


def launch(pipeline: pipeline_pb2.Pipeline, node_id: str, connection: Any) -> NodeRun:
    """Runs a node, or takes its outputs from the cache.

    Args:
      pipeline: compiled, with parameters bound.
      node_id: for example `Trainer`.
      connection: ML Metadata's ConnectionConfig.

    Raises:
      RetakeError: its inputs are not there; otherwise whatever the node's executor raised.
    """
    node = next(n.pipeline_node for n in pipeline.nodes if n.pipeline_node.node_info.id == node_id)
    deployment = runner_utils.extract_local_deployment_config(pipeline)
    begun = time.monotonic()
    info = launcher.Launcher(
        pipeline_node=node,
        mlmd_connection=metadata.Metadata(connection),
        pipeline_info=pipeline.pipeline_info,
        pipeline_runtime_spec=pipeline.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
    ).launch()
    seconds = time.monotonic() - begun
    # launch() returns normally when inputs are not met: only the store knows.
    with metadata.Metadata(connection) as handle:
        found = handle.store.get_executions_by_id([info.execution_id]) if info and info.execution_id else []
    state = metadata_store_pb2.Execution.State.Name(found[0].last_known_state) if found else "NOT_RUN"
    if state not in ("COMPLETE", "CACHED"):
        raise RetakeError(f"{node_id} did not run: what it needs from earlier nodes of this run is not there")
    return NodeRun(state, seconds, state == "CACHED", found[0])
