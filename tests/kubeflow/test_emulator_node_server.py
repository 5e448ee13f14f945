"""The emulator's node server: whom it is for, and how it comes and goes."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from kubeflow.emulator.node_server import VARIABLE, NodeServer

TASK = [sys.executable, "-m", "pipelines.run_vertex_task", "executor"]


@pytest.fixture()
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeServer:
    monkeypatch.delenv(VARIABLE, raising=False)
    return NodeServer({}, tmp_path / "log")


@pytest.mark.parametrize("command", [["sh", *TASK[1:]], [sys.executable, "-m", "tfx"], [sys.executable, "-c", ""]])
def test_it_is_not_started_for_tasks_of_others(server: NodeServer, tmp_path: Path, command: list[str]) -> None:
    assert server.variables(command) == {}
    assert not (tmp_path / "log").exists()


def test_where_the_environment_names_another_it_is_not_started(
    server: NodeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "")
    assert server.variables(TASK) == {}


def test_it_listens_in_a_private_folder_and_leaves_nothing(server: NodeServer) -> None:
    place = Path(server.variables(TASK)[VARIABLE])
    assert place.is_socket() and stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    assert server.variables(TASK) == {VARIABLE: str(place)}
    server.end()
    assert not place.parent.exists()


def test_one_that_was_killed_is_not_started_again(server: NodeServer) -> None:
    place = server.variables(TASK)
    assert server._process
    server._process.kill()
    server._process.wait()
    assert server.variables(TASK) == place
    assert server._process.returncode < 0
    server.end()
