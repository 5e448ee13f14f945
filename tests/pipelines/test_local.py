"""The local runner: the contract of all runners, and what only a process on this machine has to stand."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from ml_metadata import MetadataStore
from ml_metadata.proto.metadata_store_pb2 import Execution
from runner_contract import (
    NODES,
    REJECTED,
    Chapter,
    Outcome,
    Place,
    RunnerContract,
    Start,
    make_place,
    states,
    versions,
)

from pipelines import metadata

PROJECT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "pipelines.run"]
MODEL_FILES = {
    "saved_model.pb",
    "variables/variables.index",
    "variables/variables.data-00000-of-00001",
    "assets.extra/retake.json",
    "assets.extra/pushed_from.json",
}


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True, timeout=300, **options
    )


def settings_of(place: Place, *settings: str) -> list[str]:
    return ["--config", str(place.config), *(argument for setting in settings for argument in ("--set", setting))]


def start(place: Place, *settings: str) -> Outcome:
    file = place.folder / "summary.json"
    file.unlink(missing_ok=True)
    ended = run(*settings_of(place, *settings), "--summary", file)
    summary = json.loads(file.read_text()) if file.exists() else None
    return Outcome(ended.returncode, summary, ended.stdout + ended.stderr)


@pytest.mark.usefixtures("node_server")
class TestLocal(RunnerContract):
    @pytest.fixture(scope="class")
    @classmethod
    def start(cls) -> Start:
        return start

    def test_a_refused_model_ends_the_command_with_3_where_a_blessing_is_required(
        self, place: Place, repaired: Chapter
    ) -> None:
        ended = run(*settings_of(place, *REJECTED), "--require-blessing")
        assert ended.returncode == 3
        assert ended.stderr.startswith("pipelines.run: the model was not blessed: accuracy ")
        assert versions(place) == repaired.versions


@contextmanager
def only_whole_models(place: Place) -> Iterator[None]:
    """Looks at the models' folder all the while: a numbered version has all its files from the moment it appears."""
    halves, over = set(), threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            for version in versions(place):
                if missing := {name for name in MODEL_FILES if not (place.models / str(version) / name).is_file()}:
                    halves.add((version, *sorted(missing)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    assert not halves


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("local"))


def latest_run(place: Place) -> Path:
    return max((place.root / "runs").iterdir(), key=lambda folder: folder.stat().st_mtime_ns)


SLOW_COPY = """
import shutil, time
def copy(source, target):
    time.sleep(1)
    return shutil.copy2(source, target)
symlinks, ignore, _, *others = shutil.copytree.__defaults__
shutil.copytree.__defaults__ = (symlinks, ignore, copy, *others)
"""


def cut_short(place: Place, node: str, how: signal.Signals) -> tuple[int, str]:
    """Runs until `node` has been running for a second or two, and sends the signal to all the run's processes."""
    slow = place.folder / "slow"  # Pushing takes milliseconds; from this folder Python learns to take a second a file.
    slow.mkdir(exist_ok=True)
    (slow / "sitecustomize.py").write_text(SLOW_COPY)
    process = subprocess.Popen(
        [*RUN, *settings_of(place)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(slow), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout
    said = ""
    for line in process.stdout:
        said += line
        if f" {NODES[NODES.index(node) - 1]} " in line:
            break
    time.sleep({"Transform": 0.7, "Pusher": 2.5}.get(node, 1.5))
    os.killpg(process.pid, how)
    rest, _ = process.communicate(timeout=60)
    return process.returncode, said + rest


@pytest.fixture(scope="module")
def finished() -> set[str]:
    """Nodes that a run has finished before it was cut short."""
    return set()


@pytest.mark.parametrize(
    ("node", "how"),
    [
        ("Transform", signal.SIGKILL),
        ("Trainer", signal.SIGINT),
        ("Trainer", signal.SIGTERM),
        ("Trainer", signal.SIGKILL),
        ("Evaluator", signal.SIGKILL),
        ("Pusher", signal.SIGKILL),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_run_cut_short_leaves_finished_nodes_to_the_next_and_no_half_model(
    place: Place, finished: set[str], node: str, how: signal.Signals
) -> None:
    with only_whole_models(place):
        code, said = cut_short(place, node, how)

    connection = metadata.connection_config(f"sqlite:///{place.root}/metadata.sqlite")
    summary = metadata.summarize(connection, "colours", latest_run(place).name, "local", NODES)
    nodes = {each.id: each.state for each in summary.nodes}
    before = NODES[: NODES.index(node)]
    assert nodes[node] == "running", said
    assert all(nodes[name] == "cached" for name in before if name in finished and name != "Resolver")
    assert all(nodes[name] in ("complete", "cached") for name in before)
    finished.update(before)
    assert versions(place) == []
    if node == "Pusher":
        assert list(place.models.glob(".incoming-*/*"))  # It was in the middle of the copy.
    if how == signal.SIGKILL:
        assert code == -how
    else:
        assert code == 130
        assert "interrupted" in said and "Traceback" not in said
        (place.folder / "go_on").write_text(said.rpartition("Resume with:\n")[2].strip())


@pytest.fixture(scope="module")
def completed(place: Place) -> Outcome:
    """The run that goes on after all others have been cut short, or the only one."""
    with only_whole_models(place):
        return start(place)


def test_the_run_after_those_that_were_cut_short_completes(
    place: Place, finished: set[str], completed: Outcome
) -> None:
    assert completed.code == 0, completed.said
    assert all(states(completed)[name] == "cached" for name in finished if name != "Resolver")
    assert len(versions(place)) == 1


def test_what_the_runs_that_were_cut_short_left_is_closed_and_removed(place: Place, completed: Outcome) -> None:
    store = MetadataStore(metadata.connection_config(f"sqlite:///{place.root}/metadata.sqlite"))
    assert not [each for each in store.get_executions() if each.last_known_state == Execution.RUNNING]
    outputs = {str(folder) for folder in place.root.glob("[A-Z]*/[a-z]*/[0-9]*")}
    assert outputs <= {artifact.uri for artifact in store.get_artifacts()}
    assert not list(place.root.glob("*/.system/executor_execution/*/.temp"))
    assert not list(place.root.glob("*/.system/stateful_working_dir/*"))
    assert not list(place.models.glob(".incoming-*"))


def test_the_command_that_an_interrupted_run_names_goes_on(place: Place, completed: Outcome) -> None:
    command = place.folder / "go_on"
    if not command.exists():
        pytest.skip("no run was interrupted: the tests before this one were not run")
    ended = subprocess.run(command.read_text(), shell=True, cwd=PROJECT, capture_output=True, text=True)  # noqa: S602
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "= Pusher" in ended.stdout


def test_a_model_that_was_removed_is_pushed_again_and_not_claimed(place: Place, completed: Outcome) -> None:
    [old] = versions(place)
    shutil.rmtree(place.models)
    again = start(place)

    assert again.code == 0, again.said
    assert states(again) == {**dict.fromkeys(NODES, "cached"), "Pusher": "complete"}
    [new] = versions(place)
    assert new > old and again.summary["pushed_model"] == str(place.models / str(new))


def test_a_node_whose_output_was_deleted_runs_again(place: Place, completed: Outcome) -> None:
    shutil.rmtree(place.root / "Evaluator")
    again = start(place)

    assert again.code == 0, again.said
    assert states(again)["Evaluator"] == "complete" and states(again)["Trainer"] == "cached"


def test_runs_at_once_on_one_root_wait_and_on_one_models_folder_both_push(place: Place, completed: Outcome) -> None:
    before = versions(place)
    commands = [
        settings_of(place, "trainer.seed=8"),
        settings_of(place, "trainer.seed=8"),
        settings_of(place, f"pipeline.root={place.folder}/other"),
    ]
    with only_whole_models(place):
        processes = [
            subprocess.Popen([*RUN, *command], cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for command in commands
        ]
        ended = [process.communicate(timeout=300) for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], ended
    assert sorted("waiting for it to end" in out for out, _ in ended) == [False, False, True]
    assert sorted("= Trainer" in out for out, _ in ended) == [False, False, True]
    assert len(versions(place)) == len(before) + 2

    alone, silent = ended[2]
    assert silent == ""
    assert "warning" not in alone.lower() and "tensorflow" not in alone.lower()
    [folder] = (place.folder / "other" / "runs").iterdir()
    log = (folder / "log.txt").read_text()
    assert all(f"[{node}] Resolved inputs" in log for node in NODES if node != "Resolver")
    assert "tensorflow" in log and "held-out" in log
    assert json.loads((folder / "summary.json").read_text())["state"] == "complete"


def test_a_run_goes_on_where_nobody_reads_what_it_says(place: Place, completed: Outcome) -> None:
    file = place.folder / "unread.json"
    command = " ".join([*RUN, *settings_of(place), "--summary", str(file)])
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} | head -1"], cwd=PROJECT, capture_output=True, text=True
    )

    assert ended.returncode == 0 and ended.stderr == ""
    assert len(ended.stdout.splitlines()) == 1
    assert json.loads(file.read_text())["state"] == "complete"


def test_a_terminal_shows_no_more_than_a_pipe_does(place: Place, completed: Outcome) -> None:
    terminal, end = pty.openpty()
    with subprocess.Popen([*RUN, *settings_of(place)], cwd=PROJECT, stdout=end, stderr=end, stdin=end) as process:
        os.close(end)
        seen = b""
        with suppress(OSError):  # The terminal is gone with the process.
            while block := os.read(terminal, 1 << 16):
                seen += block
        os.close(terminal)

    assert process.returncode == 0
    said = seen.decode()
    assert "starting" in said and "Blessed" in said
    assert "Warning" not in said and "google" not in said


def test_verbose_shows_what_the_libraries_say(place: Place, completed: Outcome) -> None:
    ended = run(*settings_of(place), "--verbose")

    assert ended.returncode == 0
    assert "[Trainer] Resolved inputs" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "trainer.epoch=3"], "unknown key trainer.epoch; allowed here: seed, epochs"),
        (["--set", "trainer.epochs=none"], "trainer.epochs = 'none'"),
        (["--set", "trainer"], "must read section.key=value"),
        (["--config", "nothing"], "there are: hotdog, intel, sample"),
        (["--runner", "nothing"], "invalid choice: 'nothing' (choose from "),
        (["--root", "gs://bucket/runs"], "pipeline.root gs://bucket/runs"),
    ],
)
def test_wrong_usage_is_told_in_a_line_and_exits_with_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    ended = run("--data", tmp_path, *arguments)

    assert ended.returncode == 2
    assert said in ended.stderr and "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize("file", ["occupied/summary.json", "folder"])
