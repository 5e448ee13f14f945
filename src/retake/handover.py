"""Hands a process's command over to a server that has imported already what it needs, and ends as the command ended.

A server imports once, listens on a Unix socket and forks for each process that asks. Per process:

1. The server forks a keeper, which answers with a byte. The process sends what it is: arguments, environment, folder,
   and its input and outputs themselves.
2. The keeper refuses what a fork would run otherwise than the process itself; then the process runs its command.
3. Otherwise the keeper forks the child that runs it, sends it the signals that the process gets, and kills it when the
   process is gone. It needs the server no more.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterable
from contextlib import suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any

VARIABLE = "RETAKE_NODE_SERVER"
"""The environment variable that names the server's socket."""

_PATIENCE = 120.0
"""Seconds that a process waits for a server, which may be importing still."""
_AT_IMPORT = (
    *("HOME", "LANG", "LC_", "TZ", "XDG_", "PYTHON", "LD_", "DYLD_", "MALLOC_", "OMP_", "MKL_", "OPENBLAS_", "MPL"),
    *("TF_", "TF2_", "KERAS_", "XLA_", "CUDA_", "NVIDIA_", "GRPC_", "PROTOCOL_BUFFERS_", "BEAM_", "ABSL_"),
)
"""How variables begin that count when a library is imported, so a fork cannot take them from its caller."""
_RELAYED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_HANDLERS = {signal.SIGINT: signal.default_int_handler}
"""What a new Python does with a signal, where it is not the system's own."""
_FLAGS = (
    *("dev_mode", "dont_write_bytecode", "ignore_environment", "inspect", "isolated", "no_site", "no_user_site"),
    *("optimize", "bytes_warning", "utf8_mode", "hash_randomization"),
)
_SET_PDEATHSIG = 1


def hand_over() -> None:
    """Runs this process's command in a server's child, and exits as the child did. Returns if no server can run it."""
    place = os.environ.get(VARIABLE)
    if not place:
        return
    request = _request()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.settimeout(_PATIENCE)
            if os.stat(place).st_uid != os.geteuid():  # noqa: PTH116
                return  # Another user's server must not get this process's environment.
            connection.connect(place)
            if connection.recv(1) != b"?":
                return
            connection.settimeout(None)
            signal.pthread_sigmask(
                signal.SIG_BLOCK, signal.valid_signals()
            )  # Signals wait until they can be passed on.
            folder = os.open(".", os.O_RDONLY)
            socket.send_fds(connection, [len(request).to_bytes(8, "big")], [0, 1, 2, folder])
            connection.sendall(request)
            if connection.recv(1) != b"!":
                return
            for number in _RELAYED:  # An ignored one, too: the command may heed it.
                signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
        except OSError:
            return
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        code = b""
        with suppress(OSError):
            while part := connection.recv(16):
                code += part
    _end(int(code or -signal.SIGKILL))  # A keeper that sends no exit code was killed, and its child too.


def _request() -> bytes:
    main: Any = sys.modules["__main__"].__spec__
    files = {name: sys.modules[name].__file__ for name in ("retake", main.parent)}
    request = {
        "kind": _kind(),
        "files": files,
        "module": main.name,
        "arguments": sys.argv,
        "original": sys.orig_argv,
        "environment": {name: value for name, value in os.environ.items() if name != VARIABLE},
        "folder": sys.path[0],
        "unbuffered": getattr(sys.stdout, "write_through", False),
        "ignored": [number for number in _RELAYED if signal.getsignal(number) == signal.SIG_IGN],
        "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "umask": _umask(),
    }
    return json.dumps(request).encode()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _kind() -> Any:
    """Properties that a fork inherits from its server and cannot take over from its caller."""
    groups = Path("/proc/self/cgroup")
    kind = [
        [sys.executable, sys.prefix, sys.version, sys.path[1:], sys.warnoptions, sys._xoptions],
        [getattr(sys.flags, name) for name in _FLAGS],
        [os.geteuid(), os.getegid(), os.getgroups(), os.nice(0), groups.read_text() if groups.exists() else ""],
        [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")],
        {k: v for k, v in os.environ.items() if k.startswith(_AT_IMPORT) and k != "PYTHONUNBUFFERED"},
    ]
    return json.loads(json.dumps(kind))


def _end(code: int) -> None:
    if code < 0:  # Ends by the same signal, without a core file of its own.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        os.kill(os.getpid(), -code)
    os._exit(code)


def listen(place: Path) -> socket.socket:
    """A socket of this user's alone, in the place of one that a killed server has left.

    Raises:
      OSError: it cannot be there, or another server listens.
    """
    listener = socket.socket(socket.AF_UNIX)
    with suppress(OSError), socket.socket(socket.AF_UNIX) as other:
        if other.connect_ex(str(place)) == errno.ECONNREFUSED:
            place.unlink()
    mask = os.umask(0o077)
    try:
        listener.bind(str(place))
    finally:
        os.umask(mask)
    listener.listen(64)  # A process waits for the imports rather than do them, too.
    return listener


def serve(listener: socket.socket, names: Iterable[str], idle: float | None) -> int | None:
    """Imports modules, and forks for every process that connects.

    The server ends when its standard input ends, after `idle` seconds without a connection, or when code that it has
    imported has changed. It then removes the file of its socket.

    Args:
      listener: the socket from `listen`.
      names: names of the modules to import.
      idle: seconds; None for no limit.

    Returns:
      In the server: 0, or 1 if code changed during the imports, so that callers do not start the server again.
      In a child: None, after its command has ended.
    """
    place = Path(listener.getsockname())
    since, kind, before = time.time_ns(), _kind(), {*os.environ}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            importlib.import_module(name)
    additions = {name: value for name, value in os.environ.items() if name not in before}
    imported = _imported()
    if changed := [file for file, (when, _) in imported.items() if when >= since]:
        print(f"no node is forked: {changed[0]} has changed while it was imported", file=sys.stderr)
        place.unlink(missing_ok=True)
        return 1
    signal.signal(signal.SIGCHLD, _reap)
    gc.collect()
    gc.freeze()  # Otherwise, a child's first collection copies the memory of all imports.
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [], idle)
        if listener not in ready or sys.stdin in ready:
            break
        connection, _ = listener.accept()
        if _imported(imported) != imported:
            break
        if os.fork() == 0:
            listener.close()
            module = _keep(connection, kind, additions)
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            return None
        connection.close()
    place.unlink(missing_ok=True)
    return 0


