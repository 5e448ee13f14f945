"""The examples in the docstrings of the library run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import shutil
from pathlib import Path

import pytest
from tiny_models import BLUE, RED, paint

import retake
from retake import seal

PROJECT = Path(__file__).parents[2]
MODULES = [found.name for found in pkgutil.walk_packages(retake.__path__, "retake.")]


@pytest.fixture
def folder(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder in which an example runs: it holds the project's configurations, a pipeline's models, and photos."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    for version in ("1", "2"):
        seal.put(Path(shutil.copytree(models / "pushed" / version, tmp_path / "models" / "sample" / version)))
    paint(tmp_path / "photos" / "food.jpg", RED)
    paint(tmp_path / "photos" / "taco.jpg", BLUE)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.usefixtures("folder")
def test_the_examples_of_a_module_run(name: str) -> None:
    module = importlib.import_module(name)
    assert not doctest.testmod(module, extraglobs={"Path": Path}).failed
