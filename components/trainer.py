"""Trainer: a softmax head on a backbone's features, and optionally more of the backbone, exported to be served.

Schedule: the backbone is frozen, so each picture goes through it once, and the head is fitted to the features by convex
optimization (components.head). A part of the train split is held out and chooses the head's penalty; then the head is
fitted to the whole split. Fine-tuning follows where the configuration asks for it, and is kept where it helps on the
held-out pictures.
"""

from __future__ import annotations

import fnmatch
import hashlib
import io
import json
import logging
import zipfile
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_transform as tft
from tfx import types
from tfx.components import Trainer
from tfx.components.trainer import executor
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.components.base import executor_spec
from tfx.types import artifact_utils
from tfx.utils import path_utils

from components import backbones, head
from components.example_gen import classes_of
from retake.errors import RetakeError
from retake.features import of_pictures, store_for
from retake.sections import ModelSection, TrainerSection

MODEL_CARD = "assets.extra/retake.json"
"""In the SavedModel's folder: {"classes": […], "backbone": …, "weights": …, "image_size": …, "pictures": n, "sources":
{record file: pictures of it that the model was trained on}}."""

BACKBONE_PROPERTY, WEIGHTS_PROPERTY = "backbone", "weights"
"""Custom properties of the model: what its card says of them, for the run's summary."""

HEAD_FILE = "assets.extra/head.npz"
"""Beside it where a later training can go on from the head: the arrays of components.head.Head, `l2`, and `network`,
which names the frozen network that the features came from."""

VALIDATION_PERCENT = 15
BATCHES_BETWEEN_WORDS = 10

FORWARD_CHUNK = 8
"""Pictures that go through the network at once where it is not trained: peak memory grows with it."""

PIXEL_CACHE_BYTES = 256 * 2**20

HEAD_SEARCH, HEAD, NETWORK = "1-head-finds-its-penalty", "2-head-on-all-pictures", "3-network"
"""The phases of a training, as TensorBoard names them. LeNet5 has the last one only."""

_log = logging.getLogger("retake")


