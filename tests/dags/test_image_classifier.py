"""The DAG files, read by Airflow's own parser: what they make of a definition, and what they say of a bad one."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow_python import AirflowPython
from runner_contract import NODES, Place, compile_for_airflow, make_place

from pipelines.local_airflow.server import AIRFLOW, inherited

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("node_server")

PARSE = """
import sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"retake", "pipelines", "tfx", "tensorflow"})
said = {"errors": list(bag.import_errors.values()), "heavy": heavy, "dags": {}}
said["files"] = {name: dag.fileloc for name, dag in bag.dags.items()}
said["broken_files"] = sorted(name.rpartition("/")[2] for name in bag.import_errors)
for name, dag in bag.dags.items():
    said["dags"][name] = {
        "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
        "kinds": {task.task_id: task.task_type for task in dag.tasks},
        "retries": {task.task_id: [task.retries, task.retry_delay.total_seconds(), task.retry_exponential_backoff]
                    for task in dag.tasks},
        "params": {key: [param.value, param.schema, param.description]
                   for key, param in ((key, dag.params.get_param(key)) for key in dag.params)},
        "doc": dag.doc_md, "schedule": str(dag.schedule), "catchup": dag.catchup, "paused": dag.is_paused_upon_creation,
        "runs_at_once": dag.max_active_runs,
    }
"""

PODS = (
    PARSE
    + """
from kubernetes.client import ApiClient
said["pods"] = {
    task.task_id: ApiClient().sanitize_for_serialization(task.build_pod_request_obj(dry_run=True))
    for task in bag.dags["colours"].tasks if task.task_type == "KubernetesPodOperator"
}
"""
)

ENVIRONMENT = (
    PARSE
    + """
try:
    said["python"] = str(bag.dags["colours"].get_task("Trainer").python())
except Exception as error:
    said["error"] = [type(error).__name__, str(error)]
"""
)


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


def parsed(python: AirflowPython, definitions: Path, script: str = PARSE, file: str = "", **variables: str) -> Any:
    """What Airflow's parser makes of the folder of DAG files, or of one of them, with definitions elsewhere."""
    where = PROJECT / "dags" / file
    return python.ask(f"{script}\nanswer = said", where, RETAKE_DEFINITIONS=str(definitions), **variables)


@pytest.fixture(scope="module")
def dags(python: AirflowPython, definitions: Path) -> Any:
    said = parsed(python, definitions)
    assert said["errors"] == []
    return said["dags"]


def test_a_definition_becomes_a_dag_that_trains_and_one_that_watches(dags: Any) -> None:
    assert set(dags) == {"colours", "colours-watch"}


def test_there_is_a_task_for_each_node_by_the_pipelines_names_and_in_its_order(dags: Any) -> None:
    tasks = dags["colours"]["tasks"]
    assert set(tasks) == set(NODES)
    order = {node: at for at, node in enumerate(NODES)}
    assert all(order[before] < order[node] for node, upstream in tasks.items() for before in upstream)
    assert tasks["Trainer"] == ["ExampleGen", "SchemaGen", "Transform"]


def test_the_last_node_comes_after_all_others_so_that_nothing_is_pushed_before_its_data_is_validated(dags: Any) -> None:
    tasks = dags["colours"]["tasks"]
    assert set(tasks) - {before for upstream in tasks.values() for before in upstream} == {"Pusher"}
    assert "ExampleValidator" in tasks["Pusher"]


def test_the_runtime_parameters_are_typed_params(dags: Any, place: Place) -> None:
    params = dags["colours"]["params"]
    assert {key: value for key, (value, *_) in params.items()} == {"data": str(place.data), "models": str(place.models)}
    assert all(schema["type"] == "string" and description for _, schema, description in params.values())


@pytest.mark.parametrize(
    ("name", "value", "taken"),
    [
        ("data", "{place.data}", True),
        ("data", "{place.data}/", True),
        ("data", "{place.data}/new/..2026", True),
        ("data", "{place.data}-2", False),
        ("data", "{place.data}/../secret", False),
        ("data", "/somewhere{place.data}", False),
        ("data", "{place.models}", False),
        ("data", "", False),
        ("models", "{place.models}/more", True),
        ("models", "{place.models}/..", False),
    ],
)
def test_a_run_may_be_given_the_configured_places_and_what_lies_below_them(
    dags: Any, place: Place, name: str, value: str, taken: bool
) -> None:
    _, schema, _ = dags["colours"]["params"][name]
    assert bool(re.search(schema["pattern"], value.format(place=place))) is taken


