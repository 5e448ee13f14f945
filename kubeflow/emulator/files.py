"""Reads and removes the files of tasks below a pipeline root, on this machine or in a bucket."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

MAX_BYTES = 16 * 2**20
"""The largest file that `read` accepts. A task's output document has a few thousand bytes."""


def read(uri: str) -> str | None:
    """The text of a file, or None if the file does not exist.

    Raises:
      ValueError: the file is too large, or is not UTF-8.
    """
    if uri.startswith("gs://"):
        blob = _blob(uri)
        content = blob.download_as_bytes() if blob.exists() else None
    elif Path(uri).is_file():
        with Path(uri).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    else:
        content = None
    if content and len(content) > MAX_BYTES:
        raise ValueError(f"{uri} has more than {MAX_BYTES} bytes")
    return None if content is None else content.decode()


def remove(root: str, place: str) -> None:
    """Removes a file, or a folder with its content, if it exists. The target of a link stays.

    Args:
      root: the folder or bucket path of the pipeline root.
      place: the path below the root.

    Raises:
      OSError: the system refuses, or the path goes through a link, which may lead out of the root.
    """
    if root.startswith("gs://"):
        blob = _blob(f"{root}/{place}")
        prefix = blob.name.rstrip("/")
        for each in blob.bucket.list_blobs(prefix=prefix):
            if each.name == prefix or each.name.startswith(f"{prefix}/"):
                each.delete()
        return
    path = Path(root or "/").resolve() / place
    if path.parent.resolve() != path.parent:
        raise OSError(f"{path} is not removed, because a link leads to it")
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(uri: str) -> None:
    """Makes a folder on this machine; a bucket has no folders."""
    if not uri.startswith("gs://"):
        Path(uri).mkdir(parents=True, exist_ok=True)


def is_gone(uri: str) -> bool:
    """Tells whether a file or a folder is missing; False for every path in a bucket, which is not looked up."""
    return not uri.startswith("gs://") and not Path(uri).exists()


def _blob(uri: str) -> Any:
    from google.cloud.storage import Blob, Client  # The import takes half a second that local roots need not wait for.

    # Objects need no project. Without one, the client asks a metadata server that a laptop does not have.
    return Blob.from_string(uri, client=Client(project="none"))
