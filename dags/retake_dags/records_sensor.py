"""The sensor that waits for record files, and the list of existing record files."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, ObjectStoragePath
from airflow.sdk.exceptions import AirflowException, AirflowSkipException

from retake_dags.whole_records import is_whole

MOST_LOOKS = 10
"""Most looks that unchanged records wait for records that are still arriving."""

LONGEST_WAIT = timedelta(days=1)
"""Longest wait of one run of the watching DAG. The next run then waits on, because each look adds to the run's log."""

MOST_EVENTS = 10
"""Most past events of an asset that the sensor reads. One event is not enough: runs may read different folders."""

HIDDEN = (".", "_", "beam-temp-")
"""Prefixes of the files and folders that the pipeline ignores: see components/record_files.py."""

RECORDS = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?(-\d{5,}-of-\d{5,})?(\.gz)?$", re.IGNORECASE)
SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})")
"""How names of record files end, and what is in that of a shard: see components/record_files.py."""


class RecordsSensor(BaseOperator):
    """Waits for record files that no run has read and no earlier event lists. The sensor's event starts the training.

    The last events of both assets are all that it remembers, so a file is told of in the same database transaction
    that takes it. Between looks it is in the triggerer as Airflow's own DateTimeTrigger, which every triggerer has.

    Args:
      location: folder or gs:// prefix.
      seconds: between looks.
      training: the DAG that is started; while it is paused or running, nothing is taken.
    """

    def __init__(self, *, location: str, seconds: float, training: str, **others: Any):
        super().__init__(**others)
        self.location, self.seconds, self.training = location, seconds, training

    def execute(self, context: Any) -> list[str]:
        return self.look(context)

    def look(self, context: Any, event: Any = None, seen: dict[str, str] | None = None, looks: int = 0) -> list[str]:
        """Reports the new files that are unchanged since the last look, which saw `seen`; or defers the next look."""
        known: set[tuple[str, str]] = set()
        for asset in self.inlets:
            for past in context["inlet_events"][asset].ascending(False).limit(MOST_EVENTS):
                known |= set(past.extra.get("records", {}).items())
        there = listing(self.location)
        new = {file for file, _ in there.items() - known}
        whole = new - of_incomplete_sets(there)
        resting = {file for file in whole if (seen or {}).get(file) == there[file] and is_whole(file)}
        blocked = new and self.blocked(context["ti"])
        if resting and not blocked and (resting == new or looks >= MOST_LOOKS):
            [records] = self.outlets
            taken = {file: version for file, version in there.items() if file not in new - resting}
            context["outlet_events"][records].extra = {"new": sorted(resting), "records": taken}
            self.log.info("new records: %s", ", ".join(map(repr, sorted(resting))))
            return sorted(resting)
        if not new and datetime.now(timezone.utc) - context["dag_run"].start_date > LONGEST_WAIT:
            raise AirflowSkipException("no new records; the next run goes on waiting for them")
        if new:
            self.log.info(
                "%s: %s",
                blocked or "not at rest yet, not whole, or shards are missing",
                ", ".join(map(repr, sorted(new))),
            )
        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=self.seconds)),
            method_name="look",
            kwargs={"seen": there, "looks": looks + 1 if new and not blocked else 0},
        )
        raise AssertionError("defer raises")

    def blocked(self, ti: Any) -> str | None:
        """Why the training cannot be started now. An event would be lost on a paused DAG, and one of several that
        come during a run; the files themselves wait."""
        if ti.get_dag(self.training).is_paused:
            return f"{self.training} is paused"
        if ti.get_dr_count(self.training, states=["queued", "running"]):
            return f"{self.training} is running"
        return None


def listing(location: str) -> dict[str, str]:
    """Record file below a folder or gs:// prefix → its version: its size, and its generation or time of writing.

    Raises:
      AirflowException: there is no such folder.
    """
    if "://" not in location and not Path(location).is_dir():
        raise AirflowException(f"data location {location} is not a folder on this worker")
    root = ObjectStoragePath(location if "://" in location else f"file://{location}")
    found = {}
    for path, info in root.fs.find(root.path, detail=True).items():
        below = path.removeprefix(root.path.rstrip("/")).lstrip("/")
        hidden = any(part.startswith(HIDDEN) for part in below.split("/"))
        # A shard may have no records, and its set is not complete without it.
        if RECORDS.search(below) and not hidden and (info["size"] or SHARD.search(below)):
            found[f"{location.rstrip('/')}/{below}"] = f"{info['size']} {info.get('generation') or info.get('mtime')}"
    return found


def of_incomplete_sets(files: Iterable[str]) -> set[str]:
    """The shards of incomplete sets: their names count more shards than exist."""
    sets: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for file in files:
        if shard := SHARD.search(file, file.rindex("/")):
            sets[file[: shard.start()], shard[2], file[shard.end() :]][int(shard[1])] = file
    incomplete = [there for (_, count, _), there in sets.items() if sum(n < int(count) for n in there) < int(count)]
    return {file for there in incomplete for file in there.values()}