def test_runs_go_one_at_a_time_without_backfill_and_retry_with_backoff(dags: Any) -> None:
    for dag in dags.values():
        assert dag["runs_at_once"] == 1 and dag["catchup"] is False
        assert all(retries > 0 and delay > 0 and backoff for retries, delay, backoff in dag["retries"].values())


def test_the_page_of_the_dag_tells_places_classes_and_the_command(dags: Any, place: Place) -> None:
    page = dags["colours"]["doc"]
    for told in (str(place.data), str(place.models), str(place.root), "red, green, blue", "--runner airflow"):
        assert told in page


def test_the_dag_file_needs_nothing_of_the_project(python: AirflowPython, definitions: Path) -> None:
    assert parsed(python, definitions)["heavy"] == []


def test_without_a_definition_the_import_error_says_the_command(python: AirflowPython, tmp_path: Path) -> None:
    [error] = parsed(python, tmp_path)["errors"]
    assert str(tmp_path) in error and "python -m pipelines.run --runner airflow --config NAME" in error


@pytest.mark.parametrize("change", ["configuration", "format"])
def test_an_outdated_definition_is_an_import_error_that_says_the_command(
    python: AirflowPython, definitions: Path, tmp_path: Path, change: str
) -> None:
    definition = json.loads((definitions / "colours.json").read_text())
    if change == "format":
        definition["format"] = 0
        why = "another version"
    else:
        definition["sources"]["components/trainer.py"] = "0" * 64
        why = "older than components/trainer.py"
    (tmp_path / "colours.json").write_text(json.dumps(definition))
    [error] = parsed(python, tmp_path)["errors"]
    assert why in error
    assert definition["command"] in error


@pytest.mark.parametrize("content", ["", "[]", '{"format": 1'])
def test_a_definition_that_is_not_whole_is_an_import_error_that_says_the_command(
    python: AirflowPython, tmp_path: Path, content: str
) -> None:
    (tmp_path / "colours.json").write_text(content)
    [error] = parsed(python, tmp_path)["errors"]
    assert "colours.json is not whole" in error
    assert "python -m pipelines.run --runner airflow --config colours" in error


def another(definition: dict[str, Any], folder: Path, name: str) -> Path:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**definition, "pipeline": name}))
    return file


@pytest.mark.parametrize("broken", ["not whole", "outdated", "incomplete", "another's"])
def test_a_broken_definition_has_an_import_error_and_stops_no_other_pipeline(
    python: AirflowPython, definitions: Path, tmp_path: Path, broken: str
) -> None:
    definition = json.loads((definitions / "colours.json").read_text())
    another(definition, tmp_path, "birds")
    another(definition, tmp_path, "trees")
    if broken == "not whole":
        (tmp_path / "birds.json").write_text('{"format": 1')
    elif broken == "outdated":
        another({**definition, "sources": {"components/trainer.py": "0" * 64}}, tmp_path, "birds")
    elif broken == "incomplete":
        another({key: value for key, value in definition.items() if key != "nodes"}, tmp_path, "birds")
    else:
        (tmp_path / "birds.json").write_text(json.dumps(definition))
    said = parsed(python, tmp_path)
    assert set(said["dags"]) == {"trees", "trees-watch"}
    assert said["broken_files"] == ["definition_errors.py"]
    [error] = said["errors"]
    assert error.count(str(tmp_path / "birds.json")) == 1 and "trees.json" not in error
    assert "python -m pipelines.run --runner airflow --config" in error


@pytest.fixture
def folder(place: Place, tmp_path: Path) -> Path:
    """A DAG folder with two pipelines, birds and trees, below the folder of a DAG bundle."""
    shutil.copytree(PROJECT / "dags", tmp_path / "dags", ignore=shutil.ignore_patterns("definitions", "__pycache__"))
    for name in ("birds", "trees"):
        compile_for_airflow(place, tmp_path / "dags" / "definitions", f"pipeline.name={name}")
    return tmp_path


