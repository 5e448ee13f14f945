"""Compare the head with scikit-learn's logistic regression on the same features.

The logistic regression is tuned on a held-out fifth. Each seed leaves out another fifth of the pictures: as the test
pictures, or from the training pictures if a set has its own test folder. Identical pictures stay together. The drawn
pictures are always among the sets.
"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from retake import backbones as known
from retake import config, quiet, sample

with quiet.imports():
    import tensorflow as tf

    from benchmarks.plain_keras import pixels
    from components import backbones, head
    from components.training_split import held_out
    from retake.features import of_pictures, store_for

SEEDS = 5
INVERSE_PENALTIES = np.logspace(-5, 0, 11)
"""C of scikit-learn, from strong to weak."""


class Pictures(NamedTuple):
    features: np.ndarray
    """float32[n, features]"""
    labels: np.ndarray
    """int[n]"""
    digests: list[bytes]

    def only(self, chosen: np.ndarray) -> Pictures:
        digests = [digest for digest, is_chosen in zip(self.digests, chosen, strict=True) if is_chosen]
        return Pictures(self.features[chosen], self.labels[chosen], digests)


def main(backbone: known.Name, weights: str, sets: list[str], store: Path) -> None:
    warnings.filterwarnings("ignore", category=FutureWarning)
    network = backbones.build(backbone, weights, 224, True, lambda: np.empty(0)).network
    feature_store = store_for(str(store), {"backbone": backbone, "weights": weights})

    def read(name: str, folder: Path, classes: list[str]) -> Pictures:
        files = [(str(path), label) for label, cls in enumerate(classes) for path in sorted((folder / cls).iterdir())]
        digests = [hashlib.sha256(Path(path).read_bytes()).digest() for path, _ in files]

        def compute(which: np.ndarray) -> np.ndarray:
            chosen = [file for file, is_chosen in zip(files, which, strict=True) if is_chosen]
            whole = pixels(chosen).map(lambda picture: tf.cast(picture, "uint8"))
            return network.predict(whole.batch(8), verbose=0)

        features = of_pictures(digests, f"{feature_store}-{name}-{folder.name}", compute)
        return Pictures(features, np.array([label for _, label in files]), digests)

    console = Console()
    table = Table("", "trained on", "tested on", "scikit-learn", "head", "head - scikit-learn", "time", title=backbone)
    with tempfile.TemporaryDirectory() as drawn:
        sample.draw(Path(drawn) / "sample")
        for name, folder in [("sample", Path(drawn) / "sample" / "images"), *map(_set, sets)]:
            console.print(f"{name} …")
            classes = config.load(name).data.classes
            assert classes, f"{name} leaves data.classes to the records"
            parts = [read(name, folder / part, classes) for part in ("train", "test") if (folder / part).is_dir()]
            splits = [split(parts or [read(name, folder, classes)], seed) for seed in range(SEEDS)]
            (bar, bar_time), (own, own_time) = (timed(method, splits) for method in (scikit_learn, this_head))
            sizes = [f"{np.mean([len(parts[side].labels) for parts in splits]):.0f}" for side in (0, 1)]
            table.add_row(name, *sizes, *map(spread, (bar, own, own - bar)), f"{own_time / bar_time:.1f} ×")
    console.print(table)


def _set(argument: str) -> tuple[str, Path]:
    name, _, folder = argument.partition("=")
    return name, Path(folder)


def split(parts: list[Pictures], seed: int) -> tuple[Pictures, Pictures]:
    """The training and the test pictures. `parts` holds all pictures, or the training and the test pictures."""
    out = fifth(parts[0].digests, seed)
    return parts[0].only(~out), parts[1] if len(parts) == 2 else parts[0].only(out)


def fifth(digests: list[bytes], seed: int) -> np.ndarray:
    return np.array([hashlib.sha256(b"%d" % seed + digest).digest()[0] % 5 == 0 for digest in digests])


def scikit_learn(train: Pictures, test: Pictures, seed: int) -> float:
    out = fifth(train.digests, SEEDS + seed)
    fit, validation = train.only(~out), train.only(out)

    def fitted(to: Pictures, inverse_penalty: float) -> Pipeline:
        regression = LogisticRegression(C=inverse_penalty, max_iter=2000)
        return make_pipeline(StandardScaler(), regression).fit(to.features, to.labels)

    accuracies = [fitted(fit, c).score(validation.features, validation.labels) for c in INVERSE_PENALTIES]
    return float(fitted(train, INVERSE_PENALTIES[np.argmax(accuracies)]).score(test.features, test.labels))


def this_head(train: Pictures, test: Pictures, seed: int) -> float:
    """Fits the head like the Trainer. The seed has no effect."""
    classes = int(train.labels.max()) + 1
    mass = np.bincount(train.labels, minlength=classes)
    weights = (len(train.labels) / classes / mass)[train.labels].astype("float32")
    rows = head.Rows(train.features, train.labels, weights)
    trials = head.search(rows, held_out(train.digests), classes)
    best = min(trials, key=lambda trial: trial.held_out.log_loss)
    same = np.ones(len(test.labels), "float32")
    return head.quality(head.fit(rows, classes, best.penalty), head.Rows(test.features, test.labels, same)).accuracy


def timed(
    method: Callable[[Pictures, Pictures, int], float], splits: list[tuple[Pictures, Pictures]]
) -> tuple[np.ndarray, float]:
    begun = time.process_time()
    accuracies = [method(*parts, seed) for seed, parts in enumerate(splits)]
    return np.array(accuracies), time.process_time() - begun


def spread(values: np.ndarray) -> str:
    return f"{values.mean():.4f} ± {values.std(ddof=1):.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.head", description=__doc__)
    parser.add_argument(
        "sets",
        nargs="*",
        metavar="CONFIG=FOLDER",
        help="pictures in one folder per class of configs/CONFIG.yaml, or below train and test",
    )
    parser.add_argument("--backbone", default="EfficientNetV2B0", choices=get_args(known.Name))
    parser.add_argument("--weights", required=True, metavar="FILE", help="weights of the backbone without its top")
    parser.add_argument(
        "--features",
        type=Path,
        default=Path("runs/benchmarks"),
        metavar="FOLDER",
        help="folder for the features",
    )
    options = parser.parse_args()
    main(options.backbone, options.weights, options.sets, options.features)
