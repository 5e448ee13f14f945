"""The library without the extra `pipeline`, in an environment that has no TFX. `.ci/setup core` builds it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tiny_models import BLUE, RED, paint, push

PROJECT = Path(__file__).parents[1]
PYTHON = PROJECT / ".core" / "venv" / "bin" / "python"

IMPORT_ALL = """
import importlib, pkgutil
import retake
for found in pkgutil.walk_packages(retake.__path__, "retake."):
    importlib.import_module(found.name)
"""


def core(*arguments: str | Path, folder: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    assert PYTHON.exists(), "the environment without TFX is missing: run make setup-core"
    return subprocess.run([PYTHON, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", ["tfx", "apache_beam", "ml_metadata", "kfp", "pytest"])
def test_the_environment_has_none_of_the_extra(name: str) -> None:
    assert "ModuleNotFoundError" in core("-c", f"import {name}").stderr


def test_every_module_of_the_library_can_be_imported() -> None:
    ended = core("-c", IMPORT_ALL)
    assert ended.returncode == 0, ended.stderr


def test_pictures_are_packed_and_a_model_is_asked(tmp_path: Path) -> None:
    push(tmp_path / "models" / "1", ("food", "sandwich", "taco"))
    paint(tmp_path / "photos" / "food" / "1.png", RED)
    paint(tmp_path / "photos" / "taco" / "1.png", BLUE)
    (tmp_path / "c.yaml").write_text("pipeline: {name: c}\ndata: {location: x, classes: [food, taco]}\n")

    packed = core("-m", "retake.cli", "records", "pack", "photos", "a.tfrecord", "--config", "c.yaml", folder=tmp_path)
    inspected = core("-m", "retake.cli", "records", "inspect", "a.tfrecord", folder=tmp_path)
    asked = core("-m", "retake.cli", "predict", "models", "photos/taco", "--trust", folder=tmp_path)
    compared = core(
        *("-m", "retake.cli", "results", "--images", "photos", "--model", "m=models", "--output", "out", "--trust"),
        folder=tmp_path,
    )

    for ended in (packed, inspected, asked, compared):
        assert (ended.returncode, ended.stderr) == (0, "")
    assert "a.tfrecord: 2 examples" in packed.stdout
    assert "photos/taco/1.png   taco" in asked.stdout
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


def test_a_command_of_the_pipeline_says_in_a_line_how_to_install_it() -> None:
    ended = core("-m", "retake.cli", "run", "--config", "sample")
    assert ended.returncode == 2
    assert ended.stderr == (
        "retake: retake run needs the extra `pipeline`, which is not installed: in the project's folder, "
        "run pip install '.[pipeline]', or make setup\n"
    )


def test_help_names_the_commands_that_need_the_extra() -> None:
    words = " ".join(core("-m", "retake.cli", "--help").stdout.split())
    assert "train, gate and push a model, on this machine or under an orchestrator (needs retake[pipeline])" in words
    assert "ask a pushed model about single pictures" in words
