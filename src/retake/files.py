"""Finding and opening files that others name. A FIFO, a socket or a device is refused: reading it may never end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(file: Path | str) -> BinaryIO:
    """Opens a regular file for reading.

    Raises:
      OSError: there is none, or it is something else; `strerror` says which.

    Example:
        >>> open_regular("/dev/null")
        Traceback (most recent call last):
        OSError: [Errno 22] not a regular file: '/dev/null'
    """
    if stat.S_ISDIR(mode := Path(file).stat().st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(file))
    return Path(file).open("rb")


def visible(folder: Path) -> list[Path]:
    """The files below a folder at any depth, sorted, without those whose path has a part that begins with a dot.

    Raises:
      OSError: the folder cannot be read.
    """
    next(folder.iterdir(), None)  # rglob skips an unreadable folder without an error.
    paths = (path for path in folder.rglob("*") if "/." not in f"/{path.relative_to(folder).as_posix()}")
    return sorted(path for path in paths if path.is_file())
