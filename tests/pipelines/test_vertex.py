"""The Vertex runner: what it compiles, how a task runs, and how it talks to Google Cloud with the real clients."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from colours import CLASSES, coloured, config, write_records
from runner_contract import BROKEN, FIELDS, NODES, Outcome, Place, RunnerContract, Start, make_place, versions
from vertex_emulator import Pipeline, VertexEmulator, aiplatform, ended, states, tasks, until, vertex_emulator

from pipelines import google_cloud, vertex_job
from pipelines import run as command
from pipelines.runners import vertex
from pipelines.settings import Settings
from retake import history
from retake.errors import RetakeError, UsageError
from retake.gate import compare

PROJECT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("vertex_job.json")
SERVICE = {
    "project": "my-project",
    "region": "europe-west4",
    "bucket": "my-bucket",
    "image": "registry.example/retake:1",
}
DATA = "gs://my-bucket/data"
VERSION = re.compile(r'(?<="tfx_py_version": ")[^"]+|(?<="tfx_version": ")[^"]+|(?<="sdkVersion": ")[^"]+')
JOB = "projects/123/locations/europe-west4/pipelineJobs"


def settings(**sections: Any) -> Settings:
    return vertex_job.placed(config(**{**sections, "vertex": {**SERVICE, **sections.get("vertex", {})}}))


@pytest.fixture(scope="module")
def compiled() -> vertex_job.Compiled:
    return vertex_job.compile(settings())


def specification(job: vertex_job.Compiled) -> Any:
    return job.job["pipelineSpec"]


def container(job: vertex_job.Compiled, node: str) -> Any:
    return specification(job)["deploymentSpec"]["executors"][f"{node}_executor"]["container"]


def options(*given: str, **service: str) -> list[str]:
    named = {**SERVICE, **service}
    return ["--runner", "vertex", *(f"--{key}={value}" for key, value in named.items() if value), *given]


class TestCompiled:
    def test_a_dry_run_prints_the_same_bytes_each_time_and_needs_no_network(self) -> None:
        environment = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9"}
        printed = [
            subprocess.run(
                [sys.executable, "-m", "pipelines.run", *options("--dry-run")],
                cwd=PROJECT,
                env={**environment, "PYTHONHASHSEED": seed},
                capture_output=True,
                timeout=300,
            )
            for seed in ("1", "2")
        ]
        assert [each.returncode for each in printed] == [0, 0], printed[0].stderr.decode()
        assert printed[0].stdout == printed[1].stdout
        assert json.loads(printed[0].stdout)["displayName"] == "sample"

    def test_the_job_changes_only_when_somebody_means_it_to(self, compiled: vertex_job.Compiled) -> None:
        """Without fingerprints of the code, which change with each edit of a node, and versions of Python and TFX."""
        job = VERSION.sub("VERSION", re.sub(r"\b[0-9a-f]{64}\b", "CODE", compiled.text))
        if "RENEW" in os.environ:
            GOLDEN.write_text(job)
        renew = f"where that is meant, renew it: RENEW=1 python -m pytest {Path(__file__).relative_to(PROJECT)}"
        assert job == GOLDEN.read_text(), f"the compiled job is not what {GOLDEN.name} says; {renew}"

    def test_data_and_models_are_parameters_of_the_job_with_the_configured_values(
        self, compiled: vertex_job.Compiled
    ) -> None:
        parameters = specification(compiled)["root"]["inputDefinitions"]["parameters"]
        assert parameters == {"data": {"parameterType": "STRING"}, "models": {"parameterType": "STRING"}}
        assert compiled.job["runtimeConfig"]["parameterValues"] == {
            "data": "gs://my-bucket/data",
            "models": "gs://my-bucket/models/colours",
        }
        tasks = specification(compiled)["root"]["dag"]["tasks"]
        assert tasks["ExampleGen"]["inputs"]["parameters"]["input_base"] == {"componentInputParameter": "data"}
        assert tasks["Pusher"]["inputs"]["parameters"]["push_destination"] == {"componentInputParameter": "models"}

    def test_the_code_is_that_of_the_image(self, compiled: vertex_job.Compiled) -> None:
        assert not re.search(r"module_file|\.whl|_wheels", compiled.text)
        containers = [container(compiled, node) for node in NODES if node != "Resolver"]
        assert {each["image"] for each in containers} == {SERVICE["image"]}
        assert {tuple(each["command"]) for each in containers} == {
            ("python", "-m", "pipelines.run_vertex_task", "executor")
        }

    def test_the_nodes_are_those_of_the_definition_in_its_order(self, compiled: vertex_job.Compiled) -> None:
        assert compiled.nodes == NODES

    def test_the_baseline_is_looked_up_when_the_candidate_is_there_and_is_another_model(
        self, compiled: vertex_job.Compiled
    ) -> None:
        resolver = "Resolver-model-blessing-resolver"
        assert specification(compiled)["root"]["dag"]["tasks"][resolver]["dependentTasks"] == ["Trainer"]
        executor = specification(compiled)["deploymentSpec"]["executors"][f"{resolver}_executor"]
        query = executor["resolver"]["outputArtifactQueries"]["model_blessing"]["filter"]
        assert query.endswith("metadata.current_model.string_value!=\"{{$.inputs.artifacts['candidate'].uri}}\"")

    def test_a_warm_start_is_looked_up_among_models_of_other_examples(self) -> None:
        warm = vertex_job.compile(settings(model={"backbone": "MobileNetV2"}, trainer={"start": "warm"}))
        assert [node for node in warm.nodes if node not in NODES] == ["StartResolver"]
        tasks = specification(warm)["root"]["dag"]["tasks"]
        resolver = "StartResolver-model-blessing-resolver"
        assert tasks[resolver]["dependentTasks"] == ["ExampleGen"]
        executor = specification(warm)["deploymentSpec"]["executors"][f"{resolver}_executor"]
        query = executor["resolver"]["outputArtifactQueries"]["model_blessing"]["filter"]
        assert query.endswith("metadata.examples.string_value!=\"{{$.inputs.artifacts['examples'].uri}}\"")
        base = tasks["Trainer"]["inputs"]["artifacts"]["base_model"]["taskOutputArtifact"]
        assert base["producerTask"] == "StartResolver-model-resolver"

    def test_a_model_is_pushed_only_after_the_statistics_were_validated(self, compiled: vertex_job.Compiled) -> None:
        pusher = specification(compiled)["root"]["dag"]["tasks"]["Pusher"]
        assert "ExampleValidator" in pusher["dependentTasks"]

    def test_settings_reach_the_job(self, tmp_path: Path) -> None:
        gpu = {"cpus": 8, "memory_gb": 30, "accelerator": "NVIDIA_TESLA_T4", "accelerators": 2, "image": "retake:gpu"}
        machines = {"Trainer": gpu, "*": {"cpus": 2, "memory_gb": 4}}
        dataflow = ["--runner=DataflowRunner", "--region={region}", "--temp_location={root}/beam"]
        weights = tmp_path / "small.keras"
        weights.write_bytes(b"weights")
        made = vertex_job.compile(
            settings(
                pipeline={"caching": False},
                model={"backbone": "MobileNetV2", "weights": str(weights)},
                beam={"arguments": dataflow},
                vertex={"labels": {"team": "birds"}, "machines": machines, "retries": 3, "service_account": "a@b.c"},
            )
        )
        assert container(made, "Trainer")["resources"] == {
            "cpuLimit": 8,
            "memoryLimit": 30,
            "accelerator": {"type": "NVIDIA_TESLA_T4", "count": "2"},
        }
        assert container(made, "ExampleGen")["resources"] == {"cpuLimit": 2, "memoryLimit": 4}
        images = [container(made, node)["image"] for node in ("ExampleGen", "Trainer")]
        assert images == [settings().vertex.image, "retake:gpu"]
        assert made.job["labels"]["team"] == "birds"
        assert made.job["serviceAccount"] == "a@b.c"
        tasks = specification(made)["root"]["dag"]["tasks"]
        assert not any("cachingOptions" in task for task in tasks.values())
        assert tasks["Trainer"]["retryPolicy"] == {"maxRetryCount": 3}
        assert container(made, "Evaluator")["args"][-3:] == [
            "--runner=DataflowRunner",
            "--region=europe-west4",
            "--temp_location=gs://my-bucket/runs/colours/beam",
        ]
        digest = hashlib.sha256(b"weights").hexdigest()[:16]
        assert f"/gcs/my-bucket/runs/colours/weights/{digest}-small.keras" in made.text

    def test_a_machine_for_no_node_is_refused(self) -> None:
        with pytest.raises(UsageError, match=r"there is no node Coach; there are \* and ExampleGen, .*Trainer"):
            vertex_job.compile(settings(vertex={"machines": {"Coach": {"cpus": 1, "memory_gb": 1}}}))

    def test_weights_that_are_chosen_by_what_can_be_reached_do_not_depend_on_this_machine(self) -> None:
        there = settings(model={"backbone": "EfficientNetB0", "weights": "auto"})
        assert vertex_job.weights_of(there) == ("imagenet", "")

    def test_googles_own_client_takes_the_file_with_other_parameters(
        self, compiled: vertex_job.Compiled, tmp_path: Path
    ) -> None:
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import aiplatform

        (tmp_path / "pipeline.json").write_text(compiled.text)
        job = aiplatform.PipelineJob(
            display_name="colours",
            template_path=str(tmp_path / "pipeline.json"),
            parameter_values={"data": "gs://other/records"},
            project="my-project",
            location="europe-west4",
            credentials=AnonymousCredentials(),
        )
        assert dict(job._gca_resource.runtime_config.parameter_values) == {
            "data": "gs://other/records",
            "models": "gs://my-bucket/models/colours",
        }


class Task:
    """A task's processes, as Vertex would start them, with folders here for places in a bucket."""

    def __init__(self, folder: Path, compiled: vertex_job.Compiled, data: Path):
        self._folder, self._container = folder, container(compiled, "ExampleGen")
        constants = specification(compiled)["root"]["dag"]["tasks"]["ExampleGen"]["inputs"]["parameters"]
        values = {k: v["runtimeValue"]["constant"] for k, v in constants.items() if "runtimeValue" in v}
        examples = {
            "name": f"{JOB}/artifacts/1",
            "uri": str(folder / "examples"),
            "type": {"schemaTitle": "tfx.Examples"},
        }
        self._input = {
            "inputs": {"parameterValues": {**values, "input_base": str(data)}},
            "outputs": {
                "artifacts": {"examples": {"artifacts": [examples]}},
                "outputFile": str(folder / "executor_output.json"),
            },
        }

    def hook(self) -> Any:
        return self._ran(self._container["lifecycle"]["preCacheCheck"])

    def executor(self) -> Any:
        return self._ran(self._container)

    def _ran(self, what: Any) -> Any:
        arguments = [argument.replace("{{$}}", json.dumps(self._input)) for argument in what["args"]]
        ended = subprocess.run(
            [sys.executable, *what["command"][1:], *arguments], cwd=PROJECT, capture_output=True, text=True, timeout=300
        )
        if ended.returncode:
            return ended
        return json.loads((self._folder / "executor_output.json").read_text())


