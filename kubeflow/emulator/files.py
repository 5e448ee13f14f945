"""Reads and removes what tasks leave below a pipeline root, on this machine or in a bucket."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any


def read(uri: str) -> str | None:
    """The text of a file, or None where there is none."""
    if uri.startswith("gs://"):
        blob = _blob(uri)
        return blob.download_as_text() if blob.exists() else None
    return Path(uri).read_text() if Path(uri).is_file() else None


def remove(uri: str) -> None:
    """Removes a file or a folder with all in it, where it exists."""
    if uri.startswith("gs://"):
        blob = _blob(uri)
        prefix = blob.name.rstrip("/")
        for each in blob.bucket.list_blobs(prefix=prefix):
            if each.name == prefix or each.name.startswith(f"{prefix}/"):
                each.delete()
    elif Path(uri).is_dir():
        shutil.rmtree(uri)
    else:
        Path(uri).unlink(missing_ok=True)


def make_folder(uri: str) -> None:
    """Makes a folder, where that means anything."""
    if not uri.startswith("gs://"):
        Path(uri).mkdir(parents=True, exist_ok=True)


def is_gone(uri: str) -> bool:
    """Tells whether a file or a folder is not there; in a bucket, nobody looks."""
    return not uri.startswith("gs://") and not Path(uri).exists()


def _blob(uri: str) -> Any:
    from google.cloud.storage import Blob, Client  # Half a second that local roots need not wait for.

    # Objects need no project; looking for one asks a metadata server that a laptop does not have.
    return Blob.from_string(uri, client=Client(project="none"))
