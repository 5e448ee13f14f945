"""The contract suite: what every runner has to do with the pipeline, told as one story on one data set.

A runner's test file subclasses `RunnerContract` and supplies the fixture `start`; tests/pipelines/test_local.py shows
how. Fixtures are the story's chapters, each a run that goes on from the one before, so any test can be run by itself.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from colours import CLASSES, coloured, example, picture, write_records

PROJECT = Path(__file__).parents[2]

NODES = [
    "ExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Resolver",
    "Evaluator",
    "Pusher",
]

FIELDS = [
    "run_id",
    "runner",
    "state",
    "nodes",
    "examples",
    "dropped",
    "backbone",
    "weights",
    "metrics",
    "baseline_metrics",
    "comparison",
    "test_metrics",
    "blessed",
    "reason",
    "pushed_model",
]

FIRST, ADDED, BROKEN = "first.tfrecord", "later/added.tfrecord", "broken.tfrecord"
PER_CLASS = 20
REJECTED = ("trainer.learning_rate=1e-9", "evaluator.min_accuracy=0.95")
"""Makes a candidate that has learnt nothing, and asks much of it."""
NEW_SHARE = "trainer.new_share=0.5"
"""Makes a training ask which model is in service."""


class Place(NamedTuple):
    """Where a pipeline works: all of it, and the parts that a test looks at."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "colours.yaml"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def models(self) -> Path:
        return self.folder / "models" / "colours"


class Outcome(NamedTuple):
    """How a run ended.

    Fields:
      code: the exit code, or what corresponds to it: 0 completed.
      summary: the JSON file's content, None when there is none.
      said: all that a person was told.
    """

    code: int
    summary: Any
    said: str


Start = Callable[..., Outcome]
"""(place, *settings) → Outcome: runs the pipeline of `place.config`, with settings such as `trainer.epochs=3`, to its
end, and gives its outcome."""


def make_place(folder: Path) -> Place:
    """Three colours that LeNet-5 learns in seconds, and a configuration with everything in this folder."""
    place = Place(folder)
    write_records(place.data / FIRST, coloured(PER_CLASS))
    sections = {
        "pipeline": {"name": "colours", "root": str(place.root)},
        "data": {"location": str(place.data), "classes": CLASSES},
        "model": {"backbone": "LeNet5", "weights": "none", "image_size": 32},
        "trainer": {"epochs": 20, "batch_size": 8},
        "evaluator": {"min_accuracy": 0.6, "max_regression": 0.2},
        "pusher": {"destination": str(place.models)},
    }
    place.config.write_text(yaml.safe_dump(sections))
    return place


