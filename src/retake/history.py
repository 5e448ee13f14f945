"""The history of a pipeline: its runs, from the summaries in its root, and its pushed models.

retake runs [RUN] [--config NAME]
retake models [VERSION] [--roll-back] [--delete] [--config NAME]
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import uuid
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from retake import config as configuration
from retake import durable, places, seal
from retake import summary as summaries
from retake.errors import RetakeError, UsageError
from retake.summary import Summary
from retake.terminal import Parser

CARD = "assets.extra/retake.json"
ROLLED_BACK = "assets.extra/rolled_back_from"
"""In a copy of an older version: that version's number."""


class Past(NamedTuple):
    """A run that has ended: when, in local time, and its summary."""

    ended: datetime
    summary: Summary


class Version(NamedTuple):
    """A pushed version: its folder, its number, when it was pushed in local time, and the run that pushed it."""

    folder: Path
    number: int
    pushed: datetime
    run: Summary | None


def past_runs(root: str) -> list[Past]:
    """The runs of a pipeline that have ended, oldest first.

    Args:
      root: `pipeline.root`, a folder or gs:// prefix. Summaries that cannot be read are left out.

    Raises:
      RetakeError: an object store cannot be read.

    Example:
        >>> [run.summary.blessed for run in past_runs("runs/birds")]  # doctest: +SKIP
        [True, False]
    """
    past = []
    try:
        files = places.found(root, summaries.FILE.format(run_id="*"))
    except OSError as error:
        raise RetakeError(f"pipeline.root {root} cannot be read ({error.strerror})") from None
    for file in files:
        with suppress(OSError, ValidationError):
            summary = Summary.model_validate_json(places.read(file))
            past.append(Past(datetime.fromtimestamp(places.written(file)), summary))
    return sorted(past, key=lambda run: run.ended)


def versions(models: Path, root: str) -> list[Version]:
    """The whole versions in a models' folder, oldest first; the last one is in service.

    Args:
      models: `pusher.destination`, a local folder.
      root: `pipeline.root`, whose runs say which of them pushed what.
    """
    pushed = {
        Path(run.summary.pushed_model).resolve(): run.summary for run in past_runs(root) if run.summary.pushed_model
    }
    folders = [path for path in models.iterdir() if path.name.isdecimal()] if models.is_dir() else []
    return [
        Version(
            folder,
            int(folder.name),
            datetime.fromtimestamp(folder.stat().st_ctime),
            pushed.get(models.resolve() / _original(folder)),
        )
        for folder in sorted(folders, key=lambda path: int(path.name))
        if (folder / "saved_model.pb").is_file()
    ]


def roll_back(models: Path, number: int) -> Path:
    """Puts an older version back in service: as a copy with the highest number, which servers load.

    Args:
      models: the folder of versions.
      number: of the older one, which stays where it is.

    Returns:
      The copy, whole.

    Raises:
      RetakeError: the version is not there, or not pushed by this account, or cannot be copied.
    """
    folder = models / str(number)
    if not (folder / "saved_model.pb").is_file():
        raise RetakeError(f"there is no version {number} in {models}; list them with: retake models")
    if stranger := seal.broken(folder):
        raise RetakeError(f"{folder} {stranger}, so it is not put in service; copy it yourself where you trust it")
    newest = max(int(path.name) for path in models.iterdir() if path.name.isdecimal())
    final = models / str(max(int(time.time()), newest + 1))
    try:
        with durable.unfinished(final) as incoming:
            shutil.copytree(folder, incoming)
            (incoming / ROLLED_BACK).parent.mkdir(exist_ok=True)
            (incoming / ROLLED_BACK).write_text(_original(folder))
            seal.put(incoming)
    except OSError as error:
        raise RetakeError(f"{final} cannot be written ({error.strerror or error})") from None
    return final


def _original(folder: Path) -> str:
    """The number of the version that a run pushed: the folder's own, or what it is a copy of."""
    copied = folder / ROLLED_BACK
    return copied.read_text() if copied.is_file() else folder.name


def delete(models: Path, number: int) -> None:
    """Deletes a version that is not in service. Servers lose it at once, not file by file.

    Raises:
      RetakeError: the version is not there, is the one in service, or cannot be deleted.
    """
    numbers = sorted(int(path.name) for path in models.iterdir() if path.name.isdecimal()) if models.is_dir() else []
    if number not in numbers:
        raise RetakeError(f"there is no version {number} in {models}; list them with: retake models")
    if number == numbers[-1]:
        raise RetakeError(
            f"version {number} is in service; put another one in service first: retake models --roll-back"
        )
    gone = models / f".deleted-{uuid.uuid4().hex}"
    try:
        (models / str(number)).rename(gone)
        shutil.rmtree(gone)
    except OSError as error:
        raise RetakeError(f"{models / str(number)} cannot be deleted ({error.strerror})") from None


