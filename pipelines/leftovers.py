"""Cleans up after killed runs: executions that ML Metadata still calls running, and their half-written folders."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from retake import locks, places

_Execution = metadata_store_pb2.Execution


def clear(connection: metadata_store_pb2.ConnectionConfig, pipeline: str, root: str, alone: bool) -> None:
    """Marks executions of dead processes as failed, and removes the folders that they wrote to.

    Args:
      connection: of the metadata store.
      pipeline: the pipeline's name.
      root: of its runs, whose lock this process holds. A gs:// root has no locks, and is left alone.
      alone: whether no other process holds the root's lock, too.
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
        of = {each.type: each.name for each in store.get_contexts_by_execution(execution.id)}
        node = of["node"].removeprefix(f"{pipeline}.")
        with _dead(Path(root), node, of["pipeline_run"]) as dead:
            [now] = store.get_executions_by_id([execution.id])
            if dead and now.last_known_state == _Execution.RUNNING:
                _remove(Path(root) / node, execution.id, store)
                now.last_known_state = _Execution.FAILED
                store.put_executions([now])


def lock_of(root: Path, node: str, run_id: str) -> Path:
    """The file that a separate process locks while it runs a node."""
    return root / ".locks" / f"{node}-{run_id}".replace("/", "_")


@contextmanager
def _dead(root: Path, node: str, run_id: str) -> Iterator[bool]:
    """Whether the process that ran a node has ended, and no other takes its place meanwhile.

    A local run is over, as it would hold the root's lock. Nothing is known of a run of another root.
    """
    of_node = lock_of(root, node, run_id)
    if of_node.exists():
        with locks.held(of_node) as dead:
            yield dead
    else:
        yield (root / "runs" / run_id).is_dir()


def _remove(folder: Path, execution: int, store: MetadataStore) -> None:
    outputs = [path for path in folder.glob(f"*/{execution}") if not store.get_artifacts_by_uri(str(path))]
    for path in [*outputs, folder / ".system" / "executor_execution" / str(execution)]:
        shutil.rmtree(path, ignore_errors=True)
    for working in (folder / ".system" / "stateful_working_dir").glob("*"):
        with suppress(OSError):  # The project's nodes leave it empty.
            working.rmdir()
