"""The interface of runners. `pipelines.run` loads the configuration, calls the runner, and shows the result."""

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
    """The input of a run.

    Fields:
      config: the whole configuration, with the places that `Runner.place` returned.
      run_id: the id of the run, if the runner can choose it.
      command: the command line that repeats the task, for messages.
      file: the configuration's file; None for a configuration that was made in Python.
    """

    config: Settings
    run_id: str
    command: str
    file: Path | None


class Run(NamedTuple):
    """The result of a task.

    Fields:
      name: of the run, the job, or the file for an orchestrator.
      summary: the summary of a finished run; None if the run continues elsewhere or was not started.
      interrupted: whether the user pressed Ctrl-C.
      advice: what the user can do next; empty if there is nothing to do.
    """

    name: str
    summary: Summary | None = None
    interrupted: bool = False
    advice: str = ""


class Runner(ABC):
    """Runs pipelines in one kind of place. A subclass is a dataclass whose fields are its options, with defaults."""

    waits: bool = False
    """Whether `run` waits for the end of the run, and returns its summary."""

    SETTINGS: ClassVar[dict[str, str]] = {}
    """Option → the key of the configuration that it overrides, as in {"image": "vertex.image"}."""

    @classmethod
    def add_options(cls, group: argparse._ArgumentGroup) -> None:
        """Adds an argument for each field and each option in SETTINGS. Its `dest` is the name of the field or option.

        This default adds the arguments of SETTINGS only.
        """
        for option, key in cls.SETTINGS.items():
            group.add_argument(f"--{option.replace('_', '-')}", help=key)

    def sees_folders(self, config: Settings) -> bool:
        """Whether nodes see the folders of this machine."""
        return True

    def place(self, config: Settings) -> Settings:
        """The configuration with every place as the nodes see it. Checks the places as far as possible without a run.

        Raises:
          RetakeError: a place does not exist, or the nodes cannot see it; nothing was started.
        """
        return places.located(config)

    @contextmanager
    def session(self, task: Task, verbose: bool) -> Iterator[Console]:
        """Changes signal handlers, loggers and descriptors while a task runs, and yields the console for the user.

        Only the command calls this. The Python API does not.
        """
        yield Console(highlight=False)

    @abstractmethod
    def run(self, task: Task, console: Console) -> Run:
        """Runs the task, or submits it to an orchestrator. A failed run raises nothing: its summary has the reason.

        Raises:
          UsageError: a setting is missing or impossible; nothing was started.
          RetakeError: the orchestrator refuses the task or cannot be reached; nothing was started.
        """
