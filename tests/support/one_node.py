"""Runs a single node of the pipeline on artifacts in folders, without a metadata store."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import Artifact, standard_artifacts

from pipelines import factory
from retake.config import Config
from retake.weights import Weights

SCHEMA = "\n".join(
    f'feature {{ name: "{name}" type: {kind} presence {{ min_fraction: 1 }} shape {{ dim {{ size: 1 }} }} }}'
    for name, kind in (("image", "BYTES"), ("label", "INT"), ("source", "BYTES"))
)

_ids = itertools.count(1)


def artifact(kind: type[Artifact], folder: Path | str) -> Any:
    made = kind()
    made.uri, made.id = str(folder), next(_ids)
    return made


def run_node(
    folder: Path, node: str, settings: Config, parameters: dict[str, str] | None = None, **inputs: Artifact
) -> dict[str, Any]:
    """Runs a node's executor as the pipeline definition sets it up, and returns its output artifacts."""
    weights = Weights(settings.model.weights, "")
    component = next(c for c in factory.build(settings, str(folder), weights).components if c.id == node)
    place = folder / node / str(next(_ids))
    outputs = {}
    for key, channel in component.outputs.items():
        outputs[key] = [artifact(channel.type, place / key)]
        (place / key).mkdir(parents=True)
    properties = {
        key: (parameters or {})[value.name] if type(value).__name__ == "RuntimeParameter" else value
        for key, value in component.exec_properties.items()
    }
    arguments = [*factory.NO_PACKAGE, *settings.beam.arguments]
    executor = component.executor_spec.executor_class(
        BaseBeamExecutor.Context(beam_pipeline_args=arguments, tmp_dir=str(place / "tmp"), unique_id="1")
    )
    executor.Do({key: [value] for key, value in inputs.items()}, outputs, properties)
    return {key: made for key, [made] in outputs.items()}


def examples_from(folder: Path, settings: Config) -> Any:
    """What ExampleGen makes of the records below `data.location`."""
    return run_node(folder, "ExampleGen", settings, {factory.DATA_PARAMETER: settings.data.location})["examples"]


def transform_graph_for(folder: Path, settings: Config, examples: Artifact) -> Any:
    return run_node(folder, "Transform", settings, examples=examples, schema=schema_in(folder))["transform_graph"]


def train(folder: Path, settings: Config, examples: Artifact, graph: Artifact, **others: Artifact) -> Any:
    inputs = {"examples": examples, "transform_graph": graph, "schema": schema_in(folder), **others}
    return run_node(folder, "Trainer", settings, **inputs)["model"]


def schema_in(folder: Path) -> Any:
    (folder / "schema").mkdir(parents=True, exist_ok=True)
    (folder / "schema" / "schema.pbtxt").write_text(SCHEMA)
    return artifact(standard_artifacts.Schema, folder / "schema")


def saved_model(model: Artifact) -> Path:
    return Path(model.uri) / "Format-Serving"


def card(model: Artifact) -> Any:
    return json.loads((saved_model(model) / "assets.extra" / "retake.json").read_text())


def split(examples: Artifact, name: str) -> list[tf.train.Example]:
    files = sorted(str(path) for path in Path(examples.uri, f"Split-{name}").iterdir())
    records = tf.data.TFRecordDataset(files, compression_type="GZIP")
    return [tf.train.Example.FromString(record.numpy()) for record in records]


def column(examples: Sequence[tf.train.Example], name: str) -> list[Any]:
    features = [each.features.feature[name] for each in examples]
    return [getattr(feature, feature.WhichOneof("kind")).value[0] for feature in features]
