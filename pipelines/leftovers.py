"""Cleans up after killed runs: executions that ML Metadata still calls running, and their half-written folders."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from retake import places

_Execution = metadata_store_pb2.Execution


def clear(connection: metadata_store_pb2.ConnectionConfig, pipeline: str, root: str, alone: bool) -> None:
    """Marks executions of dead processes as failed, and removes the folders that they wrote to.

    Args:
      connection: of the metadata store.
      pipeline: the pipeline's name.
      root: root of its runs. Nothing is done for gs://, because dead processes are found by their locks.
      alone: whether this process holds the lock of the root's local runs.
    """
    if places.is_remote(root):
        return
    for unfinished in Path(root).glob(".*.tmp") if alone else []:
        unfinished.unlink(missing_ok=True)
    store = MetadataStore(connection)
    context = store.get_context_by_type_and_name("pipeline", pipeline)
    for execution in store.get_executions_by_context(context.id) if context else []:
        if execution.last_known_state != _Execution.RUNNING:
            continue
        contexts = {context.type: context.name for context in store.get_contexts_by_execution(execution.id)}
        node = contexts["node"].removeprefix(f"{pipeline}.")
        with _dead(Path(root), node, contexts["pipeline_run"], alone) as dead:
            [now] = store.get_executions_by_id([execution.id])
            if dead and now.last_known_state == _Execution.RUNNING:
                _remove(Path(root) / node, execution.id, store)
                now.last_known_state = _Execution.FAILED
                store.put_executions([now])


def lock_of(root: Path, node: str, run_id: str) -> Path:
    """The file that a separate process locks while it runs a node."""
    return root / ".locks" / f"{node}-{run_id}".replace("/", "_")


@contextmanager
def _dead(root: Path, node: str, run_id: str, alone: bool) -> Iterator[bool]:
    """Whether the process that ran a node has ended. No other process can run the node meanwhile.

    False for a run of another root, since nothing is known about it.
    """
    of_node, of_run = lock_of(root, node, run_id), root / "runs" / run_id
    if alone and of_run.is_dir() and not of_node.exists():
        yield True
    elif not of_run.is_dir() and not of_node.exists():
        yield False
    else:
        with (of_node if of_node.exists() else root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True


def _remove(folder: Path, execution: int, store: MetadataStore) -> None:
    outputs = [path for path in folder.glob(f"*/{execution}") if not store.get_artifacts_by_uri(str(path))]
    for path in [*outputs, folder / ".system" / "executor_execution" / str(execution)]:
        shutil.rmtree(path, ignore_errors=True)
    for working in (folder / ".system" / "stateful_working_dir").glob("*"):
        with suppress(OSError):  # The project's nodes leave it empty.
            working.rmdir()
