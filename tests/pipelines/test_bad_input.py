"""Whatever is given to it, a run completes or says in one line what is wrong, where, and what to do next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import keras
import pytest
import yaml
from colours import CLASSES, coloured, encoded, example, picture, png_of, write_records
from PIL import Image

from pipelines.run import main

PROJECT = Path(__file__).parents[2]


class Ended(NamedTuple):
    code: int
    said: str
    summary: Any

    @property
    def complaint(self) -> str:
        """The one line that says what is wrong; it was said, and no traceback was."""
        assert "Traceback" not in self.said
        complaint = self.summary["reason"] if self.summary else self.said.strip().splitlines()[-1].split("run: ", 1)[-1]
        assert "\n" not in complaint
        # Lines are folded to the width of the terminal.
        assert "".join(complaint.split()) in "".join(self.said.split())
        return complaint


@pytest.fixture
def run(tmp_path, capfd, monkeypatch) -> Callable[..., Ended]:
    """Runs the pipeline on `tmp_path/data` with a network that trains in a second."""
    monkeypatch.chdir(PROJECT)
    sections = {
        "pipeline": {"name": "colours", "root": str(tmp_path / "root")},
        "data": {"location": str(tmp_path / "data"), "classes": CLASSES},
        "model": {"backbone": "LeNet5", "image_size": 32},
        "trainer": {"epochs": 2},
        "evaluator": {"min_accuracy": 0},
        "pusher": {"destination": str(tmp_path / "models")},
    }
    (tmp_path / "colours.yaml").write_text(yaml.safe_dump(sections))

    def ended(*arguments: str) -> Ended:
        summary = tmp_path / "summary.json"
        code = main(["--config", str(tmp_path / "colours.yaml"), "--summary", str(summary), *arguments])
        said = "".join(capfd.readouterr())
        return Ended(code, said, json.loads(summary.read_text()) if summary.exists() else None)

    return ended


@pytest.fixture
def data(tmp_path):
    write_records(tmp_path / "data" / "colours.tfrecord", coloured(15))
    return tmp_path / "data"


def test_bad_pictures_among_good_ones_of_two_classes_are_dropped_and_counted_and_the_run_completes(run, tmp_path):
    good = picture(0, 99, size=(90, 60))
    write_records(
        tmp_path / "data" / "odd.tfrecord.gz",
        [
            *(example(picture(colour, seed), CLASSES[colour]) for colour in (0, 1) for seed in range(20)),
            example(encoded(Image.new("CMYK", (20, 20), (0, 99, 99, 0)), "JPEG"), "red"),
            example(picture(1, 99, size=(1, 2000), kind="PNG"), "green"),
            example(picture(0, 99, size=(2000, 1), kind="PNG"), [1, 0]),
            example(b"this is not a picture", "red"),
            example(b"", "red"),
            example(good[: len(good) // 2], "red"),
            example(png_of(20_000, 20_000), "red"),
            example(good, 7),
        ],
    )
    ended = run("--set", "data.max_dropped=0.2", "--set", "data.classes=[red, green]")
    assert ended.code == 0, ended.said
    assert "Traceback" not in ended.said
    assert ended.summary["dropped"] == {
        "damaged or cut off": 1,
        "empty": 1,
        "label out of range": 1,
        "not a picture": 1,
        "over the pixel limit": 1,
    }
    assert sum(sum(classes.values()) for classes in ended.summary["examples"].values()) == 43
    assert set(ended.summary["metrics"]["recall"]) == {"red", "green"}
    assert Path(ended.summary["pushed_model"], "saved_model.pb").is_file()


def test_too_many_bad_labels_stop_the_run_with_their_counts(run, data):
    write_records(data / "bad.tfrecord", [example(picture(0, seed), 7) for seed in range(9)])
    ended = run()
    assert ended.code == 1
    assert "9 of 54 examples" in ended.complaint and "(9 label out of range)" in ended.complaint
    assert "data.max_dropped = 0.1" in ended.complaint and "retake records inspect" in ended.complaint


@pytest.mark.parametrize("name", ["cut.tfrecord", "cut.tfrecord.gz"])
def test_a_record_file_that_is_cut_off_is_named(run, data, name):
    whole = write_records(data / name, coloured(20)).read_bytes()
    (data / name).write_bytes(whole[: len(whole) // 2])
    ended = run()
    assert ended.code == 1
    assert f"{data / name} is damaged or cut off after" in ended.complaint
    assert ended.complaint.endswith(
        f"or rename it to _{name} to leave it out"
    )  # Beam's note of its stage is not shown.


def test_a_record_file_of_290_bytes_that_claims_a_terabyte_is_named_and_left_out_by_another_name(run, data):
    length = (1 << 40).to_bytes(8, "little")
    crc = google_crc32c.value(length)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    (data / "bad.tfrecord").write_bytes(length + masked.to_bytes(4, "little") + b"x" * 278)
    ended = run()
    assert ended.code == 1
    assert f"{data / 'bad.tfrecord'} says that record 1 has 1,099,511,627,776 bytes" in ended.complaint
    assert ended.complaint.endswith("rename it to _bad.tfrecord to leave it out")
    (data / "bad.tfrecord").rename(data / "_bad.tfrecord")
    assert run().code == 0


def test_pictures_of_one_class_only_are_not_enough(run, tmp_path):
    write_records(tmp_path / "data" / "red.tfrecord", [example(picture(0, seed), "red") for seed in range(9)])
    ended = run()
    assert ended.code == 1
    assert "data.classes names 'green'" in ended.complaint and str(tmp_path / "data") in ended.complaint
    assert "classes that they hold: red" in ended.complaint


def test_one_picture_per_class_is_not_enough(run, tmp_path):
    write_records(tmp_path / "data" / "few.tfrecord", coloured(1))
    ended = run()
    assert ended.code == 1
    assert "3 of 3 classes below" in ended.complaint and "or add pictures of the 3 with a single one" in ended.complaint


def test_an_empty_folder_is_named_with_the_way_to_fill_it(run, tmp_path):
    (tmp_path / "data").mkdir()
    ended = run()
    assert ended.code == 1
    assert f"{tmp_path / 'data'} holds no record file" in ended.complaint
    assert "retake records pack" in ended.complaint


def test_a_missing_folder_is_named_with_the_way_to_give_another(run, tmp_path):
    ended = run("--data", str(tmp_path / "missing"))
    assert ended.code == 1
    assert f"{tmp_path / 'missing'} is not a folder; give one with --data" in ended.complaint
    assert not (tmp_path / "root").exists()


def test_one_class_is_wrong_usage(run, data):
    ended = run("--set", "data.classes=[red]")
    assert ended.code == 2
    assert "colours.yaml with --set: data.classes = ['red']: list should have at least 2 items" in ended.complaint


def test_weights_of_another_architecture_are_refused_before_anything_runs(run, data, tmp_path):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    network.save_weights(tmp_path / "other.weights.h5")
    ended = run("--weights", str(tmp_path / "other.weights.h5"), "--set", "model.backbone=EfficientNetB0")
    assert ended.code == 1
    assert f"weights file {tmp_path / 'other.weights.h5'} does not fit EfficientNetB0" in ended.complaint
    assert "set model.backbone to the network that it was saved from" in ended.complaint
    assert not ended.summary and not list((tmp_path / "root").glob("ExampleGen"))


def test_a_missing_weights_file_is_named_before_anything_runs(run, data, tmp_path):
    ended = run("--weights", str(tmp_path / "none.h5"), "--set", "model.backbone=MobileNetV2")
    assert ended.code == 1
    assert f"weights file {tmp_path / 'none.h5'} cannot be read (No such file or directory)" in ended.complaint


@pytest.mark.parametrize("below", ["{file}/place", "/proc/nobody/place"])
@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--root", "pipeline.root"),
        ("--models", "pusher.destination"),
        ("--summary", "--summary"),
        ("--set=metadata.url=sqlite:///", "metadata.url"),
    ],
)
def test_a_place_that_cannot_be_made_is_named_before_anything_runs(run, data, tmp_path, below, option, name):
    (tmp_path / "file").write_text("a regular file")
    place = below.format(file=tmp_path / "file")
    ended = run(f"{option}{place}/db" if "url" in option else f"{option}={place}/models")
    assert ended.code in (1, 2)
    assert name in ended.complaint and place in ended.complaint
    assert "cannot be" in ended.complaint
    assert not (tmp_path / "root" / "ExampleGen").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--config", "hotdogs"], "there are: hotdog, intel, sample"),
        (["--set", "trainer.epoch=3"], "unknown key trainer.epoch; allowed here: seed, epochs"),
        (["--set", "epochs"], "must read section.key=value"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_is_allowed(run, data, arguments, complaint):
    ended = run(*arguments)
    assert ended.code == 2
    assert complaint in ended.complaint


@pytest.mark.parametrize(("url", "code"), [("sqlite:///{file}", 2), ("mysql://root@127.0.0.1:9/retake", 1)])
def test_a_metadata_store_that_cannot_be_opened_is_named(run, data, tmp_path, url, code):
    (tmp_path / "notes.txt").write_text("This is no database, " * 99)
    url = url.format(file=tmp_path / "notes.txt")
    ended = run("--set", f"metadata.url={url}")
    assert ended.code == code
    assert f"metadata.url {url} cannot be opened as a metadata store" in ended.complaint
