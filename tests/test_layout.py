"""What the import contracts in pyproject.toml cannot say: that they cover everything, and what is imported when."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from importlinter.api import read_configuration

from retake.cli import COMMANDS, _about

PROJECT = Path(__file__).parents[1]
HEAVY = {"airflow", "apache_beam", "kfp", "matplotlib", "ml_metadata", "numpy", "tensorflow", "tfx"}


def test_every_package_is_under_the_import_contracts() -> None:
    packages = {init.parent.name for folder in ("", "src") for init in (PROJECT / folder).glob("*/__init__.py")}
    options = read_configuration(str(PROJECT / "pyproject.toml"))["session_options"]
    assert packages - {"tests"} == set(options["root_packages"])


@pytest.mark.parametrize("file", sorted((PROJECT / "dags").rglob("*.py")), ids=lambda file: file.name)
def test_dag_files_import_airflow_and_the_standard_library_only(file: Path) -> None:
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "." for node in nodes if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= {"airflow", "retake_dags", *sys.stdlib_module_names}


def test_all_that_read_a_data_location_pass_over_the_same_files() -> None:
    """Airflow and the Cloud Function cannot import the list of the components, so they have copies of it."""
    files = [file for folder in ("src", "components", "pipelines", "dags", "kubeflow") for file in code_below(folder)]
    lists = [found for file in files for found in re.findall(r"^HIDDEN = (.+)$", file.read_text(), re.MULTILINE)]
    assert lists == ['(".", "_", "beam-temp-")'] * 3


def code_below(folder: str) -> list[Path]:
    return sorted((PROJECT / folder).rglob("*.py"))


def test_the_command_explains_itself_without_loading_tensorflow_or_tfx() -> None:
    code = """
import json, sys
from retake.cli import main
try:
    main(["--help"])
finally:
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""
    help_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert help_.returncode == 0
    assert help_.stdout.startswith("usage: retake")
    assert HEAVY.isdisjoint(json.loads(help_.stderr))


def test_each_command_of_another_package_is_found_and_says_what_it_does() -> None:
    points = entry_points(group=COMMANDS)
    assert {"run", "runs", "models", "data", "show", "deploy", "emulator", "demo"} == {point.name for point in points}
    for point in points:
        assert callable(point.load())
        assert _about(point)
