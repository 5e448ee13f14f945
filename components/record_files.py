"""Finds the record files below a data location, chooses the newest, and detects changes."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections import defaultdict

import tensorflow as tf

from retake.errors import RetakeError

HIDDEN = (".", "_", "beam-temp-")
"""Prefixes of hidden files and folders, which are not read. Beam writes its files into such a folder first."""

RECORDS = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?(-\d{5,}-of-\d{5,})?(\.gz)?$", re.IGNORECASE)
"""Ends of record files' names. The sensor in dags/retake_dags and the function in kubeflow use the same pattern."""

SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})")
"""In the name of a shard: its number, and the number of shards."""

NAMED = 3
"""A message lists as many names, and the number of the rest."""

_log = logging.getLogger("retake")


def record_files(location: str) -> list[str]:
    """Sorted paths of all record files below a folder or gs:// prefix, without hidden files.

    Raises:
      RetakeError: the folder does not exist, it has no record file, or a shard is missing.
    """
    return _look(location)[0]


def newest(files: list[str], window: int | None) -> list[str]:
    """The newest `window` record files by time of writing, then by name; all files if `window` is None.

    The shards of a record file count as one file, with the time of the newest shard.
    """
    if window is None:
        return files
    written: dict[str, int] = defaultdict(int)
    for path in files:
        whole = SHARD.sub("", path)
        written[whole] = max(written[whole], tf.io.gfile.stat(path).mtime_nsec)
    chosen = sorted(written, key=lambda whole: (written[whole], whole))[-int(window) :]
    return [path for path in files if SHARD.sub("", path) in chosen]


def fingerprint(location: str) -> str:
    """A hash of the paths, sizes and times of writing of the record files below a location.

    Also logs the names of other files there. Each run calls this once, cached or not.
    """
    files, others = _look(location)
    if others:
        _log.info("left out below %s: %s (not record files)", location, listed(others))
    digest = hashlib.sha256()
    for path in files:
        stat = tf.io.gfile.stat(path)
        digest.update(f"{path}\0{stat.length}\0{stat.mtime_nsec}\n".encode())
    return digest.hexdigest()


def _look(location: str) -> tuple[list[str], list[str]]:
    """The paths of record files below a location, and the names of all other files that are not hidden; both sorted."""
    if not tf.io.gfile.isdir(location):
        raise RetakeError(f"data location {location} is not a folder; give one with --data or data.location")
    shown = sorted(
        f"{folder.rstrip('/')}/{name}"
        for folder, _, names in tf.io.gfile.walk(location)
        for name in names
        if name and not any(part.startswith(HIDDEN) for part in [*folder[len(location) :].split("/"), name])
    )
    files = [path for path in shown if RECORDS.search(path)]
    others = [path.removeprefix(location.rstrip("/")).lstrip("/") for path in shown if not RECORDS.search(path)]
    if not files:
        raise RetakeError(
            f"data location {location} holds no record file (x.tfrecord, x.tfrecord.gz, …)"
            f"{f', only {listed(others)}' if others else ''}; "
            "make one of class folders with: retake records pack IMAGES_DIR OUT.tfrecord --config NAME"
        )
    if missing := _missing_shard(files):
        raise RetakeError(f"{missing} is missing: put it there, or remove the other shards of that record file")
    return files, others


def _missing_shard(files: list[str]) -> str | None:
    """The first missing shard, by the number of shards in the names of the others."""
    sets: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for path in files:
        if shard := SHARD.search(path, path.rindex("/")):
            sets[path[: shard.start(1)], shard[2], path[shard.end() :]].add(int(shard[1]))
    for (before, count, after), present in sets.items():
        first = next(number for number in itertools.count() if number not in present)
        if first < int(count):
            return f"{before}{first:0{len(count)}}-of-{count}{after}"
    return None


def listed(names: list[str]) -> str:
    """Untrusted names for a message: the first ones, in printable characters, and the number of the rest."""
    return some([repr(name)[1:-1] for name in names])


def some(names: list[str], most: int = NAMED) -> str:
    """The first names, and the number of the rest."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
