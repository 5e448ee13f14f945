"""Asking pushed models: tiny ones, that judge a picture by its mean colour."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny_models import BLUE, GREEN, RED, cells, numbers, paint, push

from retake.errors import RetakeError
from retake.results import compare, predict
from retake.terminal import printable

SURE = 0.9866  # softmax of (5, 0, 0): what a model says of a picture of its class's colour
UNSURE = 0.0067


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
