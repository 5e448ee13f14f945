"""What a person sees while a run goes on."""

from __future__ import annotations

import logging
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from pipelines import progress


@pytest.fixture
def logger() -> logging.Logger:
    return logging.getLogger("retake")


def test_what_nodes_say_cannot_steer_a_terminal(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(logger, "propagate", False)  # pytest-xdist cannot report a lone surrogate.
    console = Console(file=StringIO(), width=80)
    with progress.Progress(console).listening():
        logger.info("file \x1b[2J of %s", "caf\udce9")
    assert console.file.getvalue() == "  file \\x1b[2J of caf\\udce9\n"  # type: ignore[attr-defined]


def test_the_log_of_a_run_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [*root.handlers])
    monkeypatch.setattr(root, "level", root.level)
    with progress.captured(tmp_path / "log.txt", verbose=True):
        logging.getLogger("library").info("a name: %s", "\x1b]0;x\x07\udce9")
    assert r"I library a name: \x1b]0;x\x07\udce9" in (tmp_path / "log.txt").read_text()


def test_a_long_state_and_a_long_time_do_not_run_together(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    console = Console(file=StringIO(), width=80)
    progress.Progress(console).done("interrupted", "Trainer", 1226.7)
    assert console.file.getvalue().split() == ["✗", "Trainer", "interrupted", "1226.7", "s"]  # type: ignore[attr-defined]
