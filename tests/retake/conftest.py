"""Models and pictures to ask them about."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tiny_models import BLUE, RED, paint, push


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


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two red and one blue picture in folders that are no classes."""
    folder = tmp_path / "hot dog"
    paint(folder / "a" / "one.png", RED)
    paint(folder / "a" / "two.png", RED)
    paint(folder / "b.bmp", BLUE)
    return folder
