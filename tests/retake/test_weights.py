"""Which weights a run starts from is decided, and said, before it starts."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from retake import weights
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
    (tmp_path / "mine.h5").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    assert resolve("mine.h5") == (str(tmp_path / "mine.h5"), hashlib.sha256(b"weights").hexdigest())


@pytest.mark.parametrize(("name", "why"), [("missing.h5", "No such file"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_named_with_what_could_be_given_instead(tmp_path, name, why):
    with pytest.raises(RetakeError) as error:
        resolve(str(tmp_path / name))
    assert f"weights file {(tmp_path / name).resolve()} cannot be read ({why}" in str(error.value)
    assert "model.weights is a file's path, imagenet or none" in str(error.value)
