"""The summary of a run: the same for every runner, a JSON file for programs and a page for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retake import gate, places
from retake.errors import NotBlessedError, RetakeError
from retake.terminal import in_lines, printable

RunState = Literal["complete", "failed"]
NodeState = Literal["complete", "cached", "failed", "cancelled", "running", "not run"]
Number = int | float
Metrics = dict[str, Number | dict[str, Number | dict[str, Number | None] | None] | None]

STYLES = {
    "complete": "green",
    "cached": "cyan",
    "failed": "bold red",
    "cancelled": "yellow",
    "running": "yellow",
    "not run": "dim",
}
FILE = "runs/{run_id}/summary.json"
"""Below `pipeline.root`."""

CONFUSION = "confusion"
NARROWEST = 60
MOST_CLASSES_IN_MATRIX = 10
WEIGHTS = {"imagenet": "from ImageNet weights", "file": "from a weights file", "random": "from random weights"}
LESS_IS_BETTER = ("loss", "entropy", "error")


RESOLVERS = ("StartResolver", "Resolver")
"""Nodes that only look up models."""


class Node(BaseModel):
    """What became of one node of the pipeline; ``running`` it was when the run was cut short."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    state: NodeState
    seconds: float | None = None
    cached: bool = False


class Summary(BaseModel):
    """What a run did. What a failed run did not come to stays empty or None.

    Fields:
      run_id, runner: Which run, and "local", "airflow", "vertex" or "kubeflow", which ran it; "node" where
        `pipelines.run_node` was called by hand.
      state: "complete" or "failed"; a run whose model was not blessed is complete.
      nodes: In the order of the pipeline.
      examples: Split → class → number of pictures.
      dropped: Reason → number of pictures left out.
      backbone, weights: The model's network, and what it began with: "imagenet", "file" or "random".
      metrics: Of this run's model on the eval split: name → number, or → class → number, such as
        ``{"accuracy": 0.84, "precision": {"taco": 0.81}}``. None inside, or NaN, is a number not known.
        ``confusion`` is class → answered class → number of pictures.
      baseline_metrics: The same of the latest blessed model, None without one.
      comparison: Of this run's model with the model in service on the same pictures, by slice of retake.gate: "old" and
        "new", or "all" where they are not told apart. None where the two were not compared.
      test_metrics: As metrics, on the test split; None where the model was not blessed, or there is no such split.
      blessed: The gate's verdict, None when it did not come to one.
      reason: Why the run failed or the model was not blessed.
      pushed_model: Where the model is, None when none was pushed.

    Example:
        >>> Summary(run_id="1", runner="local", state="complete", nodes=[]).pushed_model is None
        True
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run_id: str
    runner: str
    state: RunState
    nodes: list[Node]
    examples: dict[str, dict[str, int]] = {}
    dropped: dict[str, int] = {}
    backbone: str | None = None
    weights: str | None = None
    metrics: Metrics | None = None
    baseline_metrics: Metrics | None = None
    comparison: dict[str, gate.Comparison] | None = None
    test_metrics: Metrics | None = None
    blessed: bool | None = None
    reason: str | None = None
    pushed_model: str | None = None


def of_run(
    run_id: str,
    runner: str,
    complete: bool,
    nodes: list[Node],
    outputs: Mapping[str, Mapping[str, Any]],
    failure: str | None,
) -> Summary:
    """The summary of a run, from what its nodes noted in their outputs.

    Args:
      run_id, runner, nodes: As in Summary.
      complete: Whether all nodes came to their end.
      outputs: Output key, such as `evaluation` → custom properties of that artifact.
      failure: Why the run failed, if it did.
    """

    def noted(key: str, name: str) -> Any:
        return outputs.get(key, {}).get(name)

    def read(key: str, name: str) -> Any:
        text = noted(key, name)
        return json.loads(text) if text else None

    counts = read("examples", "counts") or {}
    blessed = noted("blessing", "blessed")
    return Summary(
        run_id=run_id,
        runner=runner,
        state="complete" if complete else "failed",
        nodes=nodes,
        examples=counts.get("examples", {}),
        dropped=counts.get("dropped", {}),
        backbone=noted("model", "backbone"),
        weights=noted("model", "weights"),
        metrics=read("evaluation", "metrics"),
        baseline_metrics=read("evaluation", "baseline_metrics"),
        comparison=read("evaluation", "comparison"),
        test_metrics=read("evaluation", "test_metrics"),
        blessed=None if blessed is None else bool(blessed),
        reason=failure or noted("blessing", "reason"),
        pushed_model=noted("pushed_model", "pushed_destination"),
    )


def write(summary: Summary, place: Path | str) -> None:
    """Writes all of the summary, or nothing, as JSON; ``Summary.model_validate_json`` reads it back.

    Args:
      summary: of a run.
      place: a file, or a gs:// object.

    Raises:
      RetakeError: the file cannot be written.

    Example:
        >>> from pathlib import Path
        >>> from retake.summary import Summary, write
        >>> write(Summary(run_id="1", runner="local", state="complete", nodes=[]), Path("summary.json"))
        ... # doctest: +SKIP
    """
    try:
        places.write(str(place), (summary.model_dump_json(indent=2) + "\n").encode())
    except OSError as error:
        raise RetakeError(f"the run's summary cannot be written to {place} ({error.strerror})") from None


def place_of(root: str, run_id: str) -> str:
    """Where the summary of a run lies."""
    return f"{root}/{FILE.format(run_id=run_id)}"


def require_blessing(summary: Summary) -> None:
    """Raises NotBlessedError where a complete run's model was not blessed."""
    if summary.state == "complete" and not summary.blessed:
        raise NotBlessedError(f"the model was not blessed: {summary.reason}")


