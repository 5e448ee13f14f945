"""The command `.ci/airflow` in a copy of the project, which shares Airflow's environment with this one."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from pipelines.local_airflow.api import wait_for
from pipelines.local_airflow.server import free_port

PROJECT = Path(__file__).parents[2]
MODULES = ("__init__.py", "node_server.py", "local_airflow")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Its environments are built already, so its `.ci/setup` has nothing to do."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci" / "airflow", tmp_path / ".ci")
    (tmp_path / ".ci" / "setup").symlink_to("/bin/true")
    (tmp_path / "pipelines").mkdir()
    for name in MODULES:
        copy = shutil.copytree if (PROJECT / "pipelines" / name).is_dir() else shutil.copy
        copy(PROJECT / "pipelines" / name, tmp_path / "pipelines" / name)
    (tmp_path / ".airflow").mkdir()
    (tmp_path / ".airflow" / "venv").symlink_to(PROJECT / ".airflow" / "venv")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "dags").mkdir()
    return tmp_path


def start(project: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [project / ".ci" / "airflow", *arguments],
        cwd=project,
        # PYTHONPATH stands for the copy's own environment, in which the project is installed.
        env={**os.environ, "RETAKE_NODE_SERVER": "", "PYTHONPATH": str(project), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def processes_of(project: Path) -> list[int]:
    """Processes that work for the project's Airflow."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("AIRFLOW_HOME") == str(project / ".airflow" / "home"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def running(project: Path) -> Iterator[subprocess.Popen[str]]:
    process = start(project, AIRFLOW_PORT=str(free_port()))
    yield process
    process.kill()
    process.communicate()
    wait_for(lambda: not processes_of(project), 60, lambda: str(processes_of(project)))


def test_airflow_says_when_it_is_ready_and_stops_at_ctrl_c(project: Path, running: subprocess.Popen[str]) -> None:
    assert running.stdout
    assert running.stdout.readline().startswith("starting Airflow, which takes about half a minute; its own logs are")
    ready = running.stdout.readline()
    assert re.fullmatch(r"Airflow is ready: http://127.0.0.1:\d+, user admin, password \S{12,}\n", ready)
    assert (project / ".airflow" / "home" / "passwords.json").stat().st_mode & 0o777 == 0o600
    second = start(project, AIRFLOW_PORT=str(free_port()))
    assert "airflow: it is running already: stop that with Ctrl-C" in second.communicate(timeout=60)[0]
    assert second.returncode == 1
    asked = start(project, "dags", "list")
    assert "No data found" in asked.communicate(timeout=120)[0]
    assert len(processes_of(project)) >= 4
    running.send_signal(signal.SIGINT)
    assert running.stdout.read().endswith("Ctrl-C stops it.\n\nstopping Airflow …\n")
    running.wait(60)
    assert running.returncode == 0
    assert processes_of(project) == []


def test_an_airflow_whose_starter_is_killed_stops_by_itself(project: Path, running: subprocess.Popen[str]) -> None:
    assert running.stdout
    running.stdout.readline()
    wait_for(lambda: len(processes_of(project)) > 1, 60, lambda: "no component is there")
    running.kill()
    wait_for(lambda: not processes_of(project), 60, lambda: str(processes_of(project)))


def test_a_port_that_is_taken_or_is_no_number_is_said(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for given, says in (
            ("x", "AIRFLOW_PORT is 'x', which is no number"),
            (str(port), f"cannot have port {port} ("),
        ):
            refused = start(project, AIRFLOW_PORT=given)
            assert f"airflow: {says}" in refused.communicate(timeout=60)[0]
            assert refused.returncode == 1
