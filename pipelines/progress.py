"""What a person sees while a run goes on; everything else goes to the run's log file."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from absl import logging as absl_logging
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from retake.terminal import Formatter, printable

QUIET_SECONDS = 10
"""Without a terminal, transient progress is printed this seldom."""


class _Reader(io.FileIO):
    """The user's end of stdout: a run goes on where nobody reads any more, as after `| head -1`."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


@contextmanager
def captured(log: Path, verbose: bool) -> Iterator[Console]:
    """Sends the process's output to `log`, native libraries' too, and gives the console that still reaches the user."""
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    encoding = sys.stdout.encoding
    reader = io.TextIOWrapper(io.BufferedWriter(_Reader(os.dup(1), "w")), encoding, "replace", line_buffering=True)
    console = Console(file=reader, highlight=False)
    file = log.open("a")
    handler = logging.StreamHandler(file)
    handler.setFormatter(Formatter("%(asctime)s %(levelname).1s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.INFO)  # TensorFlow sets it back to what it was, WARNING by default.
    if verbose:
        shown = logging.StreamHandler(sys.stderr)
        shown.setFormatter(Formatter())
        root.addHandler(shown)
    else:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield console
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
        root.handlers = []
        file.close()


class Progress(logging.Handler):
    """Shows nodes as they run, and what they say on the logger `retake`: INFO stays, DEBUG passes by."""

    def __init__(self, console: Console):
        super().__init__(logging.DEBUG)
        self._console = console
        self._node, self._begun, self._said = "", 0.0, 0.0
        self._spinner: Spinner | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Takes what nodes say; afterwards the logger is as it was."""
        logger = logging.getLogger("retake")
        level = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.DEBUG)
        try:
            yield
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)

    @contextmanager
    def node(self, name: str) -> Iterator[None]:
        """Shows that a node is running."""
        self._node, self._begun = name, time.monotonic()
        self._said = self._begun
        if self._console.is_terminal:
            self._spinner = Spinner("dots", f"{name} …", style="green")
            # rich would bring what libraries say to stdout and stderr back to the screen.
            with Live(
                self._spinner,
                console=self._console,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            ):
                yield
            self._spinner = None
        else:
            yield

    def done(self, state: str, node: str | None = None, seconds: float | None = None) -> None:
        """Says how a node went: the one that is shown, unless another one is named."""
        node = self._node if node is None else node
        elapsed = time.monotonic() - self._begun if seconds is None else seconds
        mark = {"complete": "[green]✓[/]", "cached": "[cyan]=[/]"}.get(state, "[red]✗[/]")
        took = "" if state == "cached" else f"{elapsed:6.1f} s"
        self._console.print(f"{mark} {node:<17} {state:<11} {took}")

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.INFO:
            self._say(message)
        else:
            self.passing(message)

    def passing(self, message: str) -> None:
        """Says what the running node does now."""
        message = printable(message)
        now = time.monotonic()
        if self._spinner is not None:
            text = Text.assemble(f"{self._node} ", (f"{message} · {now - self._begun:.0f} s", "dim"))
            self._spinner.update(text=text)
        elif now - self._said > QUIET_SECONDS:
            self._said = now
            self._say(message)

    def _say(self, message: str) -> None:
        self._console.print(f"  {printable(message)}", style="dim", markup=False, soft_wrap=True)