def runs_command(arguments: list[str] | None = None, prog: str = "retake runs") -> int:
    """List a pipeline's runs with accuracy and verdict, or show one."""
    parser = _parser(prog, runs_command.__doc__)
    parser.add_argument("run", nargs="?", metavar="RUN", help="show this run: its id, or `last`")
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, options.set)
    found = past_runs(config.pipeline.root)
    if not found:
        raise RetakeError(
            f"no run has ended in {config.pipeline.root}; start one with: retake run --config {options.config}"
        )
    console = Console(highlight=False)
    if not options.run:
        console.print(_runs_table(found))
        return 0
    chosen = found[-1:] if options.run == "last" else [run for run in found if run.summary.run_id == options.run]
    if not chosen:
        raise UsageError(f"there is no run {options.run}; list them with: retake runs --config {options.config}")
    console.print(summaries.render(chosen[0].summary))
    return 0


def models_command(arguments: list[str] | None = None, prog: str = "retake models") -> int:
    """List a pipeline's pushed models, put an older one back in service, or delete old ones."""
    parser = _parser(prog, models_command.__doc__)
    parser.add_argument("version", nargs="?", type=int, metavar="VERSION", help="show this version's card")
    change = parser.add_mutually_exclusive_group()
    change.add_argument("--roll-back", action="store_true", help="put VERSION back in service, as a copy")
    change.add_argument("--delete", action="store_true", help="delete VERSION, unless it is in service")
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, options.set)
    models = _local(config.pusher.destination, "pusher.destination")
    if (options.roll_back or options.delete) and options.version is None:
        raise UsageError(f"name the version; list them with: retake models --config {options.config}")
    console = Console(highlight=False)
    if options.roll_back:
        console.print(
            f"{roll_back(models, options.version)} is in service: a copy of version {options.version}", soft_wrap=True
        )
    elif options.delete:
        delete(models, options.version)
        console.print(f"version {options.version} is deleted")
    elif options.version is not None:
        console.print_json(_card(models / str(options.version)))
    else:
        found = versions(models, config.pipeline.root)
        if not found:
            raise RetakeError(f"no model was pushed to {models}; train one with: retake run --config {options.config}")
        console.print(_models_table(found))
    return 0


def _parser(prog: str, about: str | None) -> argparse.ArgumentParser:
    parser = Parser(prog=prog, description=about)
    parser.add_argument("--config", default="sample", metavar="NAME", help="whose history (default: sample)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, such as pipeline.root=DIR"
    )
    return parser


def _local(place: str, key: str) -> Path:
    if places.is_remote(place):
        raise UsageError(f"{key} {place} is not on this machine; copy it here, and name it with --set {key}=DIR")
    return Path(place)


def _card(folder: Path) -> str:
    try:
        return json.dumps(json.loads((folder / CARD).read_text()))
    except (OSError, ValueError):
        raise RetakeError(f"{folder} has no card; list the versions with: retake models") from None


def _runs_table(found: list[Past]) -> object:
    table = summaries.plain_table("run", "ended", "runner", "accuracy", "eval pictures", "verdict")
    for column in (1, 2, 5):
        table.columns[column].justify = "left"
    for run in found:
        table.add_row(
            Text(run.summary.run_id),
            f"{run.ended:%Y-%m-%d %H:%M}",
            Text(run.summary.runner),
            _accuracy(run.summary),
            f"{sum(run.summary.examples.get('eval', {}).values()):,}",
            _verdict(run.summary),
        )
    return table


def _models_table(found: list[Version]) -> object:
    table = summaries.plain_table("version", "pushed", "accuracy", "run", "")
    for column in (1, 3, 4):
        table.columns[column].justify = "left"
    for version in found:
        table.add_row(
            str(version.number),
            f"{version.pushed:%Y-%m-%d %H:%M}",
            _accuracy(version.run),
            Text(version.run.run_id if version.run else "–"),
            Text("in service", "green") if version is found[-1] else "",
        )
    return table


def _accuracy(run: Summary | None) -> str:
    accuracy = (run.metrics or {}).get("accuracy") if run else None
    return f"{accuracy:.3f}" if isinstance(accuracy, float) else "–"


def _verdict(run: Summary) -> Text:
    if run.state == "failed":
        return Text("failed", "bold red")
    if run.blessed:
        return Text("pushed" if run.pushed_model else "blessed", "green")
    return Text("not blessed", "yellow")
