"""One node as a process of its own, as an orchestrator starts it: what it exits with, what it says, what it records."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto.metadata_store_pb2 import Artifact, ArtifactType
from postgres_server import Postgres, postgres_server
from runner_contract import BROKEN, FIELDS, FIRST, NODES, Place, compile_for_airflow, make_place

from pipelines import metadata
from retake import locks

pytestmark = pytest.mark.usefixtures("node_server")

PROJECT = Path(__file__).parents[2]
RUN = "r1"
HEAVY = {"tensorflow", "tfx", "apache_beam", "numpy", "keras", "pandas"}


class Told(NamedTuple):
    """How a call ended, and what ML Metadata said then of the run's nodes."""

    code: int
    out: str
    err: str
    states: dict[str, str]


def compile(place: Place, *settings: str) -> Path:
    """Makes the definition of the place's configuration."""
    folder = compile_for_airflow(place, place.folder / "definitions", *settings)
    return max(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)


def begin(definition: Path | str, node: str, run: str = RUN, *options: str, **more: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-u", "-m", "pipelines.run_node", definition, "--node", node, "--run-id", run, *options]
    return subprocess.Popen(
        command, cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def end(process: subprocess.Popen[str], definition: Path, run: str = RUN) -> Told:
    out, err = process.communicate(timeout=200)
    return Told(process.returncode, out, err, states(definition, run))


def call(definition: Path, node: str, run: str = RUN, *options: str, **more: Any) -> Told:
    return end(begin(definition, node, run, *options, **more), definition, run)


def connection(definition: Path) -> Any:
    return metadata.connection_config(json.loads(definition.read_text())["config"]["metadata"]["url"])


def states(definition: Path, run: str = RUN) -> dict[str, str]:
    return dict(metadata.states(connection(definition), definition.stem, run))


def executions(definition: Path, node: str, run: str = RUN) -> list[Any]:
    store = MetadataStore(connection(definition))
    both = (("pipeline_run", run), ("node", f"{definition.stem}.{node}"))
    contexts = [store.get_context_by_type_and_name(*each) for each in both]
    of_run, of_node = ({e.id: e for e in store.get_executions_by_context(c.id)} if c else {} for c in contexts)
    return [of_run[number] for number in sorted(of_run.keys() & of_node)]


def recorded(definition: Path) -> list[int]:
    """How much there is in the metadata store."""
    store = MetadataStore(connection(definition))
    return [len(store.get_executions()), len(store.get_artifacts()), len(store.get_contexts())]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def definition(place: Place) -> Path:
    return compile(place, "trainer.epochs=3", "evaluator.min_accuracy=0")


# The story of one run, in which much goes wrong.


@pytest.fixture(scope="module")
def misled(definition: Path) -> list[Told]:
    """The driver of ExampleGen fails, and nevertheless StatisticsGen is asked to run."""
    driven = call(definition, "ExampleGen", RUN, "--parameter", "data=/nowhere")
    return [driven, call(definition, "StatisticsGen")]


@pytest.fixture(scope="module")
def broken(place: Place, definition: Path, misled: list[Told]) -> Told:
    """The executor of ExampleGen fails: a record file was cut off while it was copied."""
    whole = (place.data / FIRST).read_bytes()
    (place.data / BROKEN).write_bytes(whole[: len(whole) // 2])
    return call(definition, "ExampleGen")


@pytest.fixture(scope="module")
def repaired(place: Place, definition: Path, broken: Told) -> Told:
    (place.data / BROKEN).unlink()
    return call(definition, "ExampleGen")


@pytest.fixture(scope="module")
def surprised(place: Place, definition: Path, repaired: Told) -> Told:
    """SchemaGen meets what nobody has foreseen: statistics with other bytes in them, as many as were written."""
    assert call(definition, "StatisticsGen").code == 0
    [statistics] = place.root.glob("StatisticsGen/statistics/*/Split-train/*")
    whole = statistics.read_bytes()
    statistics.write_bytes(b"?" * len(whole))
    told = call(definition, "SchemaGen")
    statistics.write_bytes(whole)
    return told


@pytest.fixture(scope="module")
def side_by_side(definition: Path, surprised: Told) -> list[Told]:
    """Transform and ExampleValidator at the same time."""
    assert call(definition, "SchemaGen").code == 0
    processes = [begin(definition, node) for node in ("Transform", "ExampleValidator")]
    return [end(process, definition) for process in processes]


@pytest.fixture(scope="module")
def killed(definition: Path, side_by_side: list[Told]) -> list[Told]:
    """Trainer's process is killed while it trains, and Resolver is asked to run."""
    process = begin(definition, "Trainer")
    assert process.stdout
    assert any("Training model" in line for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    return [end(process, definition), call(definition, "Resolver")]


@pytest.fixture(scope="module")
def twice(definition: Path, killed: list[Told]) -> list[Told]:
    """Trainer again, by two processes at the same time."""
    processes = [begin(definition, "Trainer") for _ in range(2)]
    return [end(process, definition) for process in processes]


@pytest.fixture(scope="module")
def finished(place: Place, definition: Path, twice: list[Told]) -> Told:
    """The rest of the run."""
    assert call(definition, "Resolver").code == 0
    assert call(definition, "Evaluator").code == 0
    return call(definition, "Pusher", RUN, "--runner", "orchestrator", "--summary", str(place.folder / "summary.json"))


def test_a_drivers_failure_is_a_failure_that_names_the_cause(misled: list[Told]) -> None:
    driven, _ = misled
    assert driven.code == 1
    [message] = driven.err.splitlines()
    assert message.startswith("ExampleGen: ") and "/nowhere" in message
    assert driven.states == {"ExampleGen": "failed"}


def test_an_executors_failure_is_a_failure_that_names_the_file(place: Place, broken: Told) -> None:
    assert broken.code == 1
    [message] = broken.err.splitlines()
    assert message.startswith("ExampleGen: ") and BROKEN in message
    assert broken.states == {"ExampleGen": "failed"}


def test_a_failed_node_runs_again_in_the_same_run_once_it_can(definition: Path, repaired: Told) -> None:
    assert repaired.code == 0, repaired.err
    assert repaired.out.splitlines()[-1].startswith("ExampleGen complete · ")
    assert repaired.err == ""
    assert len(executions(definition, "ExampleGen")) == 1


def test_an_unforeseen_failure_has_its_traceback_in_the_log_and_ends_with_one_clear_line(surprised: Told) -> None:
    assert surprised.code == 1
    assert "Traceback (most recent call last)" in surprised.out
    [message] = surprised.err.splitlines()
    assert message.startswith("SchemaGen: ")
    assert surprised.states["SchemaGen"] == "failed"


@pytest.mark.parametrize("damage", ["empty", "gone"])
def test_inputs_that_are_damaged_are_named_and_left_to_a_new_run(
    place: Place, definition: Path, surprised: Told, damage: str
) -> None:
    [statistics] = place.root.glob("StatisticsGen/statistics/*")
    aside = place.root / "aside"
    shutil.move(statistics, aside)
    if damage == "empty":
        shutil.copytree(aside, statistics)
        next(statistics.glob("Split-train/*")).write_bytes(b"")
    told = call(definition, "SchemaGen")
    shutil.rmtree(statistics, ignore_errors=True)
    shutil.move(aside, statistics)

    assert told.code == 1
    [message] = told.err.splitlines()
    assert message.startswith(f"SchemaGen: {statistics} is ") and damage in message
    assert message.endswith("start a new run: it makes this output again")


def test_nodes_that_do_not_need_one_another_run_at_the_same_time(side_by_side: list[Told]) -> None:
    assert [told.code for told in side_by_side] == [0, 0], side_by_side
    assert side_by_side[-1].states == dict.fromkeys(NODES[:5], "complete")


def test_a_killed_node_is_running_to_ml_metadata(killed: list[Told]) -> None:
    trainer, _ = killed
    assert trainer.code == -signal.SIGKILL
    assert trainer.states["Trainer"] == "running"


def test_a_node_after_one_that_failed_or_was_killed_cannot_run(misled: list[Told], killed: list[Told]) -> None:
    for (_, after), upstream in ((misled, "ExampleGen (failed)"), (killed, "Trainer (running)")):
        assert after.code == 2
        assert after.err.endswith(f"cannot run before the nodes that it needs are done in run {RUN}: {upstream}\n")


def test_after_a_kill_the_retry_in_the_same_run_completes_the_same_execution(
    definition: Path, twice: list[Told]
) -> None:
    assert [told.code for told in twice] == [0, 0], twice
    assert twice[0].states["Trainer"] == "complete"
    assert len(executions(definition, "Trainer")) == 1


def test_of_two_processes_for_a_node_one_works_while_the_other_says_that_it_waits(twice: list[Told]) -> None:
    assert sorted("waiting for it to end" in told.out for told in twice) == [False, True]
    assert sorted("Training model" in told.out for told in twice) == [False, True]
    assert sorted("complete, by an earlier call" in told.out for told in twice) == [False, True]


def test_the_last_node_writes_the_runs_summary_beside_the_run_and_where_it_is_told_to(
    place: Place, finished: Told
) -> None:
    assert finished.code == 0, finished.err
    summary = json.loads((place.folder / "summary.json").read_text())
    assert summary == json.loads((place.root / "runs" / RUN / "summary.json").read_text())
    assert summary["run_id"] == RUN and summary["runner"] == "orchestrator"
    assert [node["id"] for node in summary["nodes"]] == NODES
    assert finished.states == dict.fromkeys(NODES, "complete")
    assert f"Run {RUN} complete" in finished.out and summary["pushed_model"] in finished.out


def test_a_node_waits_for_a_run_of_the_local_runner_in_the_same_root(
    place: Place, definition: Path, finished: Told
) -> None:
    with locks.held(place.root / locks.ROOT):
        process = begin(definition, "Trainer")
        assert process.stdout
        waits = "a run of the local runner works in this root: waiting for it to end"
        assert any(waits in line for line in process.stdout)
    assert end(process, definition).code == 0


def test_the_local_runner_takes_all_from_that_runs_cache_and_tells_the_same(place: Place, finished: Told) -> None:
    file = place.folder / "local.json"
    settings = ["--set", "trainer.epochs=3", "--set", "evaluator.min_accuracy=0"]
    command = [sys.executable, "-m", "pipelines.run", "--config", str(place.config), "--summary", str(file), *settings]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)

    assert ended.returncode == 0, ended.stdout
    local, nodewise = (json.loads(path.read_text()) for path in (file, place.folder / "summary.json"))
    assert list(nodewise) == list(local) == FIELDS
    assert [set(node) for node in nodewise["nodes"]] == [set(node) for node in local["nodes"]]
    assert all(node["cached"] for node in local["nodes"])
    told = set(FIELDS) - {"run_id", "runner", "nodes"}
    assert {field: nodewise[field] for field in told} == {field: local[field] for field in told}


# What is done and what cannot be done.


def test_repeating_a_finished_node_does_nothing_and_loads_no_library_that_takes_seconds(
    definition: Path, finished: Told
) -> None:
    before = recorded(definition)
    ended, modules = with_modules(definition, "Trainer")

    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-1].startswith("Trainer complete, by an earlier call for this run")
    assert modules.isdisjoint(HEAVY)
    assert recorded(definition) == before


def with_modules(definition: Path, node: str, run: str = RUN) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """Runs a node, and gives the packages that it has loaded, too."""
    code = """
import sys
from pipelines.run_node import main
code = main()
print(*{name.partition(".")[0] for name in sys.modules}, *sys.modules, file=sys.stderr)
sys.exit(code)
"""
    command = [sys.executable, "-c", code, definition, "--node", node, "--run-id", run]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=200)
    return ended, set(ended.stderr.splitlines()[-1].split())


def test_repeating_the_last_node_tells_the_summary_again(place: Place, definition: Path, finished: Told) -> None:
    again = call(definition, "Pusher", RUN, "--runner", "orchestrator", "--summary", str(place.folder / "again.json"))

    assert again.code == 0
    assert (place.folder / "again.json").read_text() == (place.folder / "summary.json").read_text()


@pytest.fixture(scope="module")
def second(definition: Path, finished: Told) -> list[Told]:
    """ExampleGen of two more runs at the same time."""
    runs = ("r2", "r3")
    processes = [begin(definition, "ExampleGen", run) for run in runs]
    return [end(process, definition, run) for process, run in zip(processes, runs, strict=True)]


def test_in_another_run_a_node_with_nothing_new_is_cached_even_in_two_runs_at_once(second: list[Told]) -> None:
    assert [told.code for told in second] == [0, 0], second
    assert all(told.out.splitlines()[-1].startswith("ExampleGen cached · ") for told in second)
    assert all(told.states == {"ExampleGen": "cached"} for told in second)


def test_a_node_before_its_upstream_cannot_run_and_leaves_nothing_in_ml_metadata(
    definition: Path, second: list[Told]
) -> None:
    before = recorded(definition)
    early = call(definition, "SchemaGen", "r2")

    assert early.code == 2
    [message] = early.err.splitlines()
    assert message == "SchemaGen: cannot run before the nodes that it needs are done in run r2: StatisticsGen (not run)"
    assert "Traceback" not in early.out
    assert recorded(definition) == before


@pytest.fixture(scope="module")
def bereft(definition: Path, second: list[Told]) -> Iterator[Told]:
    """StatisticsGen when its upstream is done, but what that made is gone."""
    store = MetadataStore(connection(definition))
    examples = store.get_artifacts_by_type("Examples")
    live = [artifact.state for artifact in examples]
    for artifact in examples:
        artifact.state = artifact.DELETED
    store.put_artifacts(examples)
    told = call(definition, "StatisticsGen", "r2")
    for artifact, state in zip(examples, live, strict=True):
        artifact.state = state
    store.put_artifacts(examples)
    return told


def test_a_node_whose_inputs_are_gone_though_upstream_is_done_is_no_success(bereft: Told) -> None:
    assert bereft.code == 2
    [message] = bereft.err.splitlines()
    assert message == "StatisticsGen: its inputs from earlier nodes of this run are missing"
    assert bereft.states == {"ExampleGen": "cached", "StatisticsGen": "failed"}


def test_when_its_inputs_are_back_it_runs_in_the_same_run(definition: Path, bereft: Told) -> None:
    again = call(definition, "StatisticsGen", "r2")

    assert again.code == 0, again.err
    assert again.states["StatisticsGen"] == "complete"
    assert len(executions(definition, "StatisticsGen", "r2")) == 1


def test_a_node_loads_no_code_of_other_nodes(definition: Path, second: list[Told]) -> None:
    call(definition, "StatisticsGen", "r2")
    ended, modules = with_modules(definition, "SchemaGen", "r2")

    assert ended.returncode == 0, ended.stdout
    assert modules.isdisjoint({"components", "pipelines.factory", "pipelines.runners", "airflow"})


def test_pipelines_in_one_store_do_not_see_one_anothers_runs(place: Place, definition: Path, finished: Told) -> None:
    other = compile(place, "pipeline.name=other", f"metadata.url=sqlite:///{place.root}/metadata.sqlite")
    early = call(other, "StatisticsGen")
    first = call(other, "ExampleGen")

    assert early.code == 2 and "ExampleGen (not run)" in early.err
    assert first.code == 0, first.err
    assert first.states == {"ExampleGen": "complete"}
    assert states(definition) == finished.states
    assert len(executions(other, "ExampleGen")) == len(executions(definition, "ExampleGen")) == 1


def test_a_definition_may_be_in_an_environment_variable(definition: Path, finished: Told) -> None:
    packed = base64.b64encode(gzip.compress(definition.read_bytes())).decode()
    process = begin("env:PACKED", "Pusher", env={**os.environ, "PACKED": packed})

    assert end(process, definition).code == 0


# What is wrong with the command.


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


PRETENDERS: dict[str, Callable[[bytes], bytes]] = {
    "of a later format": lambda content: content.replace(b'"format":1', b'"format":2'),
    "half": halved,
    "garbage": lambda _: bytes(range(256)),
    "empty": lambda _: b"",
}


@pytest.fixture(scope="module")
def content(definition: Path) -> bytes:
    """A definition without spaces."""
    return json.dumps(json.loads(definition.read_text()), separators=(",", ":")).encode()


@pytest.mark.parametrize("what", [*PRETENDERS, "absent", "a folder"])
def test_a_file_that_is_no_definition_is_told_in_a_line_with_the_command_that_makes_one(
    tmp_path: Path, content: bytes, what: str
) -> None:
    file = tmp_path / what
    if what == "a folder":
        file.mkdir()
    elif what != "absent":
        file.write_bytes(PRETENDERS[what](content))

    refuses(str(file), {})


@pytest.mark.parametrize("what", [*PRETENDERS, "half of what is packed", "garbled", "not packed", "absent"])
def test_a_variable_that_holds_no_definition_is_told_in_a_line_with_the_command_that_makes_one(
    content: bytes, what: str
) -> None:
    packed = gzip.compress(content)
    middle = len(packed) // 2
    held = {
        **{name: gzip.compress(pretend(content)) for name, pretend in PRETENDERS.items()},
        "half of what is packed": halved(packed),
        "garbled": packed[:middle] + bytes(50) + packed[middle + 50 :],
        "not packed": content,
    }
    refuses("env:HELD", {"HELD": base64.b64encode(held[what]).decode()} if what in held else {})


def refuses(place: str, environment: dict[str, str]) -> None:
    process = begin(place, "Pusher", env={**os.environ, **environment})
    out, err = process.communicate(timeout=60)

    assert process.returncode == 2 and out == ""
    [message] = err.splitlines()
    assert place in message
    assert "make it with: python -m pipelines.run --runner airflow" in message


@pytest.mark.parametrize(
    ("node", "options", "said"),
    [
        ("Nothing", [], "there is no such node; the nodes of colours are ExampleGen, StatisticsGen"),
        ("ExampleGen", ["--parameter", "speed=9"], "--parameter 'speed=9' must read NAME=VALUE with NAME one of data"),
        ("ExampleGen", ["--parameter", "data"], "--parameter 'data' must read NAME=VALUE"),
    ],
)
def test_wrong_usage_is_told_in_a_line(definition: Path, node: str, options: list[str], said: str) -> None:
    told = call(definition, node, RUN, *options)

    assert told.code == 2
    [message] = told.err.splitlines()
    assert said in message


def test_a_root_that_is_not_writable_is_told_in_a_line(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder is needed")
    elsewhere = compile(place, f"pipeline.root={tmp_path}/file/root", f"metadata.url=sqlite:///{tmp_path}/metadata")
    told = call(elsewhere, "ExampleGen")

    assert told.code == 1
    [message] = told.err.splitlines()
    assert f"{tmp_path}/file/root" in message and "Traceback" not in told.out


# PostgreSQL, for several workers.


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module")
def shared(place: Place, postgres: Postgres) -> Iterator[Path]:
    """A definition whose metadata store is PostgreSQL, and its password in this process's environment."""
    postgres.create_database("metadata")
    url = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/metadata"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(metadata.PASSWORD_VARIABLE, postgres.password)
        yield compile(place, "pipeline.name=shared", f"pipeline.root={place.folder}/shared", f"metadata.url={url}")


def test_artifacts_come_in_the_order_of_their_ids_from_postgresql(postgres: Postgres) -> None:
    postgres.create_database("order")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(metadata.PASSWORD_VARIABLE, postgres.password)
        url = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/order"
        store = MetadataStore(metadata.connection_config(url))
    type_id = store.put_artifact_type(ArtifactType(name="Thing"))
    first, second = store.put_artifacts([Artifact(type_id=type_id, uri="a"), Artifact(type_id=type_id, uri="b")])
    store.put_artifacts([Artifact(id=first, type_id=type_id, uri="c")])
    assert [each.id for each in store.get_artifacts_by_id([first, second])] == [first, second]
    assert [each.id for each in store.get_artifacts_by_id([second, 99, first, second])] == [second, first]


def test_nodes_run_one_after_the_other_side_by_side_and_again_on_postgresql(shared: Path) -> None:
    for node in NODES[:3]:
        told = call(shared, node)
        assert (told.code, told.err) == (0, "")
    processes = [begin(shared, node) for node in ("Transform", "ExampleValidator")]
    both = [end(process, shared) for process in processes]
    before = recorded(shared)
    again = call(shared, "StatisticsGen")

    assert [told.code for told in both] == [0, 0], both
    assert again.states == dict.fromkeys(NODES[:5], "complete")
    assert again.code == 0 and "by an earlier call" in again.out
    assert recorded(shared) == before


def test_a_definition_never_holds_the_password(shared: Path, postgres: Postgres) -> None:
    assert postgres.password not in shared.read_text()


@pytest.mark.parametrize("password", ["wr0ng-secret", ""])
def test_a_wrong_password_is_told_in_a_line_without_the_password(shared: Path, password: str) -> None:
    told = call(shared, "ExampleGen", "r2", env={**os.environ, metadata.PASSWORD_VARIABLE: password})

    assert told.code == 1
    *libpq, message = told.err.splitlines()
    assert message.startswith("ExampleGen: metadata.url postgresql://retake@127.0.0.1:")
    assert message.endswith(f"is the server up, and its password in {metadata.PASSWORD_VARIABLE}?")
    assert "password" in "".join(libpq)
    assert "Traceback" not in told.out
    assert "wr0ng-secret" not in told.out + told.err


def test_a_password_in_the_url_is_refused(place: Place) -> None:
    url = "metadata.url=postgresql://retake:s3cret@127.0.0.1/metadata"
    command = [sys.executable, "-m", "pipelines.run", "--runner", "airflow", "--config", place.config, "--set", url]
    ended = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)

    assert ended.returncode == 2
    assert metadata.PASSWORD_VARIABLE in ended.stderr and "s3cret" not in ended.stderr


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("data=/nowhere", "data '/nowhere' is not a place that a run may be given"),
        ("data={data}/new/", "there is no such node"),
    ],
)
def test_airflow_is_held_to_the_places_that_the_configuration_allows(
    place: Place, definition: Path, parameter: str, said: str
) -> None:
    options = ["--runner", "airflow", "--parameter", parameter.format(data=place.data)]
    process = begin(definition, "Nothing", RUN, *options)
    _, err = process.communicate(timeout=200)

    assert process.returncode == 2
    [message] = err.splitlines()
    assert said in message
