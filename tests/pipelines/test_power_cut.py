"""The power is cut at ten moments of a retraining: what is there answers, and the same command completes.

Root and models lie on a file system in a file. A copy of that file, taken while the file system is mounted, holds what
a disk holds after a power cut: what the kernel has in memory only is not in it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from colours import coloured, write_records
from runner_contract import ADDED, PER_CLASS, Place, make_place, versions

PROJECT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "pipelines.run"]
MEGABYTES = 192
# Names reach the disk within a second, contents that nobody syncs half a minute later: the worst that ext4 may do.
OPTIONS = "loop,commit=1,noauto_da_alloc"

AFTER = ["ExampleGen", "Transform", "Trainer", "Resolver", "Evaluator"]
"""Nodes of the retraining after which the power is cut, besides other moments."""

SLOW_COPY = """
import shutil, time
def copy(source, target):
    time.sleep(0.2)
    return shutil.copy2(source, target)
symlinks, ignore, _, *others = shutil.copytree.__defaults__
shutil.copytree.__defaults__ = (symlinks, ignore, copy, *others)
"""

SURVIVOR = """
import json, os, sys
from pathlib import Path
from tfx.orchestration.portable import launcher
from pipelines import factory, metadata, run, run_node
from retake import models as pushed

models, *command = sys.argv[1:]

def answers():
    told = {}
    for version in (path for path in Path(models).glob("*") if path.name.isdecimal()):
        empty = [file.name for file in version.rglob("*") if file.is_file() and not file.stat().st_size]
        try:
            pushed.load(version)
            told[version.name] = f"empty: {empty}" if empty else "answers"
        except Exception as error:
            told[version.name] = f"{error} (empty: {empty})"
    return told

for line in sys.stdin:
    # A process of its own for each, which leaves nothing open on the disk; forked, as imports take seconds.
    if not (child := os.fork()):
        told = {"before": answers(), "code": run.main(command), "after": answers()}
        Path(line.strip()).write_text(json.dumps(told))
        os._exit(0)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


def shell(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[str]:
    """Mounts a file with a file system, and gives the name of the device that it is then."""
    shell("mount", "-o", OPTIONS, image, folder)
    try:
        yield Path(subprocess.check_output(["findmnt", "-no", "SOURCE", folder], text=True).strip()).name
    finally:
        shell("umount", folder)


def writes(device: str) -> list[str]:
    """Of a block device: how often it was written to, and what is under way."""
    fields = Path(f"/sys/block/{device}/stat").read_text().split()
    return [fields[4], fields[8]]


def cut_power(device: str, image: Path, copy: Path) -> None:
    """Copies the image as it is at one moment: once more where something was written meanwhile."""
    while True:
        before = writes(device)
        shell("cp", "--sparse=always", image, copy)
        if before == writes(device) and before[1] == "0":
            return


class Disks(NamedTuple):
    """What was on the disk at each moment, and where it has to be mounted."""

    place: Place
    copies: dict[str, Path]


def retrain(place: Place, cut: Callable[[str], None]) -> None:
    """Runs the pipeline once more; the process stands still while the power is cut at a moment of its run."""
    slow = place.folder.parent / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(SLOW_COPY)
    before = versions(place)
    process = subprocess.Popen(
        [*RUN, "--config", str(place.config)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(slow), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def cut_standing(moment: str) -> None:
        process.send_signal(signal.SIGSTOP)
        cut(moment)
        process.send_signal(signal.SIGCONT)

    def wait_for(there: Callable[[], Any]) -> None:
        while process.poll() is None and not there():
            time.sleep(0.005)

    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        node = (line.split() or [""])[1:2]
        if node and node[0] in AFTER:
            cut_standing(f"after {node[0]}")
        if node == ["Evaluator"]:
            wait_for(lambda: list(place.models.glob(".incoming-*/variables/*")))
            cut_standing("in the middle of the push")
            wait_for(lambda: versions(place) != before)
            cut_standing("when the new version appears")
    assert process.wait() == 0, said


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Disks:
    if os.getuid() or not all(map(shutil.which, ("mkfs.ext4", "mount", "findmnt"))):
        pytest.skip("a file system in a file is mounted by root only, with mkfs.ext4, mount and findmnt")
    folder = tmp_path_factory.mktemp("power")
    image, disk = folder / "image", folder / "disk"
    disk.mkdir()
    with image.open("wb") as file:
        file.truncate(MEGABYTES << 20)
    shell("mkfs.ext4", "-q", image)
    try:
        shell("mount", "-o", OPTIONS, image, disk)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"root may not mount a file system here: {error.stderr.decode().strip()}")
    shell("umount", disk)
    copies: dict[str, Path] = {}
    with mounted(image, disk) as device:

        def cut(moment: str) -> None:
            copies[moment] = folder / f"{len(copies)}.image"
            cut_power(device, image, copies[moment])

        place = make_place(disk)
        shell("sync", "-f", disk)  # The user's own files are not what is tested.
        first = subprocess.run([*RUN, "--config", place.config], cwd=PROJECT, capture_output=True, text=True)
        assert first.returncode == 0, first.stdout + first.stderr
        cut("right after the first run")
        time.sleep(1.5)
        cut("a second after the first run")
        write_records(place.data / ADDED, coloured(PER_CLASS, seed=1))
        shell("sync", "-f", place.data / ADDED)
        retrain(place, cut)
        time.sleep(1.5)
        cut("a second after the second run")
    return Disks(place, copies)


class Survived(NamedTuple):
    """What was found after a power cut, and what became of it.

    Fields:
      before, after: version → "answers" or what is wrong with it, before and after the run that goes on.
      code: what that run exited with.
      said: all that it said.
    """

    before: dict[str, str]
    code: int
    after: dict[str, str]
    said: str


@pytest.fixture(scope="module")
def survived(disks: Disks) -> dict[str, Survived]:
    """After each power cut the disk is mounted again, and the same command is given."""
    place, told = disks.place, {}
    command = [sys.executable, "-c", SURVIVOR, place.models, "--config", place.config]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdin and process.stdout
        for moment, copy in disks.copies.items():
            answer = copy.with_suffix(".json")
            with mounted(copy, place.folder):
                process.stdin.write(f"{answer}\n")
                process.stdin.flush()
                said = "".join(iter(process.stdout.readline, "done\n"))
            assert answer.exists(), said
            told[moment] = Survived(**json.loads(answer.read_text()), said=said)
            copy.unlink()
        process.stdin.close()
    return told


def test_the_power_is_cut_at_ten_moments(survived: dict[str, Survived]) -> None:
    assert len(survived) == 10


def test_every_version_that_a_power_cut_leaves_is_whole_and_answers(survived: dict[str, Survived]) -> None:
    broken = {moment: one.before for moment, one in survived.items() if set(one.before.values()) - {"answers"}}
    assert not broken
    assert all(one.before for one in survived.values())  # The first run's model is never lost.
    assert len(survived["a second after the second run"].before) == 2


def test_after_a_power_cut_the_same_command_completes_and_pushes_only_whole_models(
    survived: dict[str, Survived],
) -> None:
    failed = {moment: one.said for moment, one in survived.items() if one.code}
    assert not failed
    assert all(set(one.after.values()) == {"answers"} for one in survived.values())
    # From when the new records arrived, the new model is in service at the end.
    assert [len(one.after) for one in survived.values()] == [1, 1, *[2] * 8]