class TestOwnDagFiles:
    def test_each_pipeline_has_a_dag_file(self, python: AirflowPython, folder: Path) -> None:
        said = python.ask(f"{PARSE}\nanswer = said", folder, RETAKE_DEFINITIONS="")
        assert said["errors"] == []
        assert {name: Path(file).name for name, file in said["files"].items()} == {
            name: f"{name.removesuffix('-watch')}.py" for name in ("birds", "birds-watch", "trees", "trees-watch")
        }

    @pytest.mark.parametrize("broken", ["not whole", "outdated", "incomplete", "gone"])
    def test_a_broken_definition_has_its_own_import_error_and_stops_no_other_pipeline(
        self, python: AirflowPython, folder: Path, broken: str
    ) -> None:
        file = folder / "dags" / "definitions" / "birds.json"
        definition = json.loads(file.read_text())
        if broken == "outdated":
            definition["sources"]["components/trainer.py"] = "0" * 64
        elif broken == "incomplete":
            definition["nodes"] = [{}]
        file.write_text("{" if broken == "not whole" else json.dumps(definition))
        if broken == "gone":
            file.unlink()
        said = python.ask(f"{PARSE}\nanswer = said", folder, RETAKE_DEFINITIONS="")
        assert set(said["dags"]) == {"trees", "trees-watch"}
        assert said["broken_files"] == ["birds.py"]
        [error] = said["errors"]
        if broken != "incomplete":
            assert str(file) in error and "python -m pipelines.run --runner airflow --config" in error

    def test_a_task_takes_its_definition_as_it_is(self, python: AirflowPython, folder: Path) -> None:
        file = folder / "dags" / "definitions" / "birds.json"
        definition = json.loads(file.read_text())
        definition["sources"]["components/trainer.py"] = "0" * 64
        file.write_text(json.dumps(definition))
        context = {"_AIRFLOW_PARSING_CONTEXT_DAG_ID": "birds", "_AIRFLOW_PARSING_CONTEXT_TASK_ID": "Trainer"}
        said = python.ask(f"{PARSE}\nanswer = said", file.with_suffix(".py"), RETAKE_DEFINITIONS="", **context)
        assert said["errors"] == [] and set(said["dags"]) == {"birds", "birds-watch"}


def test_each_broken_definition_has_a_line_with_its_command(
    python: AirflowPython, definitions: Path, tmp_path: Path
) -> None:
    for name in ("birds", "trees"):
        (tmp_path / f"{name}.json").write_text("{")
    [error] = parsed(python, tmp_path)["errors"]
    for name in ("birds", "trees"):
        [line] = [line for line in error.splitlines() if f"{name}.json" in line]
        assert line.endswith(f"--config {name}")


def test_a_task_sees_its_own_definition_only_and_takes_it_as_it_is(
    python: AirflowPython, definitions: Path, tmp_path: Path
) -> None:
    definition = json.loads((definitions / "colours.json").read_text())
    definition["sources"]["components/trainer.py"] = "0" * 64
    (tmp_path / "colours.json").write_text(json.dumps(definition))
    (tmp_path / "other.json").write_text("{")
    for dag, task in (("colours", "Trainer"), ("colours-watch", "wait_for_records")):
        # What Airflow sets while it parses the file for a task.
        context = {"_AIRFLOW_PARSING_CONTEXT_DAG_ID": dag, "_AIRFLOW_PARSING_CONTEXT_TASK_ID": task}
        said = parsed(python, tmp_path, file="image_classifier.py", **context)
        assert said["errors"] == [] and dag in said["dags"]


def test_where_the_project_is_not_on_this_machine_a_definition_is_taken_as_it_is(
    python: AirflowPython, definitions: Path, tmp_path: Path
) -> None:
    definition = json.loads((definitions / "colours.json").read_text())
    (tmp_path / "colours.json").write_text(json.dumps({**definition, "project": "/nowhere"}))
    assert set(parsed(python, tmp_path)["dags"]) == {"colours", "colours-watch"}


def test_a_wrong_environment_fails_the_task_with_what_to_do(python: AirflowPython, definitions: Path) -> None:
    said = parsed(python, definitions, ENVIRONMENT, RETAKE_ENVIRONMENT="/nowhere")
    kind, message = said["error"]
    assert kind == "AirflowFailException"  # Which Airflow does not retry.
    assert "/nowhere/bin/python" in message and "make setup" in message and "retake_environment" in message


