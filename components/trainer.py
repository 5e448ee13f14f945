"""Trainer: fits a softmax head on a backbone's features, optionally fine-tunes the backbone, and exports the model.

The backbone is frozen, so each picture goes through it once. Convex optimization (components.head) fits the head to the
features. Held-out pictures of the train split choose the head's penalty; then the head is fitted to the whole split. If
the configuration has fine-tuning, it comes next, and its result is kept if it is better on the held-out pictures.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tfx import types
from tfx.components import Trainer
from tfx.components.trainer import executor
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components import backbones, head
from components import network as networks
from components import start as starts
from components.example_gen import classes_of
from components.export import export
from components.start import MODEL_CARD, Fitted
from components.training_split import Split, transform_of
from retake.features import of_pictures, store_for
from retake.sections import ModelSection, TrainerSection

BACKBONE_PROPERTY, WEIGHTS_PROPERTY = "backbone", "weights"
"""Custom properties of the model, copied from its card for the run's summary."""

HEAD_SEARCH, HEAD = "1-head-finds-its-penalty", "2-head-on-all-pictures"
"""TensorBoard's names of the phases of a head's training. components.network has the third phase."""

_log = logging.getLogger("retake")


class Executor(executor.GenericExecutor):
    """TFX's Trainer with two changes: the run's id names the folder of TensorBoard's logs, and the model's properties
    name the backbone and its initial weights."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        super().Do(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(output_dict["model"])
        card = json.loads(starts.read(f"{path_utils.serving_model_dir(model.uri)}/{MODEL_CARD}"))
        model.set_string_custom_property(BACKBONE_PROPERTY, card["backbone"])
        model.set_string_custom_property(WEIGHTS_PROPERTY, card["weights"])

    def _GetFnArgs(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> FnArgs:
        arguments = super()._GetFnArgs(input_dict, output_dict, exec_properties)
        # On Vertex there is no run id, but outputs lie in ROOT/PROJECT/JOB/TASK/model_run.
        run_id = self._context.pipeline_run_id or arguments.model_run_dir.split("/")[-3]
        arguments.model_run_dir = f"{arguments.custom_config['tensorboard']}/{run_id}"
        if arguments.custom_config["classes"] is None:
            arguments.custom_config["classes"] = classes_of(artifact_utils.get_single_uri(input_dict["examples"]))
        return arguments


class ClassifierTrainer(Trainer):
    """TFX's Trainer with this executor."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)


def run_fn(fn_args: FnArgs) -> None:
    """TFX's entry point. `custom_config` holds `model`, `trainer` and `classes` of the configuration."""
    if tf.io.gfile.exists(fn_args.model_run_dir):  # Otherwise an earlier attempt of this run would double every curve.
        tf.io.gfile.rmtree(fn_args.model_run_dir)
    model_config = ModelSection.model_validate(fn_args.custom_config["model"])
    config = TrainerSection.model_validate(fn_args.custom_config["trainer"])
    classes: list[str] = fn_args.custom_config["classes"]
    keras.utils.set_random_seed(config.seed)

    to_pixels = transform_of(fn_args.transform_output)
    train = Split(fn_args.train_files, to_pixels, config)
    start = fitted = None
    network = ""
    with networks.strategy().scope():
        frozen = config.fine_tune_layers == 0
        backbone = backbones.build(
            model_config.backbone, model_config.weights, model_config.image_size, frozen, lambda: train.sample(64)
        )
        store = None if backbone.weights == "random" else _feature_store(fn_args.custom_config)
        network = store.rpartition("/")[2] if store else ""
        if config.start == "warm":
            start = starts.find(fn_args.base_model, classes, network)
        if start:
            fitted = _go_on(start, backbone.network, train, store, config, f"{fn_args.model_run_dir}/{HEAD}")
            model = keras.Sequential([backbone.network, networks.head_layers(fitted.head)], name="classifier")
        else:
            weights = train.weights(config, len(classes), starts.known(fn_args.base_model))
            if model_config.known.from_scratch:
                model = _from_scratch(backbone.network, train, weights, len(classes), config, fn_args.model_run_dir)
            else:
                rows = head.Rows(_features(backbone.network, train, store), train.labels, weights)
                model, fitted = _with_head(backbone.network, train, rows, len(classes), config, fn_args.model_run_dir)

    export(model, to_pixels, classes, fn_args.serving_model_dir)
    sources = (start.sources if start else {}) | Counter(train.sources)
    card = {
        "classes": classes,
        "backbone": model_config.backbone,
        "weights": backbone.weights,
        "image_size": model_config.image_size,
        "pictures": len(train.labels),
        "sources": dict(sorted(sources.items())),
    }
    if fitted and store:
        starts.keep(fitted, network, f"{fn_args.serving_model_dir}/{starts.HEAD_FILE}")
    path = f"{fn_args.serving_model_dir}/{MODEL_CARD}"
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    with tf.io.gfile.GFile(path, "w") as file:
        json.dump(card, file, indent=2)


def _feature_store(custom_config: dict[str, Any]) -> str:
    network = {
        "backbone": custom_config["model"]["backbone"],
        "image_size": custom_config["model"]["image_size"],
        "weights": custom_config["weights_fingerprint"] or custom_config["model"]["weights"],
        "code": custom_config["network_code"],
        "keras": keras.__version__,
    }
    return store_for(custom_config["features"], network)


