"""Shows what TFX computed about the records of a run: statistics, schema, anomalies.

retake show {statistics,schema,anomalies} [RUN] [--config NAME]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from rich.console import Console
from rich.text import Text

from retake import config as configuration
from retake import places, quiet
from retake.config import Config
from retake.errors import RetakeError, UsageError
from retake.tables import plain_table
from retake.terminal import Parser, in_one_line

MOST_VALUES = 5
"""Number of most frequent values that are shown for a feature."""

BYTES = "__BYTES_VALUE__"
"""TFDV's placeholder for a value that is not text."""


def main(arguments: list[str] | None = None, prog: str = "retake show") -> int:
    """Show what TFX computed about the records of a run: statistics, schema, anomalies."""
    parser = Parser(prog=prog, description=main.__doc__)
    parser.add_argument("what", choices=sorted(SHOWN), help="what to show")
    parser.add_argument("run", nargs="?", metavar="RUN", help="the run's id (default: the last run)")
    parser.add_argument("--config", default="sample", metavar="NAME", help="of which pipeline (default: sample)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, such as pipeline.root=DIR"
    )
    options = parser.parse_args(arguments)
    config = configuration.load(options.config, options.set)
    node, key, show = SHOWN[options.what]
    run_id, place = _output(config, options, node, key)
    console = Console(highlight=False)
    console.print(f"[bold]{options.what}[/] of run {run_id} · {in_one_line(place)}\n", soft_wrap=True)
    for part in show(Path(place)):
        console.print(part)
    return 0


def _output(config: Config, options: argparse.Namespace, node: str, key: str) -> tuple[str, str]:
    """The run's id, and the folder of a node's output in this run."""
    with quiet.imports():
        from ml_metadata import MetadataStore
        from ml_metadata.proto import metadata_store_pb2

        from pipelines import metadata

    name, url = config.pipeline.name, config.metadata.url
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        raise RetakeError(f"no run of {name} is in {url}; start one with: retake run --config {options.config}")
    connection = metadata.connection_config(url)
    store = MetadataStore(connection)
    run_id = options.run or metadata.last_run(connection, name)
    execution = metadata.executions(connection, name, run_id).get(node) if run_id else None
    if not execution:
        raise UsageError(
            f"{node} of {run_id or name} has not run; list the runs with: retake runs --config {options.config}"
        )
    outputs = [
        event.artifact_id
        for event in store.get_events_by_execution_ids([execution.id])
        if event.type == metadata_store_pb2.Event.OUTPUT and event.path.steps[0].key == key
    ]
    if not outputs:
        raise RetakeError(f"{node} of run {run_id} has no {key}: its state is {metadata.state(execution)}")
    [artifact] = store.get_artifacts_by_id(outputs[:1])
    place: str = artifact.uri
    if places.is_remote(place):
        raise RetakeError(f"{place} is not on this machine; copy it with: gcloud storage cp --recursive {place} .")
    if not Path(place).is_dir():
        raise RetakeError(f"{place} is gone; the next run makes it again")
    return str(run_id), place


def _statistics(place: Path) -> Iterator[Any]:
    from tensorflow_metadata.proto.v0 import statistics_pb2

    for split in sorted(place.glob("Split-*")):
        statistics = statistics_pb2.DatasetFeatureStatisticsList.FromString((split / "FeatureStats.pb").read_bytes())
        [examples] = statistics.datasets
        table = plain_table(
            f"{split.name.removeprefix('Split-')}, {examples.num_examples:,} pictures", "missing", "values"
        )
        table.columns[2].justify = "left"
        for feature in examples.features:
            common = (
                feature.string_stats.common_stats
                if feature.HasField("string_stats")
                else feature.num_stats.common_stats
            )
            path = feature.name or ".".join(feature.path.step)
            table.add_row(Text(in_one_line(path)), f"{common.num_missing:,}", Text(_values(feature)))
        yield table


def _values(feature: Any) -> str:
    if feature.HasField("num_stats"):
        numbers = feature.num_stats
        return f"{numbers.min:g} to {numbers.max:g}, mean {numbers.mean:.3g}"
    if feature.HasField("string_stats"):
        texts = feature.string_stats
        top = [entry for entry in texts.top_values if entry.value != BYTES][:MOST_VALUES]
        most = [f"{in_one_line(entry.value)} {entry.frequency:,.0f}" for entry in top]
        return f"{texts.unique:,} different: {', '.join(most)}" if most else f"{texts.unique:,} different"
    return f"{feature.bytes_stats.avg_num_bytes:,.0f} bytes on average"


def _schema(place: Path) -> Iterator[Any]:
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = text_format.Parse((place / "schema.pbtxt").read_text(), schema_pb2.Schema())
    table = plain_table("feature", "type", "presence", "values")
    for column in (1, 2, 3):
        table.columns[column].justify = "left"
    for feature in schema.feature:
        presence = "required" if feature.presence.min_fraction == 1 else "optional"
        values = feature.domain or ("single" if feature.HasField("shape") or feature.value_count.max == 1 else "list")
        kind = schema_pb2.FeatureType.Name(feature.type).lower()
        table.add_row(Text(in_one_line(feature.name)), kind, presence, Text(in_one_line(values)))
    yield table


def _anomalies(place: Path) -> Iterator[Any]:
    from tensorflow_metadata.proto.v0 import anomalies_pb2

    for split in sorted(place.glob("Split-*")):
        name = split.name.removeprefix("Split-")
        anomalies = anomalies_pb2.Anomalies.FromString((split / "SchemaDiff.pb").read_bytes())
        if not anomalies.anomaly_info:
            yield f"{name}: no anomalies"
            continue
        table = plain_table(f"{name}: feature", "anomaly")
        table.columns[1].justify = "left"
        for feature, info in anomalies.anomaly_info.items():
            table.add_row(Text(in_one_line(feature)), Text(in_one_line(info.description)))
        yield table


SHOWN: dict[str, tuple[str, str, Callable[[Path], Iterator[Any]]]] = {
    "statistics": ("StatisticsGen", "statistics", _statistics),
    "schema": ("SchemaGen", "schema", _schema),
    "anomalies": ("ExampleValidator", "anomalies", _anomalies),
}
"""Argument → the node, the key of its output, and the function that shows the output."""
