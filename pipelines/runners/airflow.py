"""The Airflow runner: writes the definition of a pipeline and its DAG file. Airflow itself is not needed here."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines import definition as definitions
from pipelines.runners.base import Run, Runner, Task
from pipelines.settings import Settings
from retake import durable, places, yaml_file
from retake.errors import RetakeError, UsageError
from retake.terminal import printable

DEFINITIONS = Path("dags/definitions")

DAG_FILE = '''"""The DAG file of the pipeline {name}, which {name}.json beside it defines.

`python -m pipelines.run --runner airflow` wrote both.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from retake_dags.definitions import load
from retake_dags.pipeline import add

add(load(Path(__file__).with_suffix(".json")))
'''
"""A file for each pipeline, so that a broken definition is an import error of its own and stops no other pipeline."""


@dataclass
class Airflow(Runner):
    """Compiles the pipeline for the DAG file of an Airflow."""

    definitions: Path = DEFINITIONS

    @classmethod
    def add_options(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--definitions",
            type=Path,
            default=DEFINITIONS,
            metavar="DIR",
            help=f"where Airflow looks for compiled pipelines (default: {DEFINITIONS})",
        )

    def place(self, config: Settings) -> Settings:
        allowed = [places.absolute(place) for place in config.airflow.places]
        airflow = config.airflow.model_copy(update={"places": allowed})
        return super().place(config).model_copy(update={"airflow": airflow})

    def run(self, task: Task, console: Console) -> Run:
        """Compiles the pipeline, and writes its definition and its DAG file.

        Raises:
          RetakeError: a file cannot be read, or the definition's folder is not writable.
        """
        pods = {node: _pod(node, Path(file)) for node, file in task.config.airflow.pods.items()}
        compiled = definitions.compile(task.config, task.file, task.command, pods)
        if unknown := set(pods) - {"*", *(node.id for node in compiled.nodes)}:
            raise UsageError(f"airflow.pods: there is no node {', '.join(sorted(unknown))}")
        content = compiled.model_dump_json(indent=1) + "\n"
        file = self.definitions / f"{compiled.pipeline}.json"
        try:
            durable.write(file, content.encode())
            durable.write(file.with_suffix(".py"), DAG_FILE.format(name=compiled.pipeline).encode())
        except OSError as error:
            raise RetakeError(
                f"{file} cannot be written ({error.strerror}); give a folder with --definitions"
            ) from None
        console.print(printable(f"{compiled.pipeline}: {len(compiled.nodes)} nodes compiled to {file}"), soft_wrap=True)
        return Run(str(file))


def _pod(node: str, file: Path) -> dict[str, Any]:
    try:
        template = yaml_file.read(file)
    except OSError as error:
        raise RetakeError(f"airflow.pods: {node}: {file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RetakeError(f"airflow.pods: {node}: {file} is not valid YAML: {error}") from None
    if not isinstance(template, dict) or template.get("kind") != "Pod":
        raise RetakeError(f"airflow.pods: {node}: {file} must be a Kubernetes pod template (kind: Pod)")
    return template
