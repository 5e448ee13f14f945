"""The command itself, before a runner begins."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from rich.console import Console

from pipelines import run, runners
from pipelines.runners.base import Run, Runner, Task
from retake.config import load
from retake.summary import Summary


@pytest.mark.parametrize(
    ("runner", "option", "complaint"),
    [
        ("kubeflow", "--wait", "--wait is not for --runner kubeflow, only for vertex"),
        ("kubeflow", "--service-account=a@b", "--service-account is not for --runner kubeflow, only for vertex"),
        ("local", "--dry-run", "--dry-run is not for --runner local, only for vertex and kubeflow"),
        ("vertex", "--definitions=here", "--definitions is not for --runner vertex, only for airflow"),
    ],
)
def test_an_option_of_another_runner_is_refused(
    runner: str, option: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--runner", runner, option]) == 2
    assert capsys.readouterr().err == f"pipelines.run: {complaint}\n"


def test_a_verdict_that_nobody_waits_for_cannot_be_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--runner", "vertex", "--require-blessing"]) == 2
    assert "--require-blessing needs --wait" in capsys.readouterr().err
    assert run.main(["--runner", "airflow", "--require-blessing"]) == 2
    assert "--require-blessing is not for --runner airflow" in capsys.readouterr().err


def test_help_shows_the_options_of_the_runner_and_says_where_those_of_others_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    vertex = ["--runner", "vertex", "--help"]
    for arguments, shown, hidden in ((["--help"], "--verbose", "--endpoint"), (vertex, "--endpoint", "--host")):
        with pytest.raises(SystemExit) as ended:
            run.main(arguments)
        told = capsys.readouterr().out
        assert ended.value.code == 0 and shown in told and hidden not in told
        assert "Each runner has options of its own" in told


@dataclass
class Toy(Runner):
    """Runs nothing, and says that all went well."""

    SETTINGS: ClassVar[dict[str, str]] = {"colour": "pipeline.name"}
    waits = True

    shout: bool = False

    @classmethod
    def add_options(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--colour", help="the pipeline's name")
        group.add_argument("--shout", action="store_true", help="say it loudly")

    def run(self, task: Task, console: Console) -> Run:
        said = f"{task.config.pipeline.name} runs"
        console.print(said.upper() if self.shout else said)
        blessed = Summary(run_id=task.run_id, runner="toy", state="complete", nodes=[], blessed=True, reason="why not")
        return Run(task.run_id, blessed)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runners.RUNNERS, "toy", f"{__name__}:Toy")


@pytest.mark.usefixtures("toy")
def test_a_runner_adds_itself_to_the_table_with_options_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = tmp_path / "summary.json"
    told = ["--runner", "toy", "--colour", "red", "--shout", "--summary", str(summary), "--require-blessing"]
    assert run.main([*told, "--data", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("RED RUNS") and "Blessed: why not" in out
    assert json.loads(summary.read_text())["runner"] == "toy"

    assert run.main(["--runner", "local", "--shout"]) == 2
    assert "--shout is not for --runner local, only for toy" in capsys.readouterr().err


@pytest.mark.usefixtures("toy")
def test_python_gets_the_run_with_its_summary(tmp_path: Path) -> None:
    done = run.run(load("sample", ["data.sample=false", f"data.location={tmp_path}"]), "toy", shout=True)
    assert done.summary is not None and done.summary.blessed and done.name == done.summary.run_id
