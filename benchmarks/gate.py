"""Simulate how often the gate refuses a candidate that equals the model in service, and accepts a worse one.

The rate of disagreement of two models comes from real pictures: a head on a frozen network's features is trained with
and without a twentieth of the training pictures. Both heads answer the held-out fifth, for each of five fifths. There
are two kinds of heads: logistic regression, which converges, and Adam at a constant rate with a new seed each time,
which does not. The simulation draws eval splits with this rate. The worse model also loses 2 of 100 pictures.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.plain_keras import BATCH, pixels
from retake.features import of_pictures
from retake.gate import compare

SIZES = (250, 1750, 5000)
WORSE = 0.02
SIMULATIONS = 20_000
PENALTY = 0.01
"""LogisticRegression's C."""


def main(images: Path, weights: Path, store: Path, seed: int) -> None:
    """Prints the disagreement of the models for each head, and a line for each number of eval pictures."""
    features, labels = features_of(images, weights, store)
    for name, head in HEADS.items():
        gained, lost, accuracy = disagreement(head, features, labels, seed)
        disagree = (gained + lost) / len(labels)
        print(
            f"\n{name}, {len(labels):,} different pictures of {len(set(labels))} classes, accuracy {accuracy:.3f}: "
            f"with 5% more training pictures {gained} are gained and {lost} lost, so the models disagree on "
            f"{disagree:.1%}"
        )
        print(
            "\n| eval pictures | an equal model is refused: before | now "
            "| one that is 2 points worse is accepted: before | now |"
        )
        print("|---|---|---|---|---|")
        generator = np.random.default_rng(seed)
        for pictures in SIZES:
            equal = refused(pictures, disagree / 2, disagree / 2, generator)
            worse = refused(pictures, disagree / 2, disagree / 2 + WORSE, generator)
            shares = [*equal, *(1 - share for share in worse)]
            print(f"| {pictures:,} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)


def features_of(images: Path, weights: Path, store: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features float32[n, 1280] of EfficientNetV2B0 and labels int[n] of the distinct pictures in class folders."""
    import keras

    classes = sorted(folder.name for folder in images.iterdir() if folder.is_dir())
    files = {
        hashlib.sha256(path.read_bytes()).digest(): (str(path), label)
        for label, name in enumerate(classes)
        for path in sorted((images / name).iterdir())
    }

    def compute(which: np.ndarray) -> np.ndarray:
        network = keras.applications.EfficientNetV2B0(
            include_top=False, weights=str(weights), pooling="avg", input_shape=(224, 224, 3)
        )
        chosen = [file for file, is_chosen in zip(files.values(), which, strict=True) if is_chosen]
        return np.asarray(network.predict(pixels(chosen).batch(BATCH), verbose=0))

    store.parent.mkdir(parents=True, exist_ok=True)
    return of_pictures(list(files), str(store), compute), np.array([label for _, label in files.values()])


def disagreement(head: Head, features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[int, int, float]:
    """Number of pictures that more training pictures turn right and turn wrong, and the accuracy with them."""
    gained = lost = right = 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=seed).split(features, labels):
        before, _ = train_test_split(train, test_size=0.05, random_state=seed, stratify=labels[train])
        old, new = (
            head(features[rows], labels[rows], features[test], seed + number) == labels[test]
            for number, rows in enumerate((before, train))
        )
        gained += int((new & ~old).sum())
        lost += int((old & ~new).sum())
        right += int(new.sum())
    return gained, lost, right / len(labels)


def logistic_regression(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """int[n] answers to `test` of a head that is trained to convergence, so that the seed has no effect."""
    return np.asarray(
        make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=1000)).fit(x, y).predict(test)
    )


def constant_rate(x: np.ndarray, y: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """int[n] answers to `test` of a head that Adam trains at a constant rate, without convergence."""
    import keras

    keras.utils.set_random_seed(seed)
    head = keras.Sequential([keras.layers.Dropout(0.3), keras.layers.Dense(int(y.max()) + 1, activation="softmax")])
    head.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", jit_compile=False)
    scaler = StandardScaler().fit(x)
    head.fit(scaler.transform(x), y, batch_size=128, epochs=20, verbose=0)
    return np.asarray(head.predict(scaler.transform(test), verbose=0)).argmax(-1)


Head = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
HEADS: dict[str, Head] = {"logistic regression": logistic_regression, "Adam at a constant rate": constant_rate}


def refused(pictures: int, gains: float, losses: float, generator: np.random.Generator) -> tuple[float, float]:
    """The share of refused candidates: by the earlier rule (any lower accuracy), and by the gate's defaults."""
    drawn = generator.multinomial(pictures, [gains, losses, 1 - gains - losses], SIMULATIONS)[:, :2]
    before = float((drawn[:, 0] < drawn[:, 1]).mean())
    now = float(np.mean([_worse(int(gained), int(lost), pictures) for gained, lost in drawn]))
    return before, now


@functools.cache
def _worse(gained: int, lost: int, pictures: int) -> bool:
    return compare(gained, lost, pictures - gained - lost, pictures, confidence=0.95, max_regression=0).worse


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gate", description=__doc__)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="has a folder of pictures for each class")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights of EfficientNetV2B0 without its top")
    parser.add_argument("features", type=Path, metavar="FEATURES", help="folder for the features")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    main(options.images, options.weights, options.features, options.seed)
