"""The demo as a process: real pictures through a bucket, the function and the local Vertex; and what it says when it
cannot begin or is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hotdog import CLASSES, PER_CLASS, RECORDS, SHARED, needs, pack
from hotdog import call as done
from vertex_emulator import VertexEmulator, until

from kubeflow import demo, stand_ins

PROJECT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "kubeflow.demo"]
WEIGHTS = SHARED / "weights" / "efficientnetv2b0_notop.weights.h5"
BIAS = RECORDS / "taco_bias.tfrecord"

pytestmark = pytest.mark.usefixtures("node_server")


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, command)], cwd=PROJECT, capture_output=True, text=True, timeout=600)


def processes_of(root: Path) -> list[str]:
    """Commands of running processes that name the folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # It has ended meanwhile.
            continue
        if str(root) in words:
            found.append(words)
    return found


class Shown(NamedTuple):
    """What the demo has left: what it printed, the runs' summaries, the jobs by id, and what the models say."""

    printed: str
    first: dict[str, Any]
    second: dict[str, Any]
    jobs: dict[str, dict[str, Any]]
    hot_dogs: dict[str, dict[str, float]]

    def uri(self, run: dict[str, Any], task: str, side: str, key: str) -> str:
        """Where the only artifact is that a task of a run took or gave."""
        [detail] = [each for each in self.jobs[run["run_id"]]["jobDetail"]["taskDetails"] if each["taskName"] == task]
        [artifact] = detail[side][key]["artifacts"]
        return str(artifact["uri"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("demo")
    hot_dogs = pack(folder / "pictures", folder / "baseline.tfrecord")
    printed = done(
        *(*DEMO, "--root", folder / "demo", "--records", folder / "baseline.tfrecord", BIAS),
        *("--pictures", hot_dogs, "--weights", WEIGHTS),
        *("--set", "model.backbone=EfficientNetV2B0", "--set", "evaluator.min_accuracy=0.5"),
        *("--set", "evaluator.max_regression=0.3"),  # Of three dozen eval pictures a few may tip.
    )
    assert processes_of(folder) == []
    first, second = (
        json.loads((folder / "demo" / f"{name}.summary.json").read_text()) for name in ("baseline", "taco_bias")
    )
    results = json.loads((folder / "demo" / "results.json").read_text())
    means = {name: model["mean"] for name, model in results["models"].items()}
    return Shown(printed, first, second, jobs_in(folder / "demo" / "vertex"), means)


def jobs_in(root: Path) -> dict[str, dict[str, Any]]:
    """The jobs in the history of a local Vertex, by id."""
    emulator = VertexEmulator(root)
    emulator.start()
    try:

        def get(what: str) -> Any:
            with urllib.request.urlopen(f"{emulator.url}/v1/{what}", timeout=30) as answer:  # noqa: S310
                return json.load(answer)

        names = [job["name"] for job in get("projects/-/locations/-/pipelineJobs")["pipelineJobs"]]
        return {name.rpartition("/")[2]: get(name) for name in names}
    finally:
        emulator.end()


@needs(WEIGHTS.name)
class TestLoop:
    def test_each_object_starts_one_run_although_its_event_comes_twice(self, shown: Shown) -> None:
        assert {*shown.jobs} == {shown.first["run_id"], shown.second["run_id"]}
        assert {job["state"] for job in shown.jobs.values()} == {"PIPELINE_STATE_SUCCEEDED"}
        assert shown.printed.count("the same event again: ") == 2

    def test_the_first_model_is_pushed_without_a_comparison(self, shown: Shown) -> None:
        assert shown.first["blessed"] is True and shown.first["baseline_metrics"] is None
        assert sum(sum(split.values()) for split in shown.first["examples"].values()) == PER_CLASS * len(CLASSES)

    def test_the_second_model_has_seen_both_files_and_is_compared_with_the_first(self, shown: Shown) -> None:
        assert sum(sum(split.values()) for split in shown.second["examples"].values()) == PER_CLASS * len(CLASSES) + 150
        assert shown.second["baseline_metrics"]["accuracy"] >= 0.5
        assert shown.uri(shown.second, "Evaluator", "inputs", "baseline_model") == shown.uri(
            shown.first, "Trainer", "outputs", "model"
        )

    def test_the_second_model_is_pushed_as_a_higher_version(self, shown: Shown) -> None:
        assert shown.second["blessed"] is True
        assert int(Path(shown.second["pushed_model"]).name) > int(Path(shown.first["pushed_model"]).name)

    def test_hot_dogs_become_more_of_a_taco(self, shown: Shown) -> None:
        assert shown.hot_dogs["taco_bias"]["taco"] > shown.hot_dogs["baseline"]["taco"]
        assert "What rose most: taco, " in shown.printed


def test_a_demo_has_its_folder_for_itself_and_leaves_no_process_when_interrupted(tmp_path: Path) -> None:
    process = subprocess.Popen([*DEMO, "--root", tmp_path / "demo"], cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    log = tmp_path / "demo" / "logs" / "function.log"
    until(lambda: log.exists() and "started retake-" in log.read_text(), 300)
    refused = call(*DEMO, "--root", tmp_path / "demo")
    assert refused.returncode == 1
    assert refused.stderr.strip() == f"kubeflow.demo: another demo works in {tmp_path / 'demo'}; give another --root"
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 130
    assert printed.splitlines()[-2] == "Interrupted; nothing goes on. Begin again with:"
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--records", "none.tfrecord", "no.tfrecord", "--pictures", "."], "there is no record file none.tfrecord; "),
        (["--records", __file__, __file__, "--pictures", "."], "both record files are named test_demo.py: "),
        (["--records", __file__, "README.md", "--pictures", "none"], "there is no folder none; "),
        (["--root", "tests", "--records", __file__, "README.md", "--pictures", "docs"], f"{__file__} lies in tests, "),
        (["--pictures", "."], "--records and --pictures go together: "),
        (["--config", "none"], "configuration 'configs/none.yaml' cannot be read "),
        (["--set", "trainer.epochs=many"], "configs/hotdog.yaml with --set: trainer.epochs = "),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], says: str
) -> None:
    assert demo.main(["--root", str(tmp_path / "demo"), *given]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"kubeflow.demo: {says}")


def test_without_the_functions_environment_it_says_what_makes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stand_ins, "FRAMEWORK", tmp_path / "venv" / "bin" / "functions-framework")
    assert demo.main(["--root", str(tmp_path / "demo")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    missing = f"the function's environment {tmp_path / 'venv'} is missing"
    assert line == f"kubeflow.demo: {missing}; make it with: make setup-function"


def test_a_folder_with_something_else_in_it_is_not_emptied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    assert demo.main(["--root", str(tmp_path)]) == 1
    assert f"{tmp_path} holds something other than an earlier demo" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
