"""The hot dog story under a real Airflow, with its database and ML Metadata on PostgreSQL: a run by hand whose Trainer
is killed, a run that new records start by themselves, and one that lacks what it needs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hotdog import CLASSES, PER_CLASS, RECORDS, SHARED, call, needs, pack
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from postgres_server import postgres_server
from runner_contract import NODES

from pipelines import metadata
from pipelines.local_airflow.api import wait_for
from pipelines.local_airflow.server import QUICK, AirflowServer

PROJECT = Path(__file__).parents[2]
WEIGHTS = SHARED / "weights" / "mobilenetv2_0.35_224_notop.weights.h5"
BIAS = "taco_bias.tfrecord"
LONG = 600

pytestmark = needs(WEIGHTS.name)


class HotDog(NamedTuple):
    """The compiled pipeline in an Airflow, its folder, and its ML Metadata."""

    airflow: AirflowServer
    folder: Path
    connection: metadata_store_pb2.ConnectionConfig

    @property
    def definition(self) -> Path:
        return self.folder / "definitions" / "hotdog.json"

    def process_of(self, node: str) -> int | None:
        """The process that runs a node of this very definition."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = file.read_bytes().split(b"\0")
            except OSError:  # It has ended meanwhile.
                continue
            if str(self.definition).encode() in words and words[words.index(b"--node") + 1] == node.encode():
                return int(file.parent.name)
        return None

    def run(self, run_id: str) -> Run:
        """The run when it has ended."""
        state = self.airflow.wait_for_run("hotdog", run_id, LONG)["state"]
        return Run(run_id, state, self.airflow.tasks("hotdog", run_id), self.airflow.told("hotdog", run_id))


class Run(NamedTuple):
    """A run that has ended; `said` is what a person finds when they look for the reason."""

    run_id: str
    state: str
    tasks: dict[str, dict[str, Any]]
    said: str

    @property
    def states(self) -> dict[str, str]:
        return {node: task["state"] for node, task in self.tasks.items()}

    @property
    def tries(self) -> dict[str, int]:
        return {node: task["try_number"] for node, task in self.tasks.items()}


