"""The default command on the embedded pictures, as a newcomer meets it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

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


def test_what_tfx_computed_about_the_records_is_shown(place: Path, ended: subprocess.CompletedProcess[str]) -> None:
    told = {}
    for what in ("statistics", "schema", "anomalies"):
        shown = subprocess.run(
            [RETAKE, "show", what, "--set", f"pipeline.root={place / 'runs'}"],
            capture_output=True,
            text=True,
            cwd=PROJECT,
        )
        assert (shown.returncode, shown.stderr) == (0, "")
        told[what] = shown.stdout
    assert "train, 263 pictures" in told["statistics"] and "drawn.tfrecord 263" in told["statistics"]
    assert "image     bytes   required" in told["schema"]
    assert "eval: no anomalies" in told["anomalies"]


def test_tensorboard_names_runs_by_id_and_phase(place: Path, ended: subprocess.CompletedProcess[str]) -> None:
    run_id = json.loads((place / "summary.json").read_text())["run_id"]
    logs = place / "runs" / "tensorboard"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [RETAKE.with_name("tensorboard"), "--logdir", logs, "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as tensorboard:
        try:
            scalars = f"http://127.0.0.1:{port}/data/plugin/scalars"
            tags = _json_when_there(f"{scalars}/tags", tensorboard)
            assert {run: set(found) for run, found in tags.items()} == {
                f"{run_id}/1-head-finds-its-penalty": {"l2", "log_loss", "accuracy"},
                f"{run_id}/2-head-on-all-pictures": {"l2", "log_loss", "accuracy"},
            }
            question = urlencode({"run": f"{run_id}/1-head-finds-its-penalty", "tag": "log_loss"})
            points = _json_when_there(f"{scalars}/scalars?{question}", tensorboard)
            log_losses = [value for _, _, value in points]
            assert 0 < min(log_losses) < log_losses[0]
        finally:
            tensorboard.terminate()


def _json_when_there(address: str, server: subprocess.Popen[str]) -> Any:
    """What the server answers, once it has read the logs."""
    for _ in range(300):
        assert server.poll() is None, server.stderr and server.stderr.read()
        with suppress(OSError, ValueError), urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310
            if found := json.load(answer):
                return found
        time.sleep(0.2)
    raise AssertionError(f"{address} answers nothing")
