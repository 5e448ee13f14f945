"""Continuous training: record files arrive in a watched folder, and each is trained on once, whatever Airflow suffers.

Fixtures are the story's chapters, each of which goes on from the one before, so any test can be run by itself.
Airflow's own database and the pipeline's ML Metadata are on PostgreSQL.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

import pytest
from airflow_python import AirflowPython
from colours import coloured, write_records
from gcp_storage_emulator.server import create_server
from ml_metadata import MetadataStore
from postgres_server import Postgres, postgres_server
from record_names import NAMES
from runner_contract import FIRST, PER_CLASS, Place, compile_for_airflow, make_place

from components import record_files
from pipelines import metadata
from pipelines.local_airflow.api import wait_for
from pipelines.local_airflow.server import QUICK, AirflowServer, free_port

PROJECT = Path(__file__).parents[2]
LONG = 600
KILLED = ("scheduler", "triggerer")


class Watch(NamedTuple):
    """A watched folder and the Airflow that watches it."""

    airflow: AirflowServer
    place: Place
    metadata_url: str

    def file(self, name: str) -> str:
        return str(self.place.data / name)

    def add(self, name: str, seed: int) -> str:
        """A record file with a new picture of each colour."""
        return str(write_records(self.place.data / name, coloured(1, seed)))

    def add_half(self, name: str, seed: int) -> bytes:
        """The first half of a record file; the other half is returned."""
        path = Path(self.add(name, seed))
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        return whole[len(whole) // 2 :]

    def complete(self, name: str, rest: bytes) -> str:
        with (self.place.data / name).open("ab") as file:
            file.write(rest)
        return self.file(name)

    def waits(self) -> dict[str, Any] | None:
        """The trigger with which the watcher waits between two looks, if it does just now."""
        found = self.airflow.api("GET", "/dags/colours-watch/dagRuns/~/taskInstances?state=deferred")
        return next((task["trigger"] for task in found["task_instances"] if task["trigger"]), None)

    def look(self, times: int = 5) -> None:
        """Waits until the watcher has looked that often. It takes what rests from one look to the next."""
        triggers: set[int] = set()

        def looked() -> bool:
            if trigger := self.waits():
                triggers.add(trigger["id"])
            return len(triggers) > times

        wait_for(looked, LONG, self.said)

    def runs(self) -> list[str]:
        return [run["dag_run_id"] for run in self.airflow.runs("colours")]

    def next_run(self, before: int) -> str:
        """The run that comes after so many others."""
        return wait_for(lambda: self.runs()[before:], LONG, self.said)[0]

    def said(self) -> str:
        [*_, run] = self.airflow.runs("colours-watch")
        return f"runs: {self.runs()}\n{self.airflow.told('colours-watch', run['dag_run_id'])}"

    def trained(self, run_id: str) -> Trained:
        """The run when it has succeeded."""
        run = self.airflow.wait_for_run("colours", run_id, LONG)
        assert run["state"] == "success", self.airflow.told("colours", run_id)
        return Trained(
            run_id,
            self.airflow.upstream_events("colours", run_id),
            self.airflow.events("colours", run_id),
            self.airflow.xcom("colours", run_id, "Pusher"),
        )


class Trained(NamedTuple):
    """What the pages of a run show of it: the events that started it, its own by asset, and its summary."""

    run_id: str
    upstream: list[dict[str, Any]]
    events: dict[str, dict[str, Any]]
    summary: dict[str, Any]

    @property
    def new(self) -> list[str]:
        return [file for event in self.upstream for file in event["new"]]

    @property
    def pictures(self) -> int:
        return sum(sum(split.values()) for split in self.summary["examples"].values())


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(metadata.PASSWORD_VARIABLE, server.password)
        yield server


@pytest.fixture(scope="module")
def watch(postgres: Postgres, node_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    place = make_place(tmp_path_factory.mktemp("watched"))
    postgres.create_database("metadata")
    url = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/metadata"
    lenient = [
        f"evaluator.{key}" for key in ("min_accuracy=0", "max_regression=1", "max_regression_new=1", "min_new_ratio=0")
    ]
    lenient.append("trainer.epochs=5")
    soon = ["airflow.watch_seconds=2", "airflow.retry_seconds=1"]
    definitions = compile_for_airflow(place, place.folder / "definitions", f"metadata.url={url}", *lenient, *soon)
    with AirflowServer(
        place.folder / "airflow",
        PROJECT / "dags",
        postgres.create_database("airflow"),
        {"RETAKE_DEFINITIONS": str(definitions), metadata.PASSWORD_VARIABLE: postgres.password, **node_server},
        settings=QUICK,
    ) as airflow:
        airflow.wait_for_dag("colours-watch")
        yield Watch(airflow, place, url)


class Start(NamedTuple):
    there: list[str]
    arrived_meanwhile: list[str]
    run: Trained


@pytest.fixture(scope="module")
def start(watch: Watch) -> Start:
    """Two files are there when the watcher is switched on. While their run trains, another one arrives; scheduler,
    triggerer and Trainer are killed; and one more arrives while they are dead."""
    there = [watch.file(FIRST), watch.add("more/second.tfrecord.gz", seed=1)]
    watch.airflow.unpause("colours-watch")
    run_id = watch.next_run(0)

    def trains() -> bool:
        return watch.airflow.tasks("colours", run_id)["Trainer"]["state"] == "running"

    wait_for(trains, LONG, lambda: watch.airflow.told("colours", run_id))
    meanwhile = [watch.add("meanwhile-1.tfrecord", seed=2)]
    watch.look(2)
    watch.airflow.stop(*KILLED)
    meanwhile.append(watch.add("meanwhile-2.tfrecord", seed=3))
    watch.airflow.start(*KILLED)
    return Start(there, meanwhile, watch.trained(run_id))


@pytest.fixture(scope="module")
def second(watch: Watch, start: Start) -> Trained:
    return watch.trained(watch.next_run(1))


class Unfinished(NamedTuple):
    """Parts of files that are there, the rest of each, and the runs there were when they had been looked at."""

    rest: dict[str, bytes]
    runs: list[str]
    runs_after_restart: list[str]


@pytest.fixture(scope="module")
def unfinished(watch: Watch, second: Trained) -> Unfinished:
    """Nothing but parts of files arrives; scheduler and triggerer are killed once more, as they wait."""
    rest = {name: watch.add_half(name, seed) for seed, name in enumerate(("half.tfrecord", "half.tfrecord.gz"), 10)}
    watch.add(".copied.tfrecord.tmp", seed=12)
    watch.add(".copied.tfrecord", seed=12)
    watch.look()
    runs = watch.runs()
    watch.airflow.stop(*KILLED)
    watch.airflow.start(*KILLED)
    watch.look()
    return Unfinished(rest, runs, watch.runs())


class Together(NamedTuple):
    files: list[str]
    runs_while_paused: list[str]
    run: Trained


@pytest.fixture(scope="module")
def together(watch: Watch, unfinished: Unfinished) -> Together:
    """While the training is paused, the parts become whole and ten more files arrive."""
    watch.airflow.pause("colours")
    files = [watch.complete(name, rest) for name, rest in unfinished.rest.items()]
    files += [watch.add(f"ten/{number}.tfrecord", seed=20 + number) for number in range(10)]
    watch.look()
    runs = watch.runs()
    watch.airflow.unpause("colours")
    return Together(files, runs, watch.trained(watch.next_run(len(runs))))


class ByHand(NamedTuple):
    file: str
    run: Trained
    runs: list[str]


@pytest.fixture(scope="module")
def by_hand(watch: Watch, together: Together) -> ByHand:
    """Somebody adds a file and triggers a run at once; the watcher looks on during and after it."""
    file = watch.add("by-hand.tfrecord", seed=40)
    run = watch.trained(watch.airflow.trigger("colours"))
    watch.look()
    return ByHand(file, run, watch.runs())


def test_files_that_are_there_at_the_start_are_one_set_and_trained_on_once(start: Start) -> None:
    assert sorted(start.run.new) == sorted(start.there)
    assert start.run.pictures == 3 * PER_CLASS + 3


def test_a_run_goes_on_after_scheduler_triggerer_and_trainer_were_killed(start: Start) -> None:
    assert start.run.summary["state"] == "complete"
    assert start.run.summary["blessed"] is True


def test_files_that_arrive_during_a_run_make_the_next_also_when_airflow_was_killed_meanwhile(
    start: Start, second: Trained
) -> None:
    assert sorted(second.new) == sorted(start.arrived_meanwhile)
    assert second.pictures == start.run.pictures + 6


def test_a_file_that_is_still_being_written_is_not_taken_however_long_it_rests(
    start: Start, second: Trained, unfinished: Unfinished
) -> None:
    assert unfinished.runs == [start.run.run_id, second.run_id]


def test_nothing_is_taken_twice_after_scheduler_and_triggerer_were_killed(unfinished: Unfinished) -> None:
    assert unfinished.runs_after_restart == unfinished.runs


def test_waiting_takes_no_worker_slot(watch: Watch, unfinished: Unfinished) -> None:
    def waits_without_a_slot() -> bool:
        pool = watch.airflow.api("GET", "/pools/default_pool")
        return watch.waits() is not None and pool["deferred_slots"] == 1 and pool["occupied_slots"] == 0

    wait_for(waits_without_a_slot, LONG, watch.said)


def test_nothing_is_taken_while_the_training_is_paused(unfinished: Unfinished, together: Together) -> None:
    assert together.runs_while_paused == unfinished.runs


def test_ten_files_that_arrive_together_and_those_that_have_become_whole_make_one_run(together: Together) -> None:
    assert len(together.run.upstream) == 1
    assert sorted(together.run.new) == sorted(together.files)


def test_a_run_by_hand_that_has_read_a_new_file_leaves_nothing_for_the_watcher(
    unfinished: Unfinished, together: Together, by_hand: ByHand
) -> None:
    assert by_hand.run.upstream == []
    assert by_hand.file in by_hand.run.events["colours-examples"]["records"]
    assert by_hand.run.pictures == together.run.pictures + 3
    assert by_hand.runs == [*unfinished.runs, together.run.run_id, by_hand.run.run_id]


def test_a_runs_page_shows_the_records_that_it_trained_on(
    start: Start, second: Trained, together: Together, by_hand: ByHand
) -> None:
    records = {*start.there}
    assert set(start.run.events["colours-examples"]["records"]) == records
    for run, files in (
        (second, start.arrived_meanwhile),
        (together.run, together.files),
        (by_hand.run, [by_hand.file]),
    ):
        records |= {*files}
        assert set(run.events["colours-examples"]["records"]) == records
        assert all(set(event["records"]) == records for event in run.upstream)


def test_a_runs_page_shows_whether_the_model_was_blessed_and_why_and_where_it_went(
    start: Start, second: Trained
) -> None:
    for run in (start.run, second):
        told = run.events["colours-blessing"]
        assert told["blessed"] is True
        assert told["reason"] == run.summary["reason"]
        assert run.events["colours-model"] == {"pushed_model": run.summary["pushed_model"]}
        assert told["accuracy"] == pytest.approx(run.summary["metrics"]["accuracy"])
    assert start.run.events["colours-blessing"]["baseline_accuracy"] is None
    assert second.events["colours-blessing"]["baseline_accuracy"] is not None


def test_all_runs_are_in_the_metadata_on_postgresql(watch: Watch, by_hand: ByHand) -> None:
    store = MetadataStore(metadata.connection_config(watch.metadata_url))
    recorded = {context.name for context in store.get_contexts_by_type("pipeline_run")}
    assert recorded == {f"colours.{run_id}" for run_id in by_hand.runs}


ASK = """
import sys
sys.path.insert(0, sys.argv[1])
from retake_dags import records_sensor, whole_records
"""

FIND = """
found = records_sensor.listing(sys.argv[2])
answer = [found, [file for file in found if whole_records.is_whole(file)]]
"""

FAIL = """
try:
    answer = records_sensor.listing(sys.argv[2])
