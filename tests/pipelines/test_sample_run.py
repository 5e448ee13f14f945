"""The default command on the embedded pictures, as a newcomer meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
RETAKE = Path(sys.executable).with_name("retake")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="module")
def ended(place: Path) -> subprocess.CompletedProcess[str]:
    """The default command, but for where it works."""
    settings = [f"data.location={place}/data/sample/records"]
    command = [sys.executable, "-m", "pipelines.run", "--set", *settings]
    places = ["--root", place / "runs", "--models", place / "models", "--summary", place / "summary.json"]
    return subprocess.run(
        [*command, *map(str, places)], cwd=PROJECT, capture_output=True, text=True, timeout=600, check=False
    )


def test_the_default_command_draws_trains_blesses_and_pushes(
    place: Path, ended: subprocess.CompletedProcess[str]
) -> None:
    assert ended.returncode == 0, ended.stdout + ended.stderr
    summary = json.loads((place / "summary.json").read_text())
    assert summary["blessed"] is True and Path(summary["pushed_model"]).is_dir()
    assert summary["metrics"]["accuracy"] >= 0.6
    assert summary["dropped"] == {}


def test_it_says_nothing_but_what_a_person_wants_to_know(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.stderr == ""
    assert not any(word in ended.stdout.lower() for word in ("warning", "deprecat", "traceback", "tensorflow"))


def test_the_pushed_model_answers_what_a_drawn_hot_dog_is(place: Path, ended: subprocess.CompletedProcess[str]) -> None:
    question = ["--images", place / "data" / "sample" / "hot dog", "--model", f"sample={place}/models"]
    command = [RETAKE, "results", *question, "--output", place / "results"]
    asked = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)

    assert asked.returncode == 0, asked.stderr
    assert all(name in asked.stdout for name in ("food", "sandwich", "taco"))
    assert (place / "results.png").is_file() and (place / "results.json").is_file()
