"""What is written is on disk before its name is: seen through the order of the system's calls."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from retake import durable


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what is synced, and renames, in their order."""
    seen: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def seen_fsync(descriptor: int) -> None:
        seen.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def seen_rename(self: Path, target: Path) -> Path:
        seen.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "rename", seen_rename)
    return seen


def test_a_file_is_synced_before_its_rename_and_its_parents_after_it(tmp_path: Path, calls: list[str]) -> None:
    durable.write(tmp_path / "new" / "folder" / "file.txt", b"content")

    assert (tmp_path / "new" / "folder" / "file.txt").read_bytes() == b"content"
    unfinished, rename, *parents = calls
    assert unfinished.startswith(".file.txt.") and rename == "rename"
    assert parents[:3] == ["folder", "new", tmp_path.name]


def test_a_folder_is_synced_with_all_that_it_holds_before_its_rename(tmp_path: Path, calls: list[str]) -> None:
    (tmp_path / "unfinished" / "variables").mkdir(parents=True)
    (tmp_path / "unfinished" / "variables" / "data").write_text("weights")
    (tmp_path / "unfinished" / "graph").write_text("graph")
    durable.publish(tmp_path / "unfinished", tmp_path / "1")

    before = calls[: calls.index("rename")]
    assert sorted(before) == ["data", "graph", "unfinished", "variables"]
    assert before.index("data") < before.index("variables") < before.index("unfinished")
    assert calls[calls.index("rename") + 1] == tmp_path.name


def test_a_number_that_is_taken_is_refused_and_keeps_what_it_holds(tmp_path: Path) -> None:
    for name in ("unfinished", "1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    with pytest.raises(OSError, match="not empty"):
        durable.publish(tmp_path / "unfinished", tmp_path / "1")

    assert (tmp_path / "1" / "file").read_text() == "1"


def test_a_file_that_cannot_be_written_leaves_the_old_one_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable.write(tmp_path / "file", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write(tmp_path / "file", b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_links_and_pipes_in_a_folder_do_no_harm(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "dangling").symlink_to("nothing")
    durable.sync(tmp_path)


def test_a_folder_that_lost_something_says_what(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    durable.write(folder / "variables" / "data", b"weights")
    durable.write(folder / "BLESSED", b"")
    written = durable.contents(folder)
    assert written == {"BLESSED": 0, "variables/data": 7}
    assert durable.damage(folder, written) is None

    (folder / "variables" / "data").write_bytes(b"weights and more")
    assert durable.damage(folder, written) is None
    (folder / "variables" / "data").write_bytes(b"wei")
    assert durable.damage(folder, written) == f"{folder} is damaged: variables/data is cut off at 3 bytes"
    (folder / "variables" / "data").write_bytes(b"")
    assert durable.damage(folder, written) == f"{folder} is damaged: variables/data is empty"
    (folder / "variables" / "data").unlink()
    assert durable.damage(folder, written) == f"{folder} is damaged: variables/data is missing"
    assert durable.damage(tmp_path / "8", written) == f"{tmp_path / '8'} is gone"


def test_where_nobody_noted_what_was_written_only_empty_files_are_damage(tmp_path: Path) -> None:
    durable.write(tmp_path / "7" / "data", b"w")
    durable.write(tmp_path / "7" / "NOT_BLESSED", b"")
    assert durable.damage(tmp_path / "7", None) is None
    durable.write(tmp_path / "7" / "index", b"")
    assert durable.damage(tmp_path / "7", None) == f"{tmp_path / '7'} is damaged: index is empty"


def test_a_file_that_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with pytest.raises(FileExistsError), durable.unfinished(file, replace=False) as partial:
        partial.write_text("mine")
        file.write_text("theirs")

    assert file.read_text() == "theirs"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_of_work_that_fails_nothing_is_left(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ZeroDivisionError), durable.unfinished(tmp_path / "a" / "b") as partial:
        (partial.touch if kind == "file" else partial.mkdir)()
        _ = 1 / 0

    assert not list((tmp_path / "a").iterdir())
