"""The gate: good enough, and not worse than the model in service where the two can be compared."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import tensorflow as tf
from colours import CLASSES, coloured, config, write_records
from one_node import artifact, column, examples_from, run_node, saved_model, schema_in, split
from tfx.types import standard_artifacts

from components import outcomes
from components.evaluator import (
    BASELINE_METRICS_PROPERTY,
    COMPARISON_PROPERTY,
    METRICS_PROPERTY,
    REASON_PROPERTY,
    TEST_METRICS_PROPERTY,
    _compare,
    _obstacle,
)
from retake.errors import RetakeError
from retake.sections import EvaluatorSection


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Examples with some 30 pictures of the three colours in the eval split."""
    folder = tmp_path_factory.mktemp("pictures")
    write_records(folder / "data" / "colours.tfrecord", coloured(20))
    return examples_from(folder, config(data={"location": str(folder / "data"), "split": {"train": 1, "eval": 1}}))


class Fixed(tf.Module):
    """Answers each picture with the class that a table of known pictures says."""

    def __init__(self, table, classes):
        super().__init__()
        keys, values = tf.constant(list(table), tf.string), tf.constant(list(table.values()), tf.int64)
        self.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(keys, values), 0)
        self.classes = classes

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def answer(self, examples):
        image = tf.io.parse_example(examples, {"image": tf.io.FixedLenFeature([], tf.string)})["image"]
        probabilities = tf.one_hot(self.table.lookup(image), len(self.classes))
        return {
            "probabilities": probabilities,
            "classes": tf.tile(tf.constant(self.classes)[None], [tf.size(image), 1]),
            "label": tf.gather(tf.constant(self.classes), tf.argmax(probabilities, -1)),
        }


def fixed_model(folder, answers, classes=CLASSES, **card):
    """A SavedModel with a card that answers each known picture with the class of this index."""
    made = artifact(standard_artifacts.Model, folder)
    fixed = Fixed(answers, classes)
    tf.saved_model.save(fixed, str(saved_model(made)), signatures={"serving_default": fixed.answer})
    path = saved_model(made) / "assets.extra" / "retake.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"classes": classes, **card}))
    return made


@pytest.fixture
def right(tmp_path, pictures):
    """Makes a small SavedModel that is right about a number of the eval pictures and takes the others for the next
    class."""
    held_out = split(pictures, "eval")
    truth = dict(zip(column(held_out, "image"), column(held_out, "label"), strict=True))

    def model(number, classes=CLASSES, wrong_class=None):
        answers = {
            image: label if position < number and label != wrong_class else (label + 1) % 3
            for position, (image, label) in enumerate(sorted(truth.items()))
        }
        return fixed_model(tmp_path / f"model-{number}-{wrong_class}-{'-'.join(classes)}", answers, classes)

    model.total = len(truth)
    return model


def judge(folder, pictures, candidate, baseline=None, **gate):
    inputs = {"baseline_model": baseline} if baseline else {}
    made = run_node(
        folder,
        "Evaluator",
        config(evaluator=gate),
        examples=pictures,
        model=candidate,
        schema=schema_in(folder),
        **inputs,
    )
    blessing = made["blessing"]
    blessed = blessing.get_int_custom_property("blessed") == 1
    assert [path.name for path in Path(blessing.uri).iterdir()] == ["BLESSED" if blessed else "NOT_BLESSED"]
    return blessed, blessing.get_string_custom_property(REASON_PROPERTY), made


def metrics(made, name=METRICS_PROPERTY):
    return json.loads(made["evaluation"].get_string_custom_property(name))


def test_the_first_model_is_judged_by_all_pictures_together_and_not_by_its_weakest_class(
    tmp_path, pictures, right, said
):
    blessed, reason, made = judge(tmp_path, pictures, right(right.total, wrong_class=1), min_accuracy=0.5)
    assert blessed
    assert reason == f"accuracy {metrics(made)['accuracy']:.3f} reaches 0.5; no blessed model to compare with"
    assert metrics(made)["recall"] == {"red": 1, "green": 0, "blue": 1}
    assert metrics(made, BASELINE_METRICS_PROPERTY) is None
    assert said == ["no blessed model to compare with"]


