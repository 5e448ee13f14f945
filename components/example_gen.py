"""ExampleGen: reads every record file below the data location, checks its examples, and writes them in one format.

The splits are train, eval and, if it is configured, test.

In: feature `image` = encoded bytes, `label` = one-hot int64, integer index or class name.
Out: `image` = the same bytes, or a PNG if the serving graph cannot decode them, `label` = int64[1] index into the class
names (`data.classes`, or the names in the records; `classes.json` lists them), `source` = record file below the
location.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
from google.protobuf import json_format, struct_pb2
from tfx import types
from tfx.components.example_gen import base_example_gen_executor, driver, input_processor, utils
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components import counts as counts_of
from components import node_errors
from components.record_files import fingerprint, listed, newest, record_files
from components.splits import Smallest, hash_of, label_of, moved_to_eval, split_of
from components.transform import to_pixels
from retake import images, records
from retake.errors import RetakeError
from retake.sections import SPLITS, DataSection

COUNTS_PROPERTY = "counts"
"""Custom property of the Examples artifact: JSON {"examples": {split: {class: n}}, "dropped": {reason: n}}."""

CLASSES_FILE = "classes.json"
"""In the Examples artifact: the class names as a JSON list, by the label's index."""

MOST_CLASSES, LONGEST_NAME = 10_000, 200
"""Most class names in records, and most characters of a name."""

TOO_MANY = f"more than {MOST_CLASSES:,} different names"
GIVE_CLASSES = "give the names as data.classes"

UNDECODABLE = "undecodable picture"

JUDGED_SIZE = 1
"""Side to which a picture is scaled if only its decoding matters."""

_log = logging.getLogger("retake")


class RecordsDriver(driver.Driver):
    """Puts a fingerprint of the records into the cache key."""

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: Any, component_info: Any
    ) -> dict[str, Any]:
        location = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        exec_properties[utils.FINGERPRINT_PROPERTY_NAME] = fingerprint(location)
        exec_properties[utils.SPAN_PROPERTY_NAME] = 0
        exec_properties[utils.VERSION_PROPERTY_NAME] = None
        return exec_properties

    def run(self, execution_info: Any) -> driver_output_pb2.DriverOutput:
        with node_errors.reported():
            return super().run(execution_info)


class RecordsProcessor(input_processor.FileBasedInputProcessor):
    """The same as RecordsDriver for Vertex, which does not run drivers."""

    def resolve_span_and_version(self) -> tuple[int, None]:
        self._fingerprint = fingerprint(self._input_base_uri)
        return 0, None


