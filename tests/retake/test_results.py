"""Asking pushed models: tiny ones, that judge a picture by its mean colour."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retake import seal
from retake.cli import main
from retake.errors import RetakeError
from retake.results import compare, load, predict
from retake.terminal import printable

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
SURE = 0.9866  # softmax of (5, 0, 0): what a model says of a picture of its class's colour
UNSURE = 0.0067


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pushed/1 and pushed/2 take red, green and blue for food, sandwich and taco; scenes/7 knows other classes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    folder = tmp_path_factory.mktemp("models")
    food, swapped = ("food", "sandwich", "taco"), ("food", "taco", "sandwich")
    push(folder / "pushed" / "1", swapped)
    push(folder / "pushed" / "2", food)
    push(folder / "scenes" / "7", ("sea", "forest", "taco"))
    push(folder / "foreign" / "1", food, signature="serving_default")
    push(folder / "numbers" / "1", food, probability=float("nan"))
    push(folder / "nameless" / "1", food, without="classes")
    push(folder / "other-input" / "1", food, takes="examples")
    push(folder / "picky" / "1", food, shape=(8, 8, 3))
    return folder


def push(
    folder: Path,
    classes: tuple[str, str, str],
    signature: str = "image_bytes",
    probability: float = 1.0,
    without: str | None = None,
    takes: str = "image_bytes",
    shape: tuple[int | None, int | None, int] = (None, None, 3),
) -> None:
    import tensorflow as tf

    def colour(encoded: Any) -> Any:
        pixels = tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), shape)
        return tf.reduce_mean(tf.cast(pixels, tf.float32) / 255, (0, 1))

    class Served(tf.Module):
        def __init__(self) -> None:
            self.kernel = tf.Variable(tf.eye(3) * 5 * probability)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name=takes)])
        def answer(self, image_bytes: Any) -> dict[str, Any]:
            colours = tf.map_fn(colour, image_bytes, fn_output_signature=tf.TensorSpec([3], tf.float32))
            probabilities = tf.nn.softmax(colours @ self.kernel)
            names = tf.constant(classes)
            answers = {
                "probabilities": probabilities,
                "classes": tf.tile(names[None], [tf.shape(probabilities)[0], 1]),
                "label": tf.gather(names, tf.argmax(probabilities, 1)),
            }
            return {name: value for name, value in answers.items() if name != without}

    served = Served()
    tf.saved_model.save(served, str(folder), signatures={signature: served.answer})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two red and one blue picture in folders that are no classes."""
    folder = tmp_path / "hot dog"
    paint(folder / "a" / "one.png", RED)
    paint(folder / "a" / "two.png", RED)
    paint(folder / "b.bmp", BLUE)
    return folder


def paint(file: Path, colour: tuple[int, int, int], size: tuple[int, int] = (6, 4)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(file)
    return file


def numbers(prefix: Path) -> Any:
    return json.loads(prefix.with_name(f"{prefix.name}.json").read_text())


def cells(text: str, name: str) -> list[str]:
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name])


# Loading


def test_the_folder_of_versions_means_the_highest_one(models: Path, tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / version).symlink_to(models / "pushed" / version)
    (tmp_path / "10").symlink_to(models / "scenes" / "7")
    (tmp_path / "notes").mkdir()

    newest = load(tmp_path, trust=True)

    assert (newest.path, newest.version, newest.classes) == (tmp_path / "10", 10, ["sea", "forest", "taco"])


def test_a_loaded_model_is_asked_by_calling_it(models: Path, pictures: Path) -> None:
    model = load(models / "pushed" / "1", trust=True)

    answers = model([(pictures / "b.bmp").read_bytes(), (pictures / "a" / "one.png").read_bytes()])

    assert (model.version, answers.dtype, answers.shape) == (1, "float32", (2, 3))
    assert answers.argmax(axis=1).tolist() == [2, 0]


