"""The Cloud Function as a process, called over HTTP as Eventarc and Cloud Tasks call it."""

from __future__ import annotations

import json
import random
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from function_server import FunctionServer, GoogleApis, binary_event, structured_event
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from record_names import NAMES
from vertex_emulator import until

from kubeflow.stand_ins import FINALIZED, FRAMEWORK, FUNCTION, CloudTasks, free_ports, post

BUCKET, PREFIX = "records-bucket", "hotdog"
JOB_BUCKET, JOB = "pipeline-bucket", "jobs/hotdog.json"
QUEUE = "projects/my-project/locations/us-central1/queues/retake"
LONG_AGO = datetime(2026, 3, 1, 12, 3, 20, tzinfo=timezone.utc)
JOB_ID = re.compile(r"[a-z][-a-z0-9]{0,127}")

Send = Callable[[str, str, Any], int]


def compiled(schema: str = "2.0.0") -> dict[str, Any]:
    values: dict[str, Any] = {"parameters": {"data": {"stringValue": "here"}, "models": {"stringValue": "there"}}}
    if schema != "2.0.0":
        values = {"parameterValues": {"data": "here", "models": "there"}}
    kind = {"type": "STRING"} if schema == "2.0.0" else {"parameterType": "STRING"}
    return {
        "displayName": "hotdog",
        "labels": {"tfx_runner": "kubeflow_v2"},
        "pipelineSpec": {
            "schemaVersion": schema,
            "pipelineInfo": {"name": "hotdog"},
            "root": {"inputDefinitions": {"parameters": {"data": kind, "models": kind}}, "dag": {"tasks": {}}},
        },
        "runtimeConfig": {"gcsOutputDirectory": f"gs://{JOB_BUCKET}/root", **values},
    }


def stored(name: str = f"{PREFIX}/taco_bias.tfrecord", created: datetime = LONG_AGO, **others: Any) -> dict[str, Any]:
    """What Cloud Storage tells of a stored object; a generation is the microsecond in which it was made."""
    return {
        "kind": "storage#object",
        "bucket": BUCKET,
        "name": name,
        "generation": str(int(created.timestamp() * 1_000_000)),
        "size": "1234",
        "timeCreated": created.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        **others,
    }


def made_at(run: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(run["createTime"].replace("Z", "+00:00"))


@pytest.fixture(scope="module")
def buckets() -> Iterator[storage.Client]:
    [port] = free_ports(1)
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=JOB_BUCKET)
    server.start()
    url = f"http://127.0.0.1:{port}"
    with mock.patch.dict("os.environ", {"STORAGE_EMULATOR_HOST": url}):
        client = storage.Client("my-project", AnonymousCredentials())
    client.emulator = url
    yield client
    server.stop()


@pytest.fixture(scope="module")
def services() -> Iterator[GoogleApis]:
    with GoogleApis() as services:
        yield services


@pytest.fixture(scope="module")
def environment(buckets: Any, services: GoogleApis) -> dict[str, str]:
    return {
        "RETAKE_BUCKET": BUCKET,
        "RETAKE_PREFIX": PREFIX,
        "RETAKE_JOB": f"gs://{JOB_BUCKET}/{JOB}",
        "RETAKE_MODELS": f"gs://{JOB_BUCKET}/models",
        "RETAKE_PROJECT": "my-project",
        "RETAKE_REGION": "us-central1",
        "RETAKE_SERVICE_ACCOUNT": "runner@my-project.iam.gserviceaccount.com",
        "RETAKE_WINDOW_MINUTES": "10",
        "RETAKE_QUEUE": QUEUE,
        "RETAKE_INVOKER": "trigger@my-project.iam.gserviceaccount.com",
        "RETAKE_VERTEX_ENDPOINT": services.url,
        "RETAKE_TASKS_ENDPOINT": services.url,
        "STORAGE_EMULATOR_HOST": buckets.emulator,
    }


@pytest.fixture(scope="module")
def immediate_server(environment: dict[str, str], tmp_path_factory: Any) -> Iterator[FunctionServer]:
    log = tmp_path_factory.mktemp("immediate") / "log"
    with FunctionServer({**environment, "RETAKE_WINDOW_MINUTES": "0"}, log) as server:
        yield server


@pytest.fixture(scope="module")
def batching_server(environment: dict[str, str], tmp_path_factory: Any) -> Iterator[FunctionServer]:
    with FunctionServer(environment, tmp_path_factory.mktemp("batching") / "log") as server:
        yield server


