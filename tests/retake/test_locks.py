"""Locks that exclude processes from one another, and end with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retake import locks

HOLD = """
import sys
from pathlib import Path
from retake import locks
with locks.held(Path(sys.argv[1]), shared=sys.argv[2] == "shared") as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def hold(place: Path, kind: str) -> subprocess.Popen[str]:
    """A process that holds a lock until it is killed."""
    command = [sys.executable, "-c", HOLD, str(place), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "True\n"
    return process


@pytest.fixture(params=["a file", "a folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / "lock" if request.param == "a file" else tmp_path


def test_a_lock_is_waited_for_until_its_process_is_dead(place: Path) -> None:
    other = hold(place, "alone")
    with locks.held(place) as held:
        assert not held
    with locks.held(place, waiting=other.kill) as held:
        assert held and other.wait() == -9


def test_shared_locks_exclude_only_one_that_is_not(place: Path) -> None:
    other = hold(place, "shared")
    with locks.held(place, shared=True) as held:
        assert held
    with locks.held(place) as held:
        assert not held
    other.kill()
    other.wait()


def test_a_lock_that_is_free_calls_nobody(place: Path) -> None:
    with locks.held(place, waiting=lambda: pytest.fail("it waits")) as held:
        assert held
