"""Finds the definitions of compiled pipelines, and lists the unusable ones with their reasons."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from airflow.sdk import get_parsing_context
from airflow.sdk.exceptions import AirflowException

FORMAT = 1
NAMES = "[!.]*.json"
KEYS = {"command", "config", "nodes", "parameters", "pipeline", "pods", "project", "sources"}
DEFINITIONS = Path(os.environ.get("RETAKE_DEFINITIONS") or Path(__file__).parents[1] / "definitions")
"""Where the compiled pipelines are: RETAKE_DEFINITIONS, or beside the DAG files."""


def usable() -> list[dict[str, Any]]:
    """The definitions without a DAG file of their own that can be used; for a task, only the one of its DAG.

    Raises:
      AirflowException: the definition of the task's DAG cannot be used.
    """
    if dag := get_parsing_context().dag_id:
        own = DEFINITIONS / f"{dag}.json"
        return [load(own if own.is_file() else DEFINITIONS / f"{dag.removesuffix('-watch')}.json")]
    definitions = []
    for file in files():
        with suppress(AirflowException):
            definitions.append(load(file))
    return definitions


def problems() -> list[str]:
    """One line for every unusable definition without a DAG file of its own, or one line if no definition exists."""
    found = []
    for file in files():
        try:
            load(file)
        except AirflowException as error:
            found.append(str(error))
    if not any(DEFINITIONS.glob(NAMES)):
        command = "python -m pipelines.run --runner airflow --config NAME"
        found.append(f"{DEFINITIONS} holds no compiled pipeline. In the project's folder, run: {command}")
    return found


def files() -> list[Path]:
    """The definitions without a DAG file of their own. Airflow sees only those DAG files that lie in its folder."""
    here = DEFINITIONS.resolve().is_relative_to(Path(__file__).resolve().parents[1])
    return [file for file in sorted(DEFINITIONS.glob(NAMES)) if not (here and file.with_suffix(".py").exists())]


def beside(dag_file: Path) -> list[dict[str, Any]]:
    """The definition of a pipeline's own DAG file; none where RETAKE_DEFINITIONS names another folder.

    Raises:
      AirflowException: it cannot be used.
    """
    return [load(dag_file.with_suffix(".json"))] if dag_file.resolve().parent == DEFINITIONS.resolve() else []


def load(file: Path) -> dict[str, Any]:
    """A definition, and the file that holds it; for a task as it is, also where the project has changed since.

    Raises:
      AirflowException: it cannot be read, or this machine sees that the project has changed since it was compiled.
    """
    definition = read(file)
    project = Path(definition["project"])
    if get_parsing_context().dag_id or not project.is_dir():
        return definition
    if changed := [name for name, digest in definition["sources"].items() if digest_of(project / name) != digest]:
        why = f"is older than {', '.join(changed)}"
        raise AirflowException(f"{file} {why}. In {project}, run: {definition['command']}")
    return definition


def read(file: Path) -> dict[str, Any]:
    """A definition, and the file that holds it.

    Raises:
      AirflowException: the definition is incomplete, belongs to another pipeline, or comes from another version of the
        project.
    """
    definition: Any = {}
    with suppress(OSError, ValueError):
        definition = json.loads(file.read_text(encoding="utf-8"))
    document = definition if isinstance(definition, dict) else {}
    command = document.get("command", f"python -m pipelines.run --runner airflow --config {file.stem}")
    if not file.exists():
        why = f"is not there; if you no longer want this pipeline, remove {file.with_suffix('.py').name}, too"
    elif document.get("format") != FORMAT or not document.keys() >= KEYS:
        why = "is not whole, or was made by another version of the project"
    elif (name := document["pipeline"]) != file.stem:
        why = f"is a definition of the pipeline {name}, so its name must be {name}.json"
    else:
        return document | {"file": str(file)}
    raise AirflowException(f"{file} {why}. In the project's folder, run: {command}")


def digest_of(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