@pytest.fixture
def apis(services: GoogleApis, buckets: storage.Client) -> Iterator[GoogleApis]:
    """The services with nothing in them but the compiled job."""
    buckets.bucket(JOB_BUCKET).blob(JOB).upload_from_string(json.dumps(compiled()))
    yield services
    services.runs.clear()
    services.tasks.clear()
    services.answers.clear()
    services.clock = lambda: datetime.now(timezone.utc)


@pytest.fixture
def immediate(immediate_server: FunctionServer, apis: GoogleApis) -> FunctionServer:
    """The function with a run for each object."""
    immediate_server.log.write_text("")
    return immediate_server


@pytest.fixture
def batching(batching_server: FunctionServer, apis: GoogleApis) -> FunctionServer:
    """The function with windows of ten minutes."""
    batching_server.log.write_text("")
    return batching_server


@pytest.mark.parametrize("send_event", [binary_event, structured_event])
def test_an_object_starts_a_run_of_the_compiled_job_on_its_data(
    immediate: FunctionServer, apis: GoogleApis, send_event: Send
) -> None:
    assert send_event(immediate.url, FINALIZED, stored()) == 200
    [(name, run)] = apis.runs.items()
    assert JOB_ID.fullmatch(name)
    assert run["pipelineSpec"] == compiled()["pipelineSpec"]
    assert run["runtimeConfig"]["gcsOutputDirectory"] == f"gs://{JOB_BUCKET}/root"
    assert run["runtimeConfig"]["parameters"] == {
        "data": {"stringValue": f"gs://{BUCKET}/{PREFIX}"},
        "models": {"stringValue": f"gs://{JOB_BUCKET}/models"},
    }
    assert run["serviceAccount"] == "runner@my-project.iam.gserviceaccount.com"
    assert run["labels"]["tfx_runner"] == "kubeflow_v2"
    [entry] = immediate.entries()
    assert entry["severity"] == "INFO"
    assert entry["run"] == name
    assert entry["object"] == f"gs://{BUCKET}/{PREFIX}/taco_bias.tfrecord#{stored()['generation']}"


@pytest.mark.parametrize("schema", ["2.0.0", "2.1.0"])
def test_the_run_is_what_googles_own_client_would_submit(
    immediate: FunctionServer, apis: GoogleApis, buckets: storage.Client, tmp_path: Path, schema: str
) -> None:
    from google.cloud import aiplatform

    (tmp_path / "job.json").write_text(json.dumps(compiled(schema)))
    parameters = {"data": f"gs://{BUCKET}/{PREFIX}", "models": f"gs://{JOB_BUCKET}/models"}
    expected = aiplatform.PipelineJob(
        display_name="hotdog",
        template_path=str(tmp_path / "job.json"),
        parameter_values=parameters,
        project="my-project",
        location="us-central1",
        credentials=AnonymousCredentials(),
    ).to_dict()
    buckets.bucket(JOB_BUCKET).blob(JOB).upload_from_string(json.dumps(compiled(schema)))
    assert binary_event(immediate.url, FINALIZED, stored()) == 200
    [run] = apis.runs.values()
    assert run["runtimeConfig"] == expected["runtimeConfig"]
    assert run["pipelineSpec"] == expected["pipelineSpec"]
    # Fails for a field that PipelineJob does not have.
    aiplatform.gapic.PipelineJob.from_json(json.dumps({key: run[key] for key in run if key != "state"}))


def test_a_generation_delivered_twice_starts_one_run(immediate: FunctionServer, apis: GoogleApis) -> None:
    later = LONG_AGO + timedelta(minutes=1)
    for event in (stored(), stored(), stored(created=later), stored()):
        assert binary_event(immediate.url, FINALIZED, event) == 200
    assert len(apis.runs) == 2
    assert all(JOB_ID.fullmatch(name) for name in apis.runs)


def test_it_takes_the_objects_that_the_pipeline_reads_and_no_others(
    immediate: FunctionServer, apis: GoogleApis, tmp_path: Path
) -> None:
    from components import record_files

    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    read = {path.removeprefix(f"{tmp_path}/") for path in record_files.record_files(str(tmp_path))}
    taken = set()
    for name in NAMES:
        assert binary_event(immediate.url, FINALIZED, stored(f"{PREFIX}/{name}")) == 200
        if apis.runs:
            taken.add(name)
            apis.runs.clear()
    assert taken == read
    assert sum("_" in name or "beam" in name for name in taken) == 1


