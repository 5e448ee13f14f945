"""Files and folders that a power cut leaves whole or leaves out: they are on disk before their names are.

Everything that the project keeps is written through here. A rename alone is not enough: a file system may keep the
new name and lose the content, which leaves files of zero bytes. Folders that were damaged all the same are recognised
by the sizes of their files.
"""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path

WRITTEN = "written"
"""The custom property that an artifact keeps the `contents` of its folder in, as JSON."""

_MARKERS = ("BLESSED", "NOT_BLESSED")
"""TFX's marker files: empty, only their names mean something."""

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""What file systems without such a call answer to the fsync of a folder. One that may not be read is not ours."""


def write(file: Path, content: bytes) -> None:
    """Writes all of the file or nothing, in place of one that is there; its folder is made when missing.

    Raises:
      OSError: it cannot be written; what was there before is still there.

    Example:
        >>> write(Path("runs/sample/note.txt"), b"kept")  # doctest: +SKIP
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        unfinished.write_bytes(content)
        publish(unfinished, file)
    finally:
        unfinished.unlink(missing_ok=True)


def publish(unfinished: Path, final: Path) -> None:
    """Gives a finished file or folder the name that others look for, in one step.

    Args:
      unfinished: in the folder of `final`, under a name that nobody looks for.
      final: a file that is there is replaced.

    Raises:
      OSError: with `errno` ENOTEMPTY or EEXIST where a folder of this name is there and holds something.
    """
    _sync_below(unfinished)
    unfinished.rename(final)
    _sync_parents(final)


def sync(place: Path) -> None:
    """Returns when a file, or a folder with all that it holds, is on disk, and so are the names of its parents.

    Raises:
      OSError: it is not there, or the disk fails.
    """
    _sync_below(place)
    _sync_parents(place)


def contents(folder: Path) -> dict[str, int]:
    """The size in bytes of each file below a folder, by its path relative to the folder."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def damage(folder: Path, written: dict[str, int] | None) -> str | None:
    """What is wrong with a folder, in words.

    Args:
      folder: that was written by somebody.
      written: its `contents` then; None where nobody noted them, and only empty files are suspicious.

    Returns:
      None for a folder that holds all that was written; files that came later do no harm.

    Example:
        >>> damage(Path("models/birds/7"), {"saved_model.pb": 90_000})
        'models/birds/7 is gone'
    """
    if not folder.is_dir():
        return f"{folder} is gone"
    found = contents(folder)
    if written is None:
        written = {name: 1 for name in found if Path(name).name not in _MARKERS}
    for name, size in written.items():
        if name not in found:
            return f"{folder} is damaged: {name} is missing"
        if found[name] < size:
            return f"{folder} is damaged: {name} is " + (
                f"cut off at {found[name]:,} bytes" if found[name] else "empty"
            )
    return None


def _sync_below(place: Path) -> None:
    if not place.is_dir():
        _sync(place)
        return
    for folder, _, files in os.walk(place, topdown=False):
        for path in (Path(folder, name) for name in files):
            if path.is_file() and not path.is_symlink():
                _sync(path)
        _sync_folder(Path(folder))


def _sync_parents(place: Path) -> None:
    """Up to the mount: any of them may have been made just now."""
    for parent in place.absolute().parents:
        _sync_folder(parent)
        if parent.is_mount():
            return


def _sync_folder(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in _NOT_FOR_FOLDERS:
            raise


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