except Exception as error:
    answer = str(error)
"""

PAUSED_LOOKS = 15
LOOK = f"""
from collections import defaultdict
from types import SimpleNamespace
from airflow.sdk import Asset
from airflow.sdk.exceptions import TaskDeferred

looks, kwargs = 0, {{}}
ti = SimpleNamespace(
    get_dag=lambda dag: SimpleNamespace(is_paused=looks < {PAUSED_LOOKS}), get_dr_count=lambda *_, **__: 0
)
context = {{"ti": ti, "outlet_events": defaultdict(SimpleNamespace)}}
sensor = records_sensor.RecordsSensor(
    task_id="look", location=sys.argv[2], seconds=1, training="colours", outlets=[Asset("records")]
)
taken = None
while taken is None:
    try:
        taken = sensor.look(context, **kwargs)
    except TaskDeferred as deferred:
        looks, kwargs = looks + 1, deferred.kwargs
answer = [taken, looks, records_sensor.MOST_LOOKS]
"""

WAIT = """
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

sensor = records_sensor.RecordsSensor(task_id="look", location=sys.argv[2], seconds=1, training="colours")
answer = {}
for hours in (1, 25):
    begun = datetime.now(timezone.utc) - timedelta(hours=hours)
    try:
        sensor.look({"dag_run": SimpleNamespace(start_date=begun)})
    except (AirflowSkipException, TaskDeferred) as told:
        answer[hours] = type(told).__name__
