"""Files and folders that a power cut leaves whole or leaves out: they are on disk before their names are.

Everything that the project keeps is written through here. A rename alone is not enough: a file system may keep the
new name and lose the content, which leaves files of zero bytes. Folders that were damaged all the same are recognised
by the sizes of their files.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WRITTEN = "written"
"""The custom property that an artifact keeps the `contents` of its folder in, as JSON."""

_MARKERS = ("BLESSED", "NOT_BLESSED")
"""TFX's marker files: empty, only their names mean something."""

_NOT_FOR_FOLDERS = (errno.EINVAL, errno.ENOTSUP, errno.EACCES)
"""Error numbers of an fsync of a folder that are ignored: the file system has no such call, or the folder is another
user's and cannot be read."""


def write(file: Path, content: bytes) -> None:
    """Writes all of the file or nothing, in place of one that is there; its folder is made when missing.

    Raises:
      OSError: it cannot be written; what was there before is still there.

    Example:
        >>> write(Path("runs/sample/note.txt"), b"kept")
    """
    with unfinished(file) as partial:
        partial.write_bytes(content)


@contextmanager
def unfinished(final: Path, replace: bool = True) -> Iterator[Path]:
    """A name for a file or folder while it is written. After the block it has its final name, in one step.

    Where the block ends with an error, what it wrote is removed.

    Args:
      final: the name that others look for; its folder is made when missing. A folder that is there and holds something
        is never replaced.
      replace: replace a file that is there, also one that came meanwhile.

    Yields:
      A name in the folder of `final` that nobody looks for: it begins with a dot, and ends in .tmp.

    Raises:
      FileExistsError: without `replace`, something has the final name.
      OSError: it cannot be written; what was there before is still there.

    Example:
        >>> with unfinished(Path("runs/sample/note.txt")) as partial:
        ...     size = partial.write_text("kept")
        >>> [file.name for file in Path("runs/sample").iterdir()]
        ['note.txt']
    """
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # A file is where a folder should be.
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(final.parent)) from error
    partial = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield partial
        if not replace:
            sync(partial)  # Before it gets its name.
            _take_name(partial, final)
        publish(partial, final)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)


def _take_name(partial: Path, final: Path) -> None:
    """Gives the file its name, too, unless another file has it: a rename would replace that one."""
    try:
        os.link(partial, final)
    except OSError as error:  # Some file systems know no links.
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from error


def publish(partial: Path, final: Path) -> None:
    """Gives a finished file or folder the name that others look for, in one step.

    Args:
      partial: in the folder of `final`, under a name that nobody looks for.
      final: a file that is there is replaced.

    Raises:
      OSError: with `errno` ENOTEMPTY or EEXIST where a folder of this name is there and holds something.
    """
    _sync_below(partial)
    partial.rename(final)
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
    """Describes the damage of a folder, or returns None.

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
    """Syncs all parent folders up to the mount, as any of them may be new."""
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
