"""What pushed models answer: mean predicted distributions over a folder, and single predictions.

A pushed model is a SavedModel at ``models/PIPELINE/VERSION/``. Its signature ``image_bytes`` takes
string[batch], encoded JPEG, PNG or BMP, and returns ``probabilities`` float32[batch, classes],
``classes`` string[batch, classes] (the names, the same in each row) and ``label`` string[batch].
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from retake import durable, quiet, seal
from retake.errors import RetakeError
from retake.files import open_regular
from retake.images import TOO_MANY_BYTES, to_graph_format
from retake.sections import DataSection
from retake.terminal import in_lines, in_one_line

if TYPE_CHECKING:
    from numpy import float32
    from numpy.typing import NDArray

    Array = NDArray[float32]

SIGNATURE = "image_bytes"
BATCH = 32
MOST_SKIPPED_NAMED = 5
MOST_CLASSES_DRAWN = 20
MOST_CLASSES_IN_COLUMNS = 8
LEGEND_COLUMNS = 3
FONTS = ["DejaVu Sans", "Noto Sans CJK JP", "Arial Unicode MS"]

MAX_PIXELS: int = DataSection.model_fields["max_pixels"].default
MAX_BYTES: int = DataSection.model_fields["max_bytes"].default


@dataclass(frozen=True)
class Model:
    """A loaded model: call it with n encoded pictures for float32[n, classes], the rows of which sum to 1.

    The call raises ValueError when a picture among them cannot be decoded, RetakeError when the answer is no
    distribution over the classes.
    """

    path: Path
    version: int | None
    classes: list[str]
    saved_model: Any = field(repr=False)  # holds the variables that the signature only borrows

    def __call__(self, encoded: Sequence[bytes]) -> Array:
        import numpy as np

        try:
            probabilities = _signature(self.saved_model, encoded)["probabilities"].numpy()
        except Exception as error:
            raise ValueError(f"{self.path} cannot decode it: {_first_line(error)}") from None
        if probabilities.shape != (len(encoded), len(self.classes)) or not np.allclose(
            probabilities.sum(axis=1), 1, atol=0.01
        ):
            raise RetakeError(f"{self.path} answers with numbers that are no probabilities; name another version")
        return probabilities


def load(model: Path, trust: bool = False) -> Model:
    """Loads a pushed model and asks it once, so that a model of another kind is found out here.

    Args:
      model: A version's folder, or the folder of versions: then the highest.
      trust: Load it also when this account has not pushed it. A model is code: see docs/models.md.

    Returns:
      A callable from encoded pictures to float32[pictures, classes], with ``classes``, ``path`` and
      ``version`` (None when the folder's name is no number).

    Raises:
      RetakeError: no model there, half a model, one of unknown origin, or one without the signature.

    Example:
        >>> from pathlib import Path
        >>> from retake.results import load
        >>> model = load(Path("models/hotdog"))  # doctest: +SKIP
        >>> model([Path("lunch.jpeg").read_bytes()])  # doctest: +SKIP
        array([[0.08, 0.11, 0.81]], dtype=float32)
    """
    path = _version_folder(model)
    if not trust and (stranger := seal.broken(path)):
        raise RetakeError(
            f"{path} {stranger}. A model is code that may read and write your files when it is loaded; "
            "if you trust where it comes from, load it with --trust"
        )
    tf = _tensorflow()
    try:
        saved_model = tf.saved_model.load(str(path))
    except Exception as error:  # a half-written file can fail as almost anything
        raise RetakeError(
            f"{path} is not a whole SavedModel ({_first_line(error)}); push it again or name another version"
        ) from None
    signatures = getattr(saved_model, "signatures", {})
    if SIGNATURE not in signatures:
        there = ", ".join(sorted(signatures)) or "none"
        raise RetakeError(f"{path} has no signature {SIGNATURE} (it has: {there}); name a model that Retake pushed")
    lacking = {"probabilities", "classes"} - set(signatures[SIGNATURE].structured_outputs)
    if lacking:
        raise RetakeError(f"{path} answers without {' and '.join(lacking)}; name a model that Retake pushed")
    grey = tf.io.encode_png(tf.fill([8, 8, 3], tf.constant(128, tf.uint8))).numpy()
    name = path.absolute().name
    try:
        classes = [each.decode() for each in _signature(saved_model, [grey])["classes"].numpy()[0]]
        loaded = Model(path, int(name) if name.isdecimal() else None, classes, saved_model)
        loaded([grey])
    except RetakeError:
        raise
    except Exception as error:
        raise RetakeError(f"{path} cannot be asked ({_first_line(error)}); name another version") from None
    return loaded


def compare(images: Path, models: dict[str, Path], output: Path | None = None, trust: bool = False) -> str:
    """Sets the mean predicted distributions of models over a folder of pictures side by side.

    All models are asked about the same pictures: one that any of them cannot decode is skipped for all.
    Formats that the graph does not decode (GIF, WebP, TIFF, …) are converted. Where pictures lie in folders named as
    classes of a model, its accuracy over those is told too.

    Args:
      images: Folder of pictures, read recursively. Hidden files are passed over.
      models: Name → version's folder, or folder of versions. Their classes may differ.
      output: None, or the prefix of two files to write: ``PREFIX.png``, a chart, and ``PREFIX.json``::

          {"pictures": 400, "skipped": {"notes.txt": "not a picture"}, "models": {"baseline": {
              "path": "models/hotdog/1", "version": 1,
              "mean": {"food": 0.42, "sandwich": 0.213, "taco": 0.367},
              "votes": {"food": 181, "sandwich": 74, "taco": 145},
              "accuracy": 0.84, "accuracy_by_class": {"food": 0.81, …}, "accuracy_pictures": 1200}}}

        The three accuracy keys are there only when something is known.
      trust: As for `load`.

    Returns:
      The table, as text.

    Raises:
      RetakeError: no picture that can be read, no such model, or no place to write to.

    Example:
        >>> from pathlib import Path
        >>> from retake.results import compare
        >>> print(compare(Path("data/hot dog"), {"baseline": Path("models/hotdog/1")}, Path("results")))
        ... # doctest: +SKIP
    """
    if output and output.suffix in (".png", ".json"):
        output = output.with_suffix("")
    written = [output.with_name(f"{output.name}{ending}") for ending in (".png", ".json")] if output else []
    ours = {file.resolve() for file in written}
    files = [file for file in _files(images) if file.resolve() not in ours]
    if not files:
        raise RetakeError(f"{images} holds no files; name a folder of pictures")
    for folder in models.values():
        _version_folder(folder)
    for file in written:
        _make_folder(file.parent)
    tallies = {name: _Tally(load(folder, trust)) for name, folder in models.items()}
    loaded = [tally.model for tally in tallies.values()]
    skipped: dict[Path, str] = {}
    console = Console(stderr=True)
    batches = [files[start : start + BATCH] for start in range(0, len(files), BATCH)]
    pictures = 0
    for batch in track(batches, "Predicting", console=console, transient=True, disable=not console.is_terminal):
        for file, answers in _ask(loaded, _read(batch, skipped), skipped):
            pictures += 1
            for tally, answer in zip(tallies.values(), answers, strict=True):
                tally.add(answer, folder=file.absolute().parent.name)
    if not pictures:
        file, reason = next(iter(skipped.items()))
        raise RetakeError(f"none of the {len(files)} files in {images} is usable; {_printable(file)}: {reason}")
    results: dict[str, Any] = {
        "pictures": pictures,
        "skipped": {_printable(file.relative_to(images)): reason for file, reason in sorted(skipped.items())},
        "models": {name: tally.result(pictures) for name, tally in tallies.items()},
    }
    where = in_one_line(_printable(Path(images.absolute().name)))
    shown = in_lines(results)
    report = _report(shown, where)
    if not written:
        return f"{report}\nFor a chart and the numbers as JSON, give --output PREFIX."
    chart, numbers = written
    _write(chart, _chart(shown, where))
    _write(numbers, json.dumps(results, indent=2, ensure_ascii=False).encode() + b"\n")
    return f"{report}\nChart: {in_one_line(chart)}\nNumbers: {in_one_line(numbers)}"


def predict(model: Path, pictures: Sequence[Path], trust: bool = False) -> tuple[str, dict[str, str]]:
    """Asks a model about single pictures.

    Args:
      model: A version's folder, or the folder of versions: then the highest.
      pictures: Files in any format that Pillow reads, and folders of such files.
      trust: As for `load`.

    Returns:
      A table as text, a row per picture: its label and the probability of each class, of the five most
      probable where there are many; and file → reason of those that have no answer.

    Raises:
      RetakeError: no such model, a folder without files, or no picture that can be read.

    Example:
        >>> from pathlib import Path
        >>> from retake.results import predict
        >>> table, unreadable = predict(Path("models/hotdog"), [Path("lunch.jpeg")])  # doctest: +SKIP
    """
    _version_folder(model)
    files = [file for each in pictures for file in (_files(each) if each.is_dir() else [each])]
    if not files:
        raise RetakeError(f"{' and '.join(map(_printable, pictures))} holds no files; name a folder of pictures")
    skipped: dict[Path, str] = {}
    readable = [file for file in files if _can_be_read(file, skipped)]
    answers: list[tuple[Path, Array]] = []
    if readable:
        loaded = load(model, trust)
        for start in range(0, len(readable), BATCH):
            read = _read(readable[start : start + BATCH], skipped)
            answers += [(file, answer) for file, (answer,) in _ask([loaded], read, skipped)]
    if not answers:
        file, reason = next(iter(skipped.items()))
        more = f" (and {len(skipped) - 1:,} more)" if len(skipped) > 1 else ""
        raise RetakeError(f"{_printable(file)} cannot be predicted: {reason}{more}")
    columns = len(loaded.classes) <= MOST_CLASSES_IN_COLUMNS
    rows = [["picture", "label", *(loaded.classes if columns else ["most probable"])]]
    for file, answer in answers:
        best = [f"{loaded.classes[at]} {_percent(answer[at])}" for at in answer.argsort()[:-6:-1]]
        chances = map(_percent, answer) if columns else [", ".join(best)]
        rows.append([_printable(file), loaded.classes[answer.argmax()], *chances])
    table = _text(_table(in_lines(rows), left=2 if columns else 3)).rstrip("\n")
    return table, {_printable(file): reason for file, reason in skipped.items()}


def _can_be_read(file: Path, skipped: dict[Path, str]) -> bool:
    try:
        open_regular(file).close()
    except OSError as error:
        skipped[file] = error.strerror or str(error)
    return file not in skipped


class _Tally:
    """What one model said so far: sums, so that memory does not grow with the pictures."""

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


def _tensorflow() -> Any:
    with quiet.imports():
        import tensorflow as tf
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return tf


def _version_folder(model: Path) -> Path:
    if str(model).startswith("gs:/"):
        address = str(model).replace("gs:/", "gs://", 1)
        raise RetakeError(f"{address} is not on this machine; gcloud storage cp -r {address} models/ brings it")
    if (model / "saved_model.pb").is_file():
        return model
    if not model.is_dir():
        raise RetakeError(f"there is no model {model}; name models/PIPELINE or models/PIPELINE/VERSION")
    versions = {int(path.name): path for path in model.iterdir() if path.name.isdecimal() and path.is_dir()}
    if not versions:
        raise RetakeError(f"{model} holds no SavedModel and no numbered versions; name models/PIPELINE")
    # Never silently an older one: a comparison of the wrong version looks just like one of the right version.
    newest = versions[max(versions)]
    if not (newest / "saved_model.pb").is_file():
        whole = [str(path) for _, path in sorted(versions.items()) if (path / "saved_model.pb").is_file()]
        advice = f"name another version: {', '.join(whole)}" if whole else "push again"
        raise RetakeError(f"{newest} is only half pushed, saved_model.pb is missing; {advice}")
    return newest


def _signature(saved_model: Any, encoded: Sequence[bytes]) -> Any:
    tf = _tensorflow()
    return saved_model.signatures[SIGNATURE](image_bytes=tf.constant(list(encoded), tf.string))


def _files(images: Path) -> list[Path]:
    if not images.is_dir():
        raise RetakeError(f"there is no folder {images}; name a folder of pictures")
    return sorted(
        file
        for file in images.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(images).parts)
    )


def _read(files: Sequence[Path], skipped: dict[Path, str]) -> dict[Path, bytes]:
    """The pictures' bytes in a format of the graph; files that give none go to `skipped` with the reason."""
    read = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about odd metadata
        for file in files:
            try:
                read[file] = _in_graph_format(file)
            except OSError as error:
                skipped[file] = error.strerror or str(error)
            except ValueError as error:
                skipped[file] = str(error)
    return read


def _in_graph_format(file: Path) -> bytes:
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(TOO_MANY_BYTES)
    return to_graph_format(file.read_bytes(), MAX_PIXELS, MAX_BYTES)


def _ask(
    models: list[Model], pictures: dict[Path, bytes], skipped: dict[Path, str]
) -> Iterator[tuple[Path, tuple[Array, ...]]]:
    """Yields each picture with every model's float32[classes]; the undecodable go to `skipped`."""
    if not pictures:
        return
    try:
        answers = [model(list(pictures.values())) for model in models]
    except ValueError as error:
        if len(pictures) == 1:
            skipped[next(iter(pictures))] = str(error)
        else:  # one bad picture fails its batch
            for file, encoded in pictures.items():
                yield from _ask(models, {file: encoded}, skipped)
        return
    yield from zip(pictures, zip(*answers, strict=True), strict=True)


def _report(results: dict[str, Any], where: str) -> str:
    models: dict[str, Any] = results["models"]
    classes = _classes(models)
    asked = [each for each in classes if any(each in m.get("accuracy_by_class", {}) for m in models.values())]
    means = [["model", "version", *classes]]
    accuracies = [["model", "version", "pictures", "accuracy", *asked]]
    for name, model in models.items():
        version = _dash(model["version"])
        means.append([name, version, *(_percent(model["mean"].get(each)) for each in classes)])
        if asked and "accuracy" in model:
            by_class = (_percent(model["accuracy_by_class"].get(each)) for each in asked)
            number, share = f"{model['accuracy_pictures']:,}", _percent(model["accuracy"])
            accuracies.append([name, version, number, share, *by_class])
    pictures = _count(results["pictures"], "picture")
    parts = [f"Mean predicted distribution over {pictures} in {where}\n", _fitting(means)]
    if asked:
        parts += ["Accuracy over the pictures in folders named as a class\n", _fitting(accuracies)]
    skipped = [f"  {file}: {reason}" for file, reason in results["skipped"].items()]
    if skipped:
        more = len(skipped) - MOST_SKIPPED_NAMED
        parts += [f"{_count(len(skipped), 'file')} skipped", *skipped[:MOST_SKIPPED_NAMED]]
        parts += [f"  and {more:,} more, named in the JSON file of --output"] if more > 0 else []
        parts.append("")
    return "\n".join(parts)


def _chart(results: dict[str, Any], where: str) -> bytes:
    """A PNG: a group of bars per class, in each a bar per model."""
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    models: dict[str, Any] = results["models"]
    every = _classes(models)
    highest = {name: max(model["mean"].get(name, 0) for model in models.values()) for name in every}
    drawn = set(sorted(every, key=highest.__getitem__, reverse=True)[:MOST_CLASSES_DRAWN])
    classes = [name for name in every if name in drawn]
    colours: Sequence[Any] = ["#4477aa", "#e39a3b", "#3f9b84", "#b0567d", "#8a94a0", "#7a5fa8"]
    if len(models) > len(colours):
        colours = colormaps["viridis"].resampled(len(models)).colors  # type: ignore[attr-defined]
    several = len(models) > 1
    share = 0.76 if several else 0.62  # of a class's height that is bars
    bar = share / len(models)
    ink = "#1f2933"
    # Names of classes and models are text, never mathematics, and may need a wider font.
    style: dict[Any, Any] = {"font.family": FONTS, "font.size": 11, "text.color": ink, "text.parse_math": False}
    with rc_context(style), warnings.catch_warnings(), io.BytesIO() as png:
        warnings.simplefilter("ignore")
        height = len(classes) * max(0.42, 0.27 * len(models) / share)  # inches
        figure = Figure(figsize=(8, height), dpi=160)
        axes = figure.add_axes((0, 0, 1, 1))
        for (name, model), colour in zip(models.items(), colours, strict=False):
            places, means = [], []
            for at, each in enumerate(classes):
                if each in model["mean"]:
                    # Around the class's name stand the bars of those models that know it.
                    knowing = [other for other, known in models.items() if each in known["mean"]]
                    places.append(at + bar * (knowing.index(name) - (len(knowing) - 1) / 2))
                    means.append(model["mean"][each])
            bars = axes.barh(places, means, height=bar * 0.9, color=colour)
            bars.set_label(f"\u200b{_versioned(name, model)}")  # a legend leaves out what begins with "_"
            axes.bar_label(bars, [_percent(mean) for mean in means], padding=4, fontsize=10)
        axes.set_yticks(range(len(classes)), classes, fontsize=12, color=ink)
        axes.set_ylim(len(classes) - 0.5, -0.5)
        axes.set_xlim(0, max(highest.values()) * 1.08)
        axes.xaxis.set_visible(False)
        axes.tick_params(length=0, pad=8)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.spines["left"].set_color("#c5ccd3")
        under = [] if several else [_versioned(*next(iter(models.items())))]
        if len(classes) < len(highest):
            under.append(f"the {len(classes)} most predicted of {len(highest):,} classes")
        above = 8 + (20 * -(-len(models) // LEGEND_COLUMNS) if several else 0)  # points over the bars
        place: dict[str, Any] = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
        axes.annotate(" · ".join(under), xytext=(0, above), color="#6b7785", **place)
        heading = f"Mean predicted distribution over {_count(results['pictures'], 'picture')} in {where}"
        axes.annotate(heading, xytext=(0, above + 20 * bool(under)), fontsize=13, weight="bold", **place)
        if several:
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(0, 1 + 4 / 72 / height),
                ncols=LEGEND_COLUMNS,
                frameon=False,
                borderpad=0,
                borderaxespad=0,
                handlelength=0.9,
                handleheight=0.9,
                handletextpad=0.4,
                columnspacing=1.6,
            )
        figure.savefig(png, format="png", bbox_inches="tight", pad_inches=0.2)
        return png.getvalue()


def _versioned(name: str, model: dict[str, Any]) -> str:
    version = "" if model["version"] is None else f" v{model['version']}"
    accuracy = f", accuracy {_percent(model['accuracy'])}" if "accuracy" in model else ""
    return f"{name}{version}{accuracy}"


def _classes(models: dict[str, Any]) -> list[str]:
    """The union of the models' classes, in the order in which they first appear."""
    return list(dict.fromkeys(name for model in models.values() for name in model["mean"]))


def _percent(share: float | None) -> str:
    return _dash(share, "{:.1%}")


def _dash(value: Any, form: str = "{}") -> str:
    return "–" if value is None else form.format(value)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _printable(path: Path) -> str:
    """The path as text that any file or terminal takes: names on Linux may hold bytes that are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


def _fitting(rows: list[list[str]]) -> str:
    """The rows as a table, or its columns as rows where the terminal is too narrow."""
    upright = _table(rows)
    if _width(upright) <= _terminal_width():
        return _text(upright)
    return _text(_table([list(column) for column in zip(*rows, strict=True)]))


def _table(rows: list[list[str]], left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if at < left else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _console(width: int) -> Console:
    # Plain text, and names are no markup.
    return Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False, color_system=None)


def _width(table: Table) -> int:
    return _console(10_000).measure(table).maximum


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns


def _text(table: Table) -> str:
    # No number is broken into two lines, even where a table is wider than the terminal.
    console = _console(max(_width(table), 1))
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


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


def _first_line(error: Exception) -> str:
    """What went wrong, without TensorFlow's preamble and its names of functions and nodes."""
    text = re.sub(r"{{.*?}} *", "", str(error).rpartition("<stack traces unavailable>")[2])
    return (text.strip().splitlines() or [type(error).__name__])[0][:160]
