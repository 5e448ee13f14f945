"""A model's seal tells that this account pushed it as it is."""

from __future__ import annotations

import logging
import stat
from pathlib import Path

import pytest

from retake import seal

OTHERS = "was not pushed by this user account on this machine"
CHANGED = "was pushed by another user account, or has changed since"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def test_a_sealed_model_is_known_also_as_a_copy(model: Path, tmp_path: Path) -> None:
    assert seal.broken(model) == OTHERS
    seal.put(model)
    assert seal.broken(model) is None
    assert seal.broken(model.rename(tmp_path / "copy")) is None


def test_the_key_is_whole_and_for_this_account_only(model: Path, state: Path) -> None:
    seal.put(model)
    [key] = (state / "retake").iterdir()
    assert len(key.read_bytes()) == 32
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        lambda model: (model / "saved_model.pb").write_bytes(b"grapf"),
        lambda model: (model / "variables" / "more").touch(),
        lambda model: (model / "variables" / "variables.index").unlink(),
        lambda model: (model / "saved_model.pb").rename(model / "saved_model.pbtxt"),
        lambda model: (model / seal.SEAL).write_text("0" * 64),
        lambda model: (model / seal.SEAL).write_bytes(b"\xff" * 10_000),
    ],
)
def test_every_change_breaks_the_seal(model: Path, change: object) -> None:
    seal.put(model)
    change(model)  # type: ignore[operator]
    assert seal.broken(model) == CHANGED


def test_a_link_in_a_model_breaks_the_seal(model: Path, tmp_path: Path) -> None:
    seal.put(model)
    (model / "variables").rename(tmp_path / "elsewhere")
    (model / "variables").symlink_to(tmp_path / "elsewhere")
    assert seal.broken(model) == OTHERS


def test_a_seal_of_another_account_does_not_count(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal.put(model)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    assert seal.broken(model) == OTHERS
    (tmp_path / "two").mkdir()
    seal.put(tmp_path / "two")
    assert seal.broken(model) == CHANGED


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 33])
def test_a_key_that_is_not_whole_seals_nothing(
    model: Path, state: Path, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (state / "retake").mkdir(parents=True)
    (state / "retake" / "seal.key").write_bytes(key)
    (state / "retake" / "seal.key").chmod(0o600)
    with caplog.at_level(logging.INFO, "retake"):
        seal.put(model)
    assert not (model / seal.SEAL).exists()
    assert "seal.key is not a key that only this account reads; remove it" in caplog.text
    assert seal.broken(model) == OTHERS


def test_where_no_key_can_be_made_a_push_goes_on(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.INFO, "retake"):
        seal.put(model)
    assert "is not sealed" in caplog.text and "--trust" in caplog.text
