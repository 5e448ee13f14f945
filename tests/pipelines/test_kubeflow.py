"""The Kubeflow Pipelines runner: what it compiles, walked on this machine, and the contract of all runners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from kfp import components
from postgres_server import Postgres, postgres_server
from runner_contract import NODES, Outcome, Place, RunnerContract, Start, make_place

from pipelines import metadata
from pipelines.local_airflow.server import free_port

PROJECT = Path(__file__).parents[2]
IMAGE = "registry.example.com/retake@sha256:0"

pytestmark = pytest.mark.usefixtures("node_server")


def command(place: Place, *settings: str) -> list[str]:
    claims = json.dumps({"retake": str(place.folder)})
    store = "metadata.url=postgresql://retake@db.example.com/mlmd"
    given = [word for setting in (store, f"kubeflow.claims={claims}", *settings) for word in ("--set", setting)]
    return [sys.executable, "-m", "pipelines.run", "--runner", "kubeflow", "--config", str(place.config), *given]


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, timeout=120)


def compiled(place: Place, *settings: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The two documents of a compiled pipeline: what runs, and what of it concerns Kubernetes."""
    ended = call(*command(place, *settings), "--image", IMAGE, "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert components.load_component_from_text(ended.stdout).pipeline_spec.pipeline_info.name == "colours"
    pipeline, platforms = yaml.safe_load_all(ended.stdout)
    return pipeline, platforms


def walk(pipeline: dict[str, Any], run_id: str) -> tuple[str | None, str]:
    """Runs each task's command on this machine, after the tasks that it depends on; stops where one fails.

    Returns:
      The node that failed, if any, and what the last command said.
    """
    parameters = {
        name: told["defaultValue"] for name, told in pipeline["root"]["inputDefinitions"]["parameters"].items()
    }
    filled = {f"{{{{$.inputs.parameters['{name}']}}}}": value for name, value in parameters.items()}
    filled["{{$.pipeline_job_uuid}}"] = run_id
    tasks, done, said = dict(pipeline["root"]["dag"]["tasks"]), set[str](), ""
    while tasks:
        name = next(name for name, task in tasks.items() if done >= {*task.get("dependentTasks", [])})
        task = tasks.pop(name)
        executor = pipeline["components"][task["componentRef"]["name"]]["executorLabel"]
        container = pipeline["deploymentSpec"]["executors"][executor]["container"]
        assert container["image"] == IMAGE
        words = [*container["command"], *container["args"]]
        for placeholder, value in filled.items():
            words = [word.replace(placeholder, value) for word in words]
        assert words.pop(0) == "python"
        environment = {each["name"]: each["value"] for each in container["env"]}
        ended = subprocess.run(
            [sys.executable, *words], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
        )
        said = ended.stdout + ended.stderr
        if ended.returncode:
            return task["taskInfo"]["name"], said
        done.add(name)
    return None, said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("kubeflow"))


def test_each_node_is_a_task_by_its_name_that_runs_the_image_after_what_it_needs(place: Place) -> None:
    pipeline, _ = compiled(place)
    tasks = pipeline["root"]["dag"]["tasks"]
    assert {task["taskInfo"]["name"] for task in tasks.values()} == set(NODES)
    assert tasks["trainer"]["dependentTasks"] == ["examplegen", "schemagen", "transform"]
    assert "examplevalidator" in tasks["pusher"]["dependentTasks"]
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks.values())


def test_the_same_configuration_compiles_to_the_same_bytes(place: Place) -> None:
    first, second = (call(*command(place), "--image", IMAGE, "--dry-run").stdout for _ in range(2))
    assert first == second != ""


def test_the_runtime_parameters_are_parameters_of_the_pipeline(place: Place) -> None:
    parameters = compiled(place)[0]["root"]["inputDefinitions"]["parameters"]
    assert {name: told["defaultValue"] for name, told in parameters.items()} == {
        "data": str(place.data),
        "models": str(place.models),
    }


