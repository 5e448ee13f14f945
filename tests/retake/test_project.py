"""A configuration of one's own, from folders of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest

from retake import config
from retake.cli import main


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for name in ("wren", "blue jay", ".hidden"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    return Path("photos")


def test_a_configuration_is_written_and_the_next_commands_are_told(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "birds", str(photos)]) == 0
    told = capsys.readouterr().out
    assert "retake records pack photos data/birds/records/first.tfrecord --config birds" in told
    assert "retake run --config birds" in told
    loaded = config.load("birds")
    assert loaded.data.classes == ["blue jay", "wren"] and loaded.data.location == "data/birds/records"


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("Birds", "photos", "is no name for a pipeline"),
        ("birds", "photos/wren", "needs a folder of pictures for each of two classes"),
        ("birds", "nowhere", "nowhere"),
        ("taken", "photos", "exists; choose another name"),
    ],
)
def test_what_cannot_be_written_is_told_in_a_line(
    photos: Path, name: str, folder: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("configs/taken.yaml").write_text("mine")
    assert main(["init", name, folder]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
    assert Path("configs/taken.yaml").read_text() == "mine"
