"""A process that hands its command over to a server is to everybody what it would be without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vertex_emulator import is_running, until

SERVER = """
import sys
from pathlib import Path
from retake import handover
listener = handover.listen(Path(sys.argv[1]))
print("listening", flush=True)
sys.exit(handover.serve(listener, ["tiny.imported"], float(sys.argv[2])))
"""
TASK = """
import os, signal, sys, time
from retake import handover
if __name__ == "__main__":
    handover.hand_over()
print("forked" if "tiny.imported" in sys.modules else "fresh", os.getpid())
exec(sys.argv[1])
"""
Begin = Callable[..., "subprocess.Popen[str]"]


class Server:
    def __init__(self, folder: Path, idle: float = 60) -> None:
        self.package, self.place = folder / "tiny", folder / "sockets" / "s"
        for made in (self.package, self.place.parent):
            made.mkdir(mode=0o700)
        (self.package / "__init__.py").touch()
        (self.package / "imported.py").write_text("import os\nos.environ['OF_IMPORT'] = 'kept'\n")
        (self.package / "task.py").write_text(TASK)
        for file in self.package.iterdir():  # Files that are written while a server imports may be older than it knows.
            os.utime(file, (1, 1))
        paths = f"{folder}:{Path(__file__).parents[2] / 'src'}"
        self.environment = {**os.environ, "PYTHONPATH": paths, "RETAKE_NODE_SERVER": str(self.place)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self.place), str(idle)],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        assert self.process.stdout.readline() == "listening\n"

    def begin(self, code: str, *options: str, **more: Any) -> subprocess.Popen[str]:
        command = [sys.executable, *options, "-m", "tiny.task", code]
        told = {"env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
        return subprocess.Popen(command, text=True, **told)

    def ran(self, code: str, *options: str, **more: Any) -> tuple[int, str, str]:
        """Exit code, how it ran, and the rest of what it said."""
        process = self.begin(code, *options, **more)
        out, err = process.communicate(timeout=60)
        first, _, rest = out.partition("\n")
        return process.returncode, first.split()[0], rest + err

    def end(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture()
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.end()


@pytest.mark.parametrize(
    ("code", "ended", "said"),
    [
        ("print('out'); print('err', file=sys.stderr)", 0, "out\nerr\n"),
        ("sys.exit(7)", 7, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("import atexit; atexit.register(print, 'last')", 0, "last\n"),
        ("sys.stdout.flush(); os._exit(3)", 3, ""),
        ("sys.stdout.flush(); os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV, ""),
        ("sys.stdout.flush(); os.abort()", -signal.SIGABRT, ""),
    ],
)
def test_it_ends_and_speaks_as_the_command_does(server: Server, code: str, ended: int, said: str) -> None:
    assert server.ran(code) == (ended, "forked", said)
    assert server.ran(code, env={**server.environment, "RETAKE_NODE_SERVER": ""}) == (ended, "fresh", said)


def test_an_error_is_told_with_its_place(server: Server) -> None:
    code, how, said = server.ran("1 / 0")
    assert (code, how) == (1, "forked")
    assert said.endswith("ZeroDivisionError: division by zero\n") and "task.py" in said


def test_arguments_environment_folder_input_and_umask_are_the_callers(server: Server, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("of the caller")
    told = "print(sys.argv[0], os.getcwd(), os.environ.get('MINE'), os.umask(0), sys.stdin.read(), sys.path[0])"
    outside = {**server.environment, "MINE": "1"}
    with (tmp_path / "in").open() as content:
        code, how, said = server.ran(told, env=outside, cwd="/usr", stdin=content, umask=0o027)
    assert (code, how) == (0, "forked")
    assert said == f"{server.package}/task.py /usr 1 {0o027} of the caller /usr\n"
    assert server.ran("print(os.environ['OF_IMPORT'])")[2] == "kept\n"


@pytest.mark.parametrize("options", [[], ["-u"]])
def test_output_is_held_back_only_where_the_caller_does_so(server: Server, options: list[str]) -> None:
    buffered = {name: value for name, value in server.environment.items() if name != "PYTHONUNBUFFERED"}
    process = server.begin("os._exit(0)", *options, env=buffered)
    assert process.communicate(timeout=60)[0].startswith("forked") == bool(options)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_it(server: Server, number: int) -> None:
    code = f"signal.signal({int(number)}, lambda *_: sys.exit(9)); print('ready', flush=True); time.sleep(60)"
    process = server.begin(code)
    assert process.stdout
    assert [process.stdout.readline()[:6], process.stdout.readline()] == ["forked", "ready\n"]
    process.send_signal(number)
    assert process.wait(20) == 9


def test_a_signal_that_it_does_not_heed_ends_both_as_it_would_have_ended_one(server: Server) -> None:
    process, child = running(server)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    assert not is_running(child)


def running(server: Server) -> tuple[subprocess.Popen[str], int]:
    process = server.begin("print(flush=True); time.sleep(60)")
    assert process.stdout
    how, child = process.stdout.readline().split()
    assert how == "forked" and int(child) != process.pid
    return process, int(child)


def test_a_signal_that_the_caller_ignores_is_ignored(server: Server) -> None:
    process = server.begin("print(signal.getsignal(signal.SIGHUP).name)", preexec_fn=ignore_hangup)
    assert process.communicate(timeout=60)[0].splitlines()[1] == "SIG_IGN"


def ignore_hangup() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_what_is_killed_takes_its_child_with_it(server: Server) -> None:
    process, child = running(server)
    process.kill()
    process.communicate(timeout=20)
    until(lambda: not is_running(child), 5)


def test_what_runs_goes_on_when_the_server_is_killed_and_the_next_runs_by_itself(server: Server) -> None:
    process = server.begin("print(flush=True); sys.exit(int(input()))", stdin=subprocess.PIPE)
    assert process.stdout and process.stdout.readline().startswith("forked")
    server.process.kill()
    server.process.wait()
    assert server.ran("sys.exit(4)") == (4, "fresh", "")
    process.communicate("5\n", timeout=20)
    assert process.returncode == 5


def test_a_killed_keeper_is_a_killed_command(server: Server) -> None:
    process, child = running(server)
    os.kill(int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    until(lambda: not is_running(child), 5)


def test_what_waits_for_a_server_that_dies_runs_by_itself(server: Server) -> None:
    server.process.send_signal(signal.SIGSTOP)
    process = server.begin("sys.exit(6)")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    server.process.kill()
    assert process.communicate(timeout=20)[0].startswith("fresh")
    assert process.returncode == 6


def test_changed_code_ends_the_server(server: Server) -> None:
    assert server.ran("")[1] == "forked"
    (server.package / "imported.py").write_text("changed = True\n")
    assert server.ran("")[1] == "fresh"
    assert server.process.wait(10) == 0
    assert not server.place.exists()
    assert server.place.parent.exists()


@pytest.mark.parametrize(
    "more",
    [
        {"TF_ENABLE_ONEDNN_OPTS": "0"},
        {"PYTHONWARNINGS": "error"},
        {"HOME": "/nowhere"},
        {"PYTHONPATH": "{0}/elsewhere:{PYTHONPATH}"},
    ],
)
def test_it_runs_by_itself_where_an_import_could_go_otherwise(
    server: Server, tmp_path: Path, more: dict[str, str]
) -> None:
    filled = {name: value.format(tmp_path, **server.environment) for name, value in more.items()}
    assert server.ran("", env={**server.environment, **filled})[1] == "fresh"


def test_other_files_of_the_same_names_are_not_the_servers(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "tiny"
    copy.mkdir(parents=True)
    for file in server.package.glob("*.py"):
        (copy / file.name).write_text(file.read_text())
    assert server.ran("", cwd=copy.parent)[1] == "fresh"


def test_two_at_once_do_not_wait_for_one_another_nor_draw_the_same_numbers(server: Server) -> None:
    code = "import random; print(random.random(), flush=True); print(sys.stdin.readline())"
    processes = [server.begin(code, stdin=subprocess.PIPE) for _ in range(2)]
    drawn = set()
    for process in processes:
        assert process.stdout and process.stdout.readline().startswith("forked")
        drawn.add(process.stdout.readline())
    assert len(drawn) == 2
    for process in processes:
        process.communicate("\n", timeout=20)


def test_a_server_that_nobody_asks_ends(tmp_path: Path) -> None:
    server = Server(tmp_path, idle=0.5)
    assert server.process.wait(20) == 0
    assert server.ran("sys.exit(3)") == (3, "fresh", "")


def test_a_server_ends_with_what_started_it(server: Server) -> None:
    server.end()
    assert server.process.returncode == 0


def test_a_socket_that_a_killed_server_left_is_taken_and_that_of_a_living_one_is_not(server: Server) -> None:
    for ends in (signal.SIGKILL, None):
        again = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(server.place), "60"],
            env=server.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if ends:
            assert "Address already in use" in again.communicate(timeout=20)[1]
            server.process.kill()
            server.process.wait()
        else:
            assert again.stdout and again.stdout.readline() == "listening\n"
            assert server.ran("")[1] == "forked"
            again.communicate(timeout=20)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket to another user")
def test_a_socket_of_another_user_is_not_asked(server: Server) -> None:
    os.chown(server.place, 65534, -1)
    assert server.ran("")[1] == "fresh"
    assert server.place.stat().st_mode & 0o077 == 0


def test_a_server_in_the_background_of_a_shell_gives_a_command_its_signals(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = Server(tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    process, _ = running(server)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
    server.end()
