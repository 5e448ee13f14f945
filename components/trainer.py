"""Trainer: a softmax head on a backbone's features, and optionally more of the backbone, exported to be served.

Schedule: the backbone is frozen, so each picture goes through it once and the head trains on the features, to
convergence in seconds. A part of the train split says when to stop; then the head is trained again on the whole split
for as many epochs. Fine-tuning follows at a lower rate where the configuration asks for it.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
from collections import Counter
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

from components import backbones
from components.features import of_pictures, store_for
from retake.config import ModelSection, TrainerSection
from retake.errors import RetakeError

MODEL_CARD = "assets.extra/retake.json"
"""In the SavedModel's folder: {"classes": […], "backbone": …, "weights": …, "image_size": …, "pictures": n, "sources":
{record file: pictures of it that the model was trained on}}."""

VALIDATION_PERCENT = 15
HEAD_BATCH = 128
SETTLED_EPOCHS = 10
"""The first steps overshoot, and now and then happen to be the best; a head of them would be a matter of luck."""

FORWARD_CHUNK = 8
"""Pictures that go through the network at once where it is not trained: peak memory grows with it."""

PIXEL_CACHE_BYTES = 256 * 2**20

HEAD_SEARCH, HEAD, NETWORK = "1-head-finds-its-epochs", "2-head-on-all-pictures", "3-network"
"""The phases of a training, as TensorBoard names them. LeNet5 has the last one only."""

_log = logging.getLogger("retake")


class Executor(executor.GenericExecutor):
    """TFX's Trainer, but TensorBoard's logs lie in a folder named for the run, not for an execution's number."""

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
    weights = train.weights(config, len(classes))
    with _strategy().scope():
        frozen = config.fine_tune_layers == 0
        backbone = backbones.build(
            model_config.backbone, model_config.weights, model_config.image_size, frozen, lambda: train.sample(64)
        )
        if model_config.backbone == "LeNet5":  # Nothing to freeze: the whole network trains at the head's rate.
            head = _head(backbone.network.output_shape[-1:], len(classes), config)
            layers: int | str = "all"
            schedule = Schedule(config.epochs, config.learning_rate, config.patience)
        else:
            store = None if backbone.weights == "random" else _feature_store(fn_args.custom_config)
            head = _train_head(backbone.network, train, weights, len(classes), config, store, fn_args.model_run_dir)
            layers = config.fine_tune_layers
            schedule = Schedule(config.fine_tune_epochs, config.fine_tune_learning_rate, 2)
        model = keras.Sequential([backbone.network, head], name="classifier")
        if layers:
            _unfreeze(backbone.network, layers)
            _fine_tune(model, train, weights, config, schedule, fn_args.model_run_dir)

    _export(model, to_pixels, classes, fn_args.serving_model_dir)
    card = {
        "classes": classes,
        "backbone": model_config.backbone,
        "weights": backbone.weights,
        "image_size": model_config.image_size,
        "pictures": len(train.labels),
        "sources": dict(sorted(Counter(train.sources).items())),
    }
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


class Schedule(NamedTuple):
    epochs: int
    learning_rate: float
    patience: int