@pytest.mark.usefixtures("node_server")
class TestTask:
    @pytest.fixture()
    def data(self, tmp_path: Path) -> Path:
        write_records(tmp_path / "data" / "first.tfrecord", coloured(12))
        return tmp_path / "data"

    def test_the_hook_sees_records_at_any_depth_and_the_executor_reads_them(
        self, compiled: vertex_job.Compiled, data: Path, tmp_path: Path
    ) -> None:
        before = Task(tmp_path / "before", compiled, data).hook()
        write_records(data / "a" / "deep" / "place" / "second.tfrecord.gz", coloured(2, seed=1))
        task = Task(tmp_path / "after", compiled, data)
        after = task.hook()
        fingerprints = [each["parameterValues"]["input_fingerprint"] for each in (before, after)]
        assert fingerprints[0] != fingerprints[1]
        assert after["parameterValues"]["span"] == 0

        [examples] = task.executor()["artifacts"]["examples"]["artifacts"]
        counts = json.loads(examples["metadata"]["counts"])
        assert {name: sum(split[name] for split in counts["examples"].values()) for name in CLASSES} == dict.fromkeys(
            CLASSES, 14
        )
        assert {path.name for path in (tmp_path / "after" / "examples").glob("Split-*")} == {
            "Split-train",
            "Split-eval",
        }

    def test_a_task_that_fails_says_why_beside_its_output(
        self, compiled: vertex_job.Compiled, data: Path, tmp_path: Path
    ) -> None:
        whole = (data / "first.tfrecord").read_bytes()
        (data / BROKEN).write_bytes(whole[: len(whole) // 2])
        ended = Task(tmp_path / "task", compiled, data).executor()
        assert ended.returncode == 1
        said = (tmp_path / "task" / "failure.txt").read_text()
        assert BROKEN in said
        assert ended.stderr.splitlines()[-1] == said

    def test_a_hook_that_fails_does_so_too(self, compiled: vertex_job.Compiled, tmp_path: Path) -> None:
        ended = Task(tmp_path / "task", compiled, tmp_path / "nowhere").hook()
        assert ended.returncode == 1
        assert "nowhere is not a folder" in (tmp_path / "task" / "failure.txt").read_text()
        assert "Traceback" not in ended.stderr

    def test_an_attempt_does_not_keep_the_reason_of_an_earlier_one(
        self, compiled: vertex_job.Compiled, data: Path, tmp_path: Path
    ) -> None:
        assert Task(tmp_path / "task", compiled, tmp_path / "nowhere").hook().returncode == 1
        assert Task(tmp_path / "task", compiled, data).hook()["parameterValues"]["span"] == 0
        assert not (tmp_path / "task" / "failure.txt").exists()


class TestUsage:
    @pytest.mark.parametrize("name", ["project", "region", "image"])
    def test_a_missing_setting_is_named_with_its_option(self, name: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(options("--dry-run", **{name: ""})) == 2
        assert f"vertex.{name} is missing; give it with --{name}" in capsys.readouterr().err

    def test_a_missing_bucket_is_named_where_a_place_lies_in_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(options("--dry-run", bucket="")) == 2
        assert "vertex.bucket is missing; give it with --bucket" in capsys.readouterr().err

    def test_a_folder_of_this_machine_is_refused(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert command.main(options("--dry-run", "--data", str(tmp_path))) == 2
        assert f"data.location {tmp_path} is a folder that Vertex does not see" in capsys.readouterr().err

    def test_a_local_vertex_does_not_look_into_buckets_of_google(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        assert command.main(options("--endpoint", "http://127.0.0.1:8480", "--data", DATA)) == 2
        assert f"data.location {DATA}: a local Vertex uses no Google Cloud; give a folder" in capsys.readouterr().err

    def test_credentials_are_not_sent_unencrypted(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert command.main(options("--endpoint", "http://vertex.example")) == 2
        assert "must begin with https://" in capsys.readouterr().err

    def test_without_credentials_it_says_how_to_log_in(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        assert command.main(options()) == 1
        told = capsys.readouterr().err
        assert told == (
            "pipelines.run: there are no Google Cloud credentials; log in with: gcloud auth application-default login\n"
        )


Answer = Callable[[str, str, bytes], tuple[int, Any]]
"""(method, path, body) → status and JSON."""


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """A server on this machine that answers as it is told to."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            status, content = answer(self.command, self.path, body)
            encoded = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(encoded)

        do_POST = do_PUT = do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def refusal(code: int, status: str, message: str) -> tuple[int, Any]:
    return code, {"error": {"code": code, "status": status, "message": message}}


class TestErrors:
    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (
                refusal(403, "PERMISSION_DENIED", "Permission 'aiplatform.pipelineJobs.create' denied"),
                "is not permitted: Permission 'aiplatform.pipelineJobs.create' denied",
            ),
            (refusal(400, "INVALID_ARGUMENT", "unknown parameter"), "was refused: unknown parameter"),
            (refusal(503, "UNAVAILABLE", "later"), "cannot be reached (later)"),
        ],
    )
    def test_a_refused_job_is_one_message(
        self, compiled: vertex_job.Compiled, tmp_path: Path, answer: tuple[int, Any], told: str
    ) -> None:
        with server(lambda *_: answer) as endpoint:
            google = google_cloud.Google(here(tmp_path, endpoint))
            with pytest.raises(RetakeError) as raised:
                google.submit(compiled.job)
        assert str(raised.value).startswith(f"starting of a job at {endpoint}")
        assert told in str(raised.value) and "\n" not in str(raised.value)

    def test_a_service_that_nobody_answers_for_cannot_be_reached(
        self, compiled: vertex_job.Compiled, tmp_path: Path
    ) -> None:
        google = google_cloud.Google(here(tmp_path, "http://127.0.0.1:9"))
        with pytest.raises(RetakeError) as raised:
            google.submit(compiled.job)
        assert str(raised.value) == (
            "starting of a job at http://127.0.0.1:9: the service cannot be reached ([Errno 111] Connection refused); "
            "start a local Vertex with: python -m kubeflow.emulator --root vertex --port 9"
        )

    @pytest.mark.parametrize(
        ("answer", "told"),
        [
            (
                refusal(404, "notFound", "no such bucket"),
                "gcloud storage buckets create gs://my-bucket --location=europe-west4",
            ),
            (
                refusal(403, "forbidden", "a@b.c lacks storage.buckets.get"),
                "not permitted: a@b.c lacks storage.buckets.get",
            ),
            (
                (200, {"location": "US-EAST1", "locationType": "region"}),
                "is in us-east1, and the job would run in europe-west4",
            ),
            (
                (200, {"location": "US", "locationType": "multi-region"}),
                "is in us, and the job would run in europe-west4",
            ),
        ],
    )
    def test_a_bucket_that_will_not_do_is_one_message(
        self, cloud: None, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, Any], told: str
    ) -> None:
        with server(lambda *_: answer) as storage:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage)
            with pytest.raises(RetakeError, match=re.escape(told)):
                google_cloud.Google(settings()).check(DATA)

    @pytest.mark.parametrize(
        ("location", "kind"), [("EUROPE-WEST4", "region"), ("EU", "multi-region"), ("EUR4", "dual-region")]
    )
    def test_a_bucket_in_reach_of_the_region_will_do(
        self, cloud: None, monkeypatch: pytest.MonkeyPatch, location: str, kind: str
    ) -> None:
        answer = {"location": location, "locationType": kind, "items": [{"name": "data/first.tfrecord"}]}
        with server(lambda *_: (200, answer)) as storage:
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage)
            google_cloud.Google(settings()).check(DATA)

    @pytest.mark.parametrize(
        ("status", "told"), [(404, "retake:1 is not there; push it"), (403, "retake:1 is not permitted"), (200, None)]
    )
    def test_an_image_that_the_registry_does_not_have_is_named(self, tmp_path: Path, status: int, told: str) -> None:
        with server(lambda *_: (status, {})) as registry:
            google = google_cloud.Google(here(tmp_path, "http://127.0.0.1:9"))
            check = lambda: google._check_image("retake:1", f"{registry}/v2/p/r/retake/manifests/1")  # noqa: E731
            if told is None:
                check()
            else:
                with pytest.raises(RetakeError, match=told):
                    check()

    def test_googles_credentials_go_to_googles_registries_only(self) -> None:
        assert google_cloud._manifest("registry.example/retake:1") is None
        assert google_cloud._manifest("gcr.io.example/retake:1") is None
        image = "europe-west4-docker.pkg.dev/p/r/retake"
        manifests = f"https://{image.partition('/')[0]}/v2/p/r/retake/manifests"
        assert google_cloud._manifest(f"{image}:1") == f"{manifests}/1"
        assert google_cloud._manifest(image) == f"{manifests}/latest"
        assert google_cloud._manifest(f"{image}@sha256:ab") == f"{manifests}/sha256:ab"


@pytest.fixture()
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of nobody."""
    file = tmp_path / "credentials.json"
    parts = dict.fromkeys(("client_id", "client_secret", "refresh_token"), "none")
    file.write_text(json.dumps({"type": "authorized_user", **parts}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VertexEmulator]:
    with vertex_emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


def here(folder: Path, endpoint: str) -> Settings:
    """A configuration for a Vertex on this machine."""
    return settings(
        pipeline={"root": str(folder / "root")},
        data={"location": str(folder / "data")},
        pusher={"destination": str(folder / "models")},
        vertex={"endpoint": endpoint},
    )


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    from gcp_storage_emulator.server import create_server
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    emulator = create_server("127.0.0.1", 0, in_memory=True, default_bucket="my-bucket")
    emulator.start()
    host = f"http://127.0.0.1:{emulator._api._httpd.server_port}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", host)
        yield storage.Client("my-project", credentials=AnonymousCredentials()).bucket("my-bucket")
    emulator.stop()


@pytest.fixture()
def in_bucket(bucket: Any) -> google_cloud.Google:
    """A Vertex and a Cloud Storage on this machine."""
    places = {"root": "gs://my-bucket/runs/colours"}
    return google_cloud.Google(settings(pipeline=places, vertex={"endpoint": "http://127.0.0.1:9"}))


class TestBucket:
    def test_the_job_and_a_weights_file_are_put_below_the_root(
        self, compiled: vertex_job.Compiled, bucket: Any, in_bucket: google_cloud.Google, tmp_path: Path
    ) -> None:
        weights = tmp_path / "some.keras"
        weights.write_bytes(b"weights")
        there = settings(model={"backbone": "MobileNetV2", "weights": str(weights)})
        bucket.blob("data/first.tfrecord").upload_from_string("records")
        in_bucket.check(DATA)
        in_bucket.upload(compiled, there)
        assert bucket.blob("runs/colours/pipeline.json").download_as_text() == compiled.text
        [uploaded] = bucket.client.list_blobs("my-bucket", prefix="runs/colours/weights/")
        assert uploaded.download_as_bytes() == b"weights"
        assert vertex_job.weights_of(there).weights == f"/gcs/my-bucket/{uploaded.name}"

    def test_a_data_location_with_nothing_in_it_is_told_before_a_machine_is_paid_for(
        self, in_bucket: google_cloud.Google
    ) -> None:
        with pytest.raises(RetakeError, match="gs://my-bucket/nothing holds nothing; copy records there with: gcloud"):
            in_bucket.check("gs://my-bucket/nothing")

    def test_a_failed_task_is_told_in_its_own_words(self, bucket: Any, in_bucket: google_cloud.Google) -> None:
        bucket.blob("runs/colours/123/one/ExampleGen_77/failure.txt").upload_from_string("broken.tfrecord is cut off")
        told = in_bucket.failure(job("FAILED", ExampleGen="FAILED", job_id="one"))
        assert told == "broken.tfrecord is cut off (exited with status 1)"


ROOT_FAILED = "The DAG failed because some tasks failed. The failed tasks are: [Trainer]."
LOGS = "https://console.cloud.google.com/logs/viewer?project=123&resource=ml_job%2Fjob_id%2F7"


def failed(message: str, custom_job: str = "", **others: str) -> dict[str, Any]:
    """A job as the service tells it: its own detail first, FAILED as that of the task below it."""
    tasks = {"Trainer": message, **others}
    details = [
        {
            "taskId": f"-{number + 1}",
            "parentTaskId": "100",
            "taskName": name,
            "state": "FAILED",
            "executorDetail": {"containerDetail": {"mainJob": custom_job}},
            "error": {"code": 9, "message": error},
        }
        for number, (name, error) in enumerate(tasks.items())
    ]
    root = {
        "taskId": "100",
        "taskName": "colours-1",
        "state": "FAILED",
        "execution": {"schemaTitle": "system.Run"},
        "error": {"code": 9, "message": ROOT_FAILED},
    }
    return {
        "name": f"{JOB}/colours-1",
        "state": "PIPELINE_STATE_FAILED",
        "jobDetail": {"taskDetails": [root, *details]},
        "error": {"code": 9, "message": f"{ROOT_FAILED}; Job (project_id = my-project) is failed."},
    }


class TestFailure:
    """Why a job failed."""

    def told(self, in_bucket: google_cloud.Google, answer: dict[str, Any]) -> str | None:
        from google.cloud.aiplatform_v1 import PipelineJob

        return in_bucket.failure(PipelineJob.from_json(json.dumps(answer)))

    @pytest.mark.parametrize(
        ("message", "told"),
        [
            (
                f"The replica workerpool0-0 exited with a non-zero status of 137. Please check the logs: {LOGS}.",
                f"killed (signal 9), probably out of memory (log: {LOGS})",
            ),
            (
                "The replica workerpool0-0 exited with a non-zero status of 139.",
                "killed (signal 11, SIGSEGV)",
            ),
            ("The replica workerpool0-0 exited with a non-zero status of 1.", "exited with status 1"),
            ("The replica workerpool0-0 exited with a non-zero status of 255.", "exited with status 255"),
            ("Machine type n1-huge is not there.", "Machine type n1-huge is not there."),
            ("", ROOT_FAILED),
        ],
    )
    def test_the_detail_of_the_whole_job_does_not_hide_the_tasks(
        self, in_bucket: google_cloud.Google, message: str, told: str
    ) -> None:
        assert self.told(in_bucket, failed(message)) == told

    def test_tasks_that_failed_side_by_side_are_named(self, in_bucket: google_cloud.Google) -> None:
        said = self.told(in_bucket, failed("no disk", Evaluator="no GPU"))
        assert said == "Trainer: no disk; Evaluator: no GPU"

    def test_the_service_is_asked_for_the_log_with_a_command(self, cloud: None, bucket: Any) -> None:
        google = google_cloud.Google(settings(pipeline={"root": "gs://my-bucket/runs/colours"}))
        message = "The replica workerpool0-0 exited with a non-zero status of 137."
        told = self.told(google, failed(message, "projects/123/locations/europe-west4/customJobs/77"))
        command = "gcloud logging read 'resource.labels.job_id=\"77\"' --project=my-project"
        assert told == f"killed (signal 9), probably out of memory (log: {command})"

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("os.kill(os.getpid(), 9)", "killed (signal 9), probably out of memory"),
            (
                "print('no tacos', flush=True); os.kill(os.getpid(), 6)",
                "killed (signal 6, SIGABRT); its last words: no tacos",
            ),
            ("sys.exit(3)", "exited with status 3"),
        ],
    )
    def test_a_local_vertex_is_told_how_the_task_ended_and_where_its_log_is(
        self, emulator: VertexEmulator, tmp_path: Path, code: str, told: str
    ) -> None:
        made = Pipeline(tmp_path).task("Trainer", code).task("Pusher", after=("Trainer",)).submit()
        assert ended(made) == "FAILED"
        log = emulator.root / "logs" / f"{tasks(made)['Trainer'].task_id}.log"
        assert google_cloud.Google(here(tmp_path, emulator.url)).failure(made.gca_resource) == f"{told} (log: {log})"
        assert log.exists()


def job(state: str, job_id: str = "colours-1", **tasks: Any) -> Any:
    """A PipelineJob with tasks, each a state or a state and the metadata of its outputs."""
    from google.cloud.aiplatform_v1 import PipelineJob

    return PipelineJob.from_json(json.dumps(as_json(state, job_id, **tasks)))


def as_json(state: str, job_id: str = "colours-1", **tasks: Any) -> dict[str, Any]:
    begun = datetime(2026, 1, 2, tzinfo=timezone.utc)
    details = []
    for number, (name, given) in enumerate(tasks.items()):
        became, outputs = given if isinstance(given, tuple) else (given, {})
        detail = {
            "taskId": str(number + 1),
            "taskName": name.replace("_", "-"),
            "state": became,
            "outputs": {key: {"artifacts": [{"metadata": metadata}]} for key, metadata in outputs.items()},
        }
        if became not in ("PENDING", "NOT_TRIGGERED"):
            detail["startTime"] = begun.isoformat()
        if became in ("SUCCEEDED", "FAILED", "SKIPPED"):
            detail["endTime"] = (begun + timedelta(seconds=2)).isoformat()
        if became == "FAILED":
            detail["error"] = {"code": 9, "message": "The replica exited with a non-zero status of 1."}
        details.append(detail)
    return {
        "name": f"{JOB}/{job_id}",
        "state": f"PIPELINE_STATE_{state}",
        "jobDetail": {"taskDetails": details},
    }


METRICS = {"accuracy": 0.9, "precision": {"red": None}, "recall": {"red": 1.0}, "confusion": {"red": {"red": 3}}}
COMPARISON = {"old": compare(2, 1, 90, 100, 0.95, 0).model_dump(mode="json")}
BEFORE = {
    "ExampleGen": (
        "SUCCEEDED",
        {"examples": {"counts": json.dumps({"examples": {"train": {"red": 3}}, "dropped": {"x": 1}})}},
    ),
    **dict.fromkeys(("StatisticsGen", "SchemaGen", "ExampleValidator", "Transform", "Trainer"), "SUCCEEDED"),
    "Resolver_model_blessing_resolver": ("SUCCEEDED", {"model_blessing": {"blessed": 1, "reason": "long ago"}}),
    "Resolver_model_resolver": ("SUCCEEDED", {"model": {}}),
}
EVALUATED = {
    "evaluation": {
        "metrics": json.dumps(METRICS),
        "baseline_metrics": "null",
        "comparison": json.dumps(COMPARISON),
        "test_metrics": json.dumps(METRICS),
    },
    "blessing": {"blessed": 1.0, "reason": "good"},
}
PUSHED = {"pushed_model": {"pushed_destination": "gs://my-bucket/models/colours/7"}}


class TestSummary:
    def test_it_is_read_from_the_tasks_of_the_job(self) -> None:
        ended = job("SUCCEEDED", **BEFORE, Evaluator=("SUCCEEDED", EVALUATED), Pusher=("SUCCEEDED", PUSHED))
        summary = vertex.summarize(ended, NODES)
        assert list(summary.model_dump()) == FIELDS
        assert (summary.run_id, summary.runner, summary.state) == ("colours-1", "vertex", "complete")
        assert [(node.id, node.state, node.cached) for node in summary.nodes] == [(n, "complete", False) for n in NODES]
        assert {node.id: node.seconds for node in summary.nodes} == {**dict.fromkeys(NODES, 2.0), "Resolver": 4.0}
        assert (summary.examples, summary.dropped) == ({"train": {"red": 3}}, {"x": 1})
        assert (summary.metrics, summary.baseline_metrics, summary.test_metrics) == (METRICS, None, METRICS)
        assert summary.model_dump(mode="json")["comparison"] == COMPARISON
        assert (summary.blessed, summary.reason) == (True, "good")
        assert summary.pushed_model == "gs://my-bucket/models/colours/7"

    def test_a_run_with_nothing_new_is_all_cached(self) -> None:
        skipped = {
            name: "SUCCEEDED" if name.startswith("Resolver") else "SKIPPED" for name in (*BEFORE, "Evaluator", "Pusher")
        }
        assert {node.state for node in vertex.summarize(job("SUCCEEDED", **skipped), NODES).nodes} == {"cached"}

    def test_a_failed_run_says_what_failed_what_ran_and_what_did_not(self) -> None:
        cut = {"ExampleGen": "SUCCEEDED", "StatisticsGen": "FAILED", "Transform": "CANCELLED", "Trainer": "PENDING"}
        summary = vertex.summarize(job("FAILED", **cut), NODES, "no disk")
        states = {node.id: node.state for node in summary.nodes}
        assert states == {
            **dict.fromkeys(NODES, "not run"),
            "ExampleGen": "complete",
            "StatisticsGen": "failed",
            "Transform": "cancelled",
        }
        assert (summary.state, summary.reason, summary.blessed) == ("failed", "no disk", None)


def bare(home: Path) -> dict[str, str]:
    """The environment of a user who has never met Google Cloud."""
    home.mkdir(exist_ok=True)
    return {"PATH": os.environ["PATH"], "HOME": str(home)}


class Service:
    """A PipelineService with one job, which has come further each time that somebody asks."""

    def __init__(
        self,
        made: dict[str, Any],
        *asked: dict[str, Any] | tuple[int, Any],
        name: str = "colours",
        parent: dict[str, str] = SERVICE,
    ):
        self.submitted: dict[str, Any] = {}
        self._made, self._asked = made, list(asked)
        self._jobs = f"/v1/projects/{parent['project']}/locations/{parent['region']}/pipelineJobs?pipelineJobId={name}-"

    def __call__(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "POST":
            assert path.startswith(self._jobs)
            self.submitted = json.loads(body)
            return 200, self._made
        answer = self._asked.pop(0)
        return answer if isinstance(answer, tuple) else (200, answer)


class TestSubmitted:
    @pytest.fixture()
    def place(self, tmp_path: Path) -> Place:
        return make_place(tmp_path)

    def run(self, place: Place, endpoint: str, *more: str) -> int:
        return command.main(options("--config", str(place.config), "--endpoint", endpoint, *more, bucket=""))

    def test_what_is_submitted_is_what_the_dry_run_prints_and_what_is_kept(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from google.cloud.aiplatform_v1 import PipelineJob

        service = Service(as_json("PENDING"))
        with server(service) as endpoint:
            assert self.run(place, endpoint) == 0
            told = capsys.readouterr().out
            assert self.run(place, endpoint, "--dry-run") == 0
            printed, summary = capsys.readouterr()
        assert f"{JOB}/colours-1" in told and endpoint in told
        assert (place.root / "pipeline.json").read_text() == printed
        assert str(place.data) in summary and "nothing was submitted" in summary
        assert PipelineJob.from_json(json.dumps(service.submitted)) == PipelineJob.from_json(printed)

    def test_a_job_may_be_put_where_the_function_finds_it_before_any_record_is_there(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert self.run(place, "http://127.0.0.1:9", "--upload", "--data", str(place.folder / "nothing-yet")) == 0
        assert "nothing was submitted" in capsys.readouterr().out
        job = json.loads((place.root / "pipeline.json").read_text())
        assert job["runtimeConfig"]["parameterValues"]["data"] == str(place.folder / "nothing-yet")

    def test_a_local_vertex_needs_its_address_only_and_draws_the_sample(self, tmp_path: Path) -> None:
        """In an environment without credentials, where somebody listens for a search for some."""
        service, asked = Service(as_json("PENDING"), name="sample", parent=vertex_job.STAND_INS), []
        with server(service) as endpoint, server(lambda *call: (asked.append(call), (404, {}))[1]) as google:
            ran = subprocess.run(
                [
                    *(sys.executable, "-m", "pipelines.run", "--runner", "vertex", "--endpoint", endpoint),
                    *("--config", str(PROJECT / "configs" / "sample.yaml"), "--set", "model.weights=none"),
                ],
                cwd=tmp_path,
                env={**bare(tmp_path / "home"), "GCE_METADATA_HOST": google.removeprefix("http://")},
                capture_output=True,
                text=True,
                timeout=300,
            )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert asked == []
        values = service.submitted["runtimeConfig"]["parameterValues"]
        assert values == {"data": f"{tmp_path}/data/sample/records", "models": f"{tmp_path}/models/sample"}
        assert Path(values["data"], "drawn.tfrecord").exists()
        assert (tmp_path / "runs" / "sample" / "pipeline.json").exists()

    def test_a_job_is_followed_to_its_end_with_progress_and_summary(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        done = {**BEFORE, "Evaluator": ("SUCCEEDED", EVALUATED), "Pusher": ("SUCCEEDED", PUSHED)}
        service = Service(
            as_json("PENDING"),
            as_json("RUNNING", ExampleGen="RUNNING"),
            refusal(503, "UNAVAILABLE", "The service is asked again."),
            as_json("RUNNING", **BEFORE),
            as_json("SUCCEEDED", **done),
        )
        with server(service) as endpoint:
            assert self.run(place, endpoint, "--wait", "--summary", str(place.folder / "summary.json")) == 0
        told = capsys.readouterr()
        assert told.err == ""
        lines = told.out.splitlines()
        assert [line.split()[1] for line in lines if line.startswith("✓")] == NODES
        assert "Run colours-1 complete · vertex" in "\n".join(lines)
        assert json.loads((place.folder / "summary.json").read_text())["blessed"] is True
        [past] = history.past_runs(str(place.root))
        assert (past.summary.run_id, past.summary.blessed) == ("colours-1", True)

    def test_a_job_whose_model_was_not_blessed_exits_with_3_where_it_is_required(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refused = {**EVALUATED, "blessing": {"blessed": 0, "reason": "too few tacos"}}
        done = {**BEFORE, "Evaluator": ("SUCCEEDED", refused), "Pusher": "SUCCEEDED"}
        with server(Service(as_json("PENDING"), as_json("SUCCEEDED", **done))) as endpoint:
            assert self.run(place, endpoint, "--wait", "--require-blessing") == 3
        told = capsys.readouterr()
        assert "Not blessed: too few tacos" in told.out
        assert told.err == "pipelines.run: the model was not blessed: too few tacos\n"

    def test_a_job_that_fails_names_the_node_and_its_words(
        self, place: Place, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = place.root / "123" / "colours-1" / "ExampleGen_42" / "failure.txt"
        words.parent.mkdir(parents=True)
        words.write_text("broken.tfrecord is cut off")
        with server(Service(as_json("PENDING"), as_json("FAILED", ExampleGen="FAILED"))) as endpoint:
            assert self.run(place, endpoint, "--wait") == 1
        assert "Failed at ExampleGen: broken.tfrecord is cut off" in capsys.readouterr().out


class TestInterrupted:
    """While Trainer runs in the Vertex of this machine."""

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, tmp_path_factory: pytest.TempPathFactory) -> Place:
        return make_place(tmp_path_factory.mktemp("interrupted"))

    @pytest.fixture(scope="class")
    @classmethod
    def emulator(cls, place: Place) -> Iterator[VertexEmulator]:
        with vertex_emulator(place.folder / "vertex") as emulator:
            yield emulator

    def training(self, place: Place, emulator: VertexEmulator, *sets: str) -> aiplatform.PipelineJob:
        """A job whose Trainer runs."""
        given = options("--config", str(place.config), *(f"--set={each}" for each in sets), bucket="")
        assert command.main([*given, f"--endpoint={emulator.url}"]) == 0
        [job, *_] = aiplatform.PipelineJob.list(order_by="create_time desc")
        until(lambda: states(job).get("Trainer") == "RUNNING", 200)
        return job

    def test_a_killed_emulator_runs_trainer_again_when_it_is_back_and_the_model_is_pushed(
        self, place: Place, emulator: VertexEmulator
    ) -> None:
        job = self.training(place, emulator)
        emulator.end(signal.SIGKILL)
        emulator.start()
        assert ended(job, 600) == "SUCCEEDED"
        assert "run again" in str(tasks(job)["Trainer"].pipeline_task_status)
        assert "run again" not in str(tasks(job)["Transform"].pipeline_task_status)
        assert len(versions(place)) == 1

    def test_a_cancelled_job_ends_its_trainer_and_pushes_nothing(self, place: Place, emulator: VertexEmulator) -> None:
        before = versions(place)
        job = self.training(place, emulator, "trainer.learning_rate=0.0007")
        job.cancel()
        assert ended(job, 60) == "CANCELLED"
        assert states(job)["Trainer"] == "CANCELLED"
        assert versions(place) == before


@pytest.mark.usefixtures("node_server")
class TestVertex(RunnerContract):
    """The contract, kept with the Vertex of this machine, which runs what the service would run."""

    @pytest.fixture(scope="class")
    @classmethod
    def start(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
        def start(place: Place, *sets: str) -> Outcome:
            file = place.folder / "summary.json"
            file.unlink(missing_ok=True)
            ended = subprocess.run(
                [
                    *(sys.executable, "-m", "pipelines.run", "--runner", "vertex", "--config", place.config.name),
                    *("--root", "root", "--data", "data", "--models", "models/colours"),
                    *(f"--set={each}" for each in sets),
                    *("--endpoint", emulator.url, "--wait", "--summary", str(file)),
                ],
                cwd=place.folder,
                capture_output=True,
                text=True,
                timeout=900,
            )
            summary = json.loads(file.read_text()) if file.exists() else None
            return Outcome(ended.returncode, summary, ended.stdout + ended.stderr)

        with vertex_emulator(tmp_path_factory.mktemp("vertex")) as emulator:
            yield start
