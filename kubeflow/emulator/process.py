"""Runs a task's command under a supervisor, which ends all processes of the task with it, as a container would."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from kubeflow.emulator.node_server import NodeServer

GRACE = 10.0
"""Seconds between SIGTERM and SIGKILL."""
TAIL_BYTES = 256 * 1024
HEADER = "$ "
"""The prefix of the log line that shows the command."""

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_MARK = "VERTEX_EMULATOR_LOGS"
"""The environment variable that marks a task's processes with the emulator's folder of logs."""


class Processes:
    """The processes of one job.

    Args:
      logs: the folder of the emulator's logs.
      nodes: the node server for this project's tasks; without it, each task does its own imports.
    """

    def __init__(self, logs: Path, nodes: NodeServer | None = None) -> None:
        self._logs, self._nodes = logs, nodes
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def run(self, command: list[str], environment: dict[str, str], log: Path, started: Callable[[int], None]) -> int:
        """Runs a command to its end and returns its exit code. A code below zero is minus the signal that ended it.

        Args:
          command: program and arguments; no shell looks at them.
          environment: variables that are added to this process's environment.
          log: the file for the command's output.
          started: called with the id of the process.
        """
        log.touch(0o600)
        with log.open("ab") as output:
            output.write(f"{HEADER}{' '.join(shlex.join(command)[:300].split())}\n".encode(errors="replace"))
            output.flush()
            served = self._nodes.variables(command) if self._nodes else {}
            with self._lock:
                if self.stopped.is_set():
                    return -signal.SIGTERM
                # The supervisor imports no installed packages, so it starts at once.
                supervisor = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(os.getpid())]
                process = subprocess.Popen(
                    [*supervisor, *command],
                    env={**os.environ, **of_task(self._logs), **served, **environment, _MARK: str(self._logs)},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process)
        try:
            started(process.pid)
            return process.wait()
        finally:
            with self._lock:
                self._running.remove(process)

    def stop(self, grace: float = GRACE) -> None:
        """Ends all processes. New ones do not start."""
        self.stopped.set()
        self._signal(signal.SIGTERM)
        end = time.monotonic() + grace
        while self._running and time.monotonic() < end:
            time.sleep(0.05)
        self._signal(signal.SIGUSR1)

    def _signal(self, number: int) -> None:
        with self._lock:
            for process in self._running:
                process.send_signal(number)


def of_task(logs: Path) -> dict[str, str]:
    """The environment variables of all tasks, with the mark of their emulator."""
    return {"PYTHONUNBUFFERED": "1", _MARK: str(logs)}


def end_leftovers(logs: Path) -> None:
    """Ends the processes of an emulator that was killed together with its supervisors.

    Args:
      logs: the folder of that emulator's logs.
    """
    import psutil

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # The process belongs to another user, or has ended.
                if process.environ().get(_MARK) == str(logs) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    end = time.monotonic() + GRACE
    while (found := left()) and time.monotonic() < end:
        for process in found:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


def tail(log: Path, since: int = 0) -> bytes:
    """The last bytes of a log, without its first `since` bytes."""
    if not log.exists():
        return b""
    with log.open("rb") as content:
        content.seek(max(since, log.stat().st_size - TAIL_BYTES))
        return content.read(TAIL_BYTES)
