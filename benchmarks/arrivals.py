"""Measure how a model changes while ten record files arrive, for each way of training: fresh, share, warm or window.

The first file holds pictures of all classes. Of the files that arrive, every other one holds two classes only, and one
has wrong labels. The gate's rule judges each candidate on the eval pictures of old and new files. If it refuses the
candidate of the file with wrong labels, this file is removed; all other files stay. The heads are the Trainer's, on a
frozen network's features. The benchmark prints a Markdown table, and plots the accuracy on test pictures of all classes
after each arrival.

    python -m benchmarks.arrivals IMAGES TEST WEIGHTS STORE --plot arrivals.svg

IMAGES and TEST hold a folder of pictures for each class. WEIGHTS is a weights file of EfficientNetV2B0, and STORE a
folder for the features.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.gate import features_of
from components import head
from retake.gate import NEW, OLD, Comparison, compare, doubt
from retake.sections import EvaluatorSection

FIRST, ARRIVING, ARRIVALS, WRONG = 400, 75, 10, 6
"""Pictures of the first file and of each later file; number of later files; number of the file with wrong labels."""

EVAL, HELD_OUT = 5, 7
"""One in 5 pictures is an eval picture. One in 7 train pictures is held out, and chooses the head's penalty."""


ENLARGED = 0.84, 0.92
"""Range of the accuracy in the plot's second part."""

GATE = EvaluatorSection()


class Way(NamedTuple):
    """Settings of the configuration: trainer.start, trainer.new_share, trainer.replay and data.window."""

    start: str = "fresh"
    new_share: float | None = None
    replay: float = 0
    window: int | None = None


WAYS = {
    "fresh": Way(),
    "fresh, new_share 0.3": Way(new_share=0.3),
    "fresh, new_share 0.5": Way(new_share=0.5),
    "fresh, window 3": Way(window=3),
    "fresh, window 1": Way(window=1),
    "warm": Way("warm"),
    "warm, replay 1": Way("warm", replay=1),
}


class File(NamedTuple):
    """A record file: features float32[n, m] and labels int[n] of its train and its eval pictures."""

    train: head.Rows
    eval: head.Rows


class Service(NamedTuple):
    """The model in service, its penalty, and the files that it was trained on."""

    head: head.Head
    penalty: float
    known: set[int]


class Story(NamedTuple):
    """The results of a series of arrivals.

    Fields:
      old: accuracy on the test pictures, at first and after each arrival.
      new: right answers and pictures, summed over the eval splits of the arrivals without the wrong file.
      verdicts: whether each candidate was blessed.
    """

    old: list[float]
    new: tuple[int, int]
    verdicts: list[bool]


def story(way: Way, x: np.ndarray, y: np.ndarray, test: head.Rows, seed: int) -> Story:
    """Lets the files arrive. Their order depends on the seed only, so it is the same for each way."""
    classes = int(y.max()) + 1
    generator = np.random.default_rng(seed)
    files = {number: _file(x, labels, rows) for number, (rows, labels) in enumerate(_arrivals(y, generator))}
    present, first = {0: files[0]}, _joined([files[0].train])
    service = Service(*_fresh(first, classes), {0})
    old, right, pictures, verdicts = [_accuracy(service.head, test)], 0, 0, []
    for number in range(1, ARRIVALS + 1):
        present[number] = files[number]
        chosen = dict(list(present.items())[-way.window :]) if way.window else present
        fitted, penalty = _candidate(way, chosen, service, classes, generator)
        slices = {
            name: [file.eval for key, file in chosen.items() if (key in service.known) == known]
            for name, known in ((OLD, True), (NEW, False))
        }
        comparison = {name: _compared(fitted, service.head, parts) for name, parts in slices.items() if parts}
        answers = {
            str(key): _right_answers(fitted, file.eval) for key, file in chosen.items() if key not in service.known
        }
        in_doubt = OLD in comparison and doubt(comparison[OLD].candidate, answers, GATE.confidence, GATE.min_new_ratio)
        blessed = not (in_doubt or any(result.worse for result in comparison.values()))
        if blessed:
            known = service.known if way.start == "warm" else set()
            service = Service(fitted, penalty, known | set(chosen))
        elif number == WRONG:
            del present[number]
        old.append(_accuracy(service.head, test))
        verdicts.append(blessed)
        if number != WRONG:
            right, pictures = np.add((right, pictures), _right_answers(service.head, files[number].eval))
    return Story(old, (right, pictures), verdicts)