class Split:
    """The examples of a split in a fixed order: their pixels as a stream, everything else as arrays."""

    def __init__(self, files: list[str], to_pixels: Any, config: TrainerSection):
        self._files = sorted(path for pattern in files for path in tf.io.gfile.glob(pattern))
        self._to_pixels = to_pixels
        self._batch_size = config.batch_size
        self._seed = config.seed
        columns = [
            (batch["label"].numpy(), batch["source"].numpy(), [_digest(image) for image in batch["image"].numpy()])
            for batch in self._examples().batch(256).map(_parse)
        ]
        self.labels: np.ndarray = np.concatenate([labels for labels, _, _ in columns])
        self.sources = [source.decode() for _, sources, _ in columns for source in sources]
        self.digests: list[bytes] = [digest for _, _, digests in columns for digest in digests]
        buckets = np.array([int.from_bytes(digest[:8], "big") % 100 for digest in self.digests])
        self.held_out: np.ndarray = buckets < VALIDATION_PERCENT
        """bool[n]: tells when to stop; by the picture's bytes, so that identical pictures are on the same side."""
        if not self.held_out.any() or self.held_out.all():
            self.held_out = np.arange(len(self.labels)) % 7 == 0

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
        return chosen.shuffle(1000 if size < 2**16 else 250, seed=self._seed).batch(self._batch_size).prefetch(1)

    def sample(self, number: int) -> np.ndarray:
        """The first pictures' pixels, float32[≤ number, size, size, 3]."""
        return np.concatenate(list(self.pixels().take(-(-number // FORWARD_CHUNK)).as_numpy_iterator()))[:number]

    def weights(self, config: TrainerSection, classes: int) -> np.ndarray:
        """float32[n] with mean 1: the record file's weight times the class's."""
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
        return (weights / weights.mean()).astype("float32")


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


def _head(
    shape: tuple[int, ...], classes: int, config: TrainerSection, *standardize: keras.layers.Layer
) -> keras.Model:
    layers = [
        keras.Input(shape),
        *standardize,
        keras.layers.Dropout(config.dropout, seed=config.seed),
        keras.layers.Dense(
            classes,
            activation="softmax",
            kernel_initializer="zeros",
            kernel_regularizer=keras.regularizers.L2(config.l2),
            name="probabilities",
        ),
    ]
    return keras.Sequential(layers, name="head")


def _compile(model: keras.Model, learning_rate: float) -> None:
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
        jit_compile=False,  # XLA is slower on a CPU and pays its compilation again in every run.
    )


def _feature_store(custom_config: dict[str, Any]) -> str:
    network = {
        "backbone": custom_config["model"]["backbone"],
        "image_size": custom_config["model"]["image_size"],
        "weights": custom_config["weights_fingerprint"] or custom_config["model"]["weights"],
        "code": custom_config["code"],
        "keras": keras.__version__,
    }
    return store_for(custom_config["features"], network)


def _train_head(
    network: keras.Model,
    train: Split,
    weights: np.ndarray,
    classes: int,
    config: TrainerSection,
    store: str | None,
    log_dir: str,
) -> keras.Model:
    """A head on frozen features float32[n, features], standardized."""
    network.trainable = False
    features = of_pictures(
        train.digests,
        store,
        lambda which: network.predict(
            train.pixels(which), verbose=0, callbacks=[_Progress("features", int(which.sum()))]
        ),
    )
    standardize = keras.layers.Normalization(mean=features.mean(0), variance=features.var(0) + 1e-6)
    rows = {"x": features, "y": train.labels, "sample_weight": weights}
    fit, held_out = ({k: v[side] for k, v in rows.items()} for side in (~train.held_out, train.held_out))

    settled = min(SETTLED_EPOCHS, config.epochs - 1)
    trial = _head(features.shape[1:], classes, config, standardize)
    _compile(trial, config.learning_rate)
    history = trial.fit(
        **fit,
        validation_data=tuple(held_out.values()),
        epochs=config.epochs,
        batch_size=HEAD_BATCH,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=config.patience, start_from_epoch=settled),
            *_callbacks("head", f"{log_dir}/{HEAD_SEARCH}", config.epochs),
        ],
        verbose=0,
    ).history
    epochs = settled + int(np.argmin(history["val_loss"][settled:])) + 1
    _log.info(
        "head: %.3f accuracy on %d held-out pictures after %d epochs",
        history["val_accuracy"][epochs - 1],
        train.held_out.sum(),
        epochs,
    )
    head = _head(features.shape[1:], classes, config, standardize)
    _compile(head, config.learning_rate)
    head.fit(
        **rows,
        epochs=epochs,
        batch_size=HEAD_BATCH,
        callbacks=_callbacks("head on all pictures", f"{log_dir}/{HEAD}", epochs),
        verbose=0,
    )
    return head


def _unfreeze(network: keras.Model, layers: int | str) -> None:
    """Lets the last layers train; batch-norm statistics stay, as their few updates would spoil the features."""
    inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
    network.trainable = True
    inner.trainable = True
    able = [layer for layer in inner.layers if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)]
    chosen = able if layers == "all" else able[-int(layers) :]
    for layer in inner.layers:
        layer.trainable = layer in chosen


def _fine_tune(
    model: keras.Model,
    train: Split,
    weights: np.ndarray,
    config: TrainerSection,
    schedule: Schedule,
    log_dir: str,
) -> None:
    """Trains what is not frozen, and keeps the weights of the epoch that was best on the held-out pictures."""
    _compile(model, schedule.learning_rate)
    fit, held_out = (train.examples(weights, side) for side in (~train.held_out, train.held_out))
    history = model.fit(
        fit,
        validation_data=held_out,
        epochs=schedule.epochs,
        callbacks=[
            keras.callbacks.EarlyStopping(patience=schedule.patience, restore_best_weights=True),
            *_callbacks("network", f"{log_dir}/{NETWORK}", schedule.epochs),
        ],
        verbose=0,
    ).history
    best = int(np.argmin(history["val_loss"]))
    _log.info(
        "network: %.3f accuracy on %d held-out pictures after %d epochs",
        history["val_accuracy"][best],
        train.held_out.sum(),
        best + 1,
    )


def _callbacks(phase: str, log_dir: str, epochs: int) -> list[keras.callbacks.Callback]:
    board = keras.callbacks.TensorBoard(log_dir, write_graph=False)
    return [board, _EpochProgress(phase, epochs)]


class _Progress(keras.callbacks.Callback):
    """Says how many pictures have gone through the network."""

    def __init__(self, what: str, number: int):
        super().__init__()
        self._what, self._number = what, number

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        done = min(self._number, (batch + 1) * FORWARD_CHUNK)
        _log.debug("%s: %d of %d pictures", self._what, done, self._number)


class _EpochProgress(keras.callbacks.Callback):
    def __init__(self, phase: str, epochs: int):
        super().__init__()
        self._phase, self._epochs = phase, epochs

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = ", ".join(f"{name} {value:.3f}" for name, value in sorted((logs or {}).items()))
        _log.debug("%s: epoch %d of at most %d, %s", self._phase, epoch + 1, self._epochs, values)


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
