"""The server that imports once what this project's tasks import, and forks for each task: see retake/handover.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

VARIABLE = "RETAKE_NODE_SERVER"
"""Names the server's socket to a task."""

_SERVER = ["-m", "pipelines.node_server"]
_TASK = ["-m", "pipelines.run_vertex_task"]
"""What a command begins with, after the interpreter, that the server is for."""


class NodeServer:
    """A server that is started when the first task needs it, and again when it has ended.

    Args:
      environment: on top of this process's own.
      log: gets what it says.
    """

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment, self._log = environment, log
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._place = ""

    def variables(self, command: list[str]) -> dict[str, str]:
        """What a task is told of the server; nothing if it is not for it."""
        ours = command[0] == sys.executable and command[1:3] == _TASK
        return self.started() if ours and VARIABLE not in os.environ else {}

    def started(self) -> dict[str, str]:
        """Starts it unless it runs or has failed, and returns what its clients are told."""
        with self._lock:
            if self._process is None or self._process.poll() == 0:
                self._log.touch(0o600)
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        [sys.executable, *_SERVER],
                        env={**os.environ, **self._environment},
                        stdin=subprocess.PIPE,  # Which ends with this process, and the server with it.
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        start_new_session=True,
                    )
                assert self._process.stdout
                with self._process.stdout as said:
                    self._place = said.readline().strip()  # Nothing where it did not come up.
            return {VARIABLE: self._place}

    def end(self) -> None:
        """Ends it; what it has started goes on."""
        with self._lock:
            if self._process and self._process.stdin:
                self._process.kill()  # It may be importing, and would see the end of its input seconds later.
                self._process.stdin.close()
                self._process.wait()
                if self._place:
                    shutil.rmtree(Path(self._place).parent, ignore_errors=True)
