"""ExampleGen: every TFRecord below the data location becomes checked, uniform examples in a train, an eval and, if it
is asked for, a test split.

In: feature `image` = encoded bytes, `label` = one-hot int64, integer index or class name.
Out: `image` = the same bytes, or a PNG where the graph does not decode them, `label` = int64[1] index into
`data.classes` or the names found, which `classes.json` lists, `source` = record file below the location.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import json
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import tensorflow as tf
from google.protobuf import json_format, struct_pb2
from tfx import types
from tfx.components.example_gen import base_example_gen_executor, driver, utils
from tfx.components.example_gen.component import FileBasedExampleGen
from tfx.dsl.components.base import executor_spec
from tfx.proto import example_gen_pb2
from tfx.proto.orchestration import driver_output_pb2
from tfx.types import artifact_utils, standard_component_specs
from tfx.utils import proto_utils

from components import node_errors
from components.transform import to_pixels
from retake import images, records
from retake.config import SPLITS, TEST, DataSection
from retake.errors import RetakeError

COUNTS_PROPERTY = "counts"
"""Custom property of the Examples artifact: JSON {"examples": {split: {class: n}}, "dropped": {reason: n}}."""

CLASSES_FILE = "classes.json"
"""In the Examples artifact: the class names as a JSON list, by the label's index."""

MOST_CLASSES, LONGEST_NAME = 10_000, 200
"""Bounds of class names that are found in records."""

TOO_MANY = f"more than {MOST_CLASSES:,} different names"
GIVE_CLASSES = "give the names as data.classes"

HIDDEN = (".", "_", "beam-temp-")
"""How names of files and folders begin that hold nothing to read; Beam writes its files in such a folder first."""

RECORDS = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?(-\d{5,}-of-\d{5,})?(\.gz)?$", re.IGNORECASE)
"""How names of record files end. The sensor in dags/retake_dags and the function in kubeflow say the same."""

SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})")
"""In the name of a file that is one of several: which, and how many there are."""

NAMED, MANY = 3, 6
"""Names in a message before the others are counted."""

UNDECODABLE = "undecodable picture"

JUDGED_SIZE = 1
"""Side to which a picture is scaled when only its decoding matters."""

_log = logging.getLogger("retake")


class RecordsDriver(driver.Driver):
    """Tells whether the records have changed."""

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