"""


class Found(NamedTuple):
    """Record file → version, and those files that are whole."""

    versions: dict[str, str]
    whole: list[str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("listed"))


@pytest.fixture(scope="module")
def definitions(node_server: dict[str, str], small: Place) -> Path:
    return compile_for_airflow(small, small.folder / "definitions")


@pytest.fixture(scope="module")
def python(definitions: Path) -> Iterator[AirflowPython]:
    with AirflowPython(definitions, "airflow.sdk", "airflow.providers.standard.hooks.subprocess") as python:
        yield python


def asked(python: AirflowPython, script: str, location: str | Path, **variables: str) -> Any:
    """What a script that has the DAG file answers about a location."""
    return python.ask(ASK + script, PROJECT / "dags", location, RETAKE_DEFINITIONS=str(python.home), **variables)


def found(python: AirflowPython, location: str | Path, **variables: str) -> Found:
    """What the DAG file finds at a location."""
    return Found(*asked(python, FIND, location, **variables))


def test_record_files_are_found_at_any_depth_and_nothing_else_is(python: AirflowPython, tmp_path: Path) -> None:
    data = tmp_path / "_data"
    files = [write_records(data / name, coloured(1)) for name in ("a.tfrecord", "b c/d/e.tfrecord.gz")]
    hidden = ("_temporary/0/a.tfrecord", "b c/.tmp/a.tfrecord", "beam-temp-a-1/2.a.tfrecord")
    for name in (".a.tfrecord", ".a.tfrecord.tmp", "_a.tfrecord", "a.tfrecord.tmp", "notes.txt", *hidden):
        write_records(data / name, coloured(1))
    (data / "empty.tfrecord").touch()
    assert sorted(found(python, data).versions) == sorted(map(str, files))
    assert sorted(found(python, f"{data}/").versions) == sorted(map(str, files))


def test_the_watcher_takes_the_files_that_the_pipeline_reads_and_no_others(
    python: AirflowPython, tmp_path: Path
) -> None:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    assert sorted(found(python, tmp_path).versions) == record_files.record_files(str(tmp_path))


def test_a_folder_that_is_not_there_fails_the_watcher_by_name(python: AirflowPython, tmp_path: Path) -> None:
    said = asked(python, FAIL, tmp_path / "later")
    assert said == f"data location {tmp_path / 'later'} is not a folder on this worker"


def test_a_file_that_is_written_anew_has_another_version(python: AirflowPython, tmp_path: Path) -> None:
    path = write_records(tmp_path / "a.tfrecord", coloured(1))
    before = found(python, tmp_path).versions
    path.write_bytes(path.read_bytes())
    assert found(python, tmp_path).versions != before


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecord.gz"])
def test_a_file_that_ends_anywhere_but_after_a_record_is_not_whole(
    python: AirflowPython, tmp_path: Path, name: str
) -> None:
    whole = write_records(tmp_path / name, coloured(1))
    content = whole.read_bytes()
    for size in (1, 11, 12, len(content) // 2, len(content) - 1):
        (tmp_path / f"{size}-{name}").write_bytes(content[:size])
    (tmp_path / f"more-{name}").write_bytes(content + content[:20])
    assert found(python, tmp_path).whole == [str(whole)]


def test_a_file_is_packed_or_not_by_its_first_bytes_and_a_broken_one_is_not_whole(
    python: AirflowPython, tmp_path: Path
) -> None:
    packed = write_records(tmp_path / "really-plain.tfrecord.gz", coloured(1)).rename(tmp_path / "packed.tfrecord")
    plain = write_records(tmp_path / "really-packed.tfrecord", coloured(1)).rename(tmp_path / "plain.tfrecord.gz")
    content = packed.read_bytes()
    (tmp_path / "flipped.tfrecord.gz").write_bytes(content[:40] + bytes(200) + content[240:])
    (tmp_path / "text.tfrecord").write_text("no record at all, but a line of text")
    os.mkfifo(tmp_path / "pipe.tfrecord-00000-of-00001")
    assert sorted(found(python, tmp_path).whole) == sorted([str(packed), str(plain)])


def test_a_record_over_the_bound_is_left_to_the_run_which_names_its_file(python: AirflowPython, tmp_path: Path) -> None:
    huge = tmp_path / "huge.tfrecord.gz"
    huge.write_bytes(gzip.compress(b"\xff" * 64))
    assert found(python, tmp_path).whole == [str(huge)]


def test_whole_files_wait_a_while_for_one_that_is_not_and_longer_while_the_training_is_paused(
    python: AirflowPython, tmp_path: Path
) -> None:
    whole = write_records(tmp_path / "whole.tfrecord", coloured(1))
    (tmp_path / "half.tfrecord").write_bytes(whole.read_bytes()[:100])
    taken, looks, most_looks = asked(python, LOOK, tmp_path)
    assert taken == [str(whole)]
    assert looks == PAUSED_LOOKS + most_looks


def test_shards_wait_for_those_that_are_missing(python: AirflowPython, tmp_path: Path) -> None:
    """A shard without a record is no bytes long."""
    files = [write_records(tmp_path / f"{name}-00000-of-00002", coloured(1)) for name in ("a.tfrecord", "b.tfrecord")]
    files.append(tmp_path / "a.tfrecord-00001-of-00002")
    files[-1].touch()
    taken, *_ = asked(python, LOOK, tmp_path)
    assert taken == sorted(map(str, (files[0], files[-1])))


def test_waiting_goes_on_in_another_run_each_day_so_that_no_log_grows_for_ever(
    python: AirflowPython, tmp_path: Path
) -> None:
    assert asked(python, WAIT, tmp_path) == {"1": "TaskDeferred", "25": "AirflowSkipException"}


@contextmanager
def bucket(name: str) -> Iterator[str]:
    """The URL of a server of Google's storage API that has this bucket."""
    port = free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=name)
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


