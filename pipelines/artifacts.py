"""The outputs of nodes: synced to disk before the node's execution counts as complete, and checked for later damage.

This is for local folders only: object stores keep their objects intact.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from retake import durable, places, seal
from retake.errors import RetakeError

_DESTINATION = "pushed_destination"
"""Custom property of a PushedModel, which TFX's Pusher sets."""

_log = logging.getLogger("retake")


def settle(artifacts: Iterable[metadata_store_pb2.Artifact]) -> None:
    """Syncs the files of artifacts to disk, and records the files in a custom property of each artifact.

    Raises:
      RetakeError: a folder cannot be synced.
    """
    for artifact in artifacts:
        place = _place(artifact)
        for local in (folder for folder in (artifact.uri, place) if not places.is_remote(folder)):
            try:
                durable.sync(Path(local))
            except OSError as error:
                raise RetakeError(f"{local} cannot be written ({error.strerror})") from error
        if not places.is_remote(place):
            artifact.custom_properties[durable.WRITTEN].string_value = json.dumps(durable.contents(Path(place)))


def damage(artifact: metadata_store_pb2.Artifact) -> str | None:
    """A description of the damage to an artifact's files, or None."""
    place, written = _place(artifact), _text(artifact, durable.WRITTEN)
    return None if places.is_remote(place) else durable.damage(Path(place), json.loads(written) if written else None)


def forget_damaged(store: MetadataStore, pipeline: str, node: str) -> None:
    """Marks damaged outputs and removed pushes of a node as deleted, so that the cache does not use them.

    TFX itself only checks that an output's folder exists. A damaged model is restored from a pushed version, if there
    is one, because the gate needs the model.
    """
    context = store.get_context_by_type_and_name("node", f"{pipeline}.{node}")
    for artifact in store.get_artifacts_by_context(context.id) if context else []:
        # The context also contains the node's inputs.
        of_node = artifact.state == artifact.LIVE and artifact.uri.split("/")[-3:-2] == [node]
        if not of_node or not (places.is_remote(artifact.uri) or Path(artifact.uri).exists()):
            continue
        problem = damage(artifact) or _removed(artifact)
        if problem and artifact.type == "Model" and (version := _restore(store, artifact)):
            _log.info("%s; it was copied back from %s", problem, version)
        elif problem:
            _log.info("%s; it is not used any more", problem)
            artifact.state = artifact.DELETED
            store.put_artifacts([artifact])


def _restore(store: MetadataStore, model: metadata_store_pb2.Artifact) -> str | None:
    """Restores a model from an intact pushed version of it. Returns the version, or None if there is none."""
    uses = [e.execution_id for e in store.get_events_by_artifact_ids([model.id]) if e.type == e.INPUT]
    outputs = [e.artifact_id for e in store.get_events_by_execution_ids(uses) if e.type == e.OUTPUT] if uses else []
    for push in store.get_artifacts_by_id(outputs) if outputs else []:
        version = _text(push, _DESTINATION)
        whole = version and not places.is_remote(version) and push.state == push.LIVE and not damage(push)
        if whole and not seal.broken(Path(version)):  # A changed version could make the gate load any code.
            from tfx.utils import path_utils

            from components.pusher import ORIGIN

            served = Path(path_utils.serving_model_dir(model.uri))
            unfinished = served.with_name(f".{served.name}.incoming")
            for folder in (unfinished, served):
                shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(version, unfinished)
            for added in (ORIGIN, seal.SEAL):
                (unfinished / added).unlink(missing_ok=True)
            durable.publish(unfinished, served)
            if not damage(model):
                return version
    return None


def _removed(artifact: metadata_store_pb2.Artifact) -> str | None:
    """A message if a pushed version in an object store is gone, or None."""
    version = _text(artifact, _DESTINATION)
    if not places.is_remote(version):
        return None
    from tfx.dsl.io import fileio

    return None if fileio.exists(f"{version}/saved_model.pb") else f"{version} is gone"


def _place(artifact: metadata_store_pb2.Artifact) -> str:
    """The folder or gs:// prefix of an artifact's files; for a PushedModel, the version's folder."""
    return _text(artifact, _DESTINATION) or artifact.uri


def _text(artifact: metadata_store_pb2.Artifact, name: str) -> str:
    # Reading a missing key would add it.
    return artifact.custom_properties[name].string_value if name in artifact.custom_properties else ""
