"""Which task of a graph needs which."""

from __future__ import annotations

from typing import Any

from kubeflow.emulator.documents import Document, walk


def producer(name: str, tasks: Any) -> str:
    """The task of a name; TFX appends `_task` to those whose values are parameters of others."""
    return name if name in tasks else name.removesuffix("_task")


def inputs(task: Document, kind: str) -> Document:
    """Where a task takes its `artifacts` or `parameters` from."""
    return walk(task, f".inputs.{kind}") or {}


def dependencies(task: Document, tasks: Any) -> set[str]:
    """The tasks that a task waits for."""
    named = {walk(each, ".taskOutputArtifact.producerTask") for each in inputs(task, "artifacts").values()}
    for each in inputs(task, "parameters").values():
        named |= {walk(each, ".taskOutputParameter.producerTask"), walk(each, ".taskFinalStatus.producerTask")}
    return {producer(name, tasks) for name in {*named, *task.get("dependentTasks", [])} if name}
