"""The operator that runs a node on a worker."""

from __future__ import annotations

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.sdk import BaseOperator, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException

ENVIRONMENT = "retake_environment"
"""Airflow variable, or in capitals environment variable, with the folder of the project's Python environment."""

CANNOT_RUN = 2
"""The exit status of run_node when a retry would not help."""


class NodeOperator(BaseOperator):
    """Runs a node in the project's environment on this worker.

    Args:
      arguments: of `pipelines.run_node`.
      environment: folder of the project's Python environment, where neither variable names one.
      summarizes: the run's summary is this task's XCom.
    """

    template_fields = ("arguments",)
    ui_color = "#e8f7e4"

    def __init__(self, *, arguments: list[str], environment: str, summarizes: bool = False, **others: Any):
        super().__init__(**others)
        self.arguments, self.environment, self.summarizes = arguments, environment, summarizes
        self.hook = SubprocessHook()

    def execute(self, context: Any) -> Any:
        python = self.python()
        # Airflow's own settings hold its secrets, and its Python paths are of another environment.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_", "PYTHON"))}
        with TemporaryDirectory(prefix="retake-") as folder:
            summary = Path(folder) / "summary.json"
            command = [str(python), "-u", "-m", "pipelines.run_node", *self.arguments]
            if self.summarizes:
                command += ["--summary", str(summary)]
            ended = self.hook.run_command(command, inherited, cwd=folder)
            if ended.exit_code == CANNOT_RUN:
                raise AirflowFailException(ended.output)
            if ended.exit_code:
                raise AirflowException(ended.output if ended.exit_code > 0 else f"killed by signal {-ended.exit_code}")
            return json.loads(summary.read_text()) if self.summarizes else None

    def python(self) -> Path:
        """The project's interpreter.

        Raises:
          AirflowFailException: it is not there.
        """
        folder = Variable.get(ENVIRONMENT, default=None) or os.environ.get(ENVIRONMENT.upper()) or self.environment
        python = Path(folder) / "bin" / "python"
        if not os.access(python, os.X_OK):
            raise AirflowFailException(
                f"{python} is not there or cannot be run: make the environment with `make setup` in the project's "
                f"folder on this worker, and name it in the Airflow variable {ENVIRONMENT} or the environment "
                f"variable {ENVIRONMENT.upper()}"
            )
        return python

    def on_kill(self) -> None:
        self.hook.send_sigterm()