def _arrivals(y: np.ndarray, generator: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """Numbers and labels of the pictures of each file."""
    classes = int(y.max()) + 1
    left = list(generator.permutation(len(y)))
    files = []
    for number in range(ARRIVALS + 1):
        pair = {number % classes, (number + 1) % classes}
        of_two = number % 2 == 0 and number > 0
        rows = [row for row in left if not of_two or y[row] in pair][: ARRIVING if number else FIRST]
        left = [row for row in left if row not in set(rows)]
        files.append((np.array(rows), (y[rows] + (number == WRONG)) % classes))
    return files


def _file(x: np.ndarray, labels: np.ndarray, rows: np.ndarray) -> File:
    whole = head.Rows(x[rows], labels, np.ones(len(rows), "float32"))
    to_eval = np.arange(len(rows)) % EVAL == 0
    return File(whole.only(~to_eval), whole.only(to_eval))


def _candidate(
    way: Way, files: dict[int, File], service: Service, classes: int, generator: np.random.Generator
) -> tuple[head.Head, float]:
    """The head and its penalty, as in components/trainer.py."""
    new = [file.train for number, file in files.items() if number not in service.known]
    old = [file.train for number, file in files.items() if number in service.known]
    if way.start == "warm":
        rows = _joined(new)
        if way.replay:
            known = _joined(old)
            replayed = min(len(known.labels), round(way.replay * len(rows.labels)))
            chosen = np.zeros(len(known.labels), bool)
            chosen[generator.choice(len(known.labels), replayed, replace=False)] = True
            rows = _joined([rows, known.only(chosen)])
        return head.fit(rows, classes, service.penalty, service.head), service.penalty
    rows = _joined([*old, *new])
    if way.new_share and old:
        is_new = np.arange(len(rows.labels)) >= sum(len(part.labels) for part in old)
        weight = way.new_share / (1 - way.new_share) * (~is_new).sum() / is_new.sum()
        weights = np.where(is_new, weight, 1).astype("float32")
        rows = rows._replace(weights=weights / weights.mean())
    return _fresh(rows, classes)


def _fresh(rows: head.Rows, classes: int) -> tuple[head.Head, float]:
    trials = head.search(rows, np.arange(len(rows.labels)) % HELD_OUT == 0, classes)
    penalty = min(trials, key=lambda trial: trial.held_out.log_loss).penalty
    return head.fit(rows, classes, penalty), penalty


def _joined(parts: Sequence[head.Rows]) -> head.Rows:
    return head.Rows(*(np.concatenate([part[field] for part in parts]) for field in range(3)))


def _compared(candidate: head.Head, service: head.Head, parts: Sequence[head.Rows]) -> Comparison:
    """The gate's comparison on one slice."""
    rows = _joined(parts)
    now, then = (_answers(model, rows) == rows.labels for model in (candidate, service))
    gained, lost, both = (int(which.sum()) for which in (now & ~then, then & ~now, now & then))
    return compare(gained, lost, both, len(rows.labels), GATE.confidence, GATE.max_regression)


def _right_answers(model: head.Head, rows: head.Rows) -> tuple[int, int]:
    return int((_answers(model, rows) == rows.labels).sum()), len(rows.labels)


def _answers(model: head.Head, rows: head.Rows) -> np.ndarray:
    x = (rows.features - model.mean) / np.sqrt(model.variance)
    return np.asarray((x @ model.kernel + model.bias).argmax(1))


def _accuracy(model: head.Head, rows: head.Rows) -> float:
    return float((_answers(model, rows) == rows.labels).mean())


def main(images: Path, test: Path, weights: Path, store: Path, seeds: int, plot: Path) -> None:
    """Prints the table and writes the plot."""
    x, y = features_of(images, weights, store / "images")
    test_x, test_y = features_of(test, weights, store / "test")
    test_rows = head.Rows(test_x, test_y, np.ones(len(test_y), "float32"))
    print(
        f"Mean and standard deviation over {seeds} orders of the pictures, in percent; {len(test_y)} test pictures; "
        f"file {WRONG} has wrong labels.\n"
    )
    print("| way | first | after ten arrivals | lowest in between | new pictures | wrong file refused | others |")
    print("|---|---|---|---|---|---|---|")
    figure = Figure(figsize=(10, 4), layout="constrained")
    both = figure.subplots(1, 2)
    for name, way in WAYS.items():
        runs = [story(way, x, y, test_rows, seed) for seed in range(seeds)]
        old = np.array([run.old for run in runs])
        new = [run.new[0] / run.new[1] for run in runs]
        refused = sum(not run.verdicts[WRONG - 1] for run in runs)
        others = sum(not verdict for run in runs for n, verdict in enumerate(run.verdicts, 1) if n != WRONG)
        cells = [_in_words(old[:, 0]), _in_words(old[:, -1]), _in_words(old.min(1)), _in_words(new)]
        cells += [f"{refused} of {seeds}", f"{others} of {seeds * (ARRIVALS - 1)}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        for axes in both:
            axes.plot(range(ARRIVALS + 1), old.mean(0), label=name, marker="o", markersize=3)
    for axes in both:
        axes.set_xlabel("record files that have arrived")
        axes.axvline(WRONG, color="0.8", linestyle=":")
        axes.text(WRONG, 0.02, " wrong labels", color="0.5", transform=axes.get_xaxis_transform())
        axes.grid(alpha=0.3)
    both[0].set_ylabel("accuracy on test pictures of all classes")
    both[0].legend(fontsize="small")
    both[1].set(ylim=ENLARGED, title="the same, enlarged")
    figure.savefig(plot, bbox_inches="tight")


def _in_words(shares: Sequence[float] | np.ndarray) -> str:
    deviation = f" ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
    return f"{100 * np.mean(shares):.1f}{deviation}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "test", "weights", "store"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--plot", type=Path, required=True, help="file to draw to, such as arrivals.svg")
    options = parser.parse_args()
    main(options.images, options.test, options.weights, options.store, options.seeds, options.plot)