@pytest.fixture
def half(models: Path, tmp_path: Path) -> Path:
    """A push that was cut short: version 2 without its graph, version 3 without its variables."""
    (tmp_path / "m" / "2" / "variables").mkdir(parents=True)
    (tmp_path / "m" / "1").symlink_to(models / "pushed" / "1")
    (tmp_path / "n" / "3").mkdir(parents=True)
    (tmp_path / "n" / "3" / "saved_model.pb").write_bytes((models / "pushed" / "1" / "saved_model.pb").read_bytes())
    (tmp_path / "n" / "text").mkdir()
    (tmp_path / "n" / "text" / "saved_model.pb").write_text("no model")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", r"there is no model .*nowhere; name models/PIPELINE"),
        ("empty", r"empty holds no SavedModel and no numbered versions"),
        ("m", r"m/2 is only half pushed, saved_model.pb is missing; name another version: .*m/1$"),
        ("m/2", r"m/2 holds no SavedModel"),
        ("n", r"n/3 is not a whole SavedModel \(.+\); push it again"),
        ("n/text", r"n/text is not a whole SavedModel \(.+\); push it again"),
    ],
)
def test_what_is_no_whole_model_is_refused_in_one_line(half: Path, folder: str, message: str) -> None:
    with pytest.raises(RetakeError, match=message) as caught:
        load(half / folder, trust=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("foreign", r"foreign/1 has no signature image_bytes \(it has: serving_default\)"),
        ("nameless", r"nameless/1 answers without classes"),
        ("other-input", r"other-input/1 cannot be asked \(.+\); name another version"),
        ("numbers", r"numbers/1 answers with numbers that are no probabilities"),
    ],
)
def test_a_model_of_another_kind_is_refused_in_one_line(models: Path, folder: str, message: str) -> None:
    with pytest.raises(RetakeError, match=message) as caught:
        load(models / folder, trust=True)
    assert "\n" not in str(caught.value)


def test_a_model_in_a_bucket_is_to_be_copied_first() -> None:
    with pytest.raises(RetakeError, match=r"gcloud storage cp -r gs://bucket/hotdog models/"):
        load(Path("gs://bucket/hotdog"))


# Trusting


@pytest.fixture
def pushed(models: Path, tmp_path: Path) -> Path:
    """A version that this account has pushed."""
    folder = Path(shutil.copytree(models / "pushed" / "2", tmp_path / "own" / "1"))
    seal.put(folder)
    return folder


def test_a_model_that_this_account_pushed_is_loaded_without_a_question(pushed: Path, pictures: Path) -> None:
    table, _ = predict(pushed.parent, [pictures / "b.bmp"])
    assert cells(table, "picture") == ["label", "food", "sandwich", "taco"]


