"""A data set, its transform graph and a model, made once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from colours import coloured, config, write_records
from one_node import examples_from, train, transform_graph_for
from tfx.types import Artifact


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Examples of 40 pictures of each colour."""
    folder = tmp_path_factory.mktemp("colours")
    write_records(folder / "data" / "colours.tfrecord", coloured(40))
    return examples_from(folder, config(data={"location": str(folder / "data")}))


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory, colours: Artifact) -> Any:
    """The transform graph to 32 × 32 pixels."""
    return transform_graph_for(tmp_path_factory.mktemp("graph"), config(), colours)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, colours: Artifact, graph: Artifact) -> Any:
    """A LeNet-5 that tells the colours apart."""
    return train(tmp_path_factory.mktemp("trained"), config(), colours, graph)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What nodes tell the user, at INFO and above."""
    messages: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    logger, listener = logging.getLogger("retake"), Listener(logging.INFO)
    before, logger.level = logger.level, logging.DEBUG
    logger.addHandler(listener)
    yield messages
    logger.removeHandler(listener)
    logger.level = before
