"""Pusher: copies a blessed model into the models' folder as its next numbered version, completely or not at all."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx import types
from tfx.components import Pusher
from tfx.components.pusher import executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils
from tfx.utils import io_utils

from retake import durable, locks, places, seal
from retake.errors import RetakeError

ORIGIN = "assets.extra/pushed_from.json"
"""In a pushed version: {"model": address}. If the model is the latest version already, it is not pushed again: an
earlier push was interrupted before it was recorded, or the model was only evaluated again."""

CODE_PROPERTY = "code"
"""Execution property: a fingerprint of the node's code."""

LEFT_BEHIND_SECONDS = 3600
"""An unfinished push of another machine counts as dead after this time."""

_log = logging.getLogger("retake")


class Executor(executor.Executor):
    """TFX's Pusher, but it copies the model into a temporary folder and renames the folder to the version."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        pushed = artifact_utils.get_single_instance(output_dict["pushed_model"])
        if not self.CheckBlessing(input_dict):
            self._MarkNotPushed(pushed)
            return
        base = exec_properties["push_destination"]
        model = artifact_utils.get_single_instance(input_dict["model"])
        push = _push_remote if places.is_remote(base) else _push_local
        try:
            version = push(self.GetModelPath(input_dict), base, json.dumps({"model": model.uri}))
        except (OSError, tf.errors.OpError) as error:
            raise RetakeError(f"the model cannot be pushed to {base} ({error}); see pusher.destination") from error
        self._MarkPushed(pushed, pushed_destination=f"{base}/{version}", pushed_version=str(version))


class WholePusher(Pusher):
    """TFX's Pusher with this executor; its `push_destination` is a folder or gs:// prefix, not a proto.

    Args:
      code: fingerprint of the node's code, for the cache.
      channels: TFX's `model` and `model_blessing`, and `push_destination`.
    """

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)

    def __init__(self, code: str, **channels: Any):
        super().__init__(**channels)
        self.spec.exec_properties[CODE_PROPERTY] = code


def _push_local(model: str, base: str, origin: str) -> int:
    folder = Path(base)
    folder.mkdir(parents=True, exist_ok=True)
    latest = max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)
    if latest and _content(folder / str(latest) / ORIGIN) == origin:
        damage = durable.damage(folder / str(latest), durable.contents(Path(model)))
        if not damage:
            return latest
        _log.info("%s; it is pushed again as another version, remove the damaged one", damage)
    # TensorFlow Serving only reads folders whose names are numbers. A rename is atomic, and fails if another push has
    # taken the number.
    incoming = folder / f".incoming-{socket.gethostname()}-{uuid.uuid4().hex}"
    with _pushing(incoming):
        try:
            shutil.copytree(model, incoming)
            (incoming / ORIGIN).parent.mkdir(exist_ok=True)
            (incoming / ORIGIN).write_text(origin)
            seal.put(incoming)
            version = max(int(time.time()), latest + 1)
            while True:
                try:
                    durable.publish(incoming, folder / str(version))
                    return version
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                    version += 1
        finally:
            shutil.rmtree(incoming, ignore_errors=True)


@contextmanager
def _pushing(incoming: Path) -> Iterator[None]:
    """Removes the files of dead pushes from the models' folder, and protects this push's files from other pushes.

    Pushes share a lock on the folder, which ends with their processes. A push that gets the exclusive lock is the only
    one on this machine. Pushes of other machines count as dead after an hour.
    """
    folder = incoming.parent
    with locks.held(folder) as alone:
        for left_behind in folder.glob(".incoming-*"):
            with suppress(FileNotFoundError):  # Another push has just renamed it.
                # st_mtime would be the model's: a copy keeps it.
                old = time.time() - left_behind.stat().st_ctime > LEFT_BEHIND_SECONDS
                own = left_behind.name.rpartition("-")[0] == incoming.name.rpartition("-")[0]
                if old or (alone and own):
                    shutil.rmtree(left_behind, ignore_errors=True)
    with locks.held(folder, shared=True, waiting=lambda: None):
        yield


def _content(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None


def _push_remote(model: str, base: str, origin: str) -> int:
    """Copies `saved_model.pb` last: object stores cannot rename, and no program loads a version without this file."""
    latest = 0
    if tf.io.gfile.isdir(base):
        names = [name.rstrip("/") for name in tf.io.gfile.listdir(base)]
        latest = max((int(name) for name in names if name.isdecimal()), default=0)
    if latest and tf.io.gfile.exists(f"{base}/{latest}/{ORIGIN}"):
        with tf.io.gfile.GFile(f"{base}/{latest}/{ORIGIN}") as file:
            if file.read() == origin:
                return latest
    version = max(int(time.time()), latest + 1)
    io_utils.copy_dir(model, f"{base}/{version}", deny_regex_patterns=[r"saved_model\.pb"])
    io_utils.write_string_file(f"{base}/{version}/{ORIGIN}", origin)
    io_utils.copy_file(f"{model}/saved_model.pb", f"{base}/{version}/saved_model.pb")
    return version