def upload(url: str, path: Path, name: str) -> None:
    request = Request(f"{url}/upload/storage/v1/b/pictures/o?uploadType=media&name={name}", path.read_bytes())  # noqa: S310
    urlopen(request, timeout=60).close()  # noqa: S310


def test_records_below_a_prefix_of_a_bucket_are_found_without_an_airflow_connection(
    python: AirflowPython, small: Place
) -> None:
    local = small.data / FIRST
    with bucket("pictures") as url:
        hidden = (".d.tfrecord", "_tmp/e.tfrecord", "b/beam-temp-f/g.f.tfrecord")
        for name in ("a.tfrecord", "b/c.tfrecord.gz", "notes.txt", *hidden):
            upload(url, local, f"_new/{name}")
        upload(url, local, "_newer/h.tfrecord")
        before = found(python, "gs://pictures/_new", STORAGE_EMULATOR_HOST=url)
        upload(url, local, "_new/a.tfrecord")
        after = found(python, "gs://pictures/_new/", STORAGE_EMULATOR_HOST=url)
        nothing = found(python, "gs://pictures/none", STORAGE_EMULATOR_HOST=url)
    files = ["gs://pictures/_new/a.tfrecord", "gs://pictures/_new/b/c.tfrecord.gz"]
    assert sorted(before.versions) == sorted(before.whole) == sorted(after.versions) == files
    assert [before.versions[file] == after.versions[file] for file in files] == [False, True]
    assert nothing.versions == {}