class Executor(base_example_gen_executor.BaseExampleGenExecutor):
    """Reads, checks, labels and splits; the Beam part is a FlatMap, so memory does not grow with the files."""

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
                _log.info("data.window takes the newest record files: %s", _listed(names))
            if _settings(exec_properties)["classes"] is None:
                exec_properties["_classes"] = self._find_classes(exec_properties, f"{examples.uri}/names")
            super().Do(input_dict, output_dict, exec_properties)
            settings = _settings(exec_properties)
            with tf.io.gfile.GFile(f"{examples.uri}/{CLASSES_FILE}", "w") as file:
                json.dump(settings["classes"], file, ensure_ascii=False)
            counts = _read_counts(exec_properties["_counts"], settings, _buckets(exec_properties))
            examples.set_string_custom_property(COUNTS_PROPERTY, json.dumps(counts))
            _check(counts, settings, exec_properties[standard_component_specs.INPUT_BASE_KEY])

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
            found = f"only {classes[0]!r}" if classes else "no class name"
            raise RetakeError(f"the labels below {location} hold {found}; a classifier needs 2 classes; {GIVE_CLASSES}")
        return classes

    def GenerateExamplesByBeam(
        self, pipeline: beam.Pipeline, exec_properties: dict[str, Any]
    ) -> dict[str, beam.pvalue.PCollection]:
        buckets = _buckets(exec_properties)
        settings = _settings(exec_properties)
        seed, least = int(settings["seed"]), int(settings["min_eval_per_class"])
        moved: Any = frozenset()
        if least:  # Read twice: what is in memory between the two does not grow with the files.
            smallest = (
                pipeline
                | "Read first" >> self._read(exec_properties, "")
                | beam.Map(lambda e: ((_label(e), split_of(e, len(buckets), buckets, seed)), _hash(e, seed)))
                | beam.CombinePerKey(Smallest(least + 1))
                | beam.combiners.ToList()
            )
            moved = beam.pvalue.AsSingleton(smallest | "Choose" >> beam.Map(moved_to_eval, least))
        examples = pipeline | "Read" >> self._read(exec_properties, "")
        parts = examples | "Split" >> beam.Partition(split_of, len(buckets), buckets, seed, moved)
        splits = dict(zip(buckets, parts, strict=True))
        tallies = [
            examples | f"Tally {split}" >> beam.Map(lambda e, s=split: (s, _label(e)))
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


class Smallest(beam.CombineFn):
    """The `number` smallest of the different values."""

    def __init__(self, number: int):
        self._number = number

    def create_accumulator(self) -> list[bytes]:
        return []

    def add_input(self, smallest: list[bytes], value: bytes) -> list[bytes]:
        return self.merge_accumulators([smallest, [value]])

    def merge_accumulators(self, accumulators: Iterable[list[bytes]]) -> list[bytes]:
        return sorted(set().union(*accumulators))[: self._number]

    def extract_output(self, smallest: list[bytes]) -> list[bytes]:
        return smallest


def moved_to_eval(smallest: list[tuple[tuple[int, int], list[bytes]]], least: int) -> frozenset[bytes]:
    """Hashes of the train pictures that have to be eval pictures for each class to have `least` of them.

    Args:
      smallest: ((class, position of the split), the least + 1 smallest hashes of its pictures, or all it has).
      least: eval pictures that a class has to have, as far as one picture of it is left to train on.
    """
    train, held_out = ({label: found for (label, split), found in smallest if split == at} for at in (0, 1))
    classes_of = defaultdict(list)  # More than one where a picture has several labels.
    for label, hashes in train.items():
        for each in hashes:
            classes_of[each].append(label)
    left = {label: len(hashes) for label, hashes in train.items()}
    lacking = {label: least - len(held_out.get(label, [])) for label in train}
    moved = set()
    for label in sorted(train):
        for each in train[label]:
            if lacking[label] > 0 and each not in moved and all(left[other] > 1 for other in classes_of[each]):
                moved.add(each)
                for other in classes_of[each]:
                    left[other] -= 1
                    lacking[other] -= 1
    return frozenset(moved)


def split_of(
    example: tf.train.Example, number: int, buckets: dict[str, int], seed: int, moved: frozenset[bytes] = frozenset()
) -> int:
    """The position in `buckets` of the split that a picture belongs to: its bytes decide, and the seed.

    With seed 0 it is the split that TFX's own hash gives. Pictures in `moved` go from train to eval.
    """
    picture = _hash(example, seed)
    bucket = int.from_bytes(picture, "big") % sum(buckets.values())
    split = bisect.bisect(list(itertools.accumulate(buckets.values())), bucket)
    return 1 if split == 0 and picture in moved else split


def _label(example: tf.train.Example) -> int:
    return example.features.feature["label"].int64_list.value[0]


def _hash(example: tf.train.Example, seed: int) -> bytes:
    picture = example.features.feature["image"].SerializeToString(deterministic=True)
    return hashlib.sha256((f"{seed} ".encode() if seed else b"") + picture).digest()


class RecordsExampleGen(FileBasedExampleGen):
    """Reads every TFRecord below `location`.

    Args:
      location: folder or gs:// prefix, or a runtime parameter for it.
      data: classes, split, seed and limits.
      code: fingerprint of the code that the node runs, for the cache.
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


def record_files(location: str) -> list[str]:
    """Paths of all record files below a folder or gs:// prefix, sorted, but for hidden ones.

    Raises:
      RetakeError: no such folder, no record file in it, or a shard of one is missing.
    """
    return _look(location)[0]


def newest(files: list[str], window: int | None) -> list[str]:
    """The `window` record files that were written last, of those of one time the last ones by name; None takes all.

    The shards of a record file count as one, with the time of the last of them.
    """
    if window is None:
        return files
    written: dict[str, int] = defaultdict(int)
    for path in files:
        whole = SHARD.sub("", path)
        written[whole] = max(written[whole], tf.io.gfile.stat(path).mtime_nsec)
    chosen = sorted(written, key=lambda whole: (written[whole], whole))[-int(window) :]
    return [path for path in files if SHARD.sub("", path) in chosen]


def fingerprint(location: str) -> str:
    """Changes with the records below a location: by path, size and time of writing.

    Logs what else lies there: a node asks for the fingerprint once a run, whether it is cached or not.
    """
    files, others = _look(location)
    if others:
        _log.info("left out below %s: %s (not record files)", location, _listed(others))
    digest = hashlib.sha256()
    for path in files:
        stat = tf.io.gfile.stat(path)
        digest.update(f"{path}\0{stat.length}\0{stat.mtime_nsec}\n".encode())
    return digest.hexdigest()


def _look(location: str) -> tuple[list[str], list[str]]:
    """Record files below a location, and the names below it of all others that are not hidden either; both sorted."""
    if not tf.io.gfile.isdir(location):
        raise RetakeError(f"data location {location} is not a folder; give one with --data or data.location")
    shown = sorted(
        f"{folder.rstrip('/')}/{name}"
        for folder, _, names in tf.io.gfile.walk(location)
        for name in names
        if name and not any(part.startswith(HIDDEN) for part in [*folder[len(location) :].split("/"), name])
    )
    files = [path for path in shown if RECORDS.search(path)]
    others = [path.removeprefix(location.rstrip("/")).lstrip("/") for path in shown if not RECORDS.search(path)]
    if not files:
        raise RetakeError(
            f"data location {location} holds no record file (x.tfrecord, x.tfrecord.gz, …)"
            f"{f', only {_listed(others)}' if others else ''}; "
            "make one of class folders with: retake records pack IMAGES_DIR OUT.tfrecord --config NAME"
        )
    if missing := _missing_shard(files):
        raise RetakeError(f"{missing} is missing: put it there, or remove the other shards of that record file")
    return files, others


def _missing_shard(files: list[str]) -> str | None:
    """The first shard that the others tell of and that is not there."""
    sets: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for path in files:
        if shard := SHARD.search(path, path.rindex("/")):
            sets[path[: shard.start(1)], shard[2], path[shard.end() :]].add(int(shard[1]))
    for (before, count, after), there in sets.items():
        first = next(number for number in itertools.count() if number not in there)
        if first < int(count):
            return f"{before}{first:0{len(count)}}-of-{count}{after}"
    return None


def _listed(names: list[str]) -> str:
    return _some([repr(name)[1:-1] for name in names])


def _some(names: list[str], most: int = NAMED) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def names_in(path: str) -> set[str]:
    """The class names that a record file holds as labels; labels that are missing or malformed are left to `uniform`.

    Raises:
      RetakeError: a label is a number, or no name of a class.
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
    """Yields the usable tf.train.Examples of a record file; the others' reasons as output `dropped`."""
    source = path.removeprefix(location).lstrip("/")
    for example in records.read(path):
        try:
            yield uniform(example, source, settings)
        except ValueError as reason:
            yield beam.pvalue.TaggedOutput("dropped", ("dropped", str(reason)))


def uniform(example: tf.train.Example, source: str, settings: dict[str, Any]) -> tf.train.Example:
    """The example in this pipeline's own form.

    Raises:
      ValueError: it cannot train; the message is one of a few reasons.
    """
    label = records.label_index(example, settings["classes"])
    values = example.features.feature["image"].bytes_list.value
    if len(values) != 1:
        raise ValueError("missing image")
    limits = int(settings["max_pixels"]), int(settings["max_bytes"])
    encoded = images.to_graph_format(values[0], *limits)
    try:
        # The serving graph is the judge: what it refuses would stop the training.
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
    found = {"classes": exec_properties["_classes"]} if "_classes" in exec_properties else {}
    return json_format.MessageToDict(settings) | found


def _read_counts(path: str, settings: dict[str, Any], splits: Iterable[str]) -> dict[str, Any]:
    examples = {split: dict.fromkeys(settings["classes"], 0) for split in splits}
    dropped: Counter[str] = Counter()
    with tf.io.gfile.GFile(path) as lines:
        for line in lines:
            (group, what), number = json.loads(line)
            if group == "dropped":
                dropped[what] = number
            else:
                examples[group][settings["classes"][what]] = number
    return {"examples": examples, "dropped": dict(sorted(dropped.items()))}


def _check(counts: dict[str, Any], settings: dict[str, Any], location: str) -> None:
    dropped = sum(counts["dropped"].values())
    total = dropped + sum(sum(classes.values()) for classes in counts["examples"].values())
    reasons = ", ".join(f"{number} {reason}" for reason, number in counts["dropped"].items())
    if not total:
        raise RetakeError(f"the record files below {location} hold no examples; look with: retake records inspect FILE")
    if dropped > settings["max_dropped"] * total:
        names = f"; data.classes are {', '.join(map(repr, settings['classes']))}"
        raise RetakeError(
            f"{dropped} of {total} examples below {location} cannot train ({reasons}): more than "
            f"data.max_dropped = {settings['max_dropped']:g} allows"
            f"{names if records.UNKNOWN_CLASS in counts['dropped'] else ''}; look with: retake records inspect FILE"
        )
    if dropped:
        _log.info("dropped %d of %d examples: %s", dropped, total, reasons)
    if not any(counts["examples"].get(TEST, {"": 1}).values()):
        raise RetakeError(
            f"none of the {total} pictures below {location} is in the test split: add pictures, give test more of "
            "data.split, or leave test out of it"
        )
    held = {name: sum(split[name] for split in counts["examples"].values()) for name in settings["classes"]}
    if absent := [repr(name) for name, number in held.items() if not number]:
        raise RetakeError(
            f"data.classes names {_some(absent)}, but the records below {location} hold no picture of "
            f"{'it' if len(absent) == 1 else 'them'}; "
            f"classes that they hold: {_some([name for name, number in held.items() if number], MANY)}"
        )
    for split in ("eval", "train"):
        lacking = {name: held[name] for name, number in counts["examples"][split].items() if not number}
        if lacking:
            raise RetakeError(_too_few(split, lacking, len(held), location))


def _too_few(split: str, lacking: dict[str, int], classes: int, location: str) -> str:
    """What to do about classes without a picture in a split; `lacking` says how many pictures each has in all."""
    named = _some([f"{name!r} (has {number})" for name, number in lacking.items()], MANY)
    advice = [f"give {split} more of data.split"]
    if single := sum(number == 1 for number in lacking.values()):
        advice.append(f"add pictures of the {single} with a single one")
    if single < len(lacking):
        advice.insert(0, "set data.min_eval_per_class to 1 or more" if split == "eval" else "add pictures of them")
    return (
        f"{len(lacking)} of {classes} classes below {location} {'has' if len(lacking) == 1 else 'have'} no picture in "
        f"the {split} split: {named}; {', or '.join(advice)}"
    )