def test_the_prefix_itself_may_begin_with_what_hides(
    environment: dict[str, str], apis: GoogleApis, tmp_path: Path
) -> None:
    settings = {**environment, "RETAKE_WINDOW_MINUTES": "0", "RETAKE_PREFIX": "_records/.new"}
    with FunctionServer(settings, tmp_path / "log") as function:
        for name in ("_records/.new/a.tfrecord", "_records/.new/_temporary/b.tfrecord"):
            assert binary_event(function.url, FINALIZED, stored(name)) == 200
        assert [entry["message"].partition(" ")[0] for entry in function.entries()] == ["started", "ignored:"]


@pytest.mark.parametrize(
    "event",
    [
        stored(bucket="another-bucket"),
        stored("taco_bias.tfrecord"),
        stored(f"{PREFIX}s/taco_bias.tfrecord"),
        stored(f"another/{PREFIX}/taco_bias.tfrecord"),
        stored(size="0"),
    ],
    ids=["foreign bucket", "above the prefix", "beside the prefix", "another prefix", "zero bytes"],
)
def test_an_object_of_no_concern_is_acknowledged_and_ignored(
    immediate: FunctionServer, batching: FunctionServer, apis: GoogleApis, event: dict[str, Any]
) -> None:
    for function in (immediate, batching):
        assert binary_event(function.url, FINALIZED, event) == 200
        [entry] = function.entries()
        assert entry["severity"] == "INFO"
        assert entry["message"].startswith("ignored: ")
    assert not apis.runs and not apis.tasks


def test_an_event_of_another_type_is_ignored(immediate: FunctionServer, apis: GoogleApis) -> None:
    assert binary_event(immediate.url, "google.cloud.storage.object.v1.deleted", stored()) == 200
    assert not apis.runs
    assert immediate.entries()[0]["message"].startswith("ignored: ")


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        [],
        {},
        {key: value for key, value in stored().items() if key != "generation"},
        stored(generation="x; rm -rf /"),
        stored(name=5),
        stored(name=""),
        stored(name="\ud800.tfrecord"),
        stored(name="a\r\nb.tfrecord"),
        stored(name=f"{PREFIX}/{'a' * 1020}.tfrecord"),
        stored(name="\x1b[2J" * 100_000),
        stored(bucket="b" * 100_000),
        stored(timeCreated="2" * 100_000),
        stored(generation="0"),
        stored(generation="9" * 20),
        stored(size="-"),
        stored(size="-5"),
        stored(size=None),
        stored(timeCreated="yesterday"),
        stored(timeCreated="2026-03-01T12:00:00"),
        stored(timeCreated="9999-12-31T23:59:59Z"),
        stored(timeCreated="0001-01-01T00:00:00+14:00"),
    ],
    ids=lambda data: str(data)[:120],
)
@pytest.mark.parametrize("send_event", [binary_event, structured_event])
def test_an_event_without_a_whole_object_is_logged_and_not_delivered_again(
    batching: FunctionServer, apis: GoogleApis, send_event: Send, data: Any
) -> None:
    assert send_event(batching.url, FINALIZED, data) == 200
    [entry] = batching.entries()
    assert entry["severity"] == "ERROR"
    assert entry["message"].startswith("given up: ")
    assert not apis.runs and not apis.tasks
    assert all(len(line) < 10_000 and line.isprintable() for line in batching.log.read_text().splitlines())


def test_control_characters_of_a_name_are_escaped_in_the_log(immediate: FunctionServer, apis: GoogleApis) -> None:
    name = f"{PREFIX}/\x1b]0;title\x07\x00\x85\u202e.tfrecord"
    assert binary_event(immediate.url, FINALIZED, stored(name)) == 200
    assert binary_event(immediate.url, "\x1b[2J" + "type" * 5000, stored(name)) in (200, 400)
    assert len(apis.runs) == 1
    assert immediate.entries()[0]["object"].startswith(f"gs://{BUCKET}/{name}#")
    assert all(line.isascii() and line.isprintable() for line in immediate.log.read_text().splitlines())


