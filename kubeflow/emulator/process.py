"""Runs a task's command under a supervisor, which takes everything it started with it, as a container would."""

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
"""Seconds between asking a process to end and ending it."""
TAIL_BYTES = 256 * 1024
HEADER = "$ "
"""How the line of a log begins that tells the command."""

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_MARK = "VERTEX_EMULATOR_LOGS"
"""The variable in a task's environment that tells whose task it is."""


class Processes:
    """The processes of one job.

    Args:
      logs: the folder of the emulator's logs.
      nodes: forks for tasks of this project; None where each is to import what it needs.
    """

    def __init__(self, logs: Path, nodes: NodeServer | None = None) -> None:
        self._logs, self._nodes = logs, nodes
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self.stopped = threading.Event()

    def run(self, command: list[str], environment: dict[str, str], log: Path, started: Callable[[int], None]) -> int:
        """Runs a command to its end and returns its exit code: below zero is the signal that ended it.

        Args:
          command: program and arguments; no shell looks at them.
          environment: on top of this process's own.
          log: gets its output.
          started: is told the process's id.
        """
        log.touch(0o600)
        with log.open("ab") as output:
            output.write(f"{HEADER}{' '.join(shlex.join(command)[:300].split())}\n".encode(errors="replace"))
            output.flush()
            served = self._nodes.variables(command) if self._nodes else {}
            with self._lock:
                if self.stopped.is_set():
                    return -signal.SIGTERM
                # The supervisor does without the environment's packages, so it is there at once.
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
        """Ends all processes and lets none begin."""
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
    """What stands in the environment of all tasks, and tells whose they are."""
    return {"PYTHONUNBUFFERED": "1", _MARK: str(logs)}


def end_leftovers(logs: Path) -> None:
    """Ends what an emulator has left that was killed together with its supervisors.

    Args:
      logs: the folder of its logs.
    """
    import psutil

    def left() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # Of somebody else, or ended.
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
    """The end of what a task has said, after the first bytes of it."""
    if not log.exists():
        return b""
    with log.open("rb") as content:
        content.seek(max(since, log.stat().st_size - TAIL_BYTES))
        return content.read(TAIL_BYTES)
