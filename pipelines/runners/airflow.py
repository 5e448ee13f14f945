"""The Airflow runner: writes the definition that dags/ turns into DAGs. This module does not need Airflow."""

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
            help=f"where the DAG file looks for compiled pipelines (default: {DEFINITIONS})",
        )

    def place(self, config: Settings) -> Settings:
        allowed = [places.absolute(place) for place in config.airflow.places]
        airflow = config.airflow.model_copy(update={"places": allowed})
        return super().place(config).model_copy(update={"airflow": airflow})

    def run(self, task: Task, console: Console) -> Run:
        """Compiles the pipeline, and writes its definition into the folder that the DAG file reads.

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
