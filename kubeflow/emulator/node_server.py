"""The node server: it imports this project's modules once and forks for each task. See retake/handover.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

VARIABLE = "RETAKE_NODE_SERVER"
"""The environment variable with the path of the server's socket."""

_SERVER = ["-m", "pipelines.node_server"]
_TASK = ["-m", "pipelines.run_vertex_task"]
"""The server runs only commands that begin with these arguments after the interpreter."""


class NodeServer:
    """A node server. The first task that needs it starts it; later tasks start it again if it has ended.

    Args:
      environment: variables that are added to this process's environment.
      log: the file for the server's error output.
    """

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._place = ""

    def variables(self, command: list[str]) -> dict[str, str]:
        """The environment variables for a task that the server can run; empty for other commands."""
        ours = command[0] == sys.executable and command[1:3] == _TASK
        return self.started() if ours and VARIABLE not in os.environ else {}

    def started(self) -> dict[str, str]:
        """Starts the server unless it runs or has failed, and returns the environment variables of its clients."""
        with self._lock:
            if self._process is None or self._process.poll() == 0:
                self._log.touch(0o600)
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        [sys.executable, *_SERVER],
                        env={**os.environ, **self._environment},
                        stdin=subprocess.PIPE,  # The pipe closes when this process ends, and then the server ends.
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        start_new_session=True,
                    )
                assert self._process.stdout
                with self._process.stdout as output:
                    self._place = output.readline().strip()  # Empty if the server did not start.
            return {VARIABLE: self._place}

    def end(self) -> None:
        """Ends the server. Tasks that it has started go on."""
        with self._lock:
            if self._process and self._process.stdin:
                self._process.kill()  # While it imports, it would notice the end of its input seconds later.
                self._process.stdin.close()
                self._process.wait()
                if self._place:
                    shutil.rmtree(Path(self._place).parent, ignore_errors=True)