def test_tasks_run_in_the_projects_environment_unless_a_variable_names_another(
    python: AirflowPython, definitions: Path, tmp_path: Path
) -> None:
    assert parsed(python, definitions, ENVIRONMENT)["python"] == str(PROJECT / ".venv" / "bin" / "python")
    (tmp_path / "bin").mkdir()
    shutil.copy("/bin/true", tmp_path / "bin" / "python")
    for variable in ("RETAKE_ENVIRONMENT", "AIRFLOW_VAR_RETAKE_ENVIRONMENT"):
        said = parsed(python, definitions, ENVIRONMENT, **{variable: str(tmp_path)})
        assert said["python"] == str(tmp_path / "bin" / "python")


class TestPods:
    @pytest.fixture(scope="class")
    @classmethod
    def said(cls, place: Place, python: AirflowPython) -> Any:
        """Most nodes in the pod that the project ships, the Trainer in one of its own."""
        template = yaml.safe_load((PROJECT / "dags" / "pod.yaml").read_text())
        template["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] = 1
        (place.folder / "gpu.yaml").write_text(yaml.safe_dump(template))
        pods = json.dumps({"*": str(PROJECT / "dags" / "pod.yaml"), "Trainer": str(place.folder / "gpu.yaml")})
        said = parsed(python, compile_for_airflow(place, place.folder / "pods", f"airflow.pods={pods}"), PODS)
        assert said["errors"] == []
        return said

    def test_every_node_is_a_pod_of_the_template(self, said: Any) -> None:
        assert set(said["pods"]) == set(NODES)
        limits = {node: pod["spec"]["containers"][0]["resources"]["limits"] for node, pod in said["pods"].items()}
        assert {node for node, limit in limits.items() if "nvidia.com/gpu" in limit} == {"Trainer"}

    def test_a_pod_has_no_more_rights_than_it_needs(self, said: Any) -> None:
        for pod in said["pods"].values():
            spec = pod["spec"]
            assert spec["automountServiceAccountToken"] is False
            assert spec["securityContext"]["runAsNonRoot"] is True
            base = next(container for container in spec["containers"] if container["name"] == "base")
            assert base["securityContext"]["allowPrivilegeEscalation"] is False
            assert base["securityContext"]["capabilities"] == {"drop": ["ALL"]}

    def test_what_judges_and_what_pushes_hand_on_the_summary(self, said: Any) -> None:
        summaries = {node for node, pod in said["pods"].items() if "--summary" in arguments(pod)}
        assert summaries == {"Evaluator", "Pusher"}
        assert "/airflow/xcom/return.json" in arguments(said["pods"]["Pusher"])

    def test_what_a_pod_runs_is_a_command_that_runs_a_node(self, said: Any, place: Place) -> None:
        base = next(c for c in said["pods"]["ExampleGen"]["spec"]["containers"] if c["name"] == "base")
        rendered = {
            "{{ dag.dag_id }}.{{ run_id }}": "colours.pod",
            "data={{ params.data }}": f"data={place.data}",
            "models={{ params.models }}": f"models={place.models}",
        }
        [python, *command] = base["command"]
        assert python == "python"
        ended = subprocess.run(
            [sys.executable, *command, *(rendered.get(argument, argument) for argument in base["args"])],
            env={**os.environ, **{each["name"]: each["value"] for each in base["env"] if "value" in each}},
            cwd=place.folder,
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, ended.stderr
        assert "ExampleGen complete" in ended.stdout


def arguments(pod: Any) -> list[str]:
    return next(container["args"] for container in pod["spec"]["containers"] if container["name"] == "base")


def test_a_pod_for_one_node_leaves_the_others_on_the_worker(place: Place, python: AirflowPython) -> None:
    pods = json.dumps({"Trainer": str(PROJECT / "dags" / "pod.yaml")})
    kinds = parsed(python, compile_for_airflow(place, place.folder / "one", f"airflow.pods={pods}"))["dags"]["colours"][
        "kinds"
    ]
    assert kinds == {**dict.fromkeys(NODES, "NodeOperator"), "Trainer": "KubernetesPodOperator"}
