"""The Airflow runner: the contract of all runners, under a real scheduler, dag processor and API server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_contract import Chapter, Outcome, Place, RunnerContract, Start, compile_for_airflow

from pipelines.local_airflow.api import ApiError
from pipelines.local_airflow.server import QUICK, AirflowServer

PROJECT = Path(__file__).parents[2]


class TestAirflow(RunnerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def airflow(
        cls, place: Place, node_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[AirflowServer]:
        home = tmp_path_factory.mktemp("airflow")
        compile_for_airflow(place, home / "defs")  # Airflow is asked to parse DAGs that it knows.
        environment = {"RETAKE_DEFINITIONS": str(home / "defs"), **node_server}
        with AirflowServer(home, PROJECT / "dags", environment=environment, settings=QUICK) as server:
            yield server

    @pytest.fixture(scope="class")
    @classmethod
    def start(cls, airflow: AirflowServer) -> Start:
        def start(place: Place, *settings: str) -> Outcome:
            compile_for_airflow(place, airflow.home / "defs", "airflow.retries=0", *settings)
            airflow.parse("colours")
            run_id = airflow.trigger("colours")
            run = airflow.wait_for_run("colours", run_id, timeout=400)
            if run["state"] == "success":
                return Outcome(0, airflow.xcom("colours", run_id, "Pusher"), airflow.log("colours", run_id, "Pusher"))
            [failed] = [task for task, told in airflow.tasks("colours", run_id).items() if told["state"] == "failed"]
            summary = place.root / "runs" / f"colours.{run_id}" / "summary.json"
            return Outcome(1, json.loads(summary.read_text()), airflow.log("colours", run_id, failed))

        return start

    def test_a_run_on_a_place_that_the_configuration_does_not_allow_is_refused_at_once(
        self, airflow: AirflowServer, place: Place, first: Chapter
    ) -> None:
        with pytest.raises(ApiError, match=r"400.*data"):
            airflow.trigger("colours", {"data": f"{place.data}-of-another"})