class Executor(base_example_gen_executor.BaseExampleGenExecutor):
    """Reads, checks, labels and splits examples. Beam streams them, so memory does not grow with the files."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        examples = artifact_utils.get_single_instance(output_dict[standard_component_specs.EXAMPLES_KEY])
        exec_properties["_counts"] = f"{examples.uri}/counts"
        with node_errors.reported():
            if _settings(exec_properties)["window"]:
                names = [path.rpartition("/")[2] for path in _files(exec_properties)]
                _log.info("data.window takes the newest record files: %s", listed(names))
            if _settings(exec_properties)["classes"] is None:
                exec_properties["_classes"] = self._find_classes(exec_properties, f"{examples.uri}/names")
            super().Do(input_dict, output_dict, exec_properties)
            settings = _settings(exec_properties)
            with tf.io.gfile.GFile(f"{examples.uri}/{CLASSES_FILE}", "w") as file:
                json.dump(settings["classes"], file, ensure_ascii=False)
            counts = counts_of.read(exec_properties["_counts"], settings, _buckets(exec_properties))
            examples.set_string_custom_property(COUNTS_PROPERTY, json.dumps(counts))
            counts_of.check(counts, settings, exec_properties[standard_component_specs.INPUT_BASE_KEY])

    def _find_classes(self, exec_properties: dict[str, Any], names: str) -> list[str]:
        location = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        with self._make_beam_pipeline() as pipeline:
            _ = (
                pipeline
                | beam.Create(_files(exec_properties))
                | beam.FlatMap(names_in)
                | beam.Distinct()
                | beam.Map(json.dumps)
                | beam.io.WriteToText(names, num_shards=1, shard_name_template="")
            )
        with tf.io.gfile.GFile(names) as lines:
            classes = sorted(map(json.loads, lines))
        if len(classes) > MOST_CLASSES:
            raise RetakeError(f"the labels below {location} are {TOO_MANY}; are they classes? {GIVE_CLASSES}")
        if len(classes) < 2:
            names = f"only {classes[0]!r}" if classes else "no class name"
            raise RetakeError(f"the labels below {location} hold {names}; a classifier needs 2 classes; {GIVE_CLASSES}")
        return classes

    def GenerateExamplesByBeam(
        self, pipeline: beam.Pipeline, exec_properties: dict[str, Any]
    ) -> dict[str, beam.pvalue.PCollection]:
        buckets = _buckets(exec_properties)
        settings = _settings(exec_properties)
        seed, least = int(settings["seed"]), int(settings["min_eval_per_class"])
        moved: Any = frozenset()
        if least:  # The records are read twice: keeping them in between would need memory for all of them.
            smallest = (
                pipeline
                | "Read first" >> self._read(exec_properties, "")
                | beam.Map(lambda e: ((label_of(e), split_of(e, len(buckets), buckets, seed)), hash_of(e, seed)))
                | beam.CombinePerKey(Smallest(least + 1))
                | beam.combiners.ToList()
            )
            moved = beam.pvalue.AsSingleton(smallest | "Choose" >> beam.Map(moved_to_eval, least))
        examples = pipeline | "Read" >> self._read(exec_properties, "")
        parts = examples | "Split" >> beam.Partition(split_of, len(buckets), buckets, seed, moved)
        splits = dict(zip(buckets, parts, strict=True))
        tallies = [
            examples | f"Tally {split}" >> beam.Map(lambda e, s=split: (s, label_of(e)))
            for split, examples in splits.items()
        ]
        _ = (
            (*tallies, self._dropped)
            | beam.Flatten()
            | beam.combiners.Count.PerElement()
            | beam.Map(json.dumps)
            | beam.io.WriteToText(exec_properties["_counts"], num_shards=1, shard_name_template="")
        )
        return splits

    def GetInputSourceToExamplePTransform(self) -> Any:
        return self._read

    def _read(self, exec_properties: dict[str, Any], _pattern: str) -> beam.PTransform:
        location = exec_properties[standard_component_specs.INPUT_BASE_KEY]
        settings, files = _settings(exec_properties), _files(exec_properties)
        executor = self

        class Read(beam.PTransform):
            def expand(self, pipeline: beam.Pipeline) -> beam.pvalue.PCollection:
                read = (
                    pipeline
                    | beam.Create(files)
                    | beam.FlatMap(examples_of, location, settings).with_outputs("dropped", main="examples")
                )
                executor._dropped = read.dropped
                return read.examples

        return Read()


class RecordsExampleGen(FileBasedExampleGen):
    """Reads every TFRecord below `location`.

    Args:
      location: folder or gs:// prefix, or a runtime parameter for it.
      data: classes, split, seed and limits.
      code: fingerprint of the node's code, for the cache.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
    DRIVER_CLASS = RecordsDriver

    def __init__(self, location: Any, data: DataSection, code: str):
        settings = data.model_dump(exclude={"location", "sample", "split"}) | {"code": code}
        custom_config = example_gen_pb2.CustomConfig()
        custom_config.custom_config.Pack(json_format.ParseDict(settings, struct_pb2.Struct()))
        buckets = [
            example_gen_pb2.SplitConfig.Split(name=name, hash_buckets=data.split[name])
            for name in SPLITS
            if name in data.split
        ]
        super().__init__(
            input_base=location,
            input_config=example_gen_pb2.Input(
                splits=[example_gen_pb2.Input.Split(name="records", pattern="**/*.tfrecord*")]
            ),
            output_config=example_gen_pb2.Output(split_config=example_gen_pb2.SplitConfig(splits=buckets)),
            custom_config=custom_config,
        )


