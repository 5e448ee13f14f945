"""Loading pushed models, and trusting them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_models import cells

from retake import seal
from retake.cli import main
from retake.errors import RetakeError
from retake.models import load
from retake.results import compare, predict


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
