"""What a run leaves behind for programs and for people."""

import json
import re
from io import StringIO
from pathlib import Path

import pytest
from pydantic import ValidationError
from rich.console import Console
from runner_contract import FIELDS

from retake.errors import NotBlessedError, RetakeError
from retake.gate import compare
from retake.summary import Node, Summary, render, require_blessing, write
from retake.terminal import printable

NODES = ("ImportExampleGen", "Transform", "Trainer", "Evaluator", "Pusher")


@pytest.fixture
def blessed() -> Summary:
    return Summary(
        run_id="hotdog-2",
        runner="local",
        state="complete",
        nodes=[Node(id=name, state="complete", seconds=61.25, cached=name == "Transform") for name in NODES],
        examples={"train": {"food": 1320, "taco": 318}, "eval": {"food": 80}},
        dropped={"not a picture": 3, "over the pixel limit": 12, "empty": 0},
        metrics={"accuracy": 0.842, "loss": 0.51, "recall": {"food": 0.81, "taco": float("nan")}},
        baseline_metrics={"accuracy": 0.815, "loss": 0.6, "recall": {"food": 0.83, "taco": 0.7}},
        comparison={"old": compare(9, 4, 200, 254, confidence=0.95, max_regression=0.0)},
        blessed=True,
        pushed_model="models/hotdog/2",
    )


@pytest.fixture
def failed() -> Summary:
    return Summary(
        run_id="hotdog-3",
        runner="airflow",
        state="failed",
        nodes=[
            Node(id="Transform", state="complete", seconds=8.0),
            Node(id="Trainer", state="failed", seconds=1.5),
            Node(id="Pusher", state="not run", seconds=0.0),
        ],
        reason="weights/none.h5 cannot be read",
    )


def page(summary: Summary, width: int = 80) -> str:
    console = Console(file=StringIO(), width=width)
    console.print(render(summary))
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    return next(line.split()[1:] for line in text.splitlines() if line.split()[:1] == [name])


def test_the_file_has_exactly_the_fields_that_every_runner_promises(failed: Summary, tmp_path: Path) -> None:
    write(failed, tmp_path / "new" / "summary.json")

    written = json.loads((tmp_path / "new" / "summary.json").read_text())
    assert list(written) == FIELDS
    assert written["nodes"][2] == {"id": "Pusher", "state": "not run", "seconds": 0.0, "cached": False}
    assert written["metrics"] is None and written["blessed"] is None and written["pushed_model"] is None


def test_what_is_written_is_strict_json_and_is_read_back(blessed: Summary, tmp_path: Path) -> None:
    write(blessed, tmp_path / "summary.json")

    text = (tmp_path / "summary.json").read_text()
    assert "NaN" not in text
    again = Summary.model_validate_json(text)
    assert again.metrics == {"accuracy": 0.842, "loss": 0.51, "recall": {"food": 0.81, "taco": None}}
    assert again.nodes == blessed.nodes


def test_a_second_run_replaces_the_file_and_leaves_nothing_else(
    blessed: Summary, failed: Summary, tmp_path: Path
) -> None:
    write(blessed, tmp_path / "summary.json")
    write(failed, tmp_path / "summary.json")

    assert json.loads((tmp_path / "summary.json").read_text())["run_id"] == "hotdog-3"
    assert [file.name for file in tmp_path.iterdir()] == ["summary.json"]


