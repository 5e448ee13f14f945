"""What others wrote cannot steer a terminal, or forge a line."""

from __future__ import annotations

import logging

import pytest

from retake.terminal import Formatter, Parser, in_lines, in_one_line, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J and \x7f", r"\x9b2J and \x7f"),
        ("good\rbad", r"good\rbad"),
        ("gpj.\u202efoto", r"gpj.\u202efoto"),
        ("a\u2066b\u2069c\u200fd", r"a\u2066b\u2069c\u200fd"),
        ("one\u2028two", r"one\u2028two"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_what_steers_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == in_one_line(text) == shown


def test_words_of_any_language_stay_as_they_are() -> None:
    for text in ("café", "ホットドッグ", "שווארמה", "🌮", r"C:\temp"):
        assert printable(text) == in_one_line(text) == text


def test_a_message_keeps_its_lines_and_a_name_has_one() -> None:
    assert printable("a\n\tb") == "a\n\tb"
    assert in_one_line("a\n\tb") == r"a\n\tb"
    assert in_lines({"a\nb": ["\x1b", 1, None]}) == {r"a\nb": [r"\x1b", 1, None]}


def test_what_is_logged_is_escaped_also_in_a_traceback() -> None:
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        record = logging.LogRecord("x", 20, "", 0, "%s failed", ("\x07",), None)
        record.exc_info = __import__("sys").exc_info()
    text = Formatter("%(message)s").format(record)
    assert r"\x07 failed" in text and r"ValueError: \x1b[2J" in text and "\x1b" not in text


def test_arguments_that_a_command_quotes_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        Parser().parse_args(["\x1b[2J.jpg"])
    assert r"unrecognized arguments: \x1b[2J.jpg" in capsys.readouterr().err


def test_a_misspelt_option_is_told_with_the_one_that_it_is_like(capsys: pytest.CaptureFixture[str]) -> None:
    from retake.cli import main

    with pytest.raises(SystemExit):
        main(["results", "--images", "x", "--model", "a=b", "--ouput", "y"])
    assert "unrecognized arguments: --ouput y; did you mean --output?" in capsys.readouterr().err
