"""Shows a run's progress to the user, and sends all other output to the run's log file."""

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
"""Without a terminal, transient progress is printed at most once in as many seconds."""


class _Reader(io.FileIO):
    """The user's stdout. The run continues if its reader ends, as after `| head -1`."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


@contextmanager
def captured(log: Path, verbose: bool) -> Iterator[Console]:
    """Sends the process's output, also from native libraries, to `log`. Yields a console that reaches the user."""
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
    absl_logging.set_verbosity(absl_logging.INFO)  # TensorFlow sets it back to its earlier value, WARNING by default.
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
    """Shows running nodes and their messages on the logger `retake`. INFO messages stay, DEBUG messages disappear."""

    def __init__(self, console: Console):
        super().__init__(logging.DEBUG)
        self._console = console
        self._node, self._begun, self._printed = "", 0.0, 0.0
        self._spinner: Spinner | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handles the nodes' messages. Restores the logger at the end."""
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
        self._printed = self._begun
        if self._console.is_terminal:
            self._spinner = Spinner("dots", f"{name} …", style="green")
            # With redirection, rich would show the libraries' output again.
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
        """Prints the state of a finished node; by default of the node that is shown as running."""
        node = self._node if node is None else node
        elapsed = time.monotonic() - self._begun if seconds is None else seconds
        mark = {"complete": "[green]✓[/]", "cached": "[cyan]=[/]"}.get(state, "[red]✗[/]")
        took = "" if state == "cached" else f"{elapsed:6.1f} s"
        self._console.print(f"{mark} {node:<17} {state:<11} {took}")

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.INFO:
            self._print(message)
        else:
            self.passing(message)

    def passing(self, message: str) -> None:
        """Shows a transient message of the running node."""
        message = printable(message)
        now = time.monotonic()
        if self._spinner is not None:
            text = Text.assemble(f"{self._node} ", (f"{message} · {now - self._begun:.0f} s", "dim"))
            self._spinner.update(text=text)
        elif now - self._printed > QUIET_SECONDS:
            self._printed = now
            self._print(message)

    def _print(self, message: str) -> None:
        self._console.print(f"  {printable(message)}", style="dim", markup=False, soft_wrap=True)