@pytest.mark.parametrize("place", ["file/summary.json", "folder"])
def test_a_place_that_cannot_be_written_is_named_in_one_line(failed: Summary, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder" / "inner").mkdir(parents=True)

    with pytest.raises(RetakeError, match=f"{place} cannot|to .*{place} ") as caught:
        write(failed, tmp_path / place)

    assert "\n" not in str(caught.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_a_field_or_state_that_no_reader_expects_is_refused() -> None:
    with pytest.raises(ValidationError):
        Node(id="Trainer", state="upstream_failed")  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        Summary(run_id="1", runner="local", state="failed", nodes=[], colour="red")  # type: ignore[call-arg]


def test_a_page_tells_of_nodes_pictures_and_what_was_dropped(blessed: Summary) -> None:
    text = page(blessed)

    assert "Run hotdog-2 complete · local" in text
    assert row(text, "Trainer") == ["61.2", "complete"]
    assert row(text, "Transform") == ["61.2", "cached"]
    assert row(text, "taco") == ["318", "–"]
    assert "all classes   1,638     80" in text
    assert text.index("over the pixel limit") < text.index("not a picture")
    assert "empty" not in text


def test_what_a_pushed_model_made_of_the_test_split_is_said_at_the_end(blessed: Summary) -> None:
    measured = {"accuracy": 0.861, "confusion": {"food": {"food": 1000, "taco": 39}, "taco": {"food": 136, "taco": 0}}}
    told = page(blessed.model_copy(update={"test_metrics": measured})).rstrip().splitlines()
    assert told[-2] == "The model is in models/hotdog/2"
    assert told[-1] == "Test: accuracy 0.861 on 1,175 pictures never trained on nor gated on"
    assert "Test:" not in page(blessed)


def test_metrics_stand_beside_the_baseline_with_the_difference(blessed: Summary) -> None:
    text = page(blessed)

    assert row(text, "accuracy") == ["0.842", "0.815", "+0.027"]
    assert row(text, "loss") == ["0.510", "0.600", "−0.090"]
    recall = text[text.index("recall") :]
    assert row(recall, "food") == ["0.810", "0.830", "−0.020"]
    assert row(recall, "taco") == ["–", "0.700", "–"]


def test_better_is_green_and_a_lower_loss_is_better(blessed: Summary) -> None:
    console = Console(file=StringIO(), width=80, force_terminal=True, color_system="standard", no_color=False)
    console.print(render(blessed))
    lines = console.file.getvalue().splitlines()

    green, red = r"\x1b\[32m", r"\x1b\[31m"
    assert any(re.search(rf"accuracy.*{green} *\+0.027", line) for line in lines)
    assert any(re.search(rf"loss.*{green} *−0.090", line) for line in lines)
    assert any(re.search(rf"food.*{red} *−0.020", line) for line in lines)


def test_a_first_run_has_no_column_for_a_baseline(blessed: Summary) -> None:
    text = page(blessed.model_copy(update={"baseline_metrics": None}))

    assert row(text, "accuracy") == ["0.842"]
    assert "baseline" not in text and "difference" not in text


def test_a_page_ends_in_where_the_model_is(blessed: Summary) -> None:
    assert page(blessed).endswith("Blessed\nThe model is in models/hotdog/2\n")


def test_a_page_ends_in_why_the_model_was_refused(blessed: Summary) -> None:
    refused = blessed.model_copy(
        update={"blessed": False, "reason": "accuracy 0.41 is below 0.5", "pushed_model": None}
    )

    assert page(refused).endswith("Not blessed: accuracy 0.41 is below 0.5\nNo model was pushed\n")


def test_only_a_complete_run_whose_model_was_refused_lacks_a_blessing(blessed: Summary, failed: Summary) -> None:
    require_blessing(blessed)
    require_blessing(failed)
    refused = blessed.model_copy(update={"blessed": False, "reason": "worse"})
    with pytest.raises(NotBlessedError, match="the model was not blessed: worse"):
        require_blessing(refused)


def test_a_failed_run_says_where_and_why_and_what_did_not_run(failed: Summary) -> None:
    text = page(failed)

    assert row(text, "Trainer") == ["1.5", "failed"]
    assert row(text, "Pusher") == ["–", "not", "run"]
    assert text.endswith("Failed at Trainer: weights/none.h5 cannot be read\nNo model was pushed\n")
    assert "pictures" not in text and "metric" not in text


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal_and_nothing_is_cut_off(blessed: Summary, width: int) -> None:
    text = page(blessed, width)

    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text and "\x1b" not in text


def test_names_that_look_like_markup_are_told_as_they_are(failed: Summary) -> None:
    odd = failed.model_copy(
        update={"examples": {"[red]train": {"[/]taco": 1}}, "reason": "[bold]x", "dropped": {"[b]y": 2}}
    )

    text = page(odd)
    assert all(name in text for name in ("[red]train", "[/]taco", "[bold]x", "[b]y"))


def test_the_confusion_is_a_matrix_of_pictures(blessed: Summary) -> None:
    confusion = {"food": {"food": 70, "taco": 10}, "taco": {"food": 0, "taco": 1200}}
    judged = Summary.model_validate(blessed.model_dump() | {"metrics": {"accuracy": 0.842, "confusion": confusion}})

    lines = page(judged).splitlines()
    head = next(at for at, line in enumerate(lines) if line.startswith("actual"))
    assert [line.split() for line in lines[head : head + 4] if "─" not in line] == [
        ["actual", "\\", "predicted", "food", "taco"],
        ["food", "70", "10"],
        ["taco", "0", "1,200"],
    ]
    assert "confusion" not in page(judged)


def test_many_classes_are_numbered_so_that_the_matrix_fits(blessed: Summary) -> None:
    names = [f"landscape {letter}" for letter in "abcdefghij"]
    confusion = {name: dict.fromkeys(names, 3) for name in names}
    text = page(blessed.model_copy(update={"metrics": {"confusion": confusion}}), width=60)

    assert r"actual \ predicted" in text and max(map(len, text.splitlines())) <= 60
    assert "10 landscape j" in text


def test_nodes_that_were_just_seen_are_not_listed_again_and_the_wait_is_told(blessed: Summary) -> None:
    console = Console(file=StringIO(), width=80)
    console.print(render(blessed, seconds=83.4, nodes=False))

    assert "Trainer" not in console.file.getvalue()
    assert "complete · local · 1 min 23 s" in console.file.getvalue()


def test_labels_reasons_and_places_cannot_steer_a_terminal_or_forge_a_line(blessed: Summary) -> None:
    text = page(
        blessed.model_copy(
            update={
                "examples": {"train": {"taco\x1b[2J\nBlessed": 3}},
                "dropped": {"bad\x07": 1},
                "reason": "first\x1b]0;x\x07\nsecond",
                "pushed_model": "models\u202e/1",
            }
        )
    )
    for shown in (r"taco\x1b[2J\nBlessed", r"bad\x07", "first\\x1b]0;x\\x07\nsecond", r"models\u202e/1"):
        assert shown in text
    assert printable(text) == text
