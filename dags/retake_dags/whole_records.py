"""Tells whether a TFRecord file is whole."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import Any

MAX_RECORD_BYTES = 64 * 2**20
"""The largest record that the pipeline reads: see src/retake/records.py."""


def is_whole(path: str) -> bool:
    """Whether a local record file ends with a whole record; an object in a bucket appears whole."""
    if "://" in path:
        return True
    try:
        if not Path(path).is_file():  # Reading a named pipe would block for ever.
            return False
        with open(path, "rb") as file:  # noqa: PTH123
            # The first bytes decide whether the file is compressed, not its name, as in the pipeline.
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if is_packed:
                with gzip.open(file) as unpacked:
                    return ends_with_a_record(unpacked, None)
            return ends_with_a_record(file, Path(path).stat().st_size)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error):
        return False


def ends_with_a_record(file: Any, size: int | None) -> bool:
    """A TFRecord is length (uint64), checksum (uint32), data, checksum (uint32), and so on until the end."""
    while header := file.read(12):
        if len(header) < 12:
            return False
        [length] = struct.unpack("<Q", header[:8])
        if size is not None and file.tell() + length + 4 > size:
            return False
        if length > MAX_RECORD_BYTES:  # The run refuses the file and names it.
            return True
        file.seek(length, os.SEEK_CUR)
        if len(file.read(4)) < 4:
            return False
    return True
