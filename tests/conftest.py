"""Tests keep what they write, as the key that seals models, out of the account's own folders, and may fork nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from kubeflow.emulator.node_server import NodeServer

PUT_BY_IMPORTS = {"TF2_BEHAVIOR": "1", "TF_USE_LEGACY_KERAS": "1"}
"""What TensorFlow and TFX put into the environment of a test. A server forks for those only that share its own."""

# A shell's background job ignores Ctrl-C, and so would all that tests start in it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    server = NodeServer({"TF_CPP_MIN_LOG_LEVEL": "3", **PUT_BY_IMPORTS}, tmp_path_factory.mktemp("nodes") / "log")
    yield server
    server.end()


@pytest.fixture(scope="module")
def nodes_of_airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The same for Airflow's tasks, which are told nothing of this Python's settings: what names it to them."""
    server = NodeServer({}, tmp_path_factory.mktemp("nodes") / "log")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AIRFLOW", "PYTHON"))]:
            patch.delenv(name)
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        named = server.started()
    yield named
    server.end()


@pytest.fixture(scope="module")
def node_server(nodes: NodeServer) -> Iterator[None]:
    """Nodes are forked that the tests of this file run, rather than import TensorFlow each."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**nodes.started(), **PUT_BY_IMPORTS}.items():
            patch.setenv(name, value)
        yield
