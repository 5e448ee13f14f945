"""What a shell is told where somebody presses Tab behind `retake`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

RETAKE = Path(sys.executable).with_name("retake")


def completions(line: str) -> list[str]:
    """The words for the end of a line, as the script of `register-python-argcomplete` asks for them."""
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    ended = subprocess.run(
        ["bash", "-c", f"'{RETAKE}' 8>&1 9>&2 1>/dev/null 2>/dev/null"],
        env={**os.environ, **asked, "COMP_TYPE": "9", "IFS": "\013"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return [word.strip() for word in ended.stdout.split("\013")]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("retake re", ["records", "results"]),
        ("retake run --sum", ["--summary"]),
        ("retake run --runner ", ["local", "airflow", "vertex", "kubeflow"]),
        ("retake run --runner vertex --wa", ["--wait"]),
        ("retake records pack --fo", ["--force"]),
        ("retake models --ro", ["--roll-back"]),
    ],
)
def test_tab_completes_commands_and_their_options(line: str, words: list[str]) -> None:
    assert sorted(completions(line)) == sorted(words)


def test_tab_runs_no_command_that_cannot_complete(tmp_path: Path) -> None:
    assert completions(f"retake emulator --root {tmp_path}/state --po") == [""]
    assert not list(tmp_path.iterdir())
