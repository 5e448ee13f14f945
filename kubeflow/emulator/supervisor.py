"""Runs a task's command. When it ends, its processes in all sessions are killed, as a container would do.

`python supervisor.py EMULATOR_PID PROGRAM ARGUMENT…` exits with the program's status. SIGTERM asks the program to end.
SIGUSR1 and the end of the emulator kill it. Only a parent can find orphaned processes, so each task has a supervisor.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from contextlib import suppress

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_ORDERS = (signal.SIGTERM, signal.SIGUSR1)


def main(emulator: int, command: list[str]) -> int:
    """Returns the exit code of a command. A code below zero is minus the signal that ended it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _ORDERS)  # The signals wait until the program has started.
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_SET_CHILD_SUBREAPER, 1)  # Orphans become children of this process.
        prctl(_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != emulator:
        return -signal.SIGKILL
    # Python ignores these two signals; a program expects their default.
    defaults = [signal.SIGPIPE, signal.SIGXFSZ]
    try:
        task = os.posix_spawnp(command[0], command, os.environ, setsid=True, setsigmask=[], setsigdef=defaults)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127

    def obey(number: int, frame: object) -> None:
        _kill_group(task, signal.SIGTERM if number == signal.SIGTERM else signal.SIGKILL)

    for number in _ORDERS:
        signal.signal(number, obey)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ORDERS)
    # The program is not reaped yet and keeps its id, so no signal can reach another process of that id.
    while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)) and ended.si_pid != task:
        os.waitpid(ended.si_pid, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _ORDERS)
    _kill_group(task, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(task, 0)[1])
    while killed := [pid for pid in _children() if _kill(pid)]:  # Their orphans become the children of the next round.
        for _ in killed:
            os.waitpid(-1, 0)
    return code


def _kill_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _kill(pid: int) -> bool:
    with suppress(PermissionError):  # The supervisor may not kill a program of another user, such as sudo.
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _children() -> list[int]:
    """This process's children; empty on a system without /proc."""
    found = []
    for name in os.listdir("/proc") if sys.platform == "linux" else []:  # noqa: PTH208
        with suppress(OSError, ValueError), open(f"/proc/{int(name)}/stat", "rb") as stat:  # noqa: PTH123
            if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


if __name__ == "__main__":
    code = main(int(sys.argv[1]), sys.argv[2:])
    if code < 0:  # The supervisor ends by the same signal, without a second core file.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        os.kill(os.getpid(), -code)
    sys.exit(code)
