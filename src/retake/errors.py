"""The errors that a user meets: each is one readable message that says what, where and what to do next."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator


class RetakeError(Exception):
    """The work cannot be done: a bad file, a missing folder, a refused model. Commands exit with 1."""

    code = 1


class UsageError(RetakeError):
    """The command or its configuration is wrong, and nothing was started. Commands exit with 2."""

    code = 2


class NotBlessedError(RetakeError):
    """The run is complete, but its model did not pass the gate as `--require-blessing` asks. Commands exit with 3."""

    code = 3


def in_words(error: BaseException) -> str:
    """Any error as one line for a person: a RetakeError's message, or what kind of error it is and its first line.

    Example:
        >>> in_words(ValueError("it is red\\nand a stack trace"))
        'ValueError: it is red'
    """
    if any(_says_full(each) for each in _causes(error)):
        return "no space is left on the disk; free some space"
    return str(error) if isinstance(error, RetakeError) else f"{type(error).__name__}: {first_line(error)}"


def first_line(error: BaseException) -> str:
    """The first line of an error's message, cut at 300 characters; the error's type where it has no message.

    TensorFlow's preamble, and its names of functions and nodes, are left out.

    Example:
        >>> first_line(ValueError("it is red\\nand a stack trace"))
        'it is red'
    """
    text = re.sub(r"{{.*?}} *", "", str(error).rpartition("<stack traces unavailable>")[2])
    return (text.strip().splitlines() or [type(error).__name__])[0][:300]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _says_full(error: BaseException) -> bool:
    """A full disk is an OSError to Python, and something else with such a text to TensorFlow and SQLite."""
    text = str(error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in text or "database or disk is full" in text
