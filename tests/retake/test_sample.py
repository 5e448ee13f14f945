"""The drawn pictures appear whole, once, and always the same."""

import hashlib
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from retake import images, packing, records, sample
from retake.errors import RetakeError


def fingerprints(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "sample"
    sample.draw(folder)
    return folder


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(sample, "PER_CLASS", 3)
    monkeypatch.setattr(sample, "HOT_DOGS", 2)


def test_it_draws_pictures_to_train_on_and_hot_dogs_to_ask_about(drawn):
    counts = {path.name: len(list(path.glob("*.jpg"))) for path in (drawn / "images").iterdir()}
    assert counts == {"food": 110, "sandwich": 110, "taco": 110}
    assert len(list((drawn / "hot dog").glob("*.jpg"))) == 40


def test_the_pictures_are_all_different_and_all_acceptable(drawn):
    files = list(drawn.rglob("*.jpg"))
    assert len({path.read_bytes() for path in files}) == len(files)
    for path in files:
        kind, width, height = images.probe(path.read_bytes())
        assert kind == "JPEG" and min(width, height) >= 160 and max(width, height) <= 320
        assert images.acceptable(path.read_bytes(), 1_000_000, 1_000_000) is None


def test_the_records_hold_the_pictures_to_train_on_and_no_hot_dog(drawn):
    labels = [
        sample.CLASSES[records.label_index(example, sample.CLASSES)]
        for example in records.read(drawn / "records" / "drawn.tfrecord")
    ]
    assert sorted(labels) == ["food"] * 110 + ["sandwich"] * 110 + ["taco"] * 110


def test_mean_colour_alone_does_not_tell_the_classes_apart(drawn):
    means = {
        folder.name: np.array([np.asarray(Image.open(path)).mean((0, 1)) for path in sorted(folder.glob("*.jpg"))])
        for folder in (drawn / "images").iterdir()
    }
    centres = {name: colors[::2].mean(0) for name, colors in means.items()}
    right = [
        min(centres, key=lambda other: np.linalg.norm(color - centres[other])) == name
        for name, colors in means.items()
        for color in colors[1::2]
    ]
    assert np.mean(right) < 0.65


def test_two_draws_give_the_same_bytes(tmp_path, few):
    sample.draw(tmp_path / "one")
    sample.draw(tmp_path / "two")
    assert fingerprints(tmp_path / "one") == fingerprints(tmp_path / "two")


def test_a_second_draw_leaves_the_first_alone(tmp_path, few):
    sample.draw(tmp_path / "sample")
    (tmp_path / "sample" / "images" / "mine.txt").write_text("kept")
    sample.draw(tmp_path / "sample")
    assert (tmp_path / "sample" / "images" / "mine.txt").read_text() == "kept"


def test_draws_at_the_same_time_do_not_break_each_other(tmp_path, few):
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(sample.draw, [tmp_path / "sample"] * 3))
    assert len(list(records.read(tmp_path / "sample" / "records" / "drawn.tfrecord"))) == 9
    assert [path.name for path in tmp_path.iterdir()] == ["sample"]


def test_a_draw_that_fails_leaves_nothing_behind(tmp_path, few, monkeypatch):
    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing, "pack", full_disk)
    with pytest.raises(RetakeError, match="No space left on device"):
        sample.draw(tmp_path / "sample")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_else_in_it_is_not_touched(tmp_path):
    (tmp_path / "sample").mkdir()
    (tmp_path / "sample" / "thesis.txt").write_text("precious")
    with pytest.raises(RetakeError, match="something other than the drawn pictures"):
        sample.draw(tmp_path / "sample")


def test_what_arrives_later_are_tacos_only_and_none_of_the_embedded_pictures(tmp_path, drawn, monkeypatch):
    monkeypatch.setattr(sample, "HARD_TACOS", 3)
    sample.draw_hard_tacos(tmp_path / "taco_bias.tfrecord")
    examples = list(records.read(tmp_path / "taco_bias.tfrecord"))
    assert [records.label_index(example, sample.CLASSES) for example in examples] == [2, 2, 2]
    known = {path.read_bytes() for path in drawn.rglob("*.jpg")}
    assert not known & {example.features.feature["image"].bytes_list.value[0] for example in examples}


def test_a_picture_decodes_to_the_size_that_its_header_tells():
    encoded = sample.picture("hot dog", 0)
    assert Image.open(io.BytesIO(encoded)).convert("RGB").size == images.probe(encoded)[1:]
