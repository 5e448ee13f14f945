"""What pushed models answer: a comparison of models over a folder of pictures, and predictions of single pictures."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import track

from retake import chart, durable, files
from retake.errors import RetakeError
from retake.models import ask, load, version_folder
from retake.tables import aligned, count, dash, fitting, percent
from retake.terminal import in_lines, in_one_line

if TYPE_CHECKING:
    from retake.models import Array, Model

MOST_SKIPPED_NAMED = 5
MOST_CLASSES_IN_COLUMNS = 8


def compare(images: Path, models: dict[str, Path], output: Path | None = None, trust: bool = False) -> str:
    """Compares the mean predicted distributions of models over a folder of pictures.

    All models are asked about the same pictures: a picture that one of them cannot decode is skipped for all. Formats
    that the graph does not decode (GIF, WebP, TIFF, …) are converted. Where pictures lie in folders that are named as
    classes of a model, the table says the model's accuracy over them, too.

    Args:
      images: folder of pictures, read recursively. Hidden files are passed over.
      models: a model's name in the table → its version's folder, or its folder of versions. Their classes may differ.
      output: None, or the prefix of two files to write: ``PREFIX.png``, a chart, and ``PREFIX.json``. All shares are
        numbers from 0 to 1; the three accuracy keys are there only where an accuracy is known::

          {"pictures": 400, "skipped": {"notes.txt": "not a picture"}, "models": {"baseline": {
              "path": "models/hotdog/1", "version": 1,
              "mean": {"food": 0.42, "sandwich": 0.213, "taco": 0.367},
              "votes": {"food": 181, "sandwich": 74, "taco": 145},
              "accuracy": 0.84, "accuracy_by_class": {"food": 0.81, …}, "accuracy_pictures": 1200}}}
      trust: as for `models.load`.

    Returns:
      The table, as text.

    Raises:
      RetakeError: there is no picture that can be read, no such model, or no place to write to.

    Example:
        >>> print(compare(Path("photos"), {"baseline": Path("models/sample/1"), "new": Path("models/sample")}))
        Mean predicted distribution over 2 pictures in photos
        <BLANKLINE>
        model      version    food    taco   sandwich
        ─────────────────────────────────────────────
        baseline         1   49.7%    0.7%      49.7%
        new              2   49.7%   49.7%       0.7%
        <BLANKLINE>
        1 file skipped
          notes.txt: not a picture
        <BLANKLINE>
        For a chart and the numbers as JSON, give --output PREFIX.
    """
    if output and output.suffix in (".png", ".json"):
        output = output.with_suffix("")
    written = [output.with_name(f"{output.name}{ending}") for ending in (".png", ".json")] if output else []
    ours = {file.resolve() for file in written}
    pictures = [file for file in _files(images) if file.resolve() not in ours]
    if not pictures:
        raise RetakeError(f"{images} holds no files; name a folder of pictures")
    for folder in models.values():
        version_folder(folder)
    for file in written:
        _make_folder(file.parent)
    tallies = {name: _Tally(load(folder, trust)) for name, folder in models.items()}
    skipped: dict[Path, str] = {}
    answers = ask([tally.model for tally in tallies.values()], pictures, skipped)
    console, answered = Console(stderr=True), 0
    bar = {"console": console, "transient": True, "disable": not console.is_terminal}
    for file, each in track(answers, "Predicting", total=len(pictures), **bar):  # type: ignore[arg-type]
        answered += 1
        for tally, answer in zip(tallies.values(), each, strict=True):
            tally.add(answer, folder=file.absolute().parent.name)
    if not answered:
        file, reason = next(iter(skipped.items()))
        raise RetakeError(f"none of the {len(pictures)} files in {images} is usable; {_printable(file)}: {reason}")
    results: dict[str, Any] = {
        "pictures": answered,
        "skipped": {_printable(file.relative_to(images)): reason for file, reason in sorted(skipped.items())},
        "models": {name: tally.result(answered) for name, tally in tallies.items()},
    }
    shown = in_lines(results)
    # The union of the models' classes, in the order in which they first appear.
    classes = list(dict.fromkeys(name for model in shown["models"].values() for name in model["mean"]))
    where = in_one_line(_printable(Path(images.absolute().name)))
    heading = f"Mean predicted distribution over {count(answered, 'picture')} in {where}"
    report = _report(shown, classes, heading)
    if not written:
        return f"{report}\nFor a chart and the numbers as JSON, give --output PREFIX."
    drawn, numbers = written
    _write(drawn, chart.draw(shown["models"], classes, heading))
    _write(numbers, json.dumps(results, indent=2, ensure_ascii=False).encode() + b"\n")
    return f"{report}\nChart: {in_one_line(drawn)}\nNumbers: {in_one_line(numbers)}"


def predict(model: Path, pictures: Sequence[Path], trust: bool = False) -> tuple[str, dict[str, str]]:
    """Asks a model about single pictures.

    Args:
      model: a version's folder, or the folder of versions, of which the highest is asked.
      pictures: files in any format that Pillow reads, and folders of such files.
      trust: as for `models.load`.

    Returns:
      A table as text, and file → reason of each file that has no answer. The table has a row for each picture: its
      label, and the probability of each class; where there are many classes, of the five most probable.

    Raises:
      RetakeError: there is no such model, a folder holds no files, or no picture can be read.

    Example:
        >>> table, skipped = predict(Path("models/sample"), [Path("photos")])
        >>> print(table)
        picture           label    food   sandwich    taco
        ──────────────────────────────────────────────────
        photos/food.jpg   food    98.6%       0.7%    0.7%
        photos/taco.jpg   taco     0.7%       0.7%   98.6%
        >>> skipped
        {'photos/notes.txt': 'not a picture'}
    """
    version_folder(model)
    found = [file for each in pictures for file in (_files(each) if each.is_dir() else [each])]
    if not found:
        raise RetakeError(f"{' and '.join(map(_printable, pictures))} holds no files; name a folder of pictures")
    skipped: dict[Path, str] = {}
    answers: list[tuple[Path, Array]] = []
    if readable := [file for file in found if _can_be_read(file, skipped)]:
        loaded = load(model, trust)
        answers = [(file, answer) for file, (answer,) in ask([loaded], readable, skipped)]
    if not answers:
        file, reason = next(iter(skipped.items()))
        more = f" (and {len(skipped) - 1:,} more)" if len(skipped) > 1 else ""
        raise RetakeError(f"{_printable(file)} cannot be predicted: {reason}{more}")
    columns = len(loaded.classes) <= MOST_CLASSES_IN_COLUMNS
    rows = [["picture", "label", *(loaded.classes if columns else ["most probable"])]]
    for file, answer in answers:
        best = [f"{loaded.classes[at]} {percent(answer[at])}" for at in answer.argsort()[:-6:-1]]
        chances = map(percent, answer) if columns else [", ".join(best)]
        rows.append([_printable(file), loaded.classes[answer.argmax()], *chances])
    table = aligned(in_lines(rows), left=2 if columns else 3).rstrip("\n")
    return table, {_printable(file): reason for file, reason in skipped.items()}


def _files(images: Path) -> list[Path]:
    if not images.is_dir():
        raise RetakeError(f"there is no folder {images}; name a folder of pictures")
    return files.visible(images)


def _can_be_read(file: Path, skipped: dict[Path, str]) -> bool:
    try:
        files.open_regular(file).close()
    except OSError as error:
        skipped[file] = error.strerror or str(error)
    return file not in skipped


class _Tally:
    """One model's answers so far, as sums, so that memory does not grow with the number of pictures."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.sums = [0.0] * len(model.classes)
        self.votes: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.right: Counter[str] = Counter()

    def add(self, answer: Array, folder: str) -> None:
        self.sums = [total + float(probability) for total, probability in zip(self.sums, answer, strict=True)]
        label = self.model.classes[answer.argmax()]
        self.votes[label] += 1
        if folder in self.model.classes:
            self.asked[folder] += 1
            self.right[folder] += folder == label

    def result(self, pictures: int) -> dict[str, Any]:
        classes = self.model.classes
        result: dict[str, Any] = {
            "path": str(self.model.path),
            "version": self.model.version,
            "mean": {name: total / pictures for name, total in zip(classes, self.sums, strict=True)},
            "votes": {name: self.votes[name] for name in classes},
        }
        if self.asked:
            result["accuracy"] = self.right.total() / self.asked.total()
            result["accuracy_by_class"] = {n: self.right[n] / self.asked[n] for n in classes if self.asked[n]}
            result["accuracy_pictures"] = self.asked.total()
        return result


