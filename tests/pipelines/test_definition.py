"""The definition that `--runner airflow` writes: all that an orchestrator has to know, the same each time."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from colours import config
from runner_contract import NODES

from pipelines import factory
from retake.weights import Weights

PROJECT = Path(__file__).parents[2]
PYTHON = sys.executable

pytestmark = pytest.mark.usefixtures("node_server")

POD = {"kind": "Pod", "spec": {"containers": [{"name": "base", "image": "registry.example/retake:1"}]}}


def configure(file: Path, **sections: dict[str, Any]) -> None:
    """Writes a configuration with places relative to where the command is given."""
    own = {
        "pipeline": {"name": "colours", "root": "root"},
        "data": {"location": "data", "classes": ["red", "green", "blue"]},
        "model": {"backbone": "MobileNetV2", "weights": "weights.keras", "image_size": 32},
        "pusher": {"destination": "models"},
        "metadata": {"url": "sqlite:///metadata/store.sqlite"},
        "airflow": {"pods": {"Trainer": "pod.yaml"}},
    }
    file.write_text(yaml.safe_dump({name: {**own.get(name, {}), **sections.get(name, {})} for name in own | sections}))


def compile(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [PYTHON, "-m", "pipelines.run", "--runner", "airflow", "--config", "colours.yaml", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("definition")
    configure(folder / "colours.yaml")
    (folder / "weights.keras").write_bytes(b"weights")
    (folder / "pod.yaml").write_text(yaml.safe_dump(POD))
    return folder


@pytest.fixture(scope="module")
def compiled(folder: Path) -> subprocess.CompletedProcess[str]:
    return compile(folder)


@pytest.fixture(scope="module")
def definition(folder: Path, compiled: subprocess.CompletedProcess[str]) -> Any:
    assert compiled.returncode == 0, compiled.stderr
    return json.loads((folder / "dags" / "definitions" / "colours.json").read_text())


def test_one_line_says_what_was_compiled_and_where_to(compiled: subprocess.CompletedProcess[str]) -> None:
    assert compiled.returncode == 0
    assert compiled.stdout == "colours: 9 nodes compiled to dags/definitions/colours.json\n"
    assert compiled.stderr == ""


def test_the_same_configuration_gives_the_same_bytes(folder: Path, definition: Any) -> None:
    file = folder / "dags" / "definitions" / "colours.json"
    before = file.read_bytes()
    file.unlink()

    assert compile(folder).returncode == 0
    assert file.read_bytes() == before
    assert {*file.parent.iterdir()} == {file, file.with_suffix(".py")}


def test_nodes_come_in_an_order_in_which_they_can_run_and_the_last_after_all_others(definition: Any) -> None:
    upstream = {node["id"]: set(node["upstream"]) for node in definition["nodes"]}
    assert list(upstream) == NODES
    done: set[str] = set()
    for node, before in upstream.items():
        assert before <= done
        done.add(node)
    reached = {NODES[-1]}
    for node in reversed(NODES):
        if node in reached:
            reached |= upstream[node]
    assert reached == set(NODES)


def test_every_local_place_is_absolute(folder: Path, definition: Any) -> None:
    config = definition["config"]
    assert config["pipeline"]["root"] == f"{folder}/root"
    assert config["data"]["location"] == f"{folder}/data"
    assert config["pusher"]["destination"] == f"{folder}/models"
    assert config["metadata"]["url"] == f"sqlite:///{folder}/metadata/store.sqlite"
    assert config["model"]["weights"] == f"{folder}/weights.keras"
    assert f"{folder}/weights.keras" in json.dumps(definition["ir"])
    assert definition["ir"]["runtimeSpec"]["pipelineRoot"]["runtimeParameter"]["defaultValue"] == {
        "stringValue": f"{folder}/root"
    }


def test_the_runtime_parameters_have_descriptions_and_absolute_defaults(folder: Path, definition: Any) -> None:
    defaults = {name: parameter["default"] for name, parameter in definition["parameters"].items()}
    assert defaults == {"data": f"{folder}/data", "models": f"{folder}/models"}
    assert all(parameter["description"] for parameter in definition["parameters"].values())


def test_pod_templates_are_in_the_definition(definition: Any) -> None:
    assert definition["pods"] == {"Trainer": POD}


def test_sources_are_the_configuration_and_the_code_that_made_the_definition(tmp_path: Path) -> None:
    ended = subprocess.run(
        [PYTHON, "-m", "pipelines.run", "--runner", "airflow", "--definitions", tmp_path],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    definition = json.loads((tmp_path / "sample.json").read_text())

    assert definition["project"] == str(PROJECT)
    assert definition["command"].endswith(f"-m pipelines.run --runner airflow --definitions {tmp_path}")
    sources = definition["sources"]
    named = {"configs/sample.yaml", "pipelines/factory.py", "components/trainer.py", "src/retake/config.py"}
    assert named <= set(sources)
    assert not any(name.startswith(("tests/", "dags/", ".venv/", "pipelines/runners/")) for name in sources)
    # Whether the command drew the sample makes no difference.
    assert not {"src/retake/sample/__init__.py", "src/retake/results.py", "pipelines/run.py"} & set(sources)
    assert sources == {name: hashlib.sha256((PROJECT / name).read_bytes()).hexdigest() for name in sources}


def test_the_code_of_each_node_of_ours_is_in_its_cache_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys() -> dict[str, str]:
        pipeline = factory.build(config(), "root", Weights("none", ""))
        ours = ("ExampleGen", "Transform", "Trainer", "Evaluator", "Pusher")
        return {node.id: str(node.spec.exec_properties) for node in pipeline.components if node.id in ours}

    before = keys()
    monkeypatch.setattr(factory, "_code", lambda *modules: "changed")
    assert len(before) == 5 and not set(before.items()) & set(keys().items())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "pod.yaml cannot be read (No such file or directory)"),
        (b"kind: [", "pod.yaml is not valid YAML"),
        (b"\xff\xfe\xfa", "pod.yaml is not valid YAML"),
        (b"kind: Pod\nkind: Pod", "pod.yaml is not valid YAML: the key 'kind' stands twice"),
        (b"[" * 5000, "pod.yaml is not valid YAML: nested more than 50 deep"),
        (b"kind: Deployment", "pod.yaml must be a Kubernetes pod template (kind: Pod)"),
        (b"- kind: Pod", "pod.yaml must be a Kubernetes pod template (kind: Pod)"),
    ],
)
def test_a_pod_template_that_is_none_is_told_in_a_line(tmp_path: Path, content: bytes | None, said: str) -> None:
    configure(tmp_path / "colours.yaml", airflow={"pods": {"Trainer": "pod.yaml"}})
    if content is not None:
        (tmp_path / "pod.yaml").write_bytes(content)
    ended = compile(tmp_path)

    assert ended.returncode == 1
    [message] = ended.stderr.splitlines()
    assert "airflow.pods: Trainer: " in message and said in message


def test_a_pod_template_for_no_node_is_told_in_a_line(folder: Path) -> None:
    ended = compile(folder, "--set", "airflow.pods={Training: pod.yaml}")

    assert ended.returncode == 2
    [message] = ended.stderr.splitlines()
    assert "airflow.pods: there is no node Training" in message


def test_a_folder_that_is_not_writable_is_told_in_a_line(folder: Path) -> None:
    (folder / "file").write_text("a file where a folder is needed")
    ended = compile(folder, "--definitions", "file/definitions")

    assert ended.returncode == 1
    [message] = ended.stderr.splitlines()
    assert "file/definitions/colours.json cannot be written" in message and "--definitions" in message


def test_weights_that_are_not_there_are_told_in_a_line(folder: Path) -> None:
    ended = compile(folder, "--weights", "absent.h5")

    assert ended.returncode == 1
    [message] = ended.stderr.splitlines()
    assert f"weights file {folder}/absent.h5 cannot be read" in message