def render(summary: Summary, seconds: float | None = None, nodes: bool = True) -> RenderableType:
    """Lays out what a person reads at the end of a run, for a rich Console of any width from 60 columns.

    Args:
      summary: Of the run.
      seconds: How long the person waited for all of it.
      nodes: List the nodes; not needed where they have just been seen running.

    Example:
        >>> from rich.console import Console
        >>> from retake.summary import Summary, render
        >>> failed = Summary(run_id="1", runner="local", state="failed", nodes=[], reason="no disk")
        >>> Console().print(render(failed))
        Run 1 failed · local
        <BLANKLINE>
        Failed: no disk
        No model was pushed
    """
    # The reason may have lines; a label or a metric is one.
    reason = printable(summary.reason) if summary.reason else None
    summary = Summary.model_validate(in_lines(summary.model_dump()) | {"reason": reason})
    heading = Text.assemble(("Run ", "bold"), (summary.run_id, "bold"), " ", (summary.state, STYLES[summary.state]))
    heading.append(f" · {summary.runner}", "dim")
    if seconds is not None:
        heading.append(f" · {_duration(seconds)}", "dim")
    parts: list[RenderableType] = [heading]
    if summary.nodes and nodes:
        parts.append(_nodes(summary.nodes))
    if summary.examples:
        parts.append(_examples(summary.examples))
    parts += _dropped(summary)
    if summary.backbone:
        parts.append(Text(f"Network {summary.backbone}, {WEIGHTS[summary.weights or '']}"))
    if summary.metrics:
        parts.append(_metrics(summary.metrics, summary.baseline_metrics))
        parts += _confusion(summary.metrics)
    parts.append(_verdict(summary))
    return Group(*[line for part in parts for line in ("", part)][1:])


def plain_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim")
    for at, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if at else "left", overflow="fold")
    return table


def _nodes(nodes: list[Node]) -> Table:
    table = plain_table("node", "seconds", "state")
    table.columns[2].justify = "left"
    for node in nodes:
        state = "cached" if node.cached and node.state == "complete" else node.state
        ran = node.seconds is not None and state != "not run"
        seconds = f"{node.seconds:,.1f}" if ran else "–"
        quiet = "" if ran else "dim"
        table.add_row(Text(node.id, quiet), Text(seconds, quiet), Text(state, STYLES[state]))
    total = sum(node.seconds or 0 for node in nodes)
    table.add_section()
    table.add_row(Text("all nodes", "dim"), Text(f"{total:,.1f}", "dim"), "")
    return table


def _examples(examples: dict[str, dict[str, int]]) -> Table:
    table = plain_table("pictures", *examples)
    for name in dict.fromkeys(name for split in examples.values() for name in split):
        counts = (split.get(name) for split in examples.values())
        table.add_row(Text(name), *("–" if count is None else f"{count:,}" for count in counts))
    table.add_section()
    totals = (Text(f"{sum(split.values()):,}", "dim") for split in examples.values())
    table.add_row(Text("all classes", "dim"), *totals)
    return table


