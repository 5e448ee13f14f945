"""The manifest of a folder of raw pictures: where each picture came from, as JSON Lines that are only ever added to.

A line is an event, such as {"event": "found", "file": "hard taco/serpapi-1f….jpg", "sha256": …}. The last event of a
kind counts for a file. A line that was cut off by a power cut is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from retake import locks

NAME = "manifest.jsonl"


def add(folder: Path, event: dict[str, Any]) -> None:
    """Adds an event, on disk when this returns. Several processes may add at once.

    Args:
      folder: the folder of class folders.
      event: values that JSON knows; `event` is its kind.

    Raises:
      OSError: the manifest cannot be written.
    """
    with locks.held(folder / NAME, waiting=lambda: None), (folder / NAME).open("a+b") as file:
        cut_off = file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write((b"\n" if cut_off else b"") + json.dumps(event, ensure_ascii=False).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def events(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The events of a kind in the order in which they were added.

    Example:
        >>> import tempfile
        >>> place = Path(tempfile.mkdtemp())
        >>> add(place, {"event": "found", "file": "taco/1.jpg"})
        >>> [event["file"] for event in events(place, "found")]
        ['taco/1.jpg']
    """
    file = folder / NAME
    if not file.exists():
        return
    with file.open("rb") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and event.get("event") == kind:
                yield event
