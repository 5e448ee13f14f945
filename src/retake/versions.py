"""Writing in a models' folder, whose numbered versions servers load: a version is whole or not there."""

from __future__ import annotations

import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from retake import locks

LEFT_BEHIND_SECONDS = 3600
"""An unfinished version of another machine counts as dead after this time."""


@contextmanager
def incoming(models: Path) -> Iterator[Path]:
    """A name for a version that is not in service: not yet, or not any more. Servers do not look at it.

    A folder with this name is removed after the block, and leftovers of killed processes before. Processes share a lock
    on the folder, which ends with them. A process that gets the exclusive lock is the only one on this machine.

    Args:
      models: the folder of versions, on this machine.

    Example:
        >>> import tempfile
        >>> models = Path(tempfile.mkdtemp())
        >>> with incoming(models) as version:
        ...     version.mkdir()
        ...     _ = version.rename(models / "1")
        >>> [path.name for path in models.iterdir()]
        ['1']
    """
    host = f".incoming-{socket.gethostname()}"
    with locks.held(models) as alone:
        for left_behind in models.glob(".incoming-*"):
            with suppress(FileNotFoundError):  # Another process has just renamed it.
                # st_mtime would be the model's: a copy keeps it.
                old = time.time() - left_behind.stat().st_ctime > LEFT_BEHIND_SECONDS
                if old or (alone and left_behind.name.rpartition("-")[0] == host):
                    shutil.rmtree(left_behind, ignore_errors=True)
    version = models / f"{host}-{uuid.uuid4().hex}"
    with locks.held(models, shared=True, waiting=lambda: None):
        try:
            yield version
        finally:
            shutil.rmtree(version, ignore_errors=True)
