"""The dependencies between the tasks of a graph."""

from __future__ import annotations

from typing import Any

from kubeflow.emulator.documents import Document, walk


def producer(name: str, tasks: Any) -> str:
    """The task's name in the graph. TFX appends `_task` to the name of a task whose value is another's parameter."""
    return name if name in tasks else name.removesuffix("_task")


def inputs(task: Document, kind: str) -> Document:
    """The sources of a task's `artifacts` or `parameters`, by input name."""
    return walk(task, f".inputs.{kind}") or {}


def dependencies(task: Document, tasks: Any) -> set[str]:
    """The tasks that a task waits for."""
    named = {walk(each, ".taskOutputArtifact.producerTask") for each in inputs(task, "artifacts").values()}
    for each in inputs(task, "parameters").values():
        named |= {walk(each, ".taskOutputParameter.producerTask"), walk(each, ".taskFinalStatus.producerTask")}
    return {producer(name, tasks) for name in {*named, *task.get("dependentTasks", [])} if name}
