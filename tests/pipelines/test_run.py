"""The command itself, before a runner begins."""

from __future__ import annotations

import pytest

from pipelines import run


@pytest.mark.parametrize(
    ("runner", "option", "complaint"),
    [
        ("kubeflow", "--wait", "--wait is not for --runner kubeflow, only for vertex"),
        ("kubeflow", "--service-account=a@b", "--service-account is not for --runner kubeflow, only for vertex"),
        ("local", "--dry-run", "--dry-run is not for --runner local, only for vertex and kubeflow"),
        ("airflow", "--require-blessing", "--require-blessing is not for --runner airflow, only for local and vertex"),
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


def test_runners_are_told_of_options_that_there_are() -> None:
    options = vars(run._parser().parse_args([]))
    assert set(run.FOR_RUNNERS) < set(options)
    assert {runner for runners in run.FOR_RUNNERS.values() for runner in runners} <= set(run.RUNNERS)