@pytest.mark.parametrize(
    "headers, body",
    [
        ({"Content-Type": "application/cloudevents+json"}, b'{"bro'),
        ({"Content-Type": "application/cloudevents+json"}, b'{"id": "1", "type": "x"}'),
        ({"Content-Type": "application/json"}, b"[]"),
        ({"Content-Type": "text/plain"}, b"hello"),
        ({}, b"\xff\xfe"),
        ({"Content-Type": "application/cloudevents+json"}, b"\xff"),
        ({"Content-Type": "application/cloudevents+json"}, b"[" * 100_000),
        ({"Content-Type": "application/cloudevents+json"}, b"5"),
        (
            {
                "ce-id": "1",
                "ce-type": FINALIZED,
                "ce-source": "s",
                "ce-specversion": "1.0",
                "Content-Type": "application/json",
            },
            b'{"bro',
        ),
    ],
    ids=["broken", "no CloudEvent", "a list", "text", "bytes", "no UTF-8", "deep", "a number", "broken data"],
)
def test_a_broken_payload_is_logged_and_not_delivered_again(
    immediate: FunctionServer, apis: GoogleApis, headers: dict[str, str], body: bytes
) -> None:
    assert post(immediate.url, headers, body) == 200
    assert [entry["severity"] for entry in immediate.entries()] == ["ERROR"]
    assert "Traceback" not in immediate.log.read_text()
    assert not apis.runs


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
def test_what_may_pass_is_delivered_again_and_starts_the_run_then(
    immediate: FunctionServer, batching: FunctionServer, apis: GoogleApis, status: int
) -> None:
    for function, made in ((immediate, apis.runs), (batching, apis.tasks)):
        apis.answers.append(status)
        assert binary_event(function.url, FINALIZED, stored()) == 503
        assert not made
        assert [entry["severity"] for entry in function.entries()] == ["WARNING"]
        assert "Traceback" not in function.log.read_text()
        assert binary_event(function.url, FINALIZED, stored()) == 200
        assert len(made) == 1


@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_will_not_pass_is_logged_and_not_delivered_again(
    immediate: FunctionServer, batching: FunctionServer, apis: GoogleApis, status: int
) -> None:
    for function in (immediate, batching):
        apis.answers.append(status)
        assert binary_event(function.url, FINALIZED, stored()) == 200
        [entry] = function.entries()
        assert entry["severity"] == "ERROR"
        assert str(status) in entry["message"] and "as the test wants it" in entry["message"]
        assert entry["object"].startswith(f"gs://{BUCKET}/{PREFIX}/")
    assert not apis.runs and not apis.tasks


def test_a_service_that_cannot_be_reached_has_the_event_delivered_again(
    environment: dict[str, str], tmp_path: Path, apis: GoogleApis
) -> None:
    nowhere = f"http://127.0.0.1:{free_ports(1)[0]}"
    for changed in ("RETAKE_VERTEX_ENDPOINT", "STORAGE_EMULATOR_HOST"):
        settings = {**environment, "RETAKE_WINDOW_MINUTES": "0", changed: nowhere}
        with FunctionServer(settings, tmp_path / "log") as function:
            assert binary_event(function.url, FINALIZED, stored()) == 503
            assert function.entries()[0]["severity"] == "WARNING"


def test_a_compiled_job_that_is_not_there_is_said_with_the_command_that_uploads_it(
    immediate: FunctionServer, apis: GoogleApis, buckets: storage.Client
) -> None:
    buckets.bucket(JOB_BUCKET).blob(JOB).delete()
    assert binary_event(immediate.url, FINALIZED, stored()) == 200
    [entry] = immediate.entries()
    assert entry["severity"] == "ERROR"
    assert f"gs://{JOB_BUCKET}/{JOB}" in entry["message"] and "pipelines.run --runner vertex" in entry["message"]


@pytest.mark.parametrize("content", ["{", "[]", '"text"', "{}", '{"pipelineSpec": 1}', "\xff"])
def test_something_else_in_place_of_the_compiled_job_is_an_error(
    immediate: FunctionServer, apis: GoogleApis, buckets: storage.Client, content: str
) -> None:
    buckets.bucket(JOB_BUCKET).blob(JOB).upload_from_string(content)
    assert binary_event(immediate.url, FINALIZED, stored()) == 200
    [entry] = immediate.entries()
    assert entry["severity"] == "ERROR" and "is not a compiled pipeline job" in entry["message"]
    assert not apis.runs


