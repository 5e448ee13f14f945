"""The local runner: every node in this process, one after the other, with the state of a run in ML Metadata.

A run that failed, was interrupted or killed is resumed by the same command: finished nodes come from the cache.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import shlex
import signal
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from pipelines import progress
from retake import summary as summaries
from retake import weights as weight_files
from retake.config import Config
from retake.errors import RetakeError


def run(config: Config, options: argparse.Namespace, command: list[str]) -> int:
    """Runs the pipeline here.

    Args:
      config: the whole configuration.
      options: `summary` and `verbose` of the command.
      command: the command line, which resumes a run that did not end.

    Returns:
      The exit code: 0 completed, 1 failed, 130 interrupted.

    Raises:
      RetakeError: a place that the run needs is not there or not writable; nothing was started.
    """
    root = Path(config.pipeline.root).resolve()
    _check_places(config, root)
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = root / "runs" / run_id
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with progress.captured(folder / "log.txt", options.verbose) as console, _alone(root, console):
        console.print(
            f"[bold]{config.pipeline.name}[/] · run {run_id} · log {_short(folder / 'log.txt')}", soft_wrap=True
        )
        code, summary = _run(config, root, run_id, console, shlex.join(command))
        if summary is not None:
            summaries.write(summary, folder / "summary.json")
            if options.summary:
                summaries.write(summary, options.summary)
            console.print(summaries.render(summary))
        if code == 1:
            console.print(
                f"Everything that was said is in {_short(folder / 'log.txt')}. Go on with:\n  {shlex.join(command)}",
                markup=False,
            )
    return code


def _run(config: Config, root: Path, run_id: str, console: Console, command: str) -> tuple[int, Any]:
    show = progress.Progress(console)
    weights = weight_files.resolve(config.model)
    with show.node("starting"):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
        from tfx.dsl.compiler.compiler import Compiler

        from pipelines import factory, metadata, run_node

        connection = metadata.connection_config(config.metadata.url)
        pipeline = Compiler().compile(factory.build(config, str(root), weights, connection))
    destination = {"filesystem": {"base_directory": str(Path(config.pusher.destination).resolve())}}
    run_node.bind(
        pipeline,
        run_id,
        {
            factory.DATA_PARAMETER: str(Path(config.data.location).resolve()),
            factory.PUSH_PARAMETER: json.dumps(destination),
        },
    )
    node_ids = [node.pipeline_node.node_info.id for node in pipeline.nodes]
    code, failure = 0, None
    for node_id in node_ids:
        try:
            with show.node(node_id):
                done = run_node.launch(pipeline, node_id, connection)
            show.done(done.state.lower())
        except KeyboardInterrupt:
            show.done("interrupted")
            code, failure = 130, "interrupted"
            console.print(f"Interrupted. Go on with:\n  {command}", markup=False)
        except Exception as error:
            show.done("failed")
            logging.exception("%s failed", node_id)
            cause = str(error) if isinstance(error, RetakeError) else f"{type(error).__name__}: {_first_line(error)}"
            code, failure = 1, cause
        if code:
            break
    return code, metadata.summarize(connection, config.pipeline.name, run_id, "local", node_ids, failure)


def _check_places(config: Config, root: Path) -> None:
    """Finds out in a moment what a node would find out after a minute."""
    if not Path(config.data.location).is_dir():
        raise RetakeError(
            f"data location {config.data.location} is not a folder; give one with --data or data.location"
        )
    for key, place in (
        ("pipeline.root", root),
        ("pusher.destination", Path(config.pusher.destination).resolve()),
    ):
        try:
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            raise RetakeError(f"{key} {place} cannot be written to ({error.strerror})") from None


@contextmanager
def _alone(root: Path, console: Console) -> Iterator[None]:
    """Lets one run at a time work in a root; another one waits."""
    with (root / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Another run is working in {_short(root)}: waiting for it to end.", markup=False)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
