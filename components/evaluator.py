"""Evaluator: measures the candidate with TFMA on the eval split, and decides whether to bless it.

TFMA measures the candidate and the model in service, and checks the bounds `min_accuracy` and `min_recall` of the
candidate. `retake.gate` compares the two models picture by picture, on the predictions that TFMA made
(`components.outcomes`). A blessed candidate is also measured on the test split, if there is one; the verdict does not
depend on that.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.proto import config_pb2
from tfx import types
from tfx.components import Evaluator
from tfx.components.evaluator import constants, executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils, standard_artifacts, standard_component_specs
from tfx.utils import io_utils, path_utils, proto_utils

from components import extractors, outcomes
from components.resolver import EXAMPLES_PROPERTY
from components.start import MODEL_CARD
from retake import durable, places
from retake import gate as rule
from retake.errors import RetakeError
from retake.gate import Comparison
from retake.sections import TEST, EvaluatorSection

REASON_PROPERTY = "reason"
"""Custom property of the ModelBlessing artifact: the reason of the verdict, in words."""

METRICS_PROPERTY = "metrics"
BASELINE_METRICS_PROPERTY = "baseline_metrics"
"""Custom properties of the ModelEvaluation artifact: JSON {"accuracy": …, "precision": {class: …}, …}."""

TEST_METRICS_PROPERTY = "test_metrics"
"""The same for a blessed candidate on the test split; missing for a refused candidate, or without a test split."""

COMPARISON_PROPERTY = "comparison"
"""Custom property of the ModelEvaluation artifact: JSON {slice: retake.gate.Comparison}, or null."""

GATE_PROPERTY, CODE_PROPERTY = "gate", "code"
"""Execution properties: the configuration's section `evaluator` as JSON, and a fingerprint of the node's own code."""

_ACCURACY = "sparse_categorical_accuracy"
_ROUNDING = 1e-6
"""TFMA computes in float32, where 7 / 10 is less than 0.7."""

_log = logging.getLogger("retake")


Floors = dict[tuple[tuple[str, str], ...], float]


def floors_of(config: EvaluatorSection, classes: list[str]) -> Floors:
    """The bounds for the candidate alone: TFMA's slice → the least accuracy in it.

    Raises:
      RetakeError: min_recall names an unknown class.
    """
    if unknown := [name for name in config.min_recall if name not in classes]:
        raise RetakeError(f"evaluator.min_recall names {', '.join(unknown)}; classes are {', '.join(classes[:20])}")
    return {(): config.min_accuracy} | {
        (("label", str(classes.index(name))),): recall for name, recall in config.min_recall.items()
    }


def eval_config(floors: Floors) -> config_pb2.EvalConfig:
    """TFMA's metrics and thresholds; without floors there are no thresholds."""
    # Thresholds are set by slice: a plain `threshold` would apply to every class by itself.
    gates = [
        config_pb2.PerSliceMetricThreshold(
            slicing_specs=[config_pb2.SlicingSpec(feature_values=dict(pictures))],
            threshold=config_pb2.MetricThreshold(
                value_threshold=config_pb2.GenericValueThreshold(lower_bound={"value": floor - _ROUNDING})
            ),
        )
        for pictures, floor in floors.items()
    ]
    return config_pb2.EvalConfig(
        model_specs=[
            config_pb2.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="probabilities"),
        ],
        slicing_specs=[config_pb2.SlicingSpec(), config_pb2.SlicingSpec(feature_keys=["label"])],
        metrics_specs=[
            config_pb2.MetricsSpec(
                metrics=[
                    config_pb2.MetricConfig(class_name="ExampleCount"),
                    config_pb2.MetricConfig(class_name="SparseCategoricalAccuracy", per_slice_thresholds=gates),
                    config_pb2.MetricConfig(class_name="MultiClassConfusionMatrixPlot"),
                ]
            ),
        ],
    )