def test_a_burst_is_one_task_at_the_end_of_its_window_and_one_run(batching: FunctionServer, apis: GoogleApis) -> None:
    burst = [stored(f"{PREFIX}/{n}.tfrecord", LONG_AGO + timedelta(seconds=n)) for n in range(20)]
    random.Random(1).shuffle(burst)  # noqa: S311
    for event in burst + burst[:5]:
        assert binary_event(batching.url, FINALIZED, event) == 200
    [(name, task)] = apis.tasks.items()
    assert JOB_ID.fullmatch(name.removeprefix(f"{QUEUE}/tasks/"))
    assert task["scheduleTime"] == "2026-03-01T12:11:00+00:00"
    assert task["httpRequest"]["oidcToken"] == {
        "serviceAccountEmail": "trigger@my-project.iam.gserviceaccount.com",
        "audience": batching.url,
    }
    assert not apis.runs
    assert [batching.deliver(task) for _ in range(3)] == [200, 200, 200]
    assert list(apis.runs) == [name.rpartition("/")[2]]


def test_an_object_at_the_very_end_of_a_window_belongs_to_the_next(batching: FunctionServer, apis: GoogleApis) -> None:
    end = datetime(2026, 3, 1, 12, 10, tzinfo=timezone.utc)
    for created in (end - timedelta(milliseconds=1), end):
        assert binary_event(batching.url, FINALIZED, stored(created=created)) == 200
    assert [task["scheduleTime"][11:19] for task in apis.tasks.values()] == ["12:11:00", "12:21:00"]


def test_no_run_starts_before_the_window_is_over(batching: FunctionServer, apis: GoogleApis) -> None:
    assert binary_event(batching.url, FINALIZED, stored(created=datetime.now(timezone.utc))) == 200
    [task] = apis.tasks.values()
    assert batching.deliver(task) == 503
    assert not apis.runs


def test_one_run_goes_on_at_a_time_and_the_next_reads_all_that_waited(
    batching: FunctionServer, apis: GoogleApis
) -> None:
    # While the first run goes on, three more windows end.
    apis.clock = lambda: LONG_AGO + timedelta(minutes=15)
    for n in range(4):
        binary_event(batching.url, FINALIZED, stored(f"{PREFIX}/{n}.tfrecord", LONG_AGO + timedelta(minutes=10 * n)))
    first, *waiting = apis.tasks.values()
    assert batching.deliver(first) == 200
    [run] = apis.runs.values()
    assert [batching.deliver(task) for task in waiting] == [503, 503, 503]
    assert "Traceback" not in batching.log.read_text()
    run["state"] = "PIPELINE_STATE_SUCCEEDED"
    apis.clock = lambda: LONG_AGO + timedelta(hours=1)
    assert [batching.deliver(task) for task in waiting] == [200, 200, 200]
    assert len(apis.runs) == 2


@pytest.mark.parametrize("state", ["FAILED", "CANCELLED"])
def test_a_run_that_failed_counts_for_no_other_window(batching: FunctionServer, apis: GoogleApis, state: str) -> None:
    for n in range(2):
        binary_event(batching.url, FINALIZED, stored(created=LONG_AGO + timedelta(minutes=10 * n)))
    first, second = apis.tasks.values()
    assert batching.deliver(first) == 200
    next(iter(apis.runs.values()))["state"] = f"PIPELINE_STATE_{state}"
    assert batching.deliver(first) == 200
    assert len(apis.runs) == 1
    assert batching.deliver(second) == 200
    assert len(apis.runs) == 2


def test_runs_of_other_functions_and_people_count_for_nothing(batching: FunctionServer, apis: GoogleApis) -> None:
    apis.runs["by-hand"] = {
        "name": "by-hand",
        "labels": {"retake_trigger": "another"},
        "state": "PIPELINE_STATE_RUNNING",
        "createTime": "2026-10-01T00:00:00Z",
    }
    binary_event(batching.url, FINALIZED, stored())
    assert batching.deliver(next(iter(apis.tasks.values()))) == 200
    assert len(apis.runs) == 2


@pytest.mark.parametrize("status", [0, 429, 503])
def test_a_task_that_could_not_start_the_run_is_delivered_again(
    batching: FunctionServer, apis: GoogleApis, status: int
) -> None:
    binary_event(batching.url, FINALIZED, stored())
    [task] = apis.tasks.values()
    apis.answers.append(status)
    assert batching.deliver(task) == 503
    assert batching.deliver(task) == 200
    assert len(apis.runs) == 1


