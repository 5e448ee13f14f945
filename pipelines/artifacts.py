"""What a node wrote: on disk before its execution counts as complete, and recognised when it was damaged since.

Object stores keep what they took, so all of this is for local folders.
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
"""The custom property that TFX's Pusher gives a push."""

_log = logging.getLogger("retake")


def settle(artifacts: Iterable[metadata_store_pb2.Artifact]) -> None:
    """Syncs what artifacts hold, and notes it in them.

    Raises:
      RetakeError: a folder does not get onto the disk.
    """
    for artifact in artifacts:
        place = _place(artifact)
        for local in (each for each in (artifact.uri, place) if not places.is_remote(each)):
            try:
                durable.sync(Path(local))
            except OSError as error:
                raise RetakeError(f"{local} cannot be written ({error.strerror})") from error
        if not places.is_remote(place):
            artifact.custom_properties[durable.WRITTEN].string_value = json.dumps(durable.contents(Path(place)))


def damage(artifact: metadata_store_pb2.Artifact) -> str | None:
    """What is wrong with what an artifact holds, in words, or None."""
    place, written = _place(artifact), _text(artifact, durable.WRITTEN)
    return None if places.is_remote(place) else durable.damage(Path(place), json.loads(written) if written else None)


def forget_damaged(store: MetadataStore, pipeline: str, node: str) -> None:
    """Marks outputs of a node that were damaged since as deleted, and pushes that were removed, so that none is taken
    from the cache. TFX itself only looks whether an output's folder is there. A model that was pushed gets back what it
    held: the gate needs it."""
    context = store.get_context_by_type_and_name("node", f"{pipeline}.{node}")
    for artifact in store.get_artifacts_by_context(context.id) if context else []:
        # The others are the node's inputs.
        of_node = artifact.state == artifact.LIVE and artifact.uri.split("/")[-3:-2] == [node]
        if not of_node or not (places.is_remote(artifact.uri) or Path(artifact.uri).exists()):
            continue
        wrong = damage(artifact) or _removed(artifact)
        if wrong and artifact.type == "Model" and (version := _restore(store, artifact)):
            _log.info("%s; it was copied back from %s", wrong, version)
        elif wrong:
            _log.info("%s; it is not used any more", wrong)
            artifact.state = artifact.DELETED
            store.put_artifacts([artifact])


def _restore(store: MetadataStore, model: metadata_store_pb2.Artifact) -> str | None:
    """Copies a model back from a whole version that was pushed of it, and returns that, or None where there is none."""
    uses = [e.execution_id for e in store.get_events_by_artifact_ids([model.id]) if e.type == e.INPUT]
    made = [e.artifact_id for e in store.get_events_by_execution_ids(uses) if e.type == e.OUTPUT] if uses else []
    for push in store.get_artifacts_by_id(made) if made else []:
        version = _text(push, _DESTINATION)
        whole = version and not places.is_remote(version) and push.state == push.LIVE and not damage(push)
        if whole and not seal.broken(Path(version)):  # Whoever may write there must not choose what the gate loads.
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
    """That a version in an object store is gone, in words, or None."""
    version = _text(artifact, _DESTINATION)
    if not places.is_remote(version):
        return None
    from tfx.dsl.io import fileio

    return None if fileio.exists(f"{version}/saved_model.pb") else f"{version} is gone"


def _place(artifact: metadata_store_pb2.Artifact) -> str:
    """The folder, or gs:// prefix, that an artifact stands for: for a push, the version."""
    return _text(artifact, _DESTINATION) or artifact.uri


def _text(artifact: metadata_store_pb2.Artifact, name: str) -> str:
    # Not by its key alone, which would add it.
    return artifact.custom_properties[name].string_value if name in artifact.custom_properties else ""
