"""Executions whose processes are dead are closed, and their folders removed; all others are left alone."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipelines import leftovers, metadata

State = mlmd.Execution


class Root:
    """A root with a metadata store, in which the node Trainer has been run."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.connection = metadata.connection_config(f"sqlite:///{folder}/metadata.sqlite")
        self.store = MetadataStore(self.connection)
        names = ("pipeline", "pipeline_run", "node")
        self.kinds = {name: self.store.put_context_type(mlmd.ContextType(name=name)) for name in names}
        self.kind = self.store.put_execution_type(mlmd.ExecutionType(name="Trainer"))
        self.model = self.store.put_artifact_type(mlmd.ArtifactType(name="Model"))

    def execution(self, run: str, state: Any = State.RUNNING) -> int:
        """An execution of Trainer in a run, with a file in each folder of its own."""
        names = {"pipeline": "birds", "pipeline_run": run, "node": "birds.Trainer"}
        contexts = [mlmd.Context(type_id=self.kinds[kind], name=name) for kind, name in names.items()]
        made = mlmd.Execution(type_id=self.kind, last_known_state=state)
        execution, _, _ = self.store.put_execution(made, [], contexts, reuse_context_if_already_exist=True)
        for folder in self.folders(execution):
            folder.mkdir(parents=True)
            (folder / "file").write_text("half")
        return int(execution)

    def folders(self, execution: int) -> list[Path]:
        trainer = self.folder / "Trainer"
        return [
            trainer / "model" / str(execution),
            trainer / "model_run" / str(execution),
            trainer / ".system" / "executor_execution" / str(execution) / ".temp",
        ]

    def local_run(self, run: str) -> None:
        (self.folder / "runs" / run).mkdir(parents=True)

    def lock(self, run: str) -> Path:
        lock = leftovers.lock_of(self.folder, "Trainer", run)
        lock.parent.mkdir(exist_ok=True)
        lock.touch()
        return lock

    def clear(self, alone: bool = False) -> None:
        leftovers.clear(self.connection, "birds", str(self.folder), alone)

    def is_left(self, execution: int) -> bool:
        [found] = self.store.get_executions_by_id([execution])
        there = {folder.exists() for folder in self.folders(execution)}
        assert there == {found.last_known_state != State.FAILED}
        return found.last_known_state == State.RUNNING


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return Root(tmp_path)


def test_the_next_local_run_closes_and_removes_what_a_killed_one_left(root: Root) -> None:
    root.local_run("killed")
    root.local_run("done")
    dead, done = root.execution("killed"), root.execution("done", State.COMPLETE)
    root.clear(alone=True)
    assert not root.is_left(dead)
    assert all(folder.exists() for folder in root.folders(done))


def test_a_node_keeps_the_half_written_files_of_other_nodes(root: Root) -> None:
    copy = root.folder / ".metadata.sqlite.backup.1.tmp"
    copy.touch()
    root.clear(alone=False)
    assert copy.exists()
    root.clear(alone=True)
    assert not copy.exists()


def test_the_process_of_a_node_is_alive_while_it_holds_its_lock(root: Root) -> None:
    root.local_run("r1")  # Its summary is there, too.
    execution = root.execution("r1")
    with root.lock("r1").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root.clear(alone=True)
        assert root.is_left(execution)
    root.clear()
    assert not root.is_left(execution)


def test_a_run_of_another_root_in_the_same_store_is_left_alone(root: Root) -> None:
    execution = root.execution("elsewhere")
    root.clear(alone=True)
    assert root.is_left(execution)


def test_a_folder_that_the_store_has_an_artifact_in_is_never_removed(root: Root) -> None:
    root.local_run("killed")
    execution = root.execution("killed")
    model = root.folders(execution)[0]
    root.store.put_artifacts([mlmd.Artifact(type_id=root.model, uri=str(model))])
    root.clear(alone=True)
    assert (model / "file").exists()