@pytest.mark.parametrize(
    "data",
    [
        None,
        "text",
        {},
        {"end": 5},
        {"end": "soon"},
        {"end": "2026-03-01T12:00:00"},
        {"end": "9999-12-31T23:59:30"},
        {"end": "9999-12-31T23:59:30Z"},
    ],
    ids=str,
)
def test_a_broken_task_is_logged_and_not_delivered_again(batching: FunctionServer, apis: GoogleApis, data: Any) -> None:
    assert binary_event(batching.url, "retake.window.over.v1", data) == 200
    assert [entry["severity"] for entry in batching.entries()] == ["ERROR"]
    assert not apis.runs


@pytest.mark.parametrize("seed", range(5))
def test_whatever_the_order_every_object_is_read_by_a_run(
    batching: FunctionServer, apis: GoogleApis, seed: int
) -> None:
    """Objects land in bursts; their events come late, twice and in any order; services fail; runs take their time."""
    chance = random.Random(seed)  # noqa: S311
    minute = timedelta(minutes=1)
    now = LONG_AGO
    apis.clock = lambda: now
    objects = [
        stored(f"{PREFIX}/{burst}-{n}.tfrecord", LONG_AGO + minute * (burst * chance.uniform(5, 40) + n / 3))
        for burst in range(4)
        for n in range(5)
    ]
    created = {each["name"]: datetime.fromisoformat(each["timeCreated"].replace("Z", "+00:00")) for each in objects}
    events = [
        (created[each["name"]] + minute * chance.choice([0, 0, 1, 12, 90]), FINALIZED, each)
        for each in objects
        for _ in range(chance.choice([1, 1, 2, 3]))
    ]
    done: set[str] = set()
    ends: dict[str, datetime] = {}
    read: set[str] = set()
    while events or set(apis.tasks) - done or len(ends) < len(apis.runs):
        now += minute
        for name, run in apis.runs.items():
            if name not in ends:
                ends[name] = now + minute * chance.randint(3, 50)
                read |= {each for each, landed in created.items() if landed <= made_at(run)}
            if now >= ends[name]:
                run["state"] = "PIPELINE_STATE_SUCCEEDED"
        assert sum(run["state"] == "PIPELINE_STATE_RUNNING" for run in apis.runs.values()) <= 1
        due = [event for event in events if event[0] <= now]
        chance.shuffle(due)
        for event in due:
            apis.answers += [503] * (chance.random() < 0.2)
            if binary_event(batching.url, *event[1:]) == 200:
                events.remove(event)
            apis.answers.clear()
        for name, task in list(apis.tasks.items()):
            if name not in done and datetime.fromisoformat(task["scheduleTime"]) <= now:
                apis.answers += [503] * (chance.random() < 0.2)
                if batching.deliver(task) == 200:
                    done |= {name} if chance.random() < 0.8 else set()
                apis.answers.clear()
    assert read == set(created)
    assert len(apis.runs) <= len(apis.tasks) < len(objects)


def test_a_queue_on_this_machine_delivers_a_task_until_the_function_takes_it(
    environment: dict[str, str], apis: GoogleApis, tmp_path: Path
) -> None:
    with CloudTasks() as queue:
        here = {"RETAKE_TASKS_ENDPOINT": queue.url}
        with FunctionServer({**environment, **here}, tmp_path / "log") as function:
            apis.answers += [503, 503]
            for _ in range(2):
                assert binary_event(function.url, FINALIZED, stored()) == 200
            until(lambda: apis.runs, 30)
    assert [name.rpartition("/")[2] for name in queue.tasks] == [*apis.runs]
    assert [entry["severity"] for entry in function.entries()] == ["INFO", "INFO", "WARNING", "WARNING", "INFO"]


def test_a_task_of_a_queue_on_this_machine_waits_for_its_time(
    environment: dict[str, str], apis: GoogleApis, tmp_path: Path
) -> None:
    with CloudTasks() as queue:
        here = {"RETAKE_TASKS_ENDPOINT": queue.url}
        with FunctionServer({**environment, **here}, tmp_path / "log") as function:
            event = stored(created=datetime.now(timezone.utc))
            assert binary_event(function.url, FINALIZED, event) == 200
            time.sleep(3)
            assert len(queue.tasks) == 1 and not apis.runs
            assert len(function.entries()) == 1