@pytest.fixture(scope="module")
def hotdog(node_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[HotDog]:
    folder = tmp_path_factory.mktemp("hotdog")
    pack(folder / "pictures", folder / "data" / "baseline.tfrecord")
    with postgres_server() as postgres, pytest.MonkeyPatch.context() as patch:
        patch.setenv(metadata.PASSWORD_VARIABLE, postgres.password)
        postgres.create_database("metadata")
        settings = {
            "metadata.url": f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/metadata",
            "model.backbone": "MobileNetV2",
            "evaluator.min_accuracy": "0.5",
            "evaluator.max_regression": "0.3",  # Of three dozen eval pictures a few may tip.
            "airflow.watch_seconds": "3",
            "airflow.retry_seconds": "1",
        }
        places = {"data": folder / "data", "root": folder / "runs", "models": folder / "models", "weights": WEIGHTS}
        call(
            *(sys.executable, "-m", "pipelines.run", "--runner", "airflow", "--config", "hotdog"),
            *("--definitions", folder / "definitions"),
            *(word for name, place in places.items() for word in (f"--{name}", place)),
            *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
        )
        environment = {"RETAKE_DEFINITIONS": str(folder / "definitions"), metadata.PASSWORD_VARIABLE: postgres.password}
        environment |= node_server
        database = postgres.create_database("airflow")
        with AirflowServer(folder / "airflow", PROJECT / "dags", database, environment, settings=QUICK) as airflow:
            airflow.wait_for_dag("hotdog-watch")
            yield HotDog(airflow, folder, metadata.connection_config(settings["metadata.url"]))


@pytest.fixture(scope="module")
def first(hotdog: HotDog) -> Run:
    """A run by hand, whose Trainer is killed as it trains."""
    run_id = hotdog.airflow.trigger("hotdog")

    def trainer_that_trains() -> int | None:
        states = metadata.states(hotdog.connection, "hotdog", f"hotdog.{run_id}")
        return hotdog.process_of("Trainer") if states.get("Trainer") == "running" else None

    os.kill(
        wait_for(trainer_that_trains, LONG, lambda: hotdog.airflow.told("hotdog", run_id)),
        signal.SIGKILL,
    )
    return hotdog.run(run_id)


@pytest.fixture(scope="module")
def second(hotdog: HotDog, first: Run) -> Run:
    """The run that starts by itself when records of another program arrive in the watched folder."""
    hotdog.airflow.unpause("hotdog-watch")
    shutil.copy(RECORDS / BIAS, hotdog.folder / "data")
    [_, started] = wait_for(
        lambda: hotdog.airflow.runs("hotdog")[1:] and hotdog.airflow.runs("hotdog"),
        LONG,
        lambda: f"watching: {hotdog.airflow.runs('hotdog-watch')}",
    )
    return hotdog.run(started["dag_run_id"])


@pytest.fixture(scope="module")
def deprived(hotdog: HotDog, second: Run) -> Run:
    """A run in which somebody marks the first task as a success before it has run."""
    hotdog.airflow.stop("scheduler")
    run_id = hotdog.airflow.trigger("hotdog", run_id="deprived")
    path = f"/dags/hotdog/dagRuns/{run_id}/taskInstances/ExampleGen"
    hotdog.airflow.api("PATCH", path, {"new_state": "success"})
    hotdog.airflow.start("scheduler")
    return hotdog.run(run_id)


@pytest.fixture(scope="module")
def store(hotdog: HotDog) -> MetadataStore:
    return MetadataStore(hotdog.connection)


def summary(hotdog: HotDog, run: Run) -> Any:
    return hotdog.airflow.xcom("hotdog", run.run_id, "Pusher")


def artifact(hotdog: HotDog, store: MetadataStore, run: Run, node: str, key: str) -> int:
    """The only artifact that a node of a run took or made by the name of `key`."""
    execution = metadata.executions(hotdog.connection, "hotdog", f"hotdog.{run.run_id}")[node]
    events = store.get_events_by_execution_ids([execution.id])
    [found] = {event.artifact_id for event in events if event.path.steps[0].key == key}
    return found


def origins(store: MetadataStore, artifact_id: int) -> set[int]:
    """The artifacts that an artifact was made from, back to the first."""
    event = metadata_store_pb2.Event
    makers = [
        each.execution_id for each in store.get_events_by_artifact_ids([artifact_id]) if each.type == event.OUTPUT
    ]
    taken = [each for each in store.get_events_by_execution_ids(makers) if each.type == event.INPUT] if makers else []
    return {artifact_id}.union(*(origins(store, each.artifact_id) for each in taken))


def test_a_killed_trainer_is_tried_again_and_every_task_ends_green(hotdog: HotDog, first: Run) -> None:
    assert first.state == "success", first.said
    nodes = [*NODES, "StartResolver"]
    assert first.states == dict.fromkeys(nodes, "success")
    assert first.tries == {**dict.fromkeys(nodes, 1), "Trainer": 2}
    assert "killed by signal 9" in hotdog.airflow.log("hotdog", first.run_id, "Trainer", 1)


def test_the_model_is_pushed_and_the_last_tasks_xcom_is_the_runs_summary(hotdog: HotDog, first: Run) -> None:
    told = summary(hotdog, first)
    assert told == json.loads((hotdog.folder / "runs" / "runs" / f"hotdog.{first.run_id}" / "summary.json").read_text())
    assert told["blessed"] is True and told["metrics"]["accuracy"] >= 0.5
    assert told["baseline_metrics"] is None
    assert (Path(told["pushed_model"]) / "saved_model.pb").is_file()


def test_new_records_start_a_run_by_themselves_and_only_they_do(hotdog: HotDog, first: Run, second: Run) -> None:
    assert second.state == "success", second.said
    [event] = hotdog.airflow.upstream_events("hotdog", second.run_id)
    assert event["new"] == [str(hotdog.folder / "data" / BIAS)]
    assert hotdog.airflow.upstream_events("hotdog", first.run_id) == []


def test_the_second_model_is_compared_with_the_first_and_pushed_as_a_higher_version(
    hotdog: HotDog, store: MetadataStore, first: Run, second: Run
) -> None:
    before, after = summary(hotdog, first), summary(hotdog, second)
    assert sum(sum(split.values()) for split in after["examples"].values()) == PER_CLASS * len(CLASSES) + 150
    assert after["baseline_metrics"] is not None
    assert artifact(hotdog, store, second, "Evaluator", "baseline_model") == artifact(
        hotdog, store, first, "Trainer", "model"
    )
    assert after["blessed"] is True
    assert int(Path(after["pushed_model"]).name) > int(Path(before["pushed_model"]).name)


def test_the_second_training_goes_on_from_the_first_model(
    hotdog: HotDog, store: MetadataStore, first: Run, second: Run
) -> None:
    assert artifact(hotdog, store, second, "Trainer", "base_model") == artifact(
        hotdog, store, first, "Trainer", "model"
    )
    assert "goes on from the model in service" in hotdog.airflow.log("hotdog", second.run_id, "Trainer")


def test_both_runs_are_in_the_metadata_with_lineage_from_the_pushed_model_back_to_the_examples(
    hotdog: HotDog, store: MetadataStore, first: Run, second: Run
) -> None:
    recorded = [context.name for context in store.get_contexts_by_type("pipeline_run")]
    assert {f"hotdog.{run.run_id}" for run in (first, second)} <= {*recorded}
    examples = [artifact(hotdog, store, run, "ExampleGen", "examples") for run in (first, second)]
    assert len({*examples}) == 2
    for run, own in zip((first, second), examples, strict=True):
        pushed = artifact(hotdog, store, run, "Pusher", "pushed_model")
        made_from = origins(store, pushed)
        assert {own, artifact(hotdog, store, run, "Trainer", "model")} <= made_from
        [described] = store.get_artifacts_by_id([pushed])
        assert described.custom_properties["pushed_destination"].string_value == summary(hotdog, run)["pushed_model"]


def test_a_node_that_lacks_what_it_needs_is_red_at_once_and_says_so(hotdog: HotDog, deprived: Run) -> None:
    assert deprived.state == "failed"
    assert deprived.states["StatisticsGen"] == "failed"
    assert deprived.tries["StatisticsGen"] == 1
    assert deprived.states["Pusher"] == "upstream_failed"
    log = hotdog.airflow.log("hotdog", deprived.run_id, "StatisticsGen")
    unfinished = f"in run hotdog.{deprived.run_id}: ExampleGen (not run)"
    assert f"cannot run before the nodes that it needs are done {unfinished}" in log
