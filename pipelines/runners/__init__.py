"""Where the pipeline can run: one file for each place, all of them a `pipelines.runners.base.Runner`."""

from __future__ import annotations

import importlib

from pipelines.runners.base import Runner

RUNNERS = {
    "local": "pipelines.runners.local:Local",
    "airflow": "pipelines.runners.airflow:Airflow",
    "vertex": "pipelines.runners.vertex:Vertex",
    "kubeflow": "pipelines.runners.kubeflow:Kubeflow",
}
"""Runner → MODULE:CLASS. Each module is imported when its runner is chosen. Runners of other
projects add themselves here."""


def find(name: str) -> type[Runner]:
    """The class of a runner.

    Example:
        >>> find("local").waits
        True
    """
    module, _, cls = RUNNERS[name].partition(":")
    found: type[Runner] = getattr(importlib.import_module(module), cls)
    return found
