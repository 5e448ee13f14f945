"""Any error as one line for a person."""

from __future__ import annotations

import errno
import sqlite3

import pytest

from retake.errors import RetakeError, first_line, in_words


def test_an_error_is_its_first_line_and_its_kind() -> None:
    assert in_words(RetakeError("it is red")) == "it is red"
    assert in_words(ValueError("it is red\nand more")) == "ValueError: it is red"
    assert first_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("w.npz; No space left on device"),
        sqlite3.OperationalError("database or disk is full"),
    ],
)
def test_a_full_disk_is_named_however_a_library_says_so(full: Exception) -> None:
    try:
        try:
            raise full
        except Exception as error:
            raise RuntimeError("an internal error in a query") from error
    except RuntimeError as error:
        assert in_words(error) == "no space is left on the disk; free some space"
