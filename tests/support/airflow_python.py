"""The Python of Airflow's environment, which answers scripts: it imports Airflow once, and forks for each."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from pipelines.local_airflow.server import AIRFLOW, inherited

SERVER = """
import importlib, json, os, signal, sys, traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # Where Airflow logs to.
for name in sys.argv[1:]:
    importlib.import_module(name)
for question in sys.stdin:
    script, arguments, variables = json.loads(question)
    if not (child := os.fork()):
        signal.alarm(120)
        os.environ.update(variables)
        sys.argv[1:], names = arguments, {"__name__": "__main__"}
        try:
            exec(script, names)
            told = {"answer": names["answer"]}
        except BaseException:
            told = {"error": traceback.format_exc()}
        print(json.dumps(told), file=answers, flush=True)
        os._exit(0)
    if status := os.waitpid(child, 0)[1]:
        print(json.dumps({"error": f"it ended with status {status}"}), file=answers, flush=True)
"""


class AirflowPython:
    """Context manager: the interpreter runs inside it.

    Args:
      home: AIRFLOW_HOME.
      imports: modules that scripts need, and that do not depend on what a script sets.
    """

    def __init__(self, home: Path, *imports: str) -> None:
        self.home, self.imports = home, imports

    def __enter__(self) -> AirflowPython:
        self._process = subprocess.Popen(
            [AIRFLOW.with_name("python"), "-c", SERVER, *self.imports],
            env={**inherited(), "AIRFLOW_HOME": str(self.home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def ask(self, script: str, *arguments: str | Path, **variables: str) -> Any:
        """What a script leaves in `answer`, in a process of its own with these arguments and environment variables."""
        assert self._process.stdin and self._process.stdout
        print(json.dumps([script, [*map(str, arguments)], variables]), file=self._process.stdin, flush=True)
        told = json.loads(self._process.stdout.readline())
        assert "error" not in told, told["error"]
        return told["answer"]