def names_in(path: str) -> set[str]:
    """The class names in a record file's labels. Missing and malformed labels are skipped here; `uniform` drops them.

    Raises:
      RetakeError: a label is a number or too long, or there are too many different labels.
    """
    names = set()
    for number, example in enumerate(records.read(path), start=1):
        try:
            name = records.class_name(example)
        except ValueError:
            continue
        if name is None:
            raise RetakeError(f"{path}: record {number} has a number as its label, which needs names; {GIVE_CLASSES}")
        if len(name) > LONGEST_NAME:
            raise RetakeError(
                f"{path}: the label of record {number} has {len(name):,} characters; a class name has "
                f"{LONGEST_NAME} at most; {GIVE_CLASSES}"
            )
        names.add(name)
        if len(names) > MOST_CLASSES:
            raise RetakeError(f"the labels in {path} are {TOO_MANY}; are they classes? {GIVE_CLASSES}")
    return names


def classes_of(examples: str) -> list[str]:
    """The class names, by the label's index, of the examples in a folder."""
    with tf.io.gfile.GFile(f"{examples}/{CLASSES_FILE}") as file:
        return json.load(file)


def examples_of(path: str, location: str, settings: dict[str, Any]) -> Iterator[Any]:
    """Yields a record file's usable tf.train.Examples, and the reasons of dropped examples as the output `dropped`."""
    source = path.removeprefix(location).lstrip("/")
    for example in records.read(path):
        try:
            yield uniform(example, source, settings)
        except ValueError as reason:
            yield beam.pvalue.TaggedOutput("dropped", ("dropped", str(reason)))


def uniform(example: tf.train.Example, source: str, settings: dict[str, Any]) -> tf.train.Example:
    """The example in this pipeline's format.

    Raises:
      ValueError: the example cannot be used; the message is one of a few fixed reasons, which are counted.
    """
    label = records.label_index(example, settings["classes"])
    values = example.features.feature["image"].bytes_list.value
    if len(values) != 1:
        raise ValueError("missing image")
    limits = int(settings["max_pixels"]), int(settings["max_bytes"])
    encoded = images.to_graph_format(values[0], *limits)
    try:
        # The serving graph decides: a picture that it refuses would stop the training.
        _judge(*limits)(tf.constant(encoded))
    except tf.errors.InvalidArgumentError:
        raise ValueError(UNDECODABLE) from None
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[encoded])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                "source": tf.train.Feature(bytes_list=tf.train.BytesList(value=[source.encode()])),
            }
        )
    )


@functools.cache
def _judge(max_pixels: int, max_bytes: int) -> Any:
    return tf.function(
        lambda encoded: to_pixels(encoded, JUDGED_SIZE, max_pixels, max_bytes),
        input_signature=[tf.TensorSpec([], tf.string)],
        autograph=False,
    )


def _buckets(exec_properties: dict[str, Any]) -> dict[str, int]:
    """Split → hash buckets, in the order of the buckets."""
    config = example_gen_pb2.Output()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.OUTPUT_CONFIG_KEY], config)
    return {split.name: split.hash_buckets for split in config.split_config.splits}


def _files(exec_properties: dict[str, Any]) -> list[str]:
    """The record files that are read."""
    location = exec_properties[standard_component_specs.INPUT_BASE_KEY]
    return newest(record_files(location), _settings(exec_properties)["window"])


def _settings(exec_properties: dict[str, Any]) -> dict[str, Any]:
    config = example_gen_pb2.CustomConfig()
    proto_utils.json_to_proto(exec_properties[standard_component_specs.CUSTOM_CONFIG_KEY], config)
    settings = struct_pb2.Struct()
    config.custom_config.Unpack(settings)
    classes = {"classes": exec_properties["_classes"]} if "_classes" in exec_properties else {}
    return json_format.MessageToDict(settings) | classes
