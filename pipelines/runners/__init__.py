"""The runners: one module for each, with a subclass of `pipelines.runners.base.Runner`."""

from __future__ import annotations

import importlib

from pipelines.runners.base import Runner

RUNNERS = {
    "local": "pipelines.runners.local:Local",
    "airflow": "pipelines.runners.airflow:Airflow",
    "vertex": "pipelines.runners.vertex:Vertex",
    "kubeflow": "pipelines.runners.kubeflow:Kubeflow",
}
"""Runner → MODULE:CLASS. A module is imported when its runner is chosen. Other projects can add their runners here."""


def find(name: str) -> type[Runner]:
    """The class of a runner.

    Example:
        >>> find("local").waits
        True
    """
    module, _, cls = RUNNERS[name].partition(":")
    runner: type[Runner] = getattr(importlib.import_module(module), cls)
    return runner
