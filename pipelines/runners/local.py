"""The local runner: every node in this process, one after the other, with the state of a run in ML Metadata.

A run that failed, was interrupted or killed is resumed by the same command: finished nodes come from the cache.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipelines import progress
from retake import config as configuration
from retake import summary as summaries
from retake import weights as weight_files
from retake.config import Config
from retake.errors import RetakeError, UsageError, in_words
from retake.terminal import in_one_line, printable

AGAIN_SECONDS = 0.5


def run(config: Config, options: argparse.Namespace, command: str) -> int:
    """Runs the pipeline here.

    Args:
      config: the whole configuration.
      options: `summary`, `require_blessing` and `verbose` of the command.
      command: the command line, which resumes a run that did not end.

    Returns:
      The exit code: 0 completed, 1 failed, 130 interrupted.

    Raises:
      RetakeError: a place that the run needs is not there or not writable; nothing was started.
      NotBlessedError: the run is complete, and `require_blessing` asks for more.
    """
    begun = time.monotonic()
    if "://" in config.pipeline.root:
        raise UsageError(f"pipeline.root {config.pipeline.root}: the local runner keeps its runs in a local folder")
    root = Path(config.pipeline.root).resolve()
    _check_places(config, root, options.summary)
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = root / "runs" / run_id
    log = _short(folder / "log.txt")
    command = printable(command)
    with (
        _interruptible(),
        progress.captured(folder / "log.txt", options.verbose) as console,
        _alone(root, console),
    ):
        console.print(f"[bold]{config.pipeline.name}[/] · run {run_id} · log {escape(log)}", soft_wrap=True)
        code, summary = _run(config, run_id, console)
        for file in (folder / "summary.json", options.summary):
            if file:
                summaries.write(summary, file)
        console.print()
        if code == 130:
            console.print("Interrupted. Resume with:")
        else:
            console.print(summaries.render(summary, time.monotonic() - begun, nodes=False))
        if code == 1:
            console.print(
                f"\nThe full log is {log}. Once the cause is fixed, resume with:", markup=False, soft_wrap=True
            )
        if code:
            console.print(f"  {command}", markup=False, soft_wrap=True)
    if options.require_blessing:
        summaries.require_blessing(summary)
    return code


def _run(config: Config, run_id: str, console: Console) -> tuple[int, summaries.Summary]:
    show = progress.Progress(console)
    weights = weight_files.resolve(config.model)
    with show.node("starting"):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        from tfx.dsl.compiler.compiler import Compiler

        from pipelines import factory, leftovers, metadata, run_node

        config = configuration.located(config)
        connection = metadata.connection_config(config.metadata.url)
        leftovers.clear(connection, config.pipeline.name, config.pipeline.root, alone=True)
        pipeline = Compiler().compile(factory.build(config, config.pipeline.root, weights))
    run_node.bind(pipeline, run_id, factory.parameters(config))
    node_ids = [node.pipeline_node.node_info.id for node in pipeline.nodes]
    code, failure = 0, None
    done: list[summaries.Node] = []
    for node_id in node_ids:
        try:
            with show.node(node_id):
                execution = run_node.launch(pipeline, node_id, connection)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            show.done("interrupted")
            code, failure = 130, "interrupted"
            break
        except Exception as error:
            show.done("failed")
            logging.exception("%s failed", node_id)
            code = 1
            failure = in_words(error)
            break
        done.append(metadata.node(node_id, execution, done))
        show.done(done[-1].state)
    if not code:
        metadata.back_up(connection)
    return code, metadata.summarize(connection, config.pipeline.name, run_id, "local", node_ids, failure)


def _check_places(config: Config, root: Path, summary: Path | None) -> None:
    """Finds out in a moment what a node would find out after a minute."""
    if "://" not in config.data.location and not Path(config.data.location).is_dir():
        location = Path(config.data.location)
        told = location if location.is_absolute() else f"{location} ({location.absolute()})"
        raise RetakeError(f"data location {told} is not a folder; give one with --data or data.location")
    places = {"pipeline.root": root}
    if "://" not in config.pusher.destination:
        places["pusher.destination"] = Path(config.pusher.destination).resolve()
    if summary:
        places["--summary: the folder"] = summary.resolve().parent
        if summary.is_dir():
            raise RetakeError(f"--summary {summary} is a folder, not a file")
    for key, place in places.items():
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise RetakeError(f"{key} {place} cannot be written to ({error.strerror})") from None


@contextmanager
def _interruptible() -> Iterator[None]:
    """Lets Ctrl-C and SIGTERM raise KeyboardInterrupt, and again until it arrives: Python drops what is raised in a
    weak reference's callback, and TensorFlow has many."""

    def interrupt(*_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, AGAIN_SECONDS)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _alone(root: Path, console: Console) -> Iterator[None]:
    """Lets one run at a time work in a root; another one waits."""
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(
                f"Another run is working in {_short(root)}: waiting for it to end.", markup=False, soft_wrap=True
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _short(path: Path) -> str:
    return in_one_line(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
