"""What a runner is. `pipelines.run` loads the configuration, asks the runner to run it, and shows what became of it."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, NamedTuple

from rich.console import Console

from pipelines.settings import Settings
from retake import places
from retake.summary import Summary


class Task(NamedTuple):
    """What a runner runs.

    Fields:
      config: the whole configuration, its places as `Runner.place` made them.
      run_id: for the run, where the runner can choose it.
      command: the command line that repeats the task, for messages.
      file: the configuration's file; None for a configuration that was made in Python.
    """

    config: Settings
    run_id: str
    command: str
    file: Path | None


class Run(NamedTuple):
    """What became of a task.

    Fields:
      name: of the run, the job, or the file for an orchestrator.
      summary: of a run that has ended; None for one that goes on elsewhere, or was not started.
      interrupted: whether somebody pressed Ctrl-C.
      advice: what a person can do next; empty where nothing is left to do.
    """

    name: str
    summary: Summary | None = None
    interrupted: bool = False
    advice: str = ""


class Runner(ABC):
    """A place where pipelines run. A subclass is a dataclass whose fields are its own options, with defaults."""

    waits: bool = False
    """Whether `run` returns when the run has ended, with its summary."""

    SETTINGS: ClassVar[dict[str, str]] = {}
    """Option → the key of the configuration that it overrides, as in {"image": "vertex.image"}."""

    @classmethod
    def add_options(cls, group: argparse._ArgumentGroup) -> None:
        """Adds an argument for each field and each of SETTINGS, whose `dest` is that name; by default for SETTINGS."""
        for option, key in cls.SETTINGS.items():
            group.add_argument(f"--{option.replace('_', '-')}", help=key)

    def sees_folders(self, config: Settings) -> bool:
        """Whether nodes see the folders of this machine."""
        return True

    def place(self, config: Settings) -> Settings:
        """The configuration with every place as the nodes see it, checked as far as it can be without a run.

        Raises:
          RetakeError: a place is not there, or not where nodes see it; nothing was started.
        """
        return places.located(config)

    @contextmanager
    def session(self, task: Task, verbose: bool) -> Iterator[Console]:
        """What the command, but no caller from Python, changes in the process while a task runs: signals, loggers and
        descriptors. Gives the console for people."""
        yield Console(highlight=False)

    @abstractmethod
    def run(self, task: Task, console: Console) -> Run:
        """Runs the task, or hands it to an orchestrator. A run that failed is no exception: its summary says why.

        Raises:
          UsageError: a setting is missing or impossible; nothing was started.
          RetakeError: the orchestrator refuses or cannot be reached; nothing was started.
        """