def _dropped(summary: Summary) -> list[RenderableType]:
    dropped = {reason: count for reason, count in summary.dropped.items() if count}
    if not dropped:
        return [Text("No picture was dropped", "dim")] if summary.examples else []
    table = plain_table("dropped", "pictures")
    for reason, count in sorted(dropped.items(), key=lambda item: -item[1]):
        table.add_row(Text(reason), f"{count:,}")
    return [table]


def _metrics(metrics: Metrics, baseline: Metrics | None) -> Table:
    table = plain_table("metric", "this model", *(["baseline", "difference"] if baseline else []))
    for path, value, before in _flat(metrics, baseline or {}):
        name = Text("  " * (len(path) - 1) + path[-1])
        if _is_nested(value, before):
            table.add_row(name)
            continue
        row = [Text(_number(value))]
        if baseline:
            row += [Text(_number(before), "dim"), _difference(path, value, before)]
        table.add_row(name, *row)
    return table


def _confusion(metrics: Metrics) -> list[RenderableType]:
    """Pictures by their class, in rows, and by the answer, in columns; these are numbered where names do not fit."""
    matrix: Any = metrics.get(CONFUSION)
    if not matrix or len(matrix) > MOST_CLASSES_IN_MATRIX:
        return []
    fits = sum(len(name) + 2 for name in matrix) + max(map(len, matrix)) < NARROWEST
    rows = list(matrix) if fits else [f"{at} {name}" for at, name in enumerate(matrix, start=1)]
    table = plain_table(r"actual \ predicted", *(matrix if fits else map(str, range(1, len(matrix) + 1))))
    for name, row in zip(matrix, rows, strict=True):
        styles = {answer: "bold" if answer == name else "" if matrix[name][answer] else "dim" for answer in matrix}
        table.add_row(Text(row), *(Text(f"{matrix[name][answer]:,}", style) for answer, style in styles.items()))
    return [table]


def _flat(
    metrics: Mapping[str, Any], baseline: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Numbers first, then what is told per class: names from the outermost, this model's value, the baseline's."""
    pairs = {name: (metrics.get(name), baseline.get(name)) for name in {**metrics, **baseline} if name != CONFUSION}
    for name, (value, before) in sorted(pairs.items(), key=lambda item: _is_nested(*item[1])):
        yield (*path, name), value, before
        if _is_nested(value, before):
            inner, outer = (side if isinstance(side, dict) else {} for side in (value, before))
            yield from _flat(inner, outer, (*path, name))


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def _is_nested(*values: Any) -> bool:
    return any(isinstance(value, dict) for value in values)


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None) -> str:
    if value is None or not _known(value):
        return "–"
    return f"{value:,.0f}" if value == int(value) and abs(value) > 1 else f"{value:.3f}"


def _difference(path: tuple[str, ...], value: float | None, before: float | None) -> Text:
    if value is None or before is None or not (_known(value) and _known(before)):
        return Text("–", "dim")
    difference = value - before
    if abs(difference) < 0.0005:
        return Text("0", "dim")
    less_is_better = any(word in name.lower() for name in path for word in LESS_IS_BETTER)
    sign = "+" if difference > 0 else "−"
    return Text(f"{sign}{_number(abs(difference))}", "red" if (difference > 0) == less_is_better else "green")


def _verdict(summary: Summary) -> Text:
    because = f": {summary.reason}" if summary.reason else ""
    where = f"The model is in {summary.pushed_model}" if summary.pushed_model else "No model was pushed"
    if summary.state == "failed":
        at = ", ".join(node.id for node in summary.nodes if node.state == "failed")
        verdict = Text.assemble((f"Failed at {at}" if at else "Failed", STYLES["failed"]), because)
    elif summary.blessed:
        verdict = Text.assemble(("Blessed", "bold green"), because)
    elif summary.blessed is False:
        verdict = Text.assemble(("Not blessed", "bold yellow"), because)
    else:
        verdict = Text.assemble(("Not judged", "bold"), because)
    verdict.append(f"\n{where}")
    if summary.test_metrics:
        verdict.append(f"\n{_test(summary.test_metrics)}")
    return verdict


def _test(metrics: Any) -> str:
    pictures = sum(number for row in metrics[CONFUSION].values() for number in row.values())
    return f"Test: accuracy {metrics['accuracy']:.3f} on {pictures:,} pictures never trained on nor gated on"
