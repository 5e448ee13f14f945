"""Trains, gates and pushes a model: on this machine, under Airflow, on Vertex AI or on Kubeflow Pipelines.

The command is `retake run [--runner local] [--config sample] …`, or `python -m pipelines.run …`. In Python, for example
in a notebook, the function `run` does the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
import time
import uuid
from pathlib import Path

from rich.console import Console

from pipelines import runners, settings
from pipelines.runners.base import Run, Runner, Task
from pipelines.settings import Settings
from retake import config as configuration
from retake import handover
from retake import summary as summaries
from retake.config import Config
from retake.errors import RetakeError, UsageError
from retake.terminal import INTERRUPTED, Parser, printable, run_command


def run(config: Config, runner: str = "local", file: Path | None = None, **options: object) -> Run:
    """Runs the pipeline from Python. It does not change the process's signal handlers, loggers or descriptors.

    Args:
      config: the whole configuration.
      runner: one of pipelines.runners.RUNNERS.
      file: the configuration's file, which the definition for an orchestrator names as a source.
      options: options of the runner, such as `wait=True` for vertex.

    Returns:
      The run, with its `summary`. A failed run raises no exception.

    Raises:
      RetakeError: nothing was started.

    Example:
        >>> from retake.config import load
        >>> done = run(load("sample", ["trainer.seed=3"]))  # doctest: +SKIP
        >>> done.summary.metrics["accuracy"], done.summary.pushed_model  # doctest: +SKIP
        (0.866, 'models/sample/1795175249')
    """
    chosen = runners.find(runner)(**options)
    task = _task(settings.whole(config), chosen, f"pipelines.run.run(config, {runner!r})", file)
    return chosen.run(task, Console(highlight=False))


def main(arguments: list[str] | None = None, prog: str = "python -m pipelines.run") -> int:
    """Train, gate and push a model, on this machine or under an orchestrator.

    Returns:
      0 (completed, blessed or not), 1 (failed), 2 (wrong usage), 3 (not blessed, with --require-blessing) or 130
      (interrupted).
    """
    begun = time.monotonic()
    arguments = sys.argv[1:] if arguments is None else arguments
    command = shlex.join([*_words(prog), *arguments])
    try:
        options, cls = _parse(arguments, prog)
        if __name__ == "__main__":
            handover.hand_over()
        config = settings.load(options.config, _overrides(options, cls))
        if options.show_config:
            print(configuration.as_yaml(config), end="")
            return 0
        runner = cls(**{field.name: getattr(options, field.name) for field in dataclasses.fields(cls)})  # type: ignore[arg-type]
        _check(options, runner)
        task = _task(config, runner, command, configuration.path_of(options.config))
        with runner.session(task, options.verbose) as console:
            done = runner.run(task, console)
            _show(done, console, time.monotonic() - begun)
        if done.summary and options.summary:
            summaries.write(done.summary, options.summary)
        if done.summary and options.require_blessing:
            summaries.require_blessing(done.summary)
    except RetakeError as error:
        print(printable(f"pipelines.run: {error}"), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(printable(f"Interrupted. Resume with:\n  {command}"))
        return INTERRUPTED
    if done.interrupted:
        return INTERRUPTED
    return 1 if done.summary and done.summary.state == "failed" else 0


def _task(config: Settings, runner: Runner, command: str, file: Path | None) -> Task:
    if config.data.sample and runner.sees_folders(config) and not Path(config.data.location).exists():
        from retake import sample

        sample.draw(Path(config.data.location).parent)
    run_id = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    return Task(runner.place(config), run_id, command, file)


def _show(done: Run, console: Console, seconds: float) -> None:
    if done.summary:
        console.print()
        if not done.interrupted:
            console.print(summaries.render(done.summary, seconds, nodes=False))
    if done.advice:
        console.print(done.advice, markup=False, soft_wrap=True)


def _check(options: argparse.Namespace, runner: Runner) -> None:
    for name in ("summary", "require_blessing"):
        if getattr(options, name) and not runner.waits:
            wait = "needs --wait" if hasattr(options, "wait") else f"is not for --runner {options.runner}"
            raise UsageError(f"--{name.replace('_', '-')} {wait}: without waiting, nobody knows how the run ends")
    if options.summary and options.summary.is_dir():
        raise UsageError(f"--summary {options.summary} is a folder, not a file")
    if options.summary:
        try:
            options.summary.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"--summary {options.summary}: its folder cannot be made ({error.strerror})") from None
        if not os.access(options.summary.parent, os.W_OK):
            raise UsageError(f"--summary {options.summary}: its folder cannot be written to")


def _words(prog: str) -> list[str]:
    """The command as the user types it in this folder: plain `python` if the environment is activated."""
    first, *others = prog.split()
    if shutil.which(first) == str(Path(sys.executable).with_name(first)):
        return [first, *others]
    return [os.path.relpath(Path(sys.executable).with_name(first)), *others]


def _parse(arguments: list[str], prog: str) -> tuple[argparse.Namespace, type[Runner]]:
    """The options and the chosen runner. Each runner has its own options."""
    first = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    first.add_argument("--runner", default="local")
    try:
        name = first.parse_known_args(arguments)[0].runner
    except argparse.ArgumentError:
        name = "local"
    name = name if name in runners.RUNNERS else "local"
    parser = _parser(prog, name)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        flag = unknown[0].partition("=")[0]
        others = [other for other in runners.RUNNERS if flag in _parser(prog, other)._option_string_actions]
        if others:
            raise UsageError(f"{flag} is not for --runner {name}, only for {' and '.join(others)}")
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options, runners.find(name)


def _parser(prog: str, runner: str) -> argparse.ArgumentParser:
    parser = Parser(
        prog=prog,
        description="Train an image classifier on labelled records, gate it against the model in service, push it.",
        epilog=f"Each runner has options of its own: {prog} --runner NAME --help shows them.",
    )
    names = tuple(runners.RUNNERS)
    parser.add_argument("--runner", choices=names, default="local", help="where the nodes run (default: local)")
    parser.add_argument(
        "--config", default="sample", metavar="NAME", help="a file of configs/, or a path (default: sample)"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of TFRecords: data.location")
    parser.add_argument("--weights", metavar="PATH", help="weights file, imagenet or none: model.weights")
    parser.add_argument("--root", metavar="DIR", help="artifacts, metadata and logs: pipeline.root")
    parser.add_argument("--models", metavar="DIR", help="pushed versions: pusher.destination")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, such as trainer.epochs=3",
    )
    parser.add_argument("--show-config", action="store_true", help="print the whole configuration and stop")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the summary as JSON, too")
    parser.add_argument("--require-blessing", action="store_true", help="exit with 3 if the model is not blessed")
    parser.add_argument("--verbose", action="store_true", help="show the libraries' own messages")
    cls = runners.find(runner)
    cls.add_options(parser.add_argument_group(f"--runner {runner}", (cls.__doc__ or "").partition("\n")[0]))
    return parser


def _overrides(options: argparse.Namespace, cls: type[Runner]) -> list[str]:
    places = {
        "data": "data.location",
        "weights": "model.weights",
        "root": "pipeline.root",
        "models": "pusher.destination",
        **cls.SETTINGS,
    }
    values = {key: getattr(options, option) for option, key in places.items()}
    overrides = [f"{key}={configuration.quote(value)}" for key, value in values.items() if value is not None]
    if options.data is not None:
        overrides.append("data.sample=false")
    return [*options.set, *overrides]


if __name__ == "__main__":
    run_command(main)
