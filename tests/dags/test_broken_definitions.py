"""A definition that cannot be used is an import error that says what to do, and stops no other pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from airflow_python import AirflowPython
from dag_parser import PARSE, PROJECT, parsed
from runner_contract import Place, compile_for_airflow


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
