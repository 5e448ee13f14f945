"""Features of a frozen backbone: once per picture, from a file that may be damaged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from retake import features

PICTURES = [bytes([number]) * 32 for number in range(6)]


def counted(asked: list[int]) -> Callable[[np.ndarray], np.ndarray]:
    def compute(missing: np.ndarray) -> np.ndarray:
        asked.append(int(missing.sum()))
        return np.flatnonzero(missing)[:, None].astype(np.float32)

    return compute


def test_a_picture_goes_through_the_network_once(tmp_path: Path) -> None:
    asked: list[int] = []
    store = str(tmp_path / "network")
    first = features.of_pictures(PICTURES[:4], store, counted(asked))
    both = features.of_pictures(PICTURES, store, counted(asked))
    assert asked == [4, 2]
    assert first[:, 0].tolist() == [0, 1, 2, 3] and both[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert features.of_pictures(PICTURES[2:4], store, counted(asked))[:, 0].tolist() == [2, 3]
    assert asked == [4, 2]


def test_features_stay_on_file_that_a_run_does_not_need(tmp_path: Path) -> None:
    asked: list[int] = []
    store = str(tmp_path / "network")
    features.of_pictures(PICTURES[:3], store, counted(asked))
    features.of_pictures(PICTURES[3:4], store, counted(asked))
    features.of_pictures(PICTURES, store, counted(asked))
    assert asked == [3, 1, 2]


def test_runs_at_the_same_time_lose_nothing_of_each_other(tmp_path: Path) -> None:
    asked: list[int] = []
    store = str(tmp_path / "network")

    def other_run_ends_first(missing: np.ndarray) -> np.ndarray:
        features.of_pictures(PICTURES[3:], store, counted(asked))
        return counted(asked)(missing)

    features.of_pictures(PICTURES[:3], store, other_run_ends_first)
    features.of_pictures(PICTURES, store, counted(asked))
    assert asked == [3, 3]


@pytest.mark.parametrize("left", [0, 10, 200, -3])
def test_a_file_that_is_empty_or_cut_off_is_computed_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    asked: list[int] = []
    store = str(tmp_path / "network")
    features.of_pictures(PICTURES, store, counted(asked))
    [file] = (tmp_path / "network").iterdir()
    file.write_bytes(file.read_bytes()[:left])
    with caplog.at_level(logging.INFO, "retake"):
        again = features.of_pictures(PICTURES, store, counted(asked))
    features.of_pictures(PICTURES, store, counted(asked))
    assert asked == [6, 6] and again[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert any("computing them again" in line for line in caplog.messages)