def test_a_model_below_the_bound_is_refused_and_one_exactly_at_it_is_blessed(tmp_path, pictures, right):
    number = right.total // 3 + 1
    bound = number / right.total
    assert judge(tmp_path, pictures, right(number), min_accuracy=bound)[0]
    blessed, reason, _ = judge(tmp_path, pictures, right(number - 1), min_accuracy=bound)
    assert not blessed
    assert reason == f"accuracy {(number - 1) / right.total:.3f} is below evaluator.min_accuracy {bound:g}"


def test_a_model_worse_than_the_one_in_service_is_refused_with_the_answers_to_each_picture(tmp_path, pictures, right):
    better, worse = right(right.total), right(right.total - 6)
    blessed, reason, made = judge(tmp_path, pictures, worse, better)
    assert not blessed
    assert "points below the blessed model's 1.000 (95% interval" in reason
    assert reason.endswith(
        f"{right.total} pictures), more than chance explains; the blessed model does not say what it was trained on, "
        "so old and new pictures are judged together"
    )
    assert metrics(made)["accuracy"] == pytest.approx(1 - 6 / right.total)
    assert metrics(made, BASELINE_METRICS_PROPERTY)["accuracy"] == 1
    assert made["blessing"].get_int_custom_property("baseline_model_id") == better.id
    assert made["blessing"].get_int_custom_property("current_model_id") == worse.id

    [comparison] = metrics(made, COMPARISON_PROPERTY).values()
    assert (comparison["gained"], comparison["lost"], comparison["pictures"]) == (0, 6, right.total)
    rows = {row["sha256"]: row for row in outcomes.read(made["evaluation"].uri)}
    held_out = split(pictures, "eval")
    for position, (image, label) in enumerate(
        sorted(zip(column(held_out, "image"), column(held_out, "label"), strict=True))
    ):
        assert rows.pop(hashlib.sha256(image).hexdigest()) == {
            "sha256": hashlib.sha256(image).hexdigest(),
            "source": "colours.tfrecord",
            "label": CLASSES[label],
            "candidate": CLASSES[label if position < right.total - 6 else (label + 1) % 3],
            "baseline": CLASSES[label],
        }
    assert not rows


def test_a_blessed_model_is_measured_on_the_test_split_and_a_refused_one_is_not(tmp_path):
    write_records(tmp_path / "data" / "colours.tfrecord", coloured(20))
    data = {"location": str(tmp_path / "data"), "split": {"train": 2, "eval": 1, "test": 1}}
    three = examples_from(tmp_path, config(data=data))
    truth = {
        name: dict(zip(column(held_out, "image"), column(held_out, "label"), strict=True))
        for name, held_out in ((name, split(three, name)) for name in ("eval", "test"))
    }
    # Right on the eval split, and never about blue in the test split.
    answers = truth["eval"] | {image: label % 2 for image, label in truth["test"].items()}
    candidate = fixed_model(tmp_path / "candidate", answers)
    blessed, _, made = judge(tmp_path, three, candidate, candidate)
    assert blessed
    assert metrics(made)["accuracy"] == 1
    found = metrics(made, TEST_METRICS_PROPERTY)
    blue = sum(label == 2 for label in truth["test"].values())
    assert found["accuracy"] == pytest.approx(1 - blue / len(truth["test"]))
    assert found["recall"] == {"red": 1, "green": 1, "blue": 0 if blue else None}
    rows = {row["sha256"] for row in outcomes.read(f"{made['evaluation'].uri}/test")}
    assert rows == {hashlib.sha256(image).hexdigest() for image in truth["test"]}

    worse = fixed_model(tmp_path / "worse", dict.fromkeys(answers, 0))
    for baseline in (None, candidate):
        blessed, _, made = judge(tmp_path, three, worse, baseline, min_accuracy=0.0 if baseline else 0.9)
        assert not blessed
        assert not made["evaluation"].has_custom_property(TEST_METRICS_PROPERTY)
        assert not Path(made["evaluation"].uri, "test").exists()