def test_tasks_mount_the_volume_and_take_the_password_from_a_secret(place: Place) -> None:
    _, platforms = compiled(place, "kubeflow.secret=retake-metadata")
    executors = platforms["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert len(executors) == len(NODES)
    for told in executors.values():
        [mount] = told["pvcMount"]
        assert (mount["constant"], mount["mountPath"]) == ("retake", str(place.folder))
        [secret] = told["secretAsEnv"]
        assert secret["secretName"] == "retake-metadata"
        assert secret["keyToEnv"] == [{"secretKey": "password", "envVar": metadata.PASSWORD_VARIABLE}]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run"], "kubeflow.image is missing; give it with --image"),
        (["--image", IMAGE], "kubeflow.host is missing; give it with --host"),
        (["--image", IMAGE, "--dry-run", "--set", "metadata.url=sqlite:///m.sqlite"], "the tasks need a server"),
        (["--image", IMAGE, "--dry-run", "--root", "/elsewhere"], "pipeline.root /elsewhere is on no volume"),
        (
            ["--image", IMAGE, "--dry-run", "--set", "model.backbone=MobileNetV2", "--weights", "/elsewhere/w.h5"],
            "model.weights /elsewhere/w.h5 is on no volume of the tasks; see kubeflow.claims",
        ),
    ],
)
def test_what_the_tasks_could_not_use_is_told_in_a_line(place: Place, words: list[str], said: str) -> None:
    ended = call(*command(place), *words)
    assert ended.returncode == 2
    assert said in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_all_that_is_missing_or_wrong_is_told_at_once(place: Place) -> None:
    ended = call(*command(place), "--root", "/elsewhere")
    assert ended.returncode == 2
    said = ended.stderr.splitlines()
    wrong = ("kubeflow.image is missing", "kubeflow.host is missing", "pipeline.root /elsewhere is on no volume")
    assert len(said) == 3 and all(each in line for each, line in zip(wrong, said, strict=True))


def test_a_server_that_does_not_answer_is_told_in_a_line(place: Place) -> None:
    host = f"http://127.0.0.1:{free_port()}"
    ended = call(*command(place), "--image", IMAGE, "--host", host)
    assert ended.returncode == 1
    assert host in ended.stderr and "Traceback" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


class Api(BaseHTTPRequestHandler):
    """Kubeflow Pipelines' service, as far as a client submits a run to it."""

    submitted: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        experiments = {"experiments": [{"experiment_id": "e", "display_name": "Default"}]}
        self.answer(experiments if "/experiments" in self.path else {"multi_user": False})

    def do_POST(self) -> None:
        self.submitted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.answer({"run_id": "run-7"})

    def answer(self, content: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        pass


def test_a_run_of_the_compiled_pipeline_is_submitted_and_its_page_told(place: Place) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"http://127.0.0.1:{server.server_port}"
        ended = call(*command(place), "--image", IMAGE, "--host", host)
        server.shutdown()
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == f"colours · run run-7\n{host}/#/runs/details/run-7\n" and ended.stderr == ""
    [run] = Api.submitted
    pipeline, platforms = compiled(place)
    assert run["pipeline_spec"]["pipeline_spec"]["root"] == pipeline["root"]
    assert run["pipeline_spec"]["platform_spec"] == platforms


class TestKubeflow(RunnerContract):
    """The tasks' commands run on this machine, with ML Metadata on PostgreSQL."""

    @pytest.fixture(scope="class")
    @classmethod
    def postgres(cls) -> Iterator[Postgres]:
        with postgres_server() as server, pytest.MonkeyPatch.context() as patch:
            patch.setenv(metadata.PASSWORD_VARIABLE, server.password)
            server.create_database("metadata")
            yield server

    @pytest.fixture(scope="class")
    @classmethod
    def start(cls, postgres: Postgres) -> Start:
        ids = count(1)
        url = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/metadata"

        def start(place: Place, *settings: str) -> Outcome:
            pipeline, _ = compiled(place, f"metadata.url={url}", *settings)
            run_id = f"run-{next(ids)}"
            failed, said = walk(pipeline, run_id)
            summary = place.root / "runs" / f"colours.{run_id}" / "summary.json"
            return Outcome(int(failed is not None), json.loads(summary.read_text()), f"{failed}: {said}")

        return start
