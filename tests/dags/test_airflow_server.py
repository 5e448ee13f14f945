"""The fixtures of a real Airflow that a test can trigger, read, kill and restart, and of a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from postgres_server import postgres_server

from pipelines.local_airflow.api import wait_for
from pipelines.local_airflow.server import QUICK, AirflowServer

DAG_FILE = """
import subprocess
from pathlib import Path
from airflow.sdk import DAG, task

with DAG("greeting", schedule=None, params={"sleep": 0}):

    @task
    def greet(params):
        print("good morning")
        sleeper = subprocess.Popen(["sleep", str(params["sleep"])], start_new_session=True)
        Path("sleeper").write_text(str(sleeper.pid))
        sleeper.wait()
        return {"words": ["good", "morning"]}

    @task
    def answer(greeting):
        return len(greeting["words"])

    answer(greet())
"""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowServer]:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "dags").mkdir()
    (folder / "dags" / "greeting.py").write_text(DAG_FILE)
    with ExitStack() as stack:
        database = None
        if request.param == "postgresql":
            database = stack.enter_context(postgres_server()).create_database("airflow")
        server = stack.enter_context(AirflowServer(folder / "home", folder / "dags", database, settings=QUICK))
        server.wait_for_dag("greeting")
        server.unpause("greeting")
        yield server


def test_a_triggered_run_succeeds_and_its_log_and_values_can_be_read(server: AirflowServer) -> None:
    run_id = server.trigger("greeting", run_id="first+run")
    assert server.wait_for_run("greeting", run_id)["state"] == "success"
    assert {name: task["state"] for name, task in server.tasks("greeting", run_id).items()} == {
        "greet": "success",
        "answer": "success",
    }
    assert "good morning" in server.log("greeting", run_id, "greet").splitlines()
    assert server.xcom("greeting", run_id, "greet") == {"words": ["good", "morning"]}
    assert server.xcom("greeting", run_id, "answer") == 2
    assert "first+run" in [run["dag_run_id"] for run in server.runs("greeting")]


def test_a_killed_scheduler_takes_its_tasks_with_it_and_works_again_after_its_restart(server: AirflowServer) -> None:
    note = server.home / "sleeper"
    note.unlink(missing_ok=True)
    server.trigger("greeting", {"sleep": 600})
    wait_for(lambda: note.exists() and note.read_text(), 120, lambda: "the task has not begun")
    sleeper = Path("/proc", note.read_text(), "cmdline")
    assert b"sleep" in sleeper.read_bytes()
    server.restart("scheduler")
    assert not sleeper.exists() or not sleeper.read_bytes()  # A zombie's command line is empty.
    assert server.wait_for_run("greeting", server.trigger("greeting"))["state"] == "success"