def test_another_model_is_not_loaded_before_it_is_trusted(
    models: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["predict", str(models / "pushed"), str(pictures / "b.bmp")]
    assert main(asked) == 1
    message = capsys.readouterr().err
    assert f"{models / 'pushed' / '2'} was not pushed by this user account on this machine. A model is code" in message
    assert message.endswith("load it with --trust\n") and message.count("\n") == 1
    assert main([*asked, "--trust"]) == 0
    with pytest.raises(RetakeError, match="load it with --trust"):
        compare(pictures, {"new": models / "pushed"}, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_pushed_model_that_changed_is_not_loaded_before_it_is_trusted(pushed: Path) -> None:
    with (pushed / "saved_model.pb").open("ab") as file:
        file.write(b"x")
    with pytest.raises(RetakeError, match="was pushed by another user account, or has changed since"):
        load(pushed)


def test_names_of_a_foreign_model_cannot_steer_a_terminal(tmp_path: Path, pictures: Path) -> None:
    names = ("red\x1b[2J", "green\nred  100.0%", "blue\u202e")
    push(tmp_path / "m" / "1", names)

    text = compare(pictures, {"a\x07": tmp_path / "m"}, tmp_path / "out", trust=True)
    table, _ = predict(tmp_path / "m", [pictures / "b.bmp"], trust=True)

    for shown in (text, table):
        assert r"red\x1b[2J" in shown and r"green\nred  100.0%" in shown and r"blue\u202e" in shown
        assert printable(shown) == shown
    assert r"a\x07" in text
    assert list(numbers(tmp_path / "out")["models"]["a\x07"]["mean"]) == list(names)


def test_a_picture_that_is_not_a_regular_file_is_named(models: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(RetakeError, match=r"x\.jpg cannot be predicted: not a regular file"):
        predict(models / "pushed", [tmp_path / "x.jpg"], trust=True)


# Comparing


def test_the_mean_distribution_of_each_model_is_written_and_told(models: Path, pictures: Path, tmp_path: Path) -> None:
    text = compare(
        pictures,
        {"baseline": models / "pushed" / "1", "new": models / "pushed"},
        tmp_path / "out" / "results.v2",
        trust=True,
    )

    results = numbers(tmp_path / "out" / "results.v2")
    assert (results["pictures"], results["skipped"]) == (3, {})
    assert results["models"]["baseline"] == {
        "path": str(models / "pushed" / "1"),
        "version": 1,
        "mean": {
            "food": pytest.approx((2 * SURE + UNSURE) / 3, abs=1e-3),
            "taco": pytest.approx(UNSURE, abs=1e-3),
            "sandwich": pytest.approx((SURE + 2 * UNSURE) / 3, abs=1e-3),
        },
        "votes": {"food": 2, "taco": 0, "sandwich": 1},
    }
    assert results["models"]["new"]["version"] == 2
    assert text.startswith("Mean predicted distribution over 3 pictures in hot dog\n")
    assert cells(text, "model") == ["version", "food", "taco", "sandwich"]
    assert cells(text, "baseline") == ["1", "66.0%", "0.7%", "33.3%"]
    assert cells(text, "new") == ["2", "66.0%", "33.3%", "0.7%"]
    assert "Accuracy" not in text
    with Image.open(tmp_path / "out" / "results.v2.png") as chart:
        assert chart.format == "PNG" and chart.width > 1000
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"results.v2.json", "results.v2.png"}


def test_pictures_in_folders_named_as_classes_tell_the_accuracy(models: Path, tmp_path: Path) -> None:
    for name, colours in {"food": [RED, RED, RED], "taco": [BLUE, GREEN], "hot dog": [GREEN]}.items():
        for at, colour in enumerate(colours):
            paint(tmp_path / "images" / name / f"{at}.png", colour)

    text = compare(
        tmp_path / "images", {"new": models / "pushed", "scenes": models / "scenes"}, tmp_path / "out", trust=True
    )

    new, scenes = numbers(tmp_path / "out")["models"].values()
    assert (new["accuracy"], new["accuracy_pictures"]) == (0.8, 5)
    assert new["accuracy_by_class"] == {"food": 1.0, "taco": 0.5}
    assert (scenes["accuracy"], scenes["accuracy_pictures"]) == (0.5, 2)
    accuracy = text[text.index("Accuracy") :]
    assert cells(accuracy, "new") == ["2", "5", "80.0%", "100.0%", "50.0%"]
    assert cells(accuracy, "scenes") == ["7", "2", "50.0%", "–", "50.0%"]


def test_the_folder_of_one_class_tells_the_accuracy_too(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "taco" / "1.png", BLUE)
    monkeypatch.chdir(tmp_path / "taco")

    compare(Path(), {"new": models / "pushed"}, tmp_path / "out", trust=True)

    assert numbers(tmp_path / "out")["models"]["new"]["accuracy"] == 1


def test_a_link_to_a_picture_belongs_to_the_folder_of_the_link(models: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "taco").mkdir(parents=True)
    (tmp_path / "images" / "taco" / "1.png").symlink_to(paint(tmp_path / "food" / "1.png", BLUE))

    compare(tmp_path / "images", {"new": models / "pushed"}, tmp_path / "out", trust=True)

    assert numbers(tmp_path / "out")["models"]["new"]["accuracy_by_class"] == {"taco": 1.0}


def test_models_of_different_classes_share_a_table(models: Path, pictures: Path, tmp_path: Path) -> None:
    text = compare(pictures, {"new": models / "pushed", "scenes": models / "scenes"}, tmp_path / "out", trust=True)

    assert cells(text, "model") == ["version", "food", "sandwich", "taco", "sea", "forest"]
    assert cells(text, "new")[-2:] == ["–", "–"]
    assert list(numbers(tmp_path / "out")["models"]["scenes"]["mean"]) == ["sea", "forest", "taco"]


def test_a_table_too_wide_for_the_terminal_stands_upright(
    models: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")

    text = compare(pictures, {"new": models / "pushed", "scenes": models / "scenes"}, tmp_path / "out", trust=True)

    assert cells(text, "model") == ["new", "scenes"]
    assert cells(text, "sea") == ["–", "66.0%"]


def test_other_formats_are_converted_and_what_is_no_picture_is_named(
    models: Path, pictures: Path, tmp_path: Path
) -> None:
    paint(pictures / "photo.webp", RED)
    paint(pictures / "scan.tiff", RED)
    paint(pictures / "c" / "palette.gif", RED)
    whole = paint(pictures / "whole.jpg", RED, (256, 256)).read_bytes()
    (pictures / "cut.jpg").write_bytes(whole[:-500])
    (pictures / "empty.png").touch()
    (pictures / "notes.txt").write_text("no picture")
    (pictures / ".DS_Store").write_text("hidden")

    text = compare(pictures, {"new": models / "pushed"}, tmp_path / "out", trust=True)

    results = numbers(tmp_path / "out")
    assert (results["pictures"], results["models"]["new"]["votes"]["food"]) == (7, 6)
    assert results["skipped"] == {
        "cut.jpg": "damaged or cut off",
        "empty.png": "empty",
        "notes.txt": "not a picture",
    }
    assert "3 files skipped\n  cut.jpg: damaged or cut off\n" in text


def test_a_picture_that_one_model_cannot_decode_is_skipped_for_all(
    models: Path, pictures: Path, tmp_path: Path
) -> None:
    paint(pictures / "square.png", BLUE, (8, 8))

    compare(pictures, {"new": models / "pushed", "picky": models / "picky"}, tmp_path / "out", trust=True)

    results = numbers(tmp_path / "out")
    assert results["pictures"] == 1
    assert [model["votes"]["taco"] for model in results["models"].values()] == [1, 1]
    assert list(results["skipped"]) == ["a/one.png", "a/two.png", "b.bmp"]
    assert "picky/1 cannot decode it: Shape of tensor" in results["skipped"]["b.bmp"]


def test_a_picture_over_the_limits_is_skipped_before_it_is_decoded(
    models: Path, pictures: Path, tmp_path: Path
) -> None:
    Image.new("1", (8000, 8000)).save(pictures / "wide.png")
    with (pictures / "long.bin").open("wb") as file:
        file.truncate(10_000_000_000)  # sparse: it takes no room, and would not fit into memory

    compare(pictures, {"new": models / "pushed"}, tmp_path / "out", trust=True)

    assert numbers(tmp_path / "out")["skipped"] == {
        "long.bin": "over the byte limit",
        "wide.png": "over the pixel limit",
    }


def test_many_skipped_files_do_not_drown_the_table(models: Path, pictures: Path, tmp_path: Path) -> None:
    for at in range(30):
        (pictures / f"{at:02}.txt").write_text("no picture")

    text = compare(pictures, {"new": models / "pushed"}, tmp_path / "out", trust=True)

    assert "30 files skipped" in text and "and 25 more" in text
    assert len(numbers(tmp_path / "out")["skipped"]) == 30


def test_more_pictures_than_a_batch_are_all_asked_about(models: Path, tmp_path: Path) -> None:
    for at in range(70):
        paint(tmp_path / "images" / f"{at}.png", RED if at < 50 else GREEN)

    compare(tmp_path / "images", {"new": models / "pushed"}, tmp_path / "out", trust=True)

    assert numbers(tmp_path / "out")["models"]["new"]["votes"] == {"food": 50, "sandwich": 20, "taco": 0}


def test_a_second_comparison_does_not_take_its_own_chart_for_a_picture(models: Path, pictures: Path) -> None:
    for _ in range(2):
        compare(pictures, {"new": models / "pushed"}, pictures / "results.png", trust=True)

    results = numbers(pictures / "results")
    assert (results["pictures"], results["skipped"]) == (3, {})


def test_odd_names_are_told_as_they_are(models: Path, tmp_path: Path) -> None:
    paint(tmp_path / "images" / "$x^2$ [bold]é.png", RED)
    paint(tmp_path / "images" / os.fsdecode(b"caf\xe9.png"), RED)
    (tmp_path / "images" / os.fsdecode(b"caf\xe9.txt")).touch()

    text = compare(tmp_path / "images", {"_[b]$m$": models / "pushed"}, tmp_path / "out", trust=True)

    assert "_[b]$m$" in text
    assert list(numbers(tmp_path / "out")["skipped"]) == ["caf\ufffd.txt"]


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("nowhere", "there is no folder .*nowhere"),
        ("empty", "empty holds no files"),
        ("texts", r"none of the 1 files in .*texts is usable; .*notes.txt: not a picture"),
    ],
)
def test_a_folder_without_pictures_is_refused(models: Path, tmp_path: Path, folder: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no picture")

    with pytest.raises(RetakeError, match=message):
        compare(tmp_path / folder, {"new": models / "pushed"}, tmp_path / "out", trust=True)
    assert not list(tmp_path.glob("out*"))


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    models: Path, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RetakeError, match=r"file cannot be made .*--output"):
        compare(pictures, {"new": models / "pushed"}, tmp_path / "file" / "out", trust=True)


# Predicting


def test_each_picture_gets_a_row_with_its_label_and_probabilities(
    models: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paint(tmp_path / "photo.webp", GREEN)
    monkeypatch.chdir(tmp_path)

    text, skipped = predict(models / "pushed", [Path("photo.webp"), pictures / "b.bmp"], trust=True)

    assert cells(text, "picture") == ["label", "food", "sandwich", "taco"]
    assert cells(text, "photo.webp") == ["sandwich", "0.7%", "98.7%", "0.7%"]
    assert text.splitlines()[-1].split()[-4:] == ["taco", "0.7%", "0.7%", "98.7%"]
    assert not skipped


def test_a_bad_picture_does_not_cost_the_answers_to_good_ones(models: Path, pictures: Path) -> None:
    (pictures / "notes.txt").write_text("no picture")
    asked = [pictures / "b.bmp", pictures / "notes.txt", pictures / "nothing.png"]
    text, skipped = predict(models / "pushed", asked, trust=True)
    assert "b.bmp" in text.splitlines()[-1] and " taco " in text.splitlines()[-1]
    assert skipped == {str(asked[1]): "not a picture", str(asked[2]): "No such file or directory"}


def test_a_folder_means_the_pictures_in_it(models: Path, pictures: Path) -> None:
    text, skipped = predict(models / "pushed", [pictures], trust=True)
    assert any("b.bmp" in line and " taco " in line for line in text.splitlines()) and not skipped


def test_where_no_picture_can_be_read_the_first_is_named(models: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RetakeError, match=r"nothing.png cannot be predicted: No such file or directory \(and 1 more\)"):
        predict(models / "pushed", [pictures / "nothing.png", pictures / "no.png"], trust=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RetakeError, match="holds no files"):
        predict(models / "pushed", [tmp_path / "empty"], trust=True)


def test_a_comparison_writes_nothing_unless_it_is_asked_to(
    models: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert "give --output PREFIX" in compare(pictures, {"new": models / "pushed"}, trust=True)
    assert list(here.iterdir()) == []


def test_nothing_but_the_answer_reaches_the_console(models: Path, pictures: Path) -> None:
    command = "import sys; from retake.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["predict", "--trust", str(models / "pushed"), str(pictures / "b.bmp")]

    done = subprocess.run([sys.executable, "-c", command, *arguments], capture_output=True, text=True, check=True)

    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 3
