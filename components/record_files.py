"""Which files below a data location are record files, which of them are the newest, and whether they have changed."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections import defaultdict

import tensorflow as tf

from retake.errors import RetakeError

HIDDEN = (".", "_", "beam-temp-")
"""How names of files and folders begin that hold nothing to read; Beam writes its files in such a folder first."""

RECORDS = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?(-\d{5,}-of-\d{5,})?(\.gz)?$", re.IGNORECASE)
"""How names of record files end. The sensor in dags/retake_dags and the function in kubeflow say the same."""

SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})")
"""In the name of a file that is one of several: which, and how many there are."""

NAMED = 3
"""Names in a message before the others are counted."""

_log = logging.getLogger("retake")


def record_files(location: str) -> list[str]:
    """Paths of all record files below a folder or gs:// prefix, sorted, but for hidden ones.

    Raises:
      RetakeError: no such folder, no record file in it, or a shard of one is missing.
    """
    return _look(location)[0]


def newest(files: list[str], window: int | None) -> list[str]:
    """The `window` record files that were written last, of those of one time the last ones by name; None takes all.

    The shards of a record file count as one, with the time of the last of them.
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
    """Changes with the records below a location: by path, size and time of writing.

    Logs what else lies there: a node asks for the fingerprint once a run, whether it is cached or not.
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
    """Record files below a location, and the names below it of all others that are not hidden either; both sorted."""
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
    """The first shard that the others tell of and that is not there."""
    sets: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for path in files:
        if shard := SHARD.search(path, path.rindex("/")):
            sets[path[: shard.start(1)], shard[2], path[shard.end() :]].add(int(shard[1]))
    for (before, count, after), there in sets.items():
        first = next(number for number in itertools.count() if number not in there)
        if first < int(count):
            return f"{before}{first:0{len(count)}}-of-{count}{after}"
    return None


def listed(names: list[str]) -> str:
    """Names from strangers for a message: the first ones, in printable characters, and the number of the others."""
    return some([repr(name)[1:-1] for name in names])


def some(names: list[str], most: int = NAMED) -> str:
    """The first names, and the number of the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
