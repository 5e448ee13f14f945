"""Runs one node of a compiled pipeline and tells from ML Metadata how it went."""

from __future__ import annotations

from typing import Any

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from tfx.dsl.io import fileio
from tfx.orchestration import metadata
from tfx.orchestration.local import runner_utils
from tfx.orchestration.portable import launcher, runtime_parameter_utils
from tfx.proto.orchestration import pipeline_pb2

from retake.errors import RetakeError

_State = metadata_store_pb2.Execution.State


def bind(pipeline: pipeline_pb2.Pipeline, run_id: str, parameters: dict[str, Any]) -> None:
    """Puts the run's id and the runtime parameters into a compiled pipeline, in place."""
    runtime_parameter_utils.substitute_runtime_parameter(pipeline, {"pipeline-run-id": run_id, **parameters})


def launch(pipeline: pipeline_pb2.Pipeline, node_id: str, connection: Any) -> metadata_store_pb2.Execution:
    """Runs a node, or takes its outputs from the cache.

    Args:
      pipeline: compiled, with parameters bound.
      node_id: for example `Trainer`.
      connection: ML Metadata's ConnectionConfig.

    Returns:
      The node's execution, COMPLETE or CACHED.

    Raises:
      RetakeError: its inputs are not there; otherwise whatever the node's executor raised.
    """
    node = next(n.pipeline_node for n in pipeline.nodes if n.pipeline_node.node_info.id == node_id)
    deployment = runner_utils.extract_local_deployment_config(pipeline)
    if any(output.artifact_spec.type.name == "PushedModel" for output in node.outputs.outputs.values()):
        with metadata.Metadata(connection) as handle:
            _forget_removed_models(handle.store)
    info = launcher.Launcher(
        pipeline_node=node,
        mlmd_connection=metadata.Metadata(connection),
        pipeline_info=pipeline.pipeline_info,
        pipeline_runtime_spec=pipeline.runtime_spec,
        executor_spec=runner_utils.extract_executor_spec(deployment, node_id),
        custom_driver_spec=runner_utils.extract_custom_driver_spec(deployment, node_id),
    ).launch()
    # launch() returns normally when inputs are not met: only the store knows.
    with metadata.Metadata(connection) as handle:
        found = handle.store.get_executions_by_id([info.execution_id]) if info and info.execution_id else []
    if not found or found[0].last_known_state not in (_State.COMPLETE, _State.CACHED):
        raise RetakeError(f"{node_id} did not run: what it needs from earlier nodes of this run is not there")
    return found[0]


def _forget_removed_models(store: MetadataStore) -> None:
    """Marks pushes as deleted whose version somebody has removed: the cache looks at the node's own folder only."""
    for push in store.get_artifacts_by_type("PushedModel"):
        version = push.custom_properties["pushed_destination"].string_value
        if version and push.state == push.LIVE and not fileio.exists(f"{version}/saved_model.pb"):
            push.state = push.DELETED
            store.put_artifacts([push])
