"""The Airflow runner: writes the definition that dags/ turns into DAGs. Airflow itself is not needed here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipelines import definition as definitions
from retake import config as configuration
from retake import durable
from retake.config import Config
from retake.errors import RetakeError, UsageError
from retake.terminal import printable


def run(config: Config, options: argparse.Namespace, command: str) -> int:
    """Compiles the pipeline and puts its definition where the DAG file looks.

    Args:
      config: the whole configuration.
      options: `config` and `definitions` of the command.
      command: the command line, which the DAG file names when the definition is outdated.

    Raises:
      RetakeError: a file cannot be read, or the definition's folder is not writable.
    """
    pods = {node: _pod(node, Path(file)) for node, file in config.airflow.pods.items()}
    compiled = definitions.compile(config, configuration.path_of(options.config), command, pods)
    if unknown := set(pods) - {"*", *(node.id for node in compiled.nodes)}:
        raise UsageError(f"airflow.pods: there is no node {', '.join(sorted(unknown))}")
    content = compiled.model_dump_json(indent=1) + "\n"
    file = options.definitions / f"{compiled.pipeline}.json"
    try:
        durable.write(file, content.encode())
    except OSError as error:
        raise RetakeError(f"{file} cannot be written ({error.strerror}); give a folder with --definitions") from None
    print(printable(f"{compiled.pipeline}: {len(compiled.nodes)} nodes compiled to {file}"))
    return 0


def _pod(node: str, file: Path) -> dict[str, Any]:
    try:
        template = configuration.read_yaml(file)
    except OSError as error:
        raise RetakeError(f"airflow.pods: {node}: {file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise RetakeError(f"airflow.pods: {node}: {file} is not valid YAML: {error}") from None
    if not isinstance(template, dict) or template.get("kind") != "Pod":
        raise RetakeError(f"airflow.pods: {node}: {file} must be a Kubernetes pod template (kind: Pod)")
    return template
