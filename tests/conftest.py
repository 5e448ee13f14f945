"""Tests keep what they write, as the key that seals models, out of the account's own folders, and may fork nodes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from kubeflow.emulator.node_server import NodeServer

AT_IMPORT = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF2_BEHAVIOR": "1", "TF_USE_LEGACY_KERAS": "1"}
"""What imports heed, with what TensorFlow and TFX put there themselves. A server forks for those only that share it."""

FIRST = (
    *("test_continuous_training", "test_vertex", "test_trainer", "test_demo", "test_airflow_hotdog", "test_local"),
    *("test_kubeflow", "test_power_cut", "test_airflow", "test_emulator_penguin", "test_image", "test_evaluator"),
    *("test_hotdog_run", "test_run_node", "test_example_gen"),
)
"""Files that take minutes. A long one that begins last would have the other processors wait for its end, and two that
wait for Airflow do better apart than side by side."""

# A shell's background job ignores Ctrl-C, and so would all that tests start in it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: FIRST.index(item.path.stem) if item.path.stem in FIRST else len(FIRST))


@pytest.fixture(scope="session", autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    server = NodeServer(AT_IMPORT, tmp_path_factory.mktemp("nodes") / "log")
    yield server
    server.end()


@pytest.fixture(scope="module")
def node_server(nodes: NodeServer) -> Iterator[dict[str, str]]:
    """Nodes are forked that the tests of this file run, rather than import TensorFlow each: by a server that does so
    for Airflow's tasks, too, which are told nothing of this Python's settings. What names it to them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AIRFLOW", "PYTHON"))]:
            patch.delenv(name)
        named = {**AT_IMPORT, **nodes.started()}
        for name, value in named.items():
            patch.setenv(name, value)
        yield named