def _report(results: dict[str, Any], classes: list[str], heading: str) -> str:
    found: dict[str, Any] = results["models"]
    asked = [each for each in classes if any(each in m.get("accuracy_by_class", {}) for m in found.values())]
    means = [["model", "version", *classes]]
    accuracies = [["model", "version", "pictures", "accuracy", *asked]]
    for name, model in found.items():
        version = dash(model["version"])
        means.append([name, version, *(percent(model["mean"].get(each)) for each in classes)])
        if asked and "accuracy" in model:
            by_class = (percent(model["accuracy_by_class"].get(each)) for each in asked)
            number, share = f"{model['accuracy_pictures']:,}", percent(model["accuracy"])
            accuracies.append([name, version, number, share, *by_class])
    parts = [f"{heading}\n", fitting(means)]
    if asked:
        parts += ["Accuracy over the pictures in folders named as a class\n", fitting(accuracies)]
    skipped = [f"  {file}: {reason}" for file, reason in results["skipped"].items()]
    if skipped:
        more = len(skipped) - MOST_SKIPPED_NAMED
        parts += [f"{count(len(skipped), 'file')} skipped", *skipped[:MOST_SKIPPED_NAMED]]
        parts += [f"  and {more:,} more, named in the JSON file of --output"] if more > 0 else []
        parts.append("")
    return "\n".join(parts)


def _printable(path: Path) -> str:
    """The path as text that any file or terminal takes: names on Linux may hold bytes that are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RetakeError(f"folder {folder} cannot be made ({error.strerror}); choose another --output") from None


def _write(file: Path, content: bytes) -> None:
    try:
        durable.write(file, content)
    except OSError as error:
        raise RetakeError(f"{file} cannot be written ({error.strerror}); choose another --output") from None
