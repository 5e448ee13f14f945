"""Runs a task's command as a process of its own, and takes everything it started with it, as a container would."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GRACE = 10.0
"""Seconds between asking a process to end and ending it."""
TAIL_BYTES = 256 * 1024
HEADER = "$ "
"""How the line of a log begins that tells the command."""


class Processes:
    """The processes of one job."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self.stopped = threading.Event()

    def run(self, command: list[str], environment: dict[str, str], log: Path, started: Callable[[int], None]) -> int:
        """Runs a command to its end and returns its exit code: below zero is the signal that ended it.

        Args:
          command: program and arguments; no shell looks at them.
          environment: on top of this process's own.
          log: gets its output, and stays locked as long as any process of the task lives.
          started: is told the process's id.
        """
        with log.open("ab") as output:
            fcntl.flock(
                output, fcntl.LOCK_EX
            )  # Inherited with the output: after a crash it tells whether the task lives.
            output.write(f"{HEADER}{' '.join(shlex.join(command)[:300].split())}\n".encode())
            output.flush()
            with self._lock:
                if self.stopped.is_set():
                    return -signal.SIGTERM
                process = subprocess.Popen(
                    command,
                    env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                self._running.add(process.pid)
        started(process.pid)
        # Not reaped yet, its id cannot belong to somebody else's process.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._lock:
            self._running.remove(process.pid)
            _signal(process.pid, signal.SIGKILL)
        process.wait()
        end_leftover(log, None)
        return process.returncode

    def stop(self, grace: float = GRACE) -> None:
        """Ends all processes and lets none begin."""
        self.stopped.set()
        self._signal(signal.SIGTERM)
        end = time.monotonic() + grace
        while self._running and time.monotonic() < end:
            time.sleep(0.05)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        with self._lock:
            for pid in self._running:
                _signal(pid, number)


def end_leftover(log: Path, group: int | None) -> None:
    """Ends what still runs of a task: it would write where the task's next attempt does.

    Args:
      log: of the task; whoever writes to it belongs to the task, in whatever session.
      group: of the processes that an emulator which was killed has left.
    """
    if not log.exists():
        return
    end = time.monotonic() + GRACE
    with log.open("ab") as output:
        while time.monotonic() < end:
            try:
                fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if group:  # The lock is held, so the group is still the task's.
                    _signal(group, signal.SIGKILL)
            for descriptor in Path("/proc").glob("[0-9]*/fd/[12]"):
                with suppress(OSError):
                    if descriptor.samefile(log):
                        os.kill(int(descriptor.parts[2]), signal.SIGKILL)
            time.sleep(0.05)


def tail(log: Path, since: int = 0) -> bytes:
    """The end of what a task has said, after the first bytes of it."""
    if not log.exists():
        return b""
    with log.open("rb") as content:
        content.seek(max(since, log.stat().st_size - TAIL_BYTES))
        return content.read()


def _signal(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