def test_new_pictures_whose_labels_are_in_doubt_refuse_a_candidate_that_is_not_worse(tmp_path):
    for name, number in (("old", 20), ("wrong", 10)):
        write_records(tmp_path / "data" / f"{name}.tfrecord", coloured(number, seed=number))
    two = examples_from(tmp_path, config(data={"location": str(tmp_path / "data"), "split": {"train": 1, "eval": 1}}))
    held_out = split(two, "eval")
    columns = (column(held_out, name) for name in ("image", "label", "source"))
    answers = {
        image: label if source == b"old.tfrecord" else (label + 1) % 3
        for image, label, source in zip(*columns, strict=True)
    }
    baseline = fixed_model(tmp_path / "baseline", answers, sources={"old.tfrecord": 30})
    candidate = fixed_model(tmp_path / "candidate", answers)
    blessed, reason, made = judge(tmp_path, two, candidate, baseline, min_accuracy=0.1)
    assert not blessed
    assert "pictures right in wrong.tfrecord, and 100% of the old ones, so labels are in doubt there" in reason
    assert not any(each["worse"] for each in metrics(made, COMPARISON_PROPERTY).values())
    assert judge(tmp_path, two, candidate, baseline, min_accuracy=0.1, min_new_ratio=0)[0]


def test_a_class_below_its_floor_is_refused_and_named(tmp_path, pictures, right):
    floors = {"red": 1.0, "green": 0.5}
    blessed, reason, _ = judge(tmp_path, pictures, right(right.total, wrong_class=1), min_recall=floors)
    assert not blessed
    assert reason == "recall of green 0.000 is below evaluator.min_recall 0.5"


def test_a_floor_of_a_class_that_there_is_not_is_refused(tmp_path, pictures, right):
    settings = config(data={"classes": None}, evaluator={"min_recall": {"mauve": 0.5}})
    inputs = {"examples": pictures, "model": right(3), "schema": schema_in(tmp_path)}
    with pytest.raises(RetakeError, match=r"evaluator.min_recall names mauve; classes are red, green, blue"):
        run_node(tmp_path, "Evaluator", settings, **inputs)


class TestSlices:
    """Old pictures are those of record files that the model in service was trained on."""

    def compared(self, rows, sources, **gate):
        """Compares by (picture, record file, candidate is right, model in service is right)."""
        lines = [
            {
                "sha256": str(picture),
                "source": source,
                "label": "red",
                "candidate": "red" if candidate else "blue",
                "baseline": "red" if baseline else "blue",
            }
            for picture, source, candidate, baseline in rows
        ]
        return _compare(lines, sources, EvaluatorSection(**gate))

    def test_a_candidate_that_learns_the_new_and_loses_the_old_is_refused_for_the_old(self):
        rows = [(n, "old", False, True) for n in range(20)] + [(n, "new", True, False) for n in range(20, 60)]
        made = self.compared(rows, {"old": 100})
        assert {name: (each.pictures, each.worse) for name, each in made.items()} == {
            "old": (20, True),
            "new": (40, False),
        }

    def test_each_slice_has_its_own_bound(self):
        rows = [(n, source, False, True) for n, source in enumerate(["old", "new"] * 20)]
        for bounds, worse in (
            ({"max_regression": 1.0}, {"old": False, "new": True}),
            ({"max_regression_new": 1.0}, {"old": True, "new": False}),
        ):
            made = self.compared(rows, {"old": 100}, **bounds)
            assert {name: each.worse for name, each in made.items()} == worse

    def test_a_picture_in_several_files_counts_once_and_is_old_if_one_of_them_is(self):
        rows = [(1, "old", True, True), (1, "new", True, True), (2, "new", True, False), (2, "newer", True, False)]
        made = self.compared(rows, {"old": 1})
        assert {name: (each.pictures, each.gained) for name, each in made.items()} == {"old": (1, 0), "new": (1, 1)}

    def test_a_model_that_does_not_say_what_it_was_trained_on_is_judged_on_all_pictures_together(self):
        made = self.compared([(1, "old", True, True), (2, "new", True, False)], None)
        assert {name: each.pictures for name, each in made.items()} == {"all": 2}


