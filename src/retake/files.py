"""Opening files that others name: a FIFO, a socket or a device would be waited for, or read, for ever."""

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
