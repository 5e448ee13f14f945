"""Escapes text of other origin (names, labels, errors of libraries), so that a terminal can show it safely.

Control characters can clear a screen, set a window's title or hide half of a line, and a newline in a name can forge
a line of a report.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, ClassVar, NoReturn

INTERRUPTED = 130
"""Exit code after Ctrl-C."""

# C0, DEL and C1; marks that turn the direction of writing; line separators; halves of a pair, which no file takes.
_HARMFUL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_A_TEXT = re.compile(f"[{_HARMFUL}]")
_IN_A_LINE = re.compile(f"[\t\n{_HARMFUL}]")


def printable(text: str) -> str:
    """The text with control characters escaped as in Python; newlines and tabs stay.

    Example:
        >>> print(printable("a red \\x1b[31mname"))
        a red \\x1b[31mname
    """
    return _IN_A_TEXT.sub(_escaped, text)


def in_one_line(text: object) -> str:
    """A name, or anything as text, with newlines and tabs escaped, too.

    Example:
        >>> print(in_one_line("taco\\npassed: all"))
        taco\\npassed: all
    """
    return _IN_A_LINE.sub(_escaped, str(text))


def in_lines(value: Any) -> Any:
    """A value of JSON with every text in it, keys too, in one line."""
    if isinstance(value, dict):
        return {in_lines(key): in_lines(each) for key, each in value.items()}
    if isinstance(value, list):
        return [in_lines(each) for each in value]
    return in_one_line(value) if isinstance(value, str) else value


class Formatter(logging.Formatter):
    """Escapes log messages, because libraries quote names and errors unescaped."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


_COMPLETION = "_ARGCOMPLETE"
"""A shell that completes a command line runs the command with this variable: the number of words that name it."""


def typed() -> list[str]:
    """The whole words after `retake` on a command line that a shell completes; none where it runs the command.

    The last one is --help, so that a parser which does not complete prints its help, and nothing is run.
    """
    words = os.environ.get("COMP_LINE", "").split(" ")[1:-1]
    return [*words, "--help"] if words and _COMPLETION in os.environ else []


class Parser(argparse.ArgumentParser):
    """Escapes the arguments that it quotes, as a shell may have taken them from names of files, and names the option
    that a misspelt one is like. Tells a shell that completes a command line what can follow."""

    _completes: ClassVar[bool] = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if _COMPLETION in os.environ and not Parser._completes:
            Parser._completes = True  # argcomplete calls this method, too.
            os.environ[_COMPLETION] = str(len(self.prog.split()))
            import argcomplete

            argcomplete.autocomplete(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ").partition(" ")[0].partition("=")[0]
        if unknown.startswith("--") and (near := get_close_matches(unknown, _options(self), 1)):
            message += f"; did you mean {near[0]}?"
        super().error(message)

    def _print_message(self, message: str, file: Any = None) -> None:
        super()._print_message(printable(message), file)


def run_command(main: Callable[[], int]) -> NoReturn:
    """Runs a command's `main`, and ends the process with the exit code that it returns."""
    _have_streams()
    code = main()
    if code == INTERRUPTED:  # Threads of Beam and TensorFlow would hold up the exit; all that goes on is on disk.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def _have_streams() -> None:
    """Where stdout or stderr is closed, as after `>&-`, puts nowhere in its place, lest a file takes its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _options(parser: argparse.ArgumentParser) -> list[str]:
    """The options of a parser and of its subcommands."""
    names = list(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            names += [name for each in action.choices.values() for name in _options(each)]
    return names


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