class Executor(executor.Executor):
    """Runs TFMA's evaluation and the comparison, and writes the verdict with its reason.

    A baseline that cannot be compared is left out.
    """

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        gate = EvaluatorSection.model_validate_json(exec_properties[GATE_PROPERTY])
        candidate = artifact_utils.get_single_instance(input_dict["model"])
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        baselines = input_dict.get("baseline_model") or []
        obstacle = _obstacle(baselines, candidate)
        if obstacle:
            _log.info("%s", obstacle)
            input_dict = {**input_dict, "baseline_model": []}
        classes = _card(candidate)["classes"]
        self._measure("eval", floors_of(gate, classes), input_dict, output_dict, exec_properties)

        if baselines:  # Also if the baseline was left out: the resolver reads this property in a later run.
            blessing.set_int_custom_property("baseline_model_id", baselines[0].id)
        # TFMA names the models only if there are two.
        metrics = readable_metrics(evaluation.uri, "" if obstacle else outcomes.CANDIDATE, classes)
        baseline = None if obstacle else readable_metrics(evaluation.uri, outcomes.BASELINE, classes)
        rows = [] if obstacle else [*outcomes.read(evaluation.uri)]
        sources = None if obstacle else _card(baselines[0]).get("sources")
        comparison = None if obstacle else _compare(rows, sources, gate)
        evaluation.set_string_custom_property(METRICS_PROPERTY, json.dumps(metrics))
        evaluation.set_string_custom_property(BASELINE_METRICS_PROPERTY, json.dumps(baseline))
        slices = {name: result.model_dump() for name, result in comparison.items()} if comparison else None
        evaluation.set_string_custom_property(COMPARISON_PROPERTY, json.dumps(slices))
        old = (comparison or {}).get(rule.OLD)
        new = _right_answers(rows, sources or {}) if old else {}
        doubt = rule.doubt(old.candidate, new, gate.confidence, gate.min_new_ratio) if old else None
        if doubt or any(result.worse for result in (comparison or {}).values()):
            _refuse(blessing)
        examples = artifact_utils.get_single_instance(input_dict["examples"])
        blessed = blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY) == constants.BLESSED_VALUE
        if blessed and TEST in artifact_utils.decode_split_names(examples.split_names):
            test = standard_artifacts.ModelEvaluation()
            test.uri = f"{evaluation.uri}/{TEST}"
            alone = {**input_dict, "baseline_model": []}
            self._measure(TEST, {}, alone, {"evaluation": [test]}, exec_properties)
            test_metrics = json.dumps(readable_metrics(test.uri, "", classes))
            evaluation.set_string_custom_property(TEST_METRICS_PROPERTY, test_metrics)
        blessing.set_string_custom_property(EXAMPLES_PROPERTY, examples.uri)
        blessing.set_string_custom_property(REASON_PROPERTY, _reason(gate, metrics, comparison, obstacle, doubt))

    def _measure(
        self,
        split: str,
        floors: Floors,
        inputs: dict[str, list[types.Artifact]],
        outputs: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Writes TFMA's evaluation of a split, and the models' answers to its pictures, into the `evaluation`."""
        outcomes.FOLDER.set(artifact_utils.get_single_uri(outputs["evaluation"]))
        properties = {
            standard_component_specs.EVAL_CONFIG_KEY: proto_utils.proto_to_json(eval_config(floors)),
            standard_component_specs.EXAMPLE_SPLITS_KEY: json.dumps([split]),
        }
        super().Do(inputs, outputs, {**exec_properties, **properties})


class GatedEvaluator(Evaluator):
    """TFX's Evaluator with this executor.

    Args:
      gate: the bounds for a candidate.
      code: fingerprint of the node's code, for the cache.
      channels: TFX's `examples`, `model`, `baseline_model` and `schema`.
    """

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(self, gate: EvaluatorSection, code: str, **channels: Any):
        # The executor adds the bounds by class, because the classes may be unknown until the records are read.
        super().__init__(eval_config=eval_config({(): gate.min_accuracy}), module_path=extractors.__name__, **channels)
        self.spec.exec_properties |= {GATE_PROPERTY: gate.model_dump_json(), CODE_PROPERTY: code}


def _right_answers(rows: list[dict[str, Any]], known: Container[str]) -> dict[str, tuple[int, int]]:
    """Record file that is not in `known` → the number of its pictures that the candidate answers right, and of all."""
    new = {(row["source"], row["sha256"], row["label"]): row for row in rows if row["source"] not in known}
    pictures = Counter(source for source, _, _ in new)
    right = Counter(row["source"] for row in new.values() if row[outcomes.CANDIDATE] == row["label"])
    return {source: (right[source], number) for source, number in pictures.items()}


def _compare(
    rows: list[dict[str, Any]], sources: dict[str, int] | None, gate: EvaluatorSection
) -> dict[str, Comparison]:
    """The comparison by slice.

    Args:
      rows: the models' answers by picture (`components.outcomes`).
      sources: record files of the model in service, from its card; None if the card does not list them.
      gate: bounds and confidence.
    """
    right: dict[tuple[str, str], tuple[bool, bool]] = {}
    old = set()
    for row in rows:
        picture = row["sha256"], row["label"]
        right[picture] = row[outcomes.CANDIDATE] == row["label"], row[outcomes.BASELINE] == row["label"]
        if sources is not None and row["source"] in sources:
            old.add(picture)  # Even if a new record file contains the picture, too.
    slices = {rule.OLD: set(right) & old, rule.NEW: set(right) - old}
    if sources is None:
        slices = {rule.TOGETHER: set(right)}
    bounds = {rule.NEW: gate.max_regression_new}
    comparison = {}
    for name, pictures in slices.items():
        counts = Counter(right[picture] for picture in pictures)
        if pictures:
            comparison[name] = rule.compare(
                gained=counts[True, False],
                lost=counts[False, True],
                both=counts[True, True],
                pictures=len(pictures),
                confidence=gate.confidence,
                max_regression=bounds.get(name, gate.max_regression),
            )
    return comparison


def _refuse(blessing: types.Artifact) -> None:
    """Changes the verdict to "not blessed"."""
    blessed = f"{blessing.uri}/{constants.BLESSED_FILE_NAME}"
    if tf.io.gfile.exists(blessed):
        tf.io.gfile.remove(blessed)
    io_utils.write_string_file(f"{blessing.uri}/{constants.NOT_BLESSED_FILE_NAME}", "")
    blessing.set_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY, constants.NOT_BLESSED_VALUE)


def _obstacle(baselines: list[types.Artifact], candidate: types.Artifact) -> str | None:
    """The reason why there is no comparison, or None if there is a baseline to compare the candidate with."""
    if not baselines:
        return "no blessed model to compare with"
    if damage := _damage(baselines[0]):
        return f"the blessed model {damage}, so not compared"
    baseline_card, candidate_card = _card(baselines[0]), _card(candidate)
    if baseline_card is None:
        return f"the blessed model {baselines[0].uri} is gone or was not made by this pipeline, so not compared"
    if baseline_card["classes"] != candidate_card["classes"]:
        return f"the blessed model knows other classes ({', '.join(baseline_card['classes'])}), so not compared"
    return None


def _damage(model: types.Artifact) -> str | None:
    if places.is_remote(model.uri) or not tf.io.gfile.exists(model.uri):
        return None
    written = model.get_string_custom_property(durable.WRITTEN)
    return durable.damage(Path(model.uri), json.loads(written) if written else None)


def _card(model: types.Artifact) -> Any:
    folder = path_utils.serving_model_path(model.uri)
    if not all(tf.io.gfile.exists(f"{folder}/{name}") for name in ("saved_model.pb", MODEL_CARD)):
        return None
    with tf.io.gfile.GFile(f"{folder}/{MODEL_CARD}") as file:
        return json.load(file)


def readable_metrics(evaluation: str, model_name: str, classes: list[str]) -> dict[str, Any]:
    """Reads accuracy, and precision, recall and confusion by class, from TFMA's output folder.

    The predicted class is the most probable one; TFMA's own Precision and Recall use a probability threshold instead.
    The precision of a class that was never predicted is None. So is the recall of a class without pictures.

    Returns:
      {"accuracy": …, "precision": {class: …}, "recall": {class: …}, "confusion": {actual: {predicted: pictures}}}.
    """
    result = tfma.load_eval_result(evaluation, model_name=model_name)
    accuracy = result.get_metrics_for_slice()[_ACCURACY]["doubleValue"]
    [plots] = [plots for slice_key, plots in result.plots if slice_key == ()]
    confusion = {actual: dict.fromkeys(classes, 0) for actual in classes}
    for entry in plots[""][""]["multiClassConfusionMatrixAtThresholds"]["matrices"][0]["entries"]:
        actual, predicted = entry.get("actualClassId", 0), entry.get("predictedClassId", 0)
        confusion[classes[actual]][classes[predicted]] = int(entry["numWeightedExamples"])
    predicted = {c: sum(row[c] for row in confusion.values()) for c in classes}
    return {
        "accuracy": accuracy,
        "precision": {c: confusion[c][c] / predicted[c] if predicted[c] else None for c in classes},
        "recall": {
            c: confusion[c][c] / sum(confusion[c].values()) if any(confusion[c].values()) else None for c in classes
        },
        "confusion": confusion,
    }


def _reason(
    gate: EvaluatorSection,
    metrics: dict[str, Any],
    comparison: dict[str, Comparison] | None,
    obstacle: str | None,
    doubt: str | None,
) -> str:
    accuracy, recall = metrics["accuracy"], metrics["recall"]
    reasons = [
        f"recall of {name} {recall[name]:.3f} is below evaluator.min_recall {floor:g}"
        for name, floor in gate.min_recall.items()
        if recall[name] < floor - _ROUNDING
    ]
    if accuracy < gate.min_accuracy - _ROUNDING:
        reasons.insert(0, f"accuracy {accuracy:.3f} is below evaluator.min_accuracy {gate.min_accuracy:g}")
    if comparison is None:
        return "; ".join(reasons) or f"accuracy {accuracy:.3f} reaches {gate.min_accuracy:g}; {obstacle}"
    reasons.append(rule.in_words(comparison))
    if doubt:
        reasons.append(doubt)
    if rule.TOGETHER in comparison:
        reasons.append(
            "the blessed model does not say what it was trained on, so old and new pictures are judged together"
        )
    return "; ".join(reasons)