def test_a_baseline_of_other_classes_is_not_compared_and_that_is_said(tmp_path, pictures, right, said):
    other = right(right.total, classes=["red", "green", "blue", "mauve"])
    blessed, reason, made = judge(tmp_path, pictures, right(right.total - 3), other, min_accuracy=0.5)
    assert blessed
    assert reason.endswith("the blessed model knows other classes (red, green, blue, mauve), so not compared")
    assert metrics(made, BASELINE_METRICS_PROPERTY) is None
    assert made["blessing"].get_int_custom_property("baseline_model_id") == other.id
    assert said == ["the blessed model knows other classes (red, green, blue, mauve), so not compared"]


def test_the_same_classes_in_another_order_are_other_classes(right):
    other = right(right.total, classes=["blue", "green", "red"])
    assert "knows other classes" in _obstacle([other], right(3))


def test_a_baseline_that_is_gone_or_lost_its_graph_is_not_compared_and_that_is_said(tmp_path, pictures, right):
    gone, damaged, candidate = right(right.total), right(right.total - 1), right(right.total - 3)
    empty = right(right.total - 2)
    (saved_model(empty) / "saved_model.pb").write_bytes(b"")
    assert _obstacle([empty], candidate) == (
        f"the blessed model {empty.uri} is damaged: Format-Serving/saved_model.pb is empty, so not compared"
    )
    shutil.rmtree(gone.uri)
    (saved_model(damaged) / "saved_model.pb").unlink()
    assert f"the blessed model {damaged.uri} is gone" in _obstacle([damaged], candidate)
    blessed, reason, _ = judge(tmp_path, pictures, candidate, gone)
    assert blessed
    assert f"the blessed model {gone.uri} is gone" in reason


def test_the_metrics_tell_precision_recall_and_confusion_by_class(tmp_path, pictures, right):
    number = right.total - 4
    _, _, made = judge(tmp_path, pictures, right(number))
    found = metrics(made)
    held_out = split(pictures, "eval")
    rows = sorted(zip(column(held_out, "image"), column(held_out, "label"), strict=True))
    confusion = Counter(
        (CLASSES[label], CLASSES[label if position < number else (label + 1) % 3])
        for position, (_, label) in enumerate(rows)
    )
    assert found["accuracy"] == pytest.approx(number / right.total)
    for actual in CLASSES:
        assert found["confusion"][actual] == {predicted: confusion[actual, predicted] for predicted in CLASSES}
        actually = sum(n for (a, _), n in confusion.items() if a == actual)
        predicted = sum(n for (_, p), n in confusion.items() if p == actual)
        assert found["recall"][actual] == pytest.approx(confusion[actual, actual] / actually)
        assert found["precision"][actual] == pytest.approx(confusion[actual, actual] / predicted)


def test_a_trained_model_is_judged_through_the_signature_that_is_served(tmp_path, pictures, trained):
    blessed, reason, made = judge(tmp_path, pictures, trained, trained, min_accuracy=0.9)
    assert blessed  # As good as the one in service is good enough.
    assert metrics(made) == metrics(made, BASELINE_METRICS_PROPERTY)
    assert "equals the blessed model's" in reason
    assert list(metrics(made, COMPARISON_PROPERTY)) == ["old"]  # Its card names the record file.