def _features(network: keras.Model, train: Split, store: str | None, side: np.ndarray | None = None) -> np.ndarray:
    """float32[m, features]: the frozen network's features of all pictures, or of those where bool[n] `side` is true."""
    network.trainable = False
    numbers = np.arange(len(train.digests)) if side is None else np.flatnonzero(side)

    def compute(which: np.ndarray) -> np.ndarray:
        chosen = np.zeros(len(train.digests), bool)
        chosen[numbers[which]] = True
        progress = networks.Progress("features", int(chosen.sum()))
        return np.asarray(network.predict(train.pixels(chosen), verbose=0, callbacks=[progress]))

    return of_pictures([train.digests[number] for number in numbers], store, compute)


def _from_scratch(
    network: keras.Model, train: Split, weights: np.ndarray, classes: int, config: TrainerSection, log_dir: str
) -> keras.Model:
    """Trains a network and its head together. There is no penalty unless `trainer.l2` is a number."""
    penalty = 0.0 if config.l2 == "auto" else config.l2
    softmax = keras.layers.Dense(
        classes,
        activation="softmax",
        kernel_initializer="zeros",
        kernel_regularizer=keras.regularizers.L2(penalty / 2 / (~train.held_out).sum()),
        name="probabilities",
    )
    model = keras.Sequential([network, softmax], name="classifier")
    networks.unfreeze(network, "all")
    networks.train(
        model, train, weights, networks.Schedule(config.epochs, config.learning_rate, config.patience), log_dir
    )
    return model


def _go_on(
    start: starts.Start, network: keras.Model, train: Split, store: str | None, config: TrainerSection, log_dir: str
) -> Fitted:
    """Trains the head of the model in service further, with the pictures of new record files.

    Each picture has the weight 1, because the old head already reflects the classes' shares. With `trainer.replay`,
    some old pictures take part, too, chosen at random for each set of examples.
    """
    new = train.new(start.sources)
    l2 = start.fitted.l2 if config.l2 == "auto" else config.l2
    if not new.any():
        _log.info("head: no record file is new to the model in service, so its head stays as it is")
        return start.fitted
    old = np.flatnonzero(~new)
    replayed = min(len(old), round(config.replay * new.sum()))
    chosen = new.copy()
    chosen[np.random.default_rng(config.seed).choice(old, replayed, replace=False)] = True
    weights = np.ones(chosen.sum(), "float32")
    rows = head.Rows(_features(network, train, store, chosen), train.labels[chosen], weights)
    fitted = Fitted(head.fit(rows, len(start.fitted.head.bias), l2, start.fitted.head), l2)
    before, after = (head.quality(fit, rows) for fit in (start.fitted.head, fitted.head))
    with tf.summary.create_file_writer(log_dir).as_default():
        networks.write_scalars(0, l2=l2, **before._asdict())
        networks.write_scalars(1, l2=l2, **after._asdict())
    _log.info(
        "head: goes on from the model in service with %d new pictures and %d old ones, with l2 %.3g",
        new.sum(),
        replayed,
        l2,
    )
    return fitted


def _with_head(
    network: keras.Model, train: Split, rows: head.Rows, classes: int, config: TrainerSection, log_dir: str
) -> tuple[keras.Model, Fitted | None]:
    """Fits a head on a network, and fine-tunes the network if the configuration says so.

    Fine-tuning starts from a head that was fitted without the held-out pictures, and no later step sees them, so the
    metrics that choose its epoch are unbiased. If an epoch is better on them than the frozen network, the model of that
    epoch is the result. It was trained without the held-out pictures: training again with all pictures would double the
    time, and nobody would have measured that model. If no epoch is better, the network stays frozen, with the head that
    was fitted to all pictures.

    Returns:
      The model, and its head if the network stays frozen.
    """
    best = _search(rows, train, classes, config, f"{log_dir}/{HEAD_SEARCH}")
    whole = head.fit(rows, classes, best.penalty)
    with tf.summary.create_file_writer(f"{log_dir}/{HEAD}").as_default():
        networks.write_scalars(0, l2=best.penalty, **head.quality(whole, rows)._asdict())
    if config.fine_tune_layers:
        regularizer = keras.regularizers.L2(best.penalty / 2 / (~train.held_out).sum())
        model = keras.Sequential([network, networks.head_layers(best.head, regularizer)], name="classifier")
        networks.unfreeze(network, config.fine_tune_layers)
        schedule = networks.Schedule(config.fine_tune_epochs, config.fine_tune_learning_rate, 2)
        if networks.train(model, train, rows.weights, schedule, log_dir):
            return model, None
        _log.info("network: no epoch of fine-tuning helped; the network stays frozen, with the head on all pictures")
    return keras.Sequential([network, networks.head_layers(whole)], name="classifier"), Fitted(whole, best.penalty)


def _search(rows: head.Rows, train: Split, classes: int, config: TrainerSection, log_dir: str) -> head.Trial:
    """The trial with the least held-out log loss; of the configured penalty only, if there is one."""
    trials = []
    with tf.summary.create_file_writer(log_dir).as_default():
        penalties = head.PENALTIES if config.l2 == "auto" else (config.l2,)
        for step, trial in enumerate(head.search(rows, train.held_out, classes, penalties)):
            networks.write_scalars(step, l2=trial.penalty, **trial.held_out._asdict())
            _log.debug("head: l2 %.3g, held-out %s", trial.penalty, networks.in_words(trial.held_out._asdict()))
            trials.append(trial)
    best = min(trials, key=lambda trial: trial.held_out.log_loss)
    _log.info(
        "head: %.3f accuracy on %d held-out pictures, with l2 %.3g",
        best.held_out.accuracy,
        train.held_out.sum(),
        best.penalty,
    )
    return best
