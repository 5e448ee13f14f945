"""Writes a trained model as a SavedModel whose inputs are encoded pictures."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from components.training_split import FORWARD_CHUNK


def export(model: keras.Model, to_pixels: Any, classes: list[str], folder: str) -> None:
    """Writes a SavedModel that takes serialized tf.Examples or encoded pictures.

    Nobody trains a served model. So the SavedModel tracks only the variables, not the Keras objects, keeps no gradients
    and is not converted by AutoGraph, and saving takes a fraction of the time. The transform graph has no analyzers, so
    it holds no resource that has to be tracked.
    """
    served = tf.Module()
    served.parameters = [weight.value for weight in model.weights]
    names = tf.constant(classes)

    def probabilities_of(encoded: tf.Tensor) -> tf.Tensor:
        """Predicts in chunks: memory stays bounded for any batch that a client or Beam (up to 1,000 rows) sends."""
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
