"""The local runner: runs the nodes one after the other in this process, and keeps the state of a run in ML Metadata.

The same command resumes a run that failed, was interrupted or killed: finished nodes come from the cache.
"""

from __future__ import annotations

import logging
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipelines import progress
from pipelines.runners.base import Run, Runner, Task
from pipelines.settings import Settings
from retake import locks, places, quiet
from retake import summary as summaries
from retake import weights as weight_files
from retake.errors import RetakeError, UsageError, in_words
from retake.terminal import in_one_line, printable

AGAIN_SECONDS = 0.5


@dataclass
class Local(Runner):
    """Runs every node in this process."""

    waits = True

    def place(self, config: Settings) -> Settings:
        if places.is_remote(config.pipeline.root):
            raise UsageError(f"pipeline.root {config.pipeline.root}: the local runner keeps its runs in a local folder")
        _check_places(config)
        return super().place(config)

    @contextmanager
    def session(self, task: Task, verbose: bool) -> Iterator[Console]:
        """Sends all output except progress to the run's log, and ends the run at Ctrl-C and SIGTERM."""
        with _interruptible(), progress.captured(_folder(task) / "log.txt", verbose) as console:
            console.print(
                f"[bold]{task.config.pipeline.name}[/] · run {task.run_id} · log {escape(_log(task))}", soft_wrap=True
            )
            yield console

    def run(self, task: Task, console: Console) -> Run:
        """Runs the nodes; one that fails ends the run."""
        root = Path(task.config.pipeline.root)
        busy = f"Another run is working in {_short(root)}: waiting for it to end."
        show = progress.Progress(console)
        with show.listening():
            weights = weight_files.resolve(task.config.model)
            with locks.held(root / locks.ROOT, waiting=lambda: console.print(busy, markup=False, soft_wrap=True)):
                interrupted, summary = _run(task, weights, show)
                summaries.write(summary, summaries.place_of(str(root), task.run_id))
        command = printable(task.command)
        advice = ""
        if interrupted:
            advice = f"Interrupted. Resume with:\n  {command}"
        elif summary.state == "failed":
            log = f"The full log is {_log(task)}. " if (_folder(task) / "log.txt").exists() else ""
            advice = f"\n{log}Once the cause is fixed, resume with:\n  {command}"
        return Run(task.run_id, summary, interrupted, advice)


def _folder(task: Task) -> Path:
    return Path(task.config.pipeline.root) / "runs" / task.run_id


def _log(task: Task) -> str:
    return _short(_folder(task) / "log.txt")


def _run(task: Task, weights: weight_files.Weights, show: progress.Progress) -> tuple[bool, summaries.Summary]:
    """Whether the run was interrupted, and its summary."""
    config, run_id = task.config, task.run_id
    with show.node("starting"):
        quiet.environment("1")
        from tfx.dsl.compiler.compiler import Compiler

        from pipelines import factory, leftovers, metadata, run_node, tfx_internals

        connection = metadata.connection_config(config.metadata.url)
        leftovers.clear(connection, config.pipeline.name, config.pipeline.root, alone=True)
        pipeline = Compiler().compile(factory.build(config, config.pipeline.root, weights))
    tfx_internals.bind(pipeline, run_id, factory.parameters(config))
    node_ids = [node.pipeline_node.node_info.id for node in pipeline.nodes]
    interrupted, failure = False, None
    done: list[summaries.Node] = []
    for node_id in node_ids:
        try:
            with show.node(node_id):
                execution = run_node.launch(pipeline, node_id, connection)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            show.done("interrupted")
            interrupted, failure = True, "interrupted"
            break
        except Exception as error:
            show.done("failed")
            logging.exception("%s failed", node_id)
            failure = in_words(error)
            break
        done.append(metadata.node(node_id, execution, done))
        show.done(done[-1].state)
    if not failure:
        metadata.back_up(connection)
    return interrupted, metadata.summarize(connection, config.pipeline.name, run_id, "local", node_ids, failure)


def _check_places(config: Settings) -> None:
    """Checks the folders at once; a node would fail after a minute."""
    if not places.is_remote(config.data.location) and not Path(config.data.location).is_dir():
        location = Path(config.data.location)
        shown = location if location.is_absolute() else f"{location} ({location.absolute()})"
        raise RetakeError(f"data location {shown} is not a folder; give one with --data or data.location")
    for key, configured in places.of_config(config).items():
        if key == "data.location" or places.is_remote(configured):
            continue
        place = Path(configured).resolve()
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise RetakeError(f"{key} {place} cannot be written to ({error.strerror})") from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM raise KeyboardInterrupt, repeatedly until it arrives.

    Python ignores an exception in the callback of a weak reference, and TensorFlow has many such callbacks.
    """

    def interrupt(*_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _short(path: Path) -> str:
    return in_one_line(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