class Executor(executor.GenericExecutor):
    """TFX's Trainer, but TensorBoard's logs lie in a folder named for the run, not for an execution's number, and the
    model says which weights its network began with."""

    def Do(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        super().Do(input_dict, output_dict, exec_properties)
        model = artifact_utils.get_single_instance(output_dict["model"])
        card = json.loads(_read(f"{path_utils.serving_model_dir(model.uri)}/{MODEL_CARD}"))
        model.set_string_custom_property(BACKBONE_PROPERTY, card["backbone"])
        model.set_string_custom_property(WEIGHTS_PROPERTY, card["weights"])

    def _GetFnArgs(
        self,
        input_dict: dict[str, list[types.Artifact]],
        output_dict: dict[str, list[types.Artifact]],
        exec_properties: dict[str, Any],
    ) -> FnArgs:
        arguments = super()._GetFnArgs(input_dict, output_dict, exec_properties)
        # Vertex gives no run id, but its outputs lie in ROOT/PROJECT/JOB/TASK/model_run.
        run_id = self._context.pipeline_run_id or arguments.model_run_dir.split("/")[-3]
        arguments.model_run_dir = f"{arguments.custom_config['tensorboard']}/{run_id}"
        if arguments.custom_config["classes"] is None:
            arguments.custom_config["classes"] = classes_of(artifact_utils.get_single_uri(input_dict["examples"]))
        return arguments


class ClassifierTrainer(Trainer):
    """TFX's Trainer with this executor."""

    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(Executor)


def run_fn(fn_args: FnArgs) -> None:
    """TFX's entry; `custom_config` holds `model`, `trainer` and `classes` of the configuration."""
    if tf.io.gfile.exists(fn_args.model_run_dir):  # An earlier attempt of this run would double every curve.
        tf.io.gfile.rmtree(fn_args.model_run_dir)
    model_config = ModelSection.model_validate(fn_args.custom_config["model"])
    config = TrainerSection.model_validate(fn_args.custom_config["trainer"])
    classes: list[str] = fn_args.custom_config["classes"]
    keras.utils.set_random_seed(config.seed)

    to_pixels = transform_of(fn_args.transform_output)
    train = Split(fn_args.train_files, to_pixels, config)
    start = fitted = None
    network = ""
    with _strategy().scope():
        frozen = config.fine_tune_layers == 0
        backbone = backbones.build(
            model_config.backbone, model_config.weights, model_config.image_size, frozen, lambda: train.sample(64)
        )
        store = None if backbone.weights == "random" else _feature_store(fn_args.custom_config)
        network = store.rpartition("/")[2] if store else ""
        if config.start == "warm":
            start = _start(fn_args.base_model, classes, network)
        if start:
            fitted = _go_on(start, backbone.network, train, store, config, f"{fn_args.model_run_dir}/{HEAD}")
            model = keras.Sequential([backbone.network, _layers(fitted.head)], name="classifier")
        else:
            weights = train.weights(config, len(classes), _known(fn_args.base_model))
            if model_config.known.from_scratch:
                model = _from_scratch(backbone.network, train, weights, len(classes), config, fn_args.model_run_dir)
            else:
                rows = head.Rows(_features(backbone.network, train, store), train.labels, weights)
                model, fitted = _with_head(backbone.network, train, rows, len(classes), config, fn_args.model_run_dir)

    _export(model, to_pixels, classes, fn_args.serving_model_dir)
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
        _keep(fitted, network, f"{fn_args.serving_model_dir}/{HEAD_FILE}")
    path = f"{fn_args.serving_model_dir}/{MODEL_CARD}"
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    with tf.io.gfile.GFile(path, "w") as file:
        json.dump(card, file, indent=2)


def transform_of(transform_output: str) -> Any:
    """The transform graph as a function from string[n] to pixels float32[n, size, size, 3], traced once."""
    layer = tft.TFTransformOutput(transform_output).transform_features_layer()
    return tf.function(
        lambda encoded: layer({"image": encoded[:, None]})["pixels"],
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )


class Fitted(NamedTuple):
    head: head.Head
    l2: float


class Start(NamedTuple):
    """What a training goes on from."""

    fitted: Fitted
    sources: dict[str, int]


class Schedule(NamedTuple):
    epochs: int
    learning_rate: float
    patience: int


class Split:
    """The examples of a split in a fixed order: their pixels as a stream, everything else as arrays."""

    def __init__(self, files: list[str], to_pixels: Any, config: TrainerSection):
        self._files = sorted(path for pattern in files for path in tf.io.gfile.glob(pattern))
        self._to_pixels = to_pixels
        self.batch_size = config.batch_size
        self._seed = config.seed
        columns = [
            (batch["label"].numpy(), batch["source"].numpy(), [_digest(image) for image in batch["image"].numpy()])
            for batch in self._examples().batch(256).map(_parse)
        ]
        self.labels: np.ndarray = np.concatenate([labels for labels, _, _ in columns])
        self.sources = [source.decode() for _, sources, _ in columns for source in sources]
        self.digests: list[bytes] = [digest for _, _, digests in columns for digest in digests]
        self.held_out: np.ndarray = held_out(self.digests)
        """bool[n]: chooses the head's penalty and the network's epoch."""

    def _examples(self) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(self._files, compression_type="GZIP")

    def pixels(self, which: np.ndarray | None = None) -> tf.data.Dataset:
        """float32[batch, size, size, 3], 0 to 255, in order, of the examples where `which` is true."""
        records = self._examples()
        if which is not None:
            marked = tf.data.Dataset.zip(records, tf.data.Dataset.from_tensor_slices(which))
            records = marked.filter(lambda _, chosen: chosen).map(lambda record, _: record)
        return (
            records.batch(FORWARD_CHUNK)
            .map(
                lambda records: self._to_pixels(_parse(records)["image"]),
                num_parallel_calls=2,
            )
            .prefetch(2)
        )

    def examples(self, weights: np.ndarray, side: np.ndarray) -> tf.data.Dataset:
        """(pixels, label, weight) of the examples where `side` is true, shuffled anew in each epoch."""
        rows = self.pixels(side).unbatch().map(lambda pixels: tf.cast(pixels, tf.uint8))
        columns = tf.data.Dataset.from_tensor_slices((self.labels[side], weights[side]))
        chosen = tf.data.Dataset.zip(rows, columns).map(lambda pixels, columns: (pixels, *columns))
        size = int(np.prod(rows.element_spec.shape))
        if size * side.sum() <= PIXEL_CACHE_BYTES:
            chosen = chosen.cache()
        return chosen.shuffle(1000 if size < 2**16 else 250, seed=self._seed).batch(self.batch_size).prefetch(1)

    def sample(self, number: int) -> np.ndarray:
        """The first pictures' pixels, float32[≤ number, size, size, 3]."""
        return np.concatenate(list(self.pixels().take(-(-number // FORWARD_CHUNK)).as_numpy_iterator()))[:number]

    def new(self, known: Collection[str]) -> np.ndarray:
        """bool[n]: the pictures of record files that are not among the known ones."""
        return np.array([source not in known for source in self.sources])

    def weights(self, config: TrainerSection, classes: int, known: Collection[str] = ()) -> np.ndarray:
        """float32[n] with mean 1: the record file's weight times the class's, then `trainer.new_share`.

        Args:
          config: says the weights.
          classes: number of classes.
          known: record files that the model in service was trained on; empty where there is none.
        """
        of_source = {source: _record_weight(source, config.record_weights) for source in set(self.sources)}
        weights = np.array([of_source[source] for source in self.sources])
        if not weights.any():
            raise RetakeError(
                f"trainer.record_weights {config.record_weights} gives every record file the weight 0; "
                f"files: {', '.join(sorted(of_source))}"
            )
        if config.class_weights:
            mass = np.bincount(self.labels, weights, minlength=classes)
            weights = weights / np.where(mass > 0, mass, 1)[self.labels]
        if config.new_share is not None:
            new = self.new(known)
            of_new, of_old = weights[new].sum(), weights[~new].sum()
            if of_new and of_old:
                weights[new] *= config.new_share / (1 - config.new_share) * of_old / of_new
                told = "%d pictures of new record files are %.3g of the training loss"
                _log.info(told, new.sum(), config.new_share)
        return (weights / weights.mean()).astype("float32")


def held_out(digests: Sequence[bytes]) -> np.ndarray:
    """Chooses some of n pictures, bool[n], by their digests: identical pictures are on the same side."""
    chosen = np.array([int.from_bytes(digest[:8], "big") % 100 < VALIDATION_PERCENT for digest in digests])
    if chosen.any() and not chosen.all():
        return chosen
    return np.arange(len(digests)) % 7 == 0


def _record_weight(source: str, patterns: dict[str, float]) -> float:
    """The weight of the longest pattern that matches; not of the first, as TFX sorts the keys on the way here."""
    matching = [pattern for pattern in patterns if fnmatch.fnmatchcase(source, pattern)]
    return patterns[max(matching, key=len)] if matching else 1.0


def _digest(image: bytes) -> bytes:
    return hashlib.sha256(image).digest()


def _parse(records: tf.Tensor) -> dict[str, tf.Tensor]:
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "source": tf.io.FixedLenFeature([], tf.string),
    }
    return tf.io.parse_example(records, features)


def _strategy() -> tf.distribute.Strategy:
    """Every GPU that is there."""
    return (
        tf.distribute.MirroredStrategy()
        if len(tf.config.list_physical_devices("GPU")) > 1
        else tf.distribute.get_strategy()
    )


def _compile(model: keras.Model, learning_rate: float) -> None:
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        weighted_metrics=[keras.metrics.SparseCategoricalCrossentropy(name="log_loss"), "accuracy"],
        jit_compile=False,  # XLA is slower on a CPU and pays its compilation again in every run.
    )


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
    """What the frozen network says of the pictures, or of those where bool[n] `side` is true: float32[m, features]."""
    network.trainable = False
    numbers = np.arange(len(train.digests)) if side is None else np.flatnonzero(side)

    def compute(which: np.ndarray) -> np.ndarray:
        chosen = np.zeros(len(train.digests), bool)
        chosen[numbers[which]] = True
        progress = _Progress("features", int(chosen.sum()))
        return np.asarray(network.predict(train.pixels(chosen), verbose=0, callbacks=[progress]))

    return of_pictures([train.digests[number] for number in numbers], store, compute)


def _from_scratch(
    network: keras.Model, train: Split, weights: np.ndarray, classes: int, config: TrainerSection, log_dir: str
) -> keras.Model:
    """A network and its head, trained together. The penalty is none unless `trainer.l2` gives one."""
    penalty = 0.0 if config.l2 == "auto" else config.l2
    softmax = keras.layers.Dense(
        classes,
        activation="softmax",
        kernel_initializer="zeros",
        kernel_regularizer=keras.regularizers.L2(penalty / 2 / (~train.held_out).sum()),
        name="probabilities",
    )
    model = keras.Sequential([network, softmax], name="classifier")
    _unfreeze(network, "all")
    _train(model, train, weights, Schedule(config.epochs, config.learning_rate, config.patience), log_dir)
    return model


def _start(model: str | None, classes: list[str], network: str) -> Start | None:
    """What the model in service leaves to go on from; None, with a word about it, where that cannot be.

    Args:
      model: its folder, or None.
      classes: of this training.
      network: names the frozen network of this training; empty where its weights are random.
    """
    if not model:
        obstacle = "there is no blessed model"
    elif not network:
        obstacle = "a network of random weights gives no features to go on with"
    else:
        try:
            card = json.loads(_read(f"{model}/{MODEL_CARD}"))
            kept = np.load(io.BytesIO(_read(f"{model}/{HEAD_FILE}")), allow_pickle=False)
            fitted = Fitted(head.Head(*(kept[name] for name in head.Head._fields)), float(kept["l2"]))
            if card["classes"] != classes:
                obstacle = f"the model in service knows other classes ({', '.join(card['classes'])})"
            elif str(kept["network"]) != network:
                obstacle = "the model in service has another network"
            else:
                return Start(fitted, card["sources"])
        except tf.errors.NotFoundError:
            obstacle = "the model in service has no head on a frozen network"
        except (tf.errors.OpError, zipfile.BadZipFile, EOFError, ValueError, KeyError) as error:
            obstacle = f"the head of the model in service cannot be read ({error})"
    _log.info("the start is fresh, not warm: %s", obstacle)
    return None


def _read(path: str) -> bytes:
    with tf.io.gfile.GFile(path, "rb") as file:
        return bytes(file.read())


def _keep(fitted: Fitted, network: str, path: str) -> None:
    content = io.BytesIO()
    np.savez(content, network=network, l2=fitted.l2, **fitted.head._asdict())
    tf.io.gfile.makedirs(path.rpartition("/")[0])
    with tf.io.gfile.GFile(path, "wb") as file:
        file.write(content.getvalue())


def _known(model: str | None) -> dict[str, int]:
    """The record files that a model was trained on; none where there is no model, or it does not say."""
    try:
        return dict(json.loads(_read(f"{model}/{MODEL_CARD}"))["sources"]) if model else {}
    except (tf.errors.OpError, ValueError, KeyError):
        return {}


def _go_on(
    start: Start, network: keras.Model, train: Split, store: str | None, config: TrainerSection, log_dir: str
) -> Fitted:
    """The head of the model in service, moved by the pictures of the record files that are new to it.

    Each picture weighs 1: the old head stands for what is known of the classes' shares. With `trainer.replay`, some of
    the old pictures take part, chosen at random anew for each set of examples.
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
    before, after = (head.quality(each, rows) for each in (start.fitted.head, fitted.head))
    with tf.summary.create_file_writer(log_dir).as_default():
        _scalars(0, l2=l2, **before._asdict())
        _scalars(1, l2=l2, **after._asdict())
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
    """A network with a fitted head, fine-tuned where the configuration asks for it; the head if the network is frozen.

    Fine-tuning starts from a head that was fitted without the held-out pictures, and no later step sees them, so the
    numbers that choose its epoch are honest. Where an epoch is better on them than the frozen network was, the model
    is that epoch's, which was trained on the other pictures only: to train it again on all pictures would take as long
    once more and make a model that nobody has measured. Where none is better, the network stays as it was, with the
    head that was fitted to all pictures.
    """
    best = _search(rows, train, classes, config, f"{log_dir}/{HEAD_SEARCH}")
    whole = head.fit(rows, classes, best.penalty)
    with tf.summary.create_file_writer(f"{log_dir}/{HEAD}").as_default():
        _scalars(0, l2=best.penalty, **head.quality(whole, rows)._asdict())
    if config.fine_tune_layers:
        regularizer = keras.regularizers.L2(best.penalty / 2 / (~train.held_out).sum())
        model = keras.Sequential([network, _layers(best.head, regularizer)], name="classifier")
        _unfreeze(network, config.fine_tune_layers)
        schedule = Schedule(config.fine_tune_epochs, config.fine_tune_learning_rate, 2)
        if _train(model, train, rows.weights, schedule, log_dir):
            return model, None
        _log.info("network: no epoch of fine-tuning helped; the network stays frozen, with the head on all pictures")
    return keras.Sequential([network, _layers(whole)], name="classifier"), Fitted(whole, best.penalty)


def _search(rows: head.Rows, train: Split, classes: int, config: TrainerSection, log_dir: str) -> head.Trial:
    """The penalty with the least held-out log loss, or that of the configuration."""
    trials = []
    with tf.summary.create_file_writer(log_dir).as_default():
        penalties = head.PENALTIES if config.l2 == "auto" else (config.l2,)
        for step, trial in enumerate(head.search(rows, train.held_out, classes, penalties)):
            _scalars(step, l2=trial.penalty, **trial.held_out._asdict())
            _log.debug("head: l2 %.3g, held-out %s", trial.penalty, _in_words(trial.held_out._asdict()))
            trials.append(trial)
    best = min(trials, key=lambda trial: trial.held_out.log_loss)
    _log.info(
        "head: %.3f accuracy on %d held-out pictures, with l2 %.3g",
        best.held_out.accuracy,
        train.held_out.sum(),
        best.penalty,
    )
    return best


def _layers(fitted: head.Head, regularizer: keras.Regularizer | None = None) -> keras.Model:
    """The head as a network from float32[n, features] to float32[n, classes]."""
    features, classes = fitted.kernel.shape
    standardize = keras.layers.Normalization(mean=fitted.mean, variance=fitted.variance)
    softmax = keras.layers.Dense(classes, activation="softmax", kernel_regularizer=regularizer, name="probabilities")
    layers = keras.Sequential([keras.Input([features]), standardize, softmax], name="head")
    softmax.set_weights([fitted.kernel, fitted.bias])
    return layers


def _unfreeze(network: keras.Model, layers: int | str) -> None:
    """Lets the last layers train; batch-norm statistics stay, as their few updates would spoil the features."""
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    network.trainable = True
    inner.trainable = True
    able = [layer for layer in inner.layers if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)]
    chosen = able if layers == "all" else able[-int(layers) :]
    for layer in inner.layers:
        layer.trainable = layer in chosen


def _train(model: keras.Model, train: Split, weights: np.ndarray, schedule: Schedule, log_dir: str) -> int:
    """Trains what is not frozen on the pictures that are not held out.

    Returns:
      The epoch that was best on the held-out pictures, whose weights the model then has; 0 if it was best before.
    """
    _compile(model, schedule.learning_rate)
    fit, validation = (train.examples(weights, side) for side in (~train.held_out, train.held_out))
    start = model.get_weights()
    before = model.evaluate(validation, verbose=0, return_dict=True)
    _log.debug("network: before training, %s", _in_words(before))
    history = model.fit(
        fit,
        validation_data=validation,
        epochs=schedule.epochs,
        callbacks=[
            keras.callbacks.EarlyStopping(
                "val_log_loss",
                mode="min",
                patience=schedule.patience,
                baseline=before["log_loss"],
                restore_best_weights=True,
            ),
            keras.callbacks.TensorBoard(f"{log_dir}/{NETWORK}", write_graph=False),
            _EpochProgress("network", schedule.epochs, int((~train.held_out).sum()), train.batch_size),
        ],
        verbose=0,
    ).history
    log_losses = [before["log_loss"], *history["val_log_loss"]]
    accuracies = [before["accuracy"], *history["val_accuracy"]]
    best = int(np.nanargmin(log_losses))
    if best == 0:
        model.set_weights(start)
    _log.info(
        "network: %.3f accuracy on %d held-out pictures before training, %.3f after %d epochs",
        accuracies[0],
        train.held_out.sum(),
        accuracies[best],
        best,
    )
    return best


def _scalars(step: int, **values: float) -> None:
    for name, value in values.items():
        tf.summary.scalar(name, value, step)


def _in_words(logs: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in sorted(logs.items()))


class _Progress(keras.callbacks.Callback):
    """Says how many pictures have gone through the network."""

    def __init__(self, what: str, number: int):
        super().__init__()
        self._what, self._number = what, number

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        done = min(self._number, (batch + 1) * FORWARD_CHUNK)
        _log.debug("%s: %d of %d pictures", self._what, done, self._number)


class _EpochProgress(keras.callbacks.Callback):
    """Says how far an epoch has come, and what it has come to."""

    def __init__(self, phase: str, epochs: int, pictures: int, batch_size: int):
        super().__init__()
        self._phase, self._epochs, self._pictures, self._batch_size = phase, epochs, pictures, batch_size
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._epoch = epoch + 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if (batch + 1) % BATCHES_BETWEEN_WORDS == 0:
            done = min(self._pictures, (batch + 1) * self._batch_size)
            self._say(f"{done} of {self._pictures} pictures")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._say(_in_words(logs or {}))

    def _say(self, what: str) -> None:
        _log.debug("%s: epoch %d of at most %d, %s", self._phase, self._epoch, self._epochs, what)


def _export(model: keras.Model, to_pixels: Any, classes: list[str], folder: str) -> None:
    """Writes a SavedModel that takes what a client has: serialized tf.Examples, or encoded pictures.

    Only the variables are tracked, not the Keras objects (the transform graph, which has no analyzers, holds no
    resource that would have to be), nothing is converted by AutoGraph and no gradients are kept: nobody trains a
    served model, and saving takes a fraction of the time.
    """
    served = tf.Module()
    served.parameters = [weight.value for weight in model.weights]
    names = tf.constant(classes)

    def probabilities_of(encoded: tf.Tensor) -> tf.Tensor:
        """In chunks, so that memory is bounded whatever batch a client or Beam (up to 1,000 rows) sends."""
        chunks = -(-tf.size(encoded) // FORWARD_CHUNK)

        def step(i: tf.Tensor, answers: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            chunk = encoded[i * FORWARD_CHUNK : (i + 1) * FORWARD_CHUNK]
            return i + 1, answers.write(i, model(to_pixels(chunk), training=False))

        answers = tf.TensorArray(tf.float32, chunks, infer_shape=False, element_shape=[None, len(classes)])
        return tf.while_loop(lambda i, _: i < chunks, step, (0, answers))[1].concat()

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def answer(encoded: tf.Tensor) -> dict[str, tf.Tensor]:
        probabilities = probabilities_of(encoded)
        return {
            "probabilities": probabilities,
            "classes": tf.tile(names[None, :], [tf.shape(probabilities)[0], 1]),
            "label": tf.gather(names, tf.argmax(probabilities, axis=-1)),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")], autograph=False)
    def serving_default(examples: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(tf.io.parse_example(examples, {"image": tf.io.FixedLenFeature([], tf.string)})["image"])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="image_bytes")], autograph=False)
    def image_bytes(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return answer(image_bytes)

    tf.saved_model.save(
        served,
        folder,
        signatures={"serving_default": serving_default, "image_bytes": image_bytes},
        options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
    )
