"""A compiled pipeline, and an Airflow that parses it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow_python import AirflowPython
from runner_contract import Place, compile_for_airflow, make_place

from pipelines.local_airflow.server import AIRFLOW, inherited


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("dags"))


@pytest.fixture(scope="module")
def definitions(place: Place) -> Path:
    return compile_for_airflow(place, place.folder / "definitions")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    command = [AIRFLOW, "db", "migrate"]
    subprocess.run(command, env={**inherited(), "AIRFLOW_HOME": str(home)}, check=True, capture_output=True)
    return home


@pytest.fixture(scope="module")
def python(home: Path) -> Iterator[AirflowPython]:
    with AirflowPython(home, "airflow.dag_processing.dagbag") as python:
        yield python
