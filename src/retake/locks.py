"""Locks between processes of one machine, which end with the process that holds them, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = ".lock"
"""The file in a pipeline's root that is locked: by a run of the local runner alone, by processes of nodes together."""


@contextmanager
def held(place: Path, shared: bool = False, waiting: Callable[[], object] | None = None) -> Iterator[bool]:
    """Holds a lock while the block runs.

    Args:
      place: the file that is locked, made when missing, or a folder.
      shared: others may hold the lock at the same time, as long as theirs is shared, too.
      waiting: called once if another process holds the lock, before this one waits for it. Without it, nobody waits.

    Yields:
      Whether the lock is held. It is not where another process holds it, or the file system knows no locks.

    Raises:
      OSError: the file cannot be made or opened.

    Example:
        >>> with held(Path("lock")) as first, held(Path("lock")) as second:
        ...     first, second
        (True, False)
    """
    opened = os.open(place, os.O_RDONLY if place.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _take(opened, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, waiting)
    finally:
        os.close(opened)


def _take(opened: int, kind: int, waiting: Callable[[], object] | None) -> bool:
    try:
        fcntl.flock(opened, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is None:
            return False
        waiting()
        fcntl.flock(opened, kind)
    except OSError:  # The file system knows no locks.
        return False
    return True
