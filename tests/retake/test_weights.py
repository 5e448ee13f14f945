"""Which weights a run starts from is decided, and said, before it starts."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import get_args

import keras
import pytest

from retake import weights
from retake.backbones import BACKBONES, Name
from retake.errors import RetakeError, UsageError
from retake.sections import ModelSection


@pytest.fixture(autouse=True)
def keras_home(tmp_path, monkeypatch):
    """An empty cache of Keras, and a place of downloads where nobody answers."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr(weights, "IMAGENET_URL", "http://127.0.0.1:9/")
    return tmp_path / "keras"


def resolve(name="auto", backbone="EfficientNetB0"):
    return weights.resolve(ModelSection(backbone=backbone, weights=name))


@pytest.mark.parametrize("name", ["imagenet", "none"])
def test_what_is_asked_for_by_name_is_never_changed(name):
    assert resolve(name) == (name, "")


def test_where_imagenet_weights_cannot_be_reached_the_default_says_so_in_one_line(caplog):
    with caplog.at_level("INFO", "retake"):
        assert resolve() == ("none", "")
    assert caplog.messages == ["ImageNet weights cannot be reached from here: going on from random weights."]


def test_nodes_elsewhere_never_begin_with_random_weights_that_nobody_asked_for():
    with pytest.raises(UsageError) as error:
        weights.resolve(ModelSection(), elsewhere=True)
    assert "--weights imagenet if the nodes can download them" in str(error.value)
    assert weights.resolve(ModelSection(weights="none"), elsewhere=True) == ("none", "")
    assert weights.resolve(ModelSection(backbone="LeNet5"), elsewhere=True) == ("none", "")


def test_where_imagenet_weights_can_be_reached_the_default_takes_them(monkeypatch, caplog):
    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), NotFound)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.setattr(weights, "IMAGENET_URL", f"http://127.0.0.1:{server.server_port}/")
        assert resolve() == ("imagenet", "")
    finally:
        server.shutdown()
        server.server_close()
    assert not caplog.messages


@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("EfficientNetB0", "efficientnetb0_notop.h5"),
        ("EfficientNetV2B0", "efficientnetv2-b0_notop.h5"),
        ("MobileNetV2", "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"),
        ("ResNet50", "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"),
    ],
)
def test_weights_that_keras_has_downloaded_before_are_used_without_a_network(keras_home, backbone, file):
    (keras_home / "models").mkdir(parents=True)
    (keras_home / "models" / file).write_bytes(b"weights")
    assert resolve(backbone=backbone) == ("imagenet", "")


def test_mobilenets_weights_for_one_image_size_are_not_those_of_another(keras_home):
    (keras_home / "models").mkdir(parents=True)
    (keras_home / "models" / "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5").write_bytes(
        b"weights"
    )
    found = {
        size: weights.resolve(ModelSection(backbone="MobileNetV2", image_size=size)).weights for size in (96, 224, 300)
    }
    assert found == {96: "none", 224: "imagenet", 300: "imagenet"}


def test_the_weights_of_another_network_in_the_cache_do_not_count(keras_home):
    (keras_home / "models").mkdir(parents=True)
    for file in ("efficientnetb0.h5", "efficientnetb1_notop.h5", "efficientnetv2-b0_notop.h5"):
        (keras_home / "models" / file).write_bytes(b"weights")
    assert resolve(backbone="EfficientNetB0") == ("none", "")


def test_a_network_that_trains_from_scratch_has_no_weights_and_nothing_is_said_about_them(caplog):
    assert resolve(backbone="LeNet5") == ("none", "")
    assert not caplog.messages


def test_a_file_is_known_by_its_content(tmp_path, monkeypatch):
    (tmp_path / "mine.keras").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    assert resolve("mine.keras") == (str(tmp_path / "mine.keras"), hashlib.sha256(b"weights").hexdigest())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Weights of two networks without their tops in Keras's newer format and its older one, and with a top."""
    folder = tmp_path_factory.mktemp("saved")
    for top in (False, True):
        network = keras.applications.MobileNetV2(weights=None, alpha=0.35, include_top=top, input_shape=(96, 96, 3))
        network.save_weights(folder / f"mobilenet{'_top' * top}.weights.h5")
        network.save(folder / f"mobilenet{'_top' * top}.h5")
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save_weights(folder / "other.weights.h5")
    (folder / "text.h5").write_text("no weights")
    (folder / "no_ending").write_text("no weights")
    return folder


@pytest.mark.parametrize("file", ["mobilenet.weights.h5", "mobilenet.h5", "mobilenet_top.weights.h5"])
def test_a_file_that_keras_can_load_into_the_backbone_fits(saved, file):
    assert resolve(str(saved / file), "MobileNetV2").fingerprint
    network = keras.applications.MobileNetV2(weights=None, alpha=0.35, include_top=False, input_shape=(32, 32, 3))
    network.load_weights(saved / file)


@pytest.mark.parametrize(
    ("file", "backbone", "found", "advice"),
    [
        (
            "mobilenet.h5",
            "ResNet50",
            "has 318 arrays; it holds 260 arrays of 410,208 numbers",
            "to MobileNetV2, or name",
        ),
        ("mobilenet.weights.h5", "EfficientNetB0", "has 312 arrays; it holds 260", "set model.backbone to MobileNetV2"),
        ("mobilenet_top.h5", "MobileNetV2", "has 260 arrays; it holds 262", "save MobileNetV2 with include_top=False"),
        ("other.weights.h5", "ResNet50", "it holds 2 arrays of 15 numbers", "the network that it was saved from"),
        ("text.h5", "ResNet50", "it is no HDF5 file of weights", "save ResNet50 with include_top=False"),
        ("no_ending", "ResNet50", "it is no HDF5 file of weights", "save ResNet50 with include_top=False"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_before_a_network_is_built(saved, file, backbone, found, advice):
    with pytest.raises(RetakeError) as error:
        resolve(str(saved / file), backbone)
    message = str(error.value)
    assert message.startswith(f"weights file {saved / file} does not fit {backbone} without its top")
    assert found in message and advice in message and "\n" not in message


@pytest.mark.parametrize("name", [name for name, known in BACKBONES.items() if not known.from_scratch])
def test_the_table_knows_the_weights_of_each_backbone(name, tmp_path):
    for number, variant in enumerate(BACKBONES[name].variants):
        width = {"alpha": variant.width} if len(BACKBONES[name].variants) > 1 else {}
        network = getattr(keras.applications, name)(weights=None, include_top=False, input_shape=(32, 32, 3), **width)
        network.save_weights(tmp_path / f"{number}.weights.h5")
        assert network.count_params() == variant.numbers
        assert weights.misfit(tmp_path / f"{number}.weights.h5", name) is None


def test_the_table_has_every_backbone():
    assert get_args(Name) == tuple(BACKBONES)


@pytest.mark.parametrize(("name", "why"), [("missing.h5", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named_with_what_could_be_given_instead(tmp_path, name, why):
    with pytest.raises(RetakeError) as error:
        resolve(str(tmp_path / name))
    assert f"weights file {(tmp_path / name).resolve()} cannot be read ({why}" in str(error.value)
    assert "model.weights is a file's path, imagenet or none" in str(error.value)