def test_a_summary_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path, file: str) -> None:
    (tmp_path / "occupied").write_text("a file where a folder is needed")
    (tmp_path / "folder").mkdir()
    (tmp_path / "data").mkdir()
    ended = run("--data", tmp_path / "data", "--root", tmp_path / "root", "--summary", tmp_path / file)

    assert ended.returncode == 2
    assert "--summary" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "root" / "runs").exists()


def test_the_shown_configuration_is_read_back_as_it_was(tmp_path: Path) -> None:
    shown = run("--config", "hotdog", "--root", tmp_path / "r", "--set", "trainer.l2=auto", "--show-config")
    (tmp_path / "shown.yaml").write_text(shown.stdout)
    again = run("--config", tmp_path / "shown.yaml", "--show-config")

    assert again.stdout == shown.stdout and again.returncode == 0
    assert yaml.safe_load(shown.stdout)["metadata"]["url"] == f"sqlite:///{tmp_path}/r/metadata.sqlite"


def test_help_loads_no_library_that_takes_seconds() -> None:
    code = """
import sys
from pipelines.run import main
try:
    main(["--help"])
finally:
    print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)

    assert ended.returncode == 0 and ended.stdout.startswith("usage: python -m pipelines.run")
    assert {"tensorflow", "tfx", "apache_beam", "numpy", "ml_metadata"}.isdisjoint(ended.stderr.split())
