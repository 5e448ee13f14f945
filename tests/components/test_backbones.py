"""Backbones by name: pixels in, features out, with weights that are the network's own."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from components import backbones
from retake.errors import RetakeError

SIZE = 64
SHARED = Path(__file__).parents[2].parent / "shared" / "weights"
MOBILENET = SHARED / "mobilenetv2_0.35_224_notop.weights.h5"
EFFICIENTNET = SHARED / "efficientnetv2b0_notop.weights.h5"
needs_shared = pytest.mark.skipif(not MOBILENET.is_file(), reason="the shared ImageNet weights are not on this machine")


def pixels(number=8):
    return np.random.default_rng(7).integers(0, 256, (number, SIZE, SIZE, 3)).astype("float32")


def build(name, weights="none", frozen=True):
    return backbones.build(name, str(weights), SIZE, frozen, pixels)


@pytest.fixture
def of_another(tmp_path):
    """A file with the weights of a network that is none of the backbones."""
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(tmp_path / "other.weights.h5")
    return tmp_path / "other.weights.h5"


@pytest.mark.parametrize("name", ["EfficientNetB0", "EfficientNetV2B0", "MobileNetV2", "ResNet50"])
def test_random_weights_still_give_features_that_differ_between_pictures(name):
    backbone = build(name)
    features = backbone.network.predict(pixels(), verbose=0)
    assert backbone.weights == "random"
    assert features.shape[0] == 8 and features.ndim == 2
    assert np.isfinite(features).all()
    assert (features.std(0) > 1e-3).mean() > 0.5


def test_a_network_that_will_be_trained_keeps_its_depth():
    frozen, trained = build("MobileNetV2").network, build("MobileNetV2", frozen=False).network
    assert trained.output_shape == (None, 1280)
    assert len(trained.layers[-1].layers) > len(frozen.layers[-1].layers)


def test_lenet5_has_the_published_layers():
    network = backbones.build("LeNet5", "none", 32, False, pixels).network
    inner = network.layers[-1]
    kinds = [type(layer).__name__ for layer in inner.layers]
    assert kinds == ["Conv2D", "AveragePooling2D", "Conv2D", "AveragePooling2D", "Flatten", "Dense", "Dense"]
    assert inner.layers[4].output.shape == (None, 5 * 5 * 16)
    assert network.output_shape == (None, 84)


def test_lenet5_takes_no_weights():
    with pytest.raises(RetakeError, match="LeNet5 trains from scratch and takes no weights"):
        build("LeNet5", "imagenet")


@needs_shared
def test_the_width_of_mobilenet_is_read_from_its_weights():
    backbone = build("MobileNetV2", MOBILENET)
    expected = keras.applications.MobileNetV2(
        alpha=0.35, include_top=False, pooling="avg", weights=None, input_shape=(SIZE, SIZE, 3)
    )
    expected.load_weights(MOBILENET)
    assert backbone.weights == "file"
    np.testing.assert_allclose(
        backbone.network.predict(pixels(), verbose=0), expected.predict(pixels() / 127.5 - 1, verbose=0), atol=1e-4
    )


@needs_shared
@pytest.mark.parametrize(
    ("name", "weights"),
    [("EfficientNetB0", EFFICIENTNET), ("MobileNetV2", EFFICIENTNET), ("ResNet50", MOBILENET)],
)
def test_the_weights_of_another_architecture_are_refused(name, weights):
    with pytest.raises(RetakeError) as error:
        build(name, weights)
    assert str(error.value).startswith(f"weights file {weights} does not fit {name} without its top")
    assert "set model.backbone to the network that it was saved from" in str(error.value)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_the_weights_of_some_other_network_are_refused(of_another):
    with pytest.raises(RetakeError, match="does not fit EfficientNetV2B0 without its top"):
        build("EfficientNetV2B0", of_another)


@pytest.mark.parametrize("name", ["weights.h5", "weights.weights.h5", "weights.keras", "weights"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, name):
    (tmp_path / name).write_text("not weights")
    with pytest.raises(RetakeError, match=f"weights file {tmp_path / name} does not fit MobileNetV2"):
        build("MobileNetV2", tmp_path / name)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(RetakeError, match=r"weights file .*/none.h5 does not exist; see model.weights"):
        build("MobileNetV2", tmp_path / "none.h5")


def test_imagenet_weights_that_cannot_be_had_are_an_error_and_never_random_weights(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("URL fetch failure: no route to host")

    monkeypatch.setattr(keras.src.applications.mobilenet_v2.file_utils, "get_file", unreachable)
    with pytest.raises(RetakeError, match=r"the ImageNet weights of MobileNetV2 cannot be downloaded.*--weights none"):
        build("MobileNetV2", "imagenet")
