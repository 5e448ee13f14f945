"""The real pictures of ../shared, a few of each class, and commands on them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
RETAKE = Path(sys.executable).with_name("retake")
SHARED = PROJECT.parent / "shared"
RECORDS = SHARED / "data" / "hotdog" / "records"
CLASSES = ["food", "sandwich", "taco"]
PER_CLASS = 60


def needs(weights: str) -> pytest.MarkDecorator:
    """Skips tests where the pictures or a weights file are not there."""
    here = (SHARED / "weights" / weights).is_file() and RECORDS.is_dir()
    return pytest.mark.skipif(
        not here, reason="the real pictures and weights are no part of the project: ../shared is not here"
    )


def call(*command: str | Path) -> str:
    """Runs a command that has to go well, and returns what it printed."""
    ended = subprocess.run([*map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def pack(folder: Path, baseline: Path) -> Path:
    """Copies PER_CLASS pictures of each class into `folder`, and packs them into the record file `baseline`.

    Returns:
      The folder of as many hot dogs.
    """
    for name in [*CLASSES, "hot dog"]:
        (folder / name).mkdir(parents=True)
        for picture in sorted((SHARED / "data" / "hotdog" / "images" / name).iterdir())[:PER_CLASS]:
            shutil.copy(picture, folder / name)
    call(RETAKE, "records", "pack", folder, baseline, "--config", "hotdog")
    return folder / "hot dog"