def _reap(*_: object) -> None:
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _imported(known: Any = None) -> dict[str, tuple[int, int]]:
    """The time of change and the size of each known file; without `known`, of the files of all imported modules."""
    found = {}
    for file in known or {getattr(module, "__file__", None) for module in [*sys.modules.values()]}:
        with suppress(OSError, TypeError):
            status = os.stat(file)  # noqa: PTH116
            found[file] = status.st_mtime_ns, status.st_size
    return found


def _keep(connection: socket.socket, kind: Any, additions: dict[str, str]) -> str:
    """Runs the keeper, which exits in this function. In its child, returns the name of the module to run as `__main__`.

    Args:
      connection: the connection to the caller.
      kind: the server's `_kind`.
      additions: environment variables that the imports have set.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    try:
        connection.sendall(b"?")
        size, files, _, _ = socket.recv_fds(connection, 8, 4)
        with connection.makefile("rb") as content:
            request = json.loads(content.read(int.from_bytes(size, "big")))
        own = {name: getattr(sys.modules.get(name), "__file__", None) for name in request["files"]}
        if request["kind"] != kind or request["files"] != own:
            os._exit(0)
        connection.sendall(b"!")
    except (OSError, ValueError):
        os._exit(0)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        connection.close()
        _become(request, files, keeper)
        os.environ.update({name: value for name, value in additions.items() if name not in os.environ})
        return str(request["module"])
    with suppress(OSError):  # Keeper and child both set the group, as either may run first.
        os.setpgid(child, child)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):  # Otherwise, a reader of the child's output waits for this process too.
        os.dup2(nothing, number)
    for file in files:
        os.close(file)
    threading.Thread(target=_relay, args=(connection, child), daemon=True).start()
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)  # No other process gets the child's id before it is reaped.
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _relay(connection: socket.socket, child: int) -> None:
    with suppress(OSError):
        while number := connection.recv(1):
            os.killpg(child, number[0])
    with suppress(OSError):
        os.killpg(child, signal.SIGKILL)


def _become(request: Any, files: list[int], keeper: int) -> None:
    """Gives this process the caller's streams, folder, environment, arguments and signal settings."""
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)
    *streams, folder = files
    for number, file in enumerate(streams):
        os.dup2(file, number)
    os.fchdir(folder)
    for file in files:
        os.close(file)
    os.umask(request["umask"])
    for number in _RELAYED:  # The server may ignore some, as a shell's background job does.
        signal.signal(number, signal.SIG_IGN if number in request["ignored"] else _HANDLERS.get(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv, sys.orig_argv, sys.path[0] = request["arguments"], request["original"], request["folder"]
    sys.stdout = sys.__stdout__ = TextIOWrapper(  # type: ignore[misc]
        os.fdopen(1, "wb", 0 if request["unbuffered"] else -1, closefd=False),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=os.isatty(1),
        write_through=request["unbuffered"],
    )
    tempfile.tempdir = None
    if numpy := sys.modules.get("numpy"):  # Else all children draw the same numbers.
        numpy.random.seed()
