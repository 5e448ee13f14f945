"""Stores jobs, artifacts and the cache in one SQLite file, which outlives the emulator."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from kubeflow.emulator.documents import Document
from kubeflow.emulator.expressions import parse

ENDED = ("PIPELINE_STATE_SUCCEEDED", "PIPELINE_STATE_FAILED", "PIPELINE_STATE_CANCELLED")

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (name TEXT PRIMARY KEY, document TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS artifacts (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, context TEXT NOT NULL, document TEXT);
CREATE INDEX IF NOT EXISTS artifacts_of_a_context ON artifacts (context);
CREATE TABLE IF NOT EXISTS cache (key TEXT PRIMARY KEY, document TEXT NOT NULL);
"""


def now() -> str:
    """This moment as the API writes it; such texts sort by time."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@lru_cache(256)
def _parsed(text: str) -> Document:
    """Parses a job for a list. A page requests the same list every second, and most of its jobs have ended."""
    return json.loads(text)


class Store:
    """Documents as the API shows them. A change is in the file when the method returns.

    Raises:
      sqlite3.Error: the file cannot be read. Methods that change a document raise it if the file cannot be written.
    """

    def __init__(self, file: Path) -> None:
        self._lock = threading.RLock()
        self._database = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_TABLES)
        [(defect,)] = self._execute("PRAGMA quick_check(1)")
        if defect != "ok":
            raise sqlite3.DatabaseError(defect)

    def _execute(self, statement: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()

    def add_job(self, document: Document) -> bool:
        """Adds a job. Returns False if a job of that name exists."""
        try:
            self._execute("INSERT INTO jobs VALUES (?, ?)", document["name"], json.dumps(document))
        except sqlite3.IntegrityError:
            return False
        return True

    def update_job(self, name: str, text: str) -> None:
        """Replaces a job's document by a JSON text."""
        self._execute("UPDATE jobs SET document = ? WHERE name = ?", text, name)

    def delete_job(self, name: str) -> None:
        self._execute("DELETE FROM jobs WHERE name = ?", name)

    def job(self, name: str) -> Document | None:
        found = self._execute("SELECT document FROM jobs WHERE name = ?", name)
        return json.loads(found[0][0]) if found else None

    def jobs(self) -> Iterator[Document]:
        """Yields all jobs, the latest first, and reads them as needed. Callers must not change the documents."""
        below = 2**63 - 1
        some = "SELECT rowid, document FROM jobs WHERE rowid < ? ORDER BY rowid DESC LIMIT 50"
        while rows := self._execute(some, below):
            yield from (_parsed(document) for _, document in rows)
            below = rows[-1][0]

    def unfinished_jobs(self) -> list[Document]:
        """The jobs that have not ended, the earliest first."""
        state = "json_extract(document, '$.state') NOT IN (?, ?, ?)"
        rows = self._execute(f"SELECT document FROM jobs WHERE {state} ORDER BY rowid", *ENDED)  # noqa: S608
        return [json.loads(row[0]) for row in rows]

    def add_artifact(self, parent: str, context: str, artifact: Document) -> Document:
        """Adds an artifact and names it.

        Args:
          parent: project and location.
          context: the name of the pipeline.
          artifact: the `type`, `uri`, `metadata` and `state` of the artifact.
        """
        with self._lock:
            identity = self._database.execute("INSERT INTO artifacts (context) VALUES (?)", (context,)).lastrowid
            artifact = {
                **artifact,
                "name": f"{parent}/metadataStores/default/artifacts/{identity}",
                "createTime": now(),
            }
            self._execute("UPDATE artifacts SET name = ? WHERE id = ?", artifact["name"], identity)
        self.update_artifact(artifact)
        return artifact

    def update_artifact(self, artifact: Document) -> None:
        artifact["updateTime"] = now()
        self._execute("UPDATE artifacts SET document = ? WHERE name = ?", json.dumps(artifact), artifact["name"])

    def artifact(self, name: str) -> Document:
        return json.loads(self._execute("SELECT document FROM artifacts WHERE name = ?", name)[0][0])

    def artifacts(self, context: str, filter_: str, limit: int | None = None) -> list[Document]:
        """The artifacts of a pipeline that match a filter, the latest first."""
        rows = self._execute("SELECT document FROM artifacts WHERE context = ? ORDER BY id DESC", context)
        wanted = parse(filter_)
        found = (json.loads(row[0]) for row in rows if row[0])
        return [artifact for artifact in found if wanted(artifact)][:limit]

    def cached(self, key: str) -> Document | None:
        found = self._execute("SELECT document FROM cache WHERE key = ?", key)
        return json.loads(found[0][0]) if found else None

    def cache(self, key: str, document: Document) -> None:
        self._execute("INSERT OR REPLACE INTO cache VALUES (?, ?)", key, json.dumps(document))
