"""Evaluator: TFMA on the eval split, and the gate: good enough, and not worse than the model in service."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
from tfx import types
from tfx.components import Evaluator
from tfx.components.evaluator import executor
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components.trainer import MODEL_CARD
from retake import durable
from retake.config import EvaluatorSection

REASON_PROPERTY = "reason"
"""Custom property of the ModelBlessing artifact: why it is blessed or not, in words."""

METRICS_PROPERTY = "metrics"
BASELINE_METRICS_PROPERTY = "baseline_metrics"
"""Custom properties of the ModelEvaluation artifact: JSON {"accuracy": …, "precision": {class: …}, …}."""

_ACCURACY = "sparse_categorical_accuracy"
_ROUNDING = 1e-6
"""TFMA computes in float32, where 7 of 10 are less than 0.7."""

_log = logging.getLogger("retake")


def eval_config(config: EvaluatorSection) -> tfma.EvalConfig:
    """What TFMA measures and what the gate asks for; the change threshold counts only where there is a baseline."""
    threshold = tfma.MetricThreshold(
        value_threshold=tfma.GenericValueThreshold(lower_bound={"value": config.min_accuracy - _ROUNDING}),
        change_threshold=tfma.GenericChangeThreshold(
            absolute={"value": -config.max_regression - _ROUNDING}, direction=tfma.MetricDirection.HIGHER_IS_BETTER
        ),
    )
    # For all pictures together: a plain `threshold` would hold for every class by itself.
    gate = tfma.PerSliceMetricThreshold(slicing_specs=[tfma.SlicingSpec()], threshold=threshold)
    return tfma.EvalConfig(
        model_specs=[
            tfma.ModelSpec(signature_name="serving_default", label_key="label", prediction_key="probabilities"),
        ],
        slicing_specs=[tfma.SlicingSpec(), tfma.SlicingSpec(feature_keys=["label"])],
        metrics_specs=[
            tfma.MetricsSpec(
                metrics=[
                    tfma.MetricConfig(class_name="ExampleCount"),
                    tfma.MetricConfig(class_name="SparseCategoricalAccuracy", per_slice_thresholds=[gate]),
                    tfma.MetricConfig(class_name="MultiClassConfusionMatrixPlot"),
                ]
            ),
        ],
    )


class Executor(executor.Executor):
    """TFMA's evaluation, with a baseline that cannot be compared set aside, and with the outcome in words."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        candidate = artifact_utils.get_single_instance(input_dict["model"])
        baselines = input_dict.get("baseline_model") or []
        obstacle = _obstacle(baselines, candidate)
        if obstacle:
            _log.info("%s", obstacle)
            input_dict = {**input_dict, "baseline_model": []}
        super().Do(input_dict, output_dict, exec_properties)

        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        if baselines:  # Also where it was set aside: the resolver reads here what the candidate was judged against.
            blessing.set_int_custom_property("baseline_model_id", baselines[0].id)
        classes = _card(candidate)["classes"]
        # TFMA names the models where there are two of them.
        metrics = readable_metrics(evaluation.uri, "" if obstacle else "candidate", classes)
        baseline = None if obstacle else readable_metrics(evaluation.uri, "baseline", classes)
        evaluation.set_string_custom_property(METRICS_PROPERTY, json.dumps(metrics))
        evaluation.set_string_custom_property(BASELINE_METRICS_PROPERTY, json.dumps(baseline))
        blessed = blessing.get_int_custom_property("blessed") == 1
        gate = _gate(exec_properties)
        reason = _reason(blessed, gate, metrics["accuracy"], baseline["accuracy"] if baseline else None, obstacle)
        blessing.set_string_custom_property(REASON_PROPERTY, reason)


class GatedEvaluator(Evaluator):
    """TFX's Evaluator with this executor."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)


def _obstacle(baselines: list[types.Artifact], candidate: types.Artifact) -> str | None:
    """Why the candidate is judged by itself, or None when there is a baseline to compare it with."""
    if not baselines:
        return "no blessed model to compare with"
    if damage := _damage(baselines[0]):
        return f"the blessed model {damage}, so not compared"
    there, here = _card(baselines[0]), _card(candidate)
    if there is None:
        return f"the blessed model {baselines[0].uri} is gone or was not made by this pipeline, so not compared"
    if there["classes"] != here["classes"]:
        return f"the blessed model knows other classes ({', '.join(there['classes'])}), so not compared"
    return None


def _damage(model: types.Artifact) -> str | None:
    if "://" in model.uri or not tf.io.gfile.exists(model.uri):
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
    """Accuracy, and precision, recall and confusion by class, of TFMA's output folder.

    All follow from the most probable class; TFMA's own Precision and Recall of a class ask for a probability over a
    threshold instead. Precision of a class that was never predicted is None.

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
        "recall": {c: confusion[c][c] / sum(confusion[c].values()) for c in classes},
        "confusion": confusion,
    }


def _gate(exec_properties: dict[str, Any]) -> tuple[float, float]:
    config = json.loads(exec_properties["eval_config"])
    metrics = [metric for spec in config["metrics_specs"] for metric in spec["metrics"]]
    [threshold] = [gate["threshold"] for metric in metrics for gate in metric.get("per_slice_thresholds", [])]
    return (
        threshold["value_threshold"]["lower_bound"] + _ROUNDING,
        -threshold["change_threshold"]["absolute"] - _ROUNDING,
    )


def _reason(
    blessed: bool, gate: tuple[float, float], accuracy: float, baseline: float | None, obstacle: str | None
) -> str:
    min_accuracy, max_regression = gate
    measured = f"accuracy {accuracy:.3f}"
    if accuracy < min_accuracy - _ROUNDING:
        return f"{measured} is below evaluator.min_accuracy {min_accuracy:g}"
    if baseline is None:
        return f"{measured} reaches {min_accuracy:g}; {obstacle}"
    if not blessed:
        return f"{measured} is worse than the blessed model's {baseline:.3f} by more than {max_regression:g}"
    return f"{measured} reaches {min_accuracy:g} and stands up to the blessed model's {baseline:.3f}"