def test_a_vertex_on_this_machine_runs_one_job_for_all_windows_that_are_over(
    environment: dict[str, str], apis: GoogleApis, buckets: storage.Client, tmp_path: Path
) -> None:
    from google.cloud import aiplatform
    from vertex_emulator import REGION, Pipeline, ended, vertex_emulator

    pipeline = Pipeline(tmp_path).parameter("data").parameter("models")
    told = tmp_path / "told"
    pipeline.task("Trainer", f"pathlib.Path({str(told)!r}).write_text(parameters['data']); done()", {"data": "=data"})
    buckets.bucket(JOB_BUCKET).blob(JOB).upload_from_string(json.dumps({"displayName": "tiny", **pipeline.job}))
    with vertex_emulator(tmp_path / "emulator") as emulator:
        here = {"RETAKE_VERTEX_ENDPOINT": emulator.url, "RETAKE_REGION": REGION}
        with FunctionServer({**environment, **here}, tmp_path / "log") as function:
            for minutes in (0, 0, 10, 20):
                event = stored(created=LONG_AGO + timedelta(minutes=minutes))
                assert binary_event(function.url, FINALIZED, event) == 200
            assert len(apis.tasks) == 3
            for task in apis.tasks.values():
                assert function.deliver(task) == 200
        [job] = aiplatform.PipelineJob.list()
        assert ended(job) == "SUCCEEDED"
    assert told.read_text() == f"gs://{BUCKET}/{PREFIX}"


@pytest.mark.parametrize(
    "variable, value",
    [
        ("RETAKE_BUCKET", ""),
        ("RETAKE_BUCKET", "gs://records"),
        ("RETAKE_PREFIX", "a*"),
        ("RETAKE_JOB", "job.json"),
        ("RETAKE_MODELS", "a b"),
        ("RETAKE_PROJECT", "My Project"),
        ("RETAKE_REGION", "us"),
        ("RETAKE_SERVICE_ACCOUNT", "runner"),
        ("RETAKE_WINDOW_MINUTES", "ten"),
        ("RETAKE_QUEUE", "retake"),
        ("RETAKE_URL", "here"),
        ("RETAKE_INVOKER", ""),
        ("RETAKE_VERTEX_ENDPOINT", "http://vertex.example.org"),
        ("RETAKE_TASKS_ENDPOINT", "ftp://x"),
    ],
)
def test_a_wrong_setting_is_named_and_the_function_does_not_start(
    environment: dict[str, str], variable: str, value: str
) -> None:
    settings = {"RETAKE_URL": "http://here", **environment, variable: value}
    started = subprocess.run(
        [FRAMEWORK, "--target", "on_event", "--host", "127.0.0.1", "--port", str(free_ports(1)[0])],
        cwd=FUNCTION,
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert started.returncode != 0
    [line] = started.stdout.splitlines()
    entry = json.loads(line)
    assert entry["severity"] == "CRITICAL"
    assert f"{variable} must be" in entry["message"] and entry["message"].count(" must be ") == 1
    assert "Traceback" not in started.stderr


def test_the_function_imports_no_heavy_client() -> None:
    code = "import sys; sys.argv = ['x']; import main; print(*{name.partition('.')[0] for name in sys.modules})"
    settings = {
        "RETAKE_BUCKET": BUCKET,
        "RETAKE_JOB": "gs://b/j",
        "RETAKE_MODELS": "gs://b/m",
        "RETAKE_PROJECT": "my-project",
        "RETAKE_REGION": "us-central1",
        "RETAKE_WINDOW_MINUTES": "0",
    }
    loaded = subprocess.run(
        [FRAMEWORK.with_name("python"), "-c", code], cwd=FUNCTION, env=settings, capture_output=True, text=True
    )
    assert loaded.returncode == 0, loaded.stderr
    assert {"grpc", "pandas", "numpy", "tensorflow"}.isdisjoint(loaded.stdout.split())
    assert "google.cloud.aiplatform" not in loaded.stdout


def test_every_library_of_the_function_is_pinned_by_hash() -> None:
    lines = (FUNCTION / "requirements.txt").read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert pins
    assert all(re.match(r"\S+==\S+ .*--hash=sha256:", pin) for pin in pins)


def test_event_ids_are_told_in_the_log(immediate: FunctionServer, apis: GoogleApis) -> None:
    event = str(uuid.uuid4())
    headers = {"ce-id": event, "ce-type": "x", "ce-source": "s", "ce-specversion": "1.0"}
    assert post(immediate.url, headers, b"{}") == 200
    assert immediate.entries()[0]["event"] == event
