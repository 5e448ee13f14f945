"""A pipeline's history: runs from their summaries, versions from the models' folder, and back to an older one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retake import history, seal
from retake.cli import main
from retake.errors import RetakeError
from retake.summary import Summary, write


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two versions that two runs pushed, and a run that failed."""
    for number, (run, accuracy) in enumerate((("first", 0.8), ("second", 0.9)), start=1):
        version = tmp_path / "models" / str(number)
        (version / "assets.extra").mkdir(parents=True)
        (version / "saved_model.pb").write_text(run)
        (version / history.CARD).write_text('{"classes": ["jay", "wren"]}')
        seal.put(version)
        summary = Summary(
            run_id=run,
            runner="local",
            state="complete",
            nodes=[],
            examples={"eval": {"jay": 30, "wren": 1_200}},
            metrics={"accuracy": accuracy},
            blessed=True,
            pushed_model=str(version),
        )
        write(summary, tmp_path / "root" / "runs" / run / "summary.json")
        os.utime(tmp_path / "root" / "runs" / run / "summary.json", (number, number))
    failed = Summary(run_id="third", runner="local", state="failed", nodes=[], reason="no disk")
    write(failed, tmp_path / "root" / "runs" / "third" / "summary.json")
    (tmp_path / "root" / "runs" / "killed").mkdir()
    (tmp_path / "root" / "runs" / "half").mkdir()
    (tmp_path / "root" / "runs" / "half" / "summary.json").write_text("{")
    return tmp_path


def told(place: Path, *words: str) -> list[str]:
    return [*words, "--set", f"pipeline.root={place / 'root'}", "--set", f"pusher.destination={place / 'models'}"]


def test_runs_are_told_in_their_order_with_accuracy_and_verdict(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [run.summary.run_id for run in history.past_runs(str(place / "root"))] == ["first", "second", "third"]
    assert main(told(place, "runs")) == 0
    first, second, third = capsys.readouterr().out.splitlines()[2:]
    assert first.split()[-3:] == ["0.800", "1,230", "pushed"]
    assert second.split()[-3:] == ["0.900", "1,230", "pushed"]
    assert third.split()[-2:] == ["0", "failed"]


def test_a_run_is_shown_by_its_id_and_the_last_one_by_that_word(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(told(place, "runs", "first")) == 0
    assert f"The model is in {place / 'models' / '1'}" in "".join(capsys.readouterr().out.splitlines())
    assert main(told(place, "runs", "last")) == 0
    assert "Failed: no disk" in capsys.readouterr().out
    assert main(told(place, "runs", "fourth")) == 2
    assert "there is no run fourth; list them with: retake runs" in capsys.readouterr().err


def test_an_older_version_comes_back_in_service_as_a_copy_and_the_old_ones_can_go(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = place / "models"
    assert main(told(place, "models", "1", "--roll-back")) == 0
    found = history.versions(models, str(place / "root"))
    assert [version.number for version in found[:2]] == [1, 2]
    newest = found[-1]
    assert newest.run is not None and newest.run.run_id == "first"
    assert (newest.folder / "saved_model.pb").read_text() == "first" and seal.broken(newest.folder) is None

    for number in (1, 2):
        assert main(told(place, "models", str(number), "--delete")) == 0
    assert main(told(place, "models", str(newest.number), "--delete")) == 1
    assert "is in service" in capsys.readouterr().err
    assert [path.name for path in models.iterdir()] == [str(newest.number)]

    assert main(told(place, "models")) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(str(newest.number)) and "0.800" in line and line.rstrip().endswith("in service")


def test_a_version_that_this_account_did_not_push_is_not_put_in_service(place: Path) -> None:
    (place / "models" / "1" / "saved_model.pb").write_text("changed")
    with pytest.raises(RetakeError, match="not put in service"):
        history.roll_back(place / "models", 1)
    assert sorted(path.name for path in (place / "models").iterdir()) == ["1", "2"]


def test_a_copy_that_does_not_succeed_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(history.durable, "publish", full)
    with pytest.raises(RetakeError, match="No space left on device"):
        history.roll_back(place / "models", 1)
    assert sorted(path.name for path in (place / "models").iterdir()) == ["1", "2"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["models", "7", "--roll-back"], "there is no version 7"),
        (["models", "7", "--delete"], "there is no version 7"),
        (["models", "7"], "has no card"),
        (["models", "--delete"], "name the version"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(
    place: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(told(place, *words)) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1


def test_where_nothing_has_run_the_command_that_starts_a_run_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["runs"], ["models"]):
        assert main(told(tmp_path, *words)) == 1
        assert "retake run --config sample" in capsys.readouterr().err