def compile_for_airflow(place: Place, definitions: Path, *settings: str) -> Path:
    """Gives `pipelines.run --runner airflow` for the place's configuration, and returns the definitions' folder."""
    given = [argument for setting in settings for argument in ("--set", setting)]
    command = [sys.executable, "-m", "pipelines.run", "--runner", "airflow", "--config", str(place.config), *given]
    ended = subprocess.run(
        [*command, "--definitions", str(definitions)], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    return definitions


def versions(place: Place) -> list[int]:
    return sorted(int(path.name) for path in place.models.glob("*") if path.name.isdigit())


def states(outcome: Outcome) -> dict[str, str]:
    return {node["id"]: node["state"] for node in outcome.summary["nodes"]}


class Chapter(NamedTuple):
    """A run, and the models that were there when it had ended."""

    outcome: Outcome
    versions: list[int]


class RunnerContract:
    """What a runner has to do. Its subclass supplies the fixture `start`, a `Start`."""

    @pytest.fixture(scope="class")
    @classmethod
    def start(cls) -> Start:
        raise NotImplementedError("a runner's tests say how a run is started")

    @pytest.fixture(scope="class")
    @classmethod
    def place(cls, tmp_path_factory: pytest.TempPathFactory) -> Place:
        return make_place(tmp_path_factory.mktemp("contract"))

    @pytest.fixture(scope="class")
    @classmethod
    def first(cls, start: Start, place: Place) -> Chapter:
        return Chapter(start(place), versions(place))

    @pytest.fixture(scope="class")
    @classmethod
    def repeated(cls, start: Start, place: Place, first: Chapter) -> Chapter:
        return Chapter(start(place), versions(place))

    @pytest.fixture(scope="class")
    @classmethod
    def grown(cls, start: Start, place: Place, repeated: Chapter) -> Chapter:
        """All the old pictures once more, in another file, and new red ones."""
        red = [example(picture(0, 5000 + number), "red") for number in range(10)]
        write_records(place.data / ADDED, coloured(PER_CLASS) + red)
        return Chapter(start(place, NEW_SHARE), versions(place))

    @pytest.fixture(scope="class")
    @classmethod
    def rejected(cls, start: Start, place: Place, grown: Chapter) -> Chapter:
        """A candidate that has learnt nothing."""
        return Chapter(start(place, *REJECTED), versions(place))

    @pytest.fixture(scope="class")
    @classmethod
    def broken(cls, start: Start, place: Place, rejected: Chapter) -> Chapter:
        """A record file that was cut off while it was copied."""
        whole = (place.data / FIRST).read_bytes()
        (place.data / BROKEN).write_bytes(whole[: len(whole) // 2])
        return Chapter(start(place), versions(place))

    @pytest.fixture(scope="class")
    @classmethod
    def repaired(cls, start: Start, place: Place, broken: Chapter) -> Chapter:
        (place.data / BROKEN).unlink()
        return Chapter(start(place, NEW_SHARE), versions(place))

    def test_a_first_run_completes_and_is_blessed_and_pushed(self, first: Chapter) -> None:
        assert first.outcome.code == 0, first.outcome.said
        assert first.outcome.summary["state"] == "complete"
        assert first.outcome.summary["blessed"] is True
        assert first.outcome.summary["metrics"]["accuracy"] >= 0.6
        assert first.outcome.summary["baseline_metrics"] is None

    def test_the_summary_has_exactly_the_agreed_fields(self, first: Chapter) -> None:
        assert list(first.outcome.summary) == FIELDS
        assert all(list(node) == ["id", "state", "seconds", "cached"] for node in first.outcome.summary["nodes"])

    def test_the_nodes_are_told_in_the_order_of_the_definition(self, first: Chapter) -> None:
        assert states(first.outcome) == dict.fromkeys(NODES, "complete")
        assert list(states(first.outcome)) == NODES
        assert not any(node["cached"] for node in first.outcome.summary["nodes"])

    def test_the_pictures_of_each_class_add_up_over_the_splits(self, first: Chapter) -> None:
        examples = first.outcome.summary["examples"]
        assert set(examples) == {"train", "eval"}
        assert {name: sum(split[name] for split in examples.values()) for name in CLASSES} == dict.fromkeys(
            CLASSES, PER_CLASS
        )
        assert first.outcome.summary["dropped"] == {}

    def test_the_confusion_counts_each_picture_of_the_eval_split_once(self, first: Chapter) -> None:
        confusion = first.outcome.summary["metrics"]["confusion"]
        assert {name: sum(row.values()) for name, row in confusion.items()} == first.outcome.summary["examples"]["eval"]

    def test_the_pushed_version_is_whole_and_answers_with_both_signatures(self, place: Place, first: Chapter) -> None:
        import tensorflow as tf

        [version] = first.versions
        assert Path(first.outcome.summary["pushed_model"]) == place.models / str(version)
        signatures = tf.saved_model.load(str(place.models / str(version))).signatures
        assert set(signatures) == {"serving_default", "image_bytes"}
        for signature, encoded in (
            ("image_bytes", picture(1, 9000)),
            ("serving_default", example(picture(1, 9000), None)),
        ):
            answer = signatures[signature](tf.constant([encoded]))
            assert answer["label"].numpy().tolist() == [b"green"]
            assert answer["classes"].numpy().tolist() == [[name.encode() for name in CLASSES]]
            assert answer["probabilities"].numpy().sum() == pytest.approx(1, abs=1e-5)

    def test_a_run_with_nothing_new_is_all_cache_hits_and_pushes_nothing(
        self, first: Chapter, repeated: Chapter
    ) -> None:
        assert repeated.outcome.code == 0, repeated.outcome.said
        assert states(repeated.outcome) == dict.fromkeys(NODES, "cached")
        assert all(node["cached"] for node in repeated.outcome.summary["nodes"])
        assert repeated.versions == first.versions

    def test_a_cached_run_tells_the_same_of_data_and_model_as_the_run_that_it_repeats(
        self, first: Chapter, repeated: Chapter
    ) -> None:
        told = set(FIELDS) - {"run_id", "nodes"}
        assert {field: repeated.outcome.summary[field] for field in told} == {
            field: first.outcome.summary[field] for field in told
        }
        assert repeated.outcome.summary["run_id"] != first.outcome.summary["run_id"]

    def test_new_records_are_trained_on_and_gated_against_the_model_in_service(
        self, first: Chapter, grown: Chapter
    ) -> None:
        assert grown.outcome.code == 0, grown.outcome.said
        assert states(grown.outcome)["StartResolver"] == states(grown.outcome)["Trainer"] == "complete"
        assert grown.outcome.summary["blessed"] is True
        assert grown.outcome.summary["baseline_metrics"]["accuracy"] >= 0.6
        assert set(grown.outcome.summary["comparison"]) == {"old", "new"}
        assert "old pictures: accuracy" in grown.outcome.summary["reason"]

    def test_the_retrained_model_is_pushed_as_a_higher_version_beside_the_first(
        self, first: Chapter, grown: Chapter
    ) -> None:
        [old], [kept, new] = first.versions, grown.versions
        assert kept == old and new > old
        assert Path(grown.outcome.summary["pushed_model"]).name == str(new)

    def test_pictures_keep_their_split_when_records_are_added_even_in_another_file(
        self, first: Chapter, grown: Chapter
    ) -> None:
        for split, before in first.outcome.summary["examples"].items():
            after = grown.outcome.summary["examples"][split]
            assert {name: after[name] for name in ("green", "blue")} == {
                name: 2 * before[name] for name in ("green", "blue")
            }
            assert after["red"] >= 2 * before["red"]

    def test_a_candidate_under_the_gate_completes_the_run_unblessed_and_pushes_nothing(
        self, grown: Chapter, rejected: Chapter
    ) -> None:
        assert rejected.outcome.code == 0, rejected.outcome.said
        assert rejected.outcome.summary["state"] == "complete"
        assert rejected.outcome.summary["blessed"] is False
        assert "min_accuracy 0.95" in rejected.outcome.summary["reason"]
        assert rejected.outcome.summary["pushed_model"] is None
        assert rejected.versions == grown.versions

    def test_a_broken_record_file_fails_the_run_and_is_named_with_the_node(
        self, rejected: Chapter, broken: Chapter
    ) -> None:
        assert broken.outcome.code not in (0, 2)
        assert broken.outcome.summary["state"] == "failed"
        assert states(broken.outcome) == {**dict.fromkeys(NODES, "not run"), "ExampleGen": "failed"}
        assert BROKEN in broken.outcome.summary["reason"]
        assert BROKEN in broken.outcome.said and "ExampleGen" in broken.outcome.said
        assert broken.outcome.summary["pushed_model"] is None
        assert broken.versions == rejected.versions

    def test_without_the_broken_file_the_same_run_completes(self, grown: Chapter, repaired: Chapter) -> None:
        assert repaired.outcome.code == 0, repaired.outcome.said
        assert repaired.outcome.summary["state"] == "complete"
        assert repaired.versions == grown.versions
        assert states(repaired.outcome)["Trainer"] == "cached"
