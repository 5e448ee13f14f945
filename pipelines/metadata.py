"""The ML Metadata store: opens it, checks and copies its file, and reads the summary of a run from it."""

from __future__ import annotations

import logging
import os
import re
import shlex
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from retake import durable
from retake.errors import RetakeError, UsageError, first_line
from retake.summary import RESOLVERS, Node, NodeState, Summary, of_run

PASSWORD_VARIABLE = "RETAKE_METADATA_PASSWORD"  # noqa: S105

_STATES: dict[int, NodeState] = {
    metadata_store_pb2.Execution.COMPLETE: "complete",
    metadata_store_pb2.Execution.CACHED: "cached",
    metadata_store_pb2.Execution.RUNNING: "running",
}

_ATTEMPT = "attempt_begun"
"""Custom property of an execution. It is a double, because PostgreSQL's integers have only 32 bits."""

_log = logging.getLogger("retake")

_get_artifacts_by_id = MetadataStore.get_artifacts_by_id


def _in_the_order_of_the_ids(
    store: MetadataStore, artifact_ids: Iterable[int], *options: Any
) -> list[metadata_store_pb2.Artifact]:
    """The artifacts with these ids, in the order of the ids.

    TFX's cache pairs the artifacts with the events that the ids come from. But PostgreSQL returns rows in the order of
    their last change, so the `model` of a cached Trainer would become its `model_run`.
    """
    ids = list(dict.fromkeys(artifact_ids))
    by_id = {artifact.id: artifact for artifact in _get_artifacts_by_id(store, ids, *options)}
    return [by_id[artifact_id] for artifact_id in ids if artifact_id in by_id]


MetadataStore.get_artifacts_by_id = _in_the_order_of_the_ids


def connection_config(url: str) -> metadata_store_pb2.ConnectionConfig:
    """MLMD's connection for `metadata.url`. Opens the store once, and makes the folder of a SQLite file.

    Raises:
      UsageError: the URL lacks a host, a database or a file.
      RetakeError: the store cannot be opened.
    """
    config = _connection_config(url)
    try:
        if config.HasField("sqlite"):
            _check(Path(config.sqlite.filename_uri), url)
        MetadataStore(config)
    except RetakeError:
        raise
    except Exception as error:  # RuntimeError, or one of MLMD's own.
        reason = first_line(error)
        hint = "" if url.startswith("sqlite:") else f"; is the server up, and its password in {PASSWORD_VARIABLE}?"
        raise RetakeError(f"metadata.url {url} cannot be opened as a metadata store ({reason}){hint}") from None
    return config


def _connection_config(url: str) -> metadata_store_pb2.ConnectionConfig:
    config = metadata_store_pb2.ConnectionConfig()
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RetakeError(f"metadata.url {url}: its folder cannot be made ({error.strerror})") from None
        config.sqlite.filename_uri = str(path)
        config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
        return config
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if not parts.hostname or not database:
        raise UsageError(f"metadata.url {url} must read {parts.scheme}://USER@HOST[:PORT]/DATABASE")
    password = os.environ.get(PASSWORD_VARIABLE, "")
    if parts.scheme == "mysql":
        server: Any = config.mysql
        server.database, server.port = database, parts.port or 3306
    else:
        server = config.postgresql
        server.dbname, server.port = database, str(parts.port or 5432)
    server.host, server.user, server.password = parts.hostname, unquote(parts.username or ""), password
    if config.HasField("postgresql"):  # MLMD escapes nothing in libpq's connection string and in SQL.
        if not re.fullmatch(r"[\w-]+", database):
            raise UsageError(f"metadata.url {url}: the database's name may hold letters, digits, _ and - only")
        for name in ("host", "user", "password"):
            setattr(server, name, _for_libpq(getattr(server, name)))
    return config


def _for_libpq(value: str) -> str:
    escaped = value.replace("\\", r"\\").replace("'", r"\'")
    return f"'{escaped}'" if value else value


def _check(file: Path, url: str) -> None:
    """Raises UsageError, with a remedy, if a SQLite file is damaged, or if it is gone and there is a copy of it."""
    copy = _copy_of(file)
    damage = _damage(file) if file.exists() else "it is gone, but there is a copy of it" if copy.exists() else None
    if damage is None:
        return
    if copy.exists():
        kept = datetime.fromtimestamp(copy.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        back = shlex.join(["cp", str(copy), str(file)])
        journal = shlex.join(["rm", "-f", f"{file}-journal"])
        remedy = f"restore the copy of {kept} with: {journal} && {back} (later runs are lost: their nodes run again)"
        remedy += f"; to begin anew instead: {shlex.join(['rm', '-f', str(file), str(copy)])}"
    else:
        remedy = f"there is no copy of it; to begin anew: {shlex.join(['rm', str(file)])} (every node runs again, "
        remedy += "and the next model is not compared with the one in service)"
    raise UsageError(f"metadata.url {url} cannot be opened as a metadata store ({damage}); {remedy}")


def _damage(file: Path) -> str | None:
    if not file.stat().st_size:
        # With a journal, another process is creating the file, or was killed before it wrote anything.
        making = Path(f"{file}-journal").exists() and not _copy_of(file).exists()
        return None if making else "it is empty"
    try:
        with closing(sqlite3.connect(file, timeout=60)) as database:
            [(result,)] = database.execute("PRAGMA quick_check(1)")
    except sqlite3.OperationalError:
        return None  # The file cannot be opened: MLMD reports that, and the file must not be removed.
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if result == "ok" else str(result).splitlines()[-1]


def settle(connection: metadata_store_pb2.ConnectionConfig) -> None:
    """Protects the last commit from a power cut, after which a journal that SQLite deleted without a sync undoes it."""
    if connection.HasField("sqlite"):
        durable.sync(Path(connection.sqlite.filename_uri))


def back_up(connection: metadata_store_pb2.ConnectionConfig) -> None:
    """Writes a copy of a SQLite store beside it, in case the store is damaged later."""
    if not connection.HasField("sqlite"):
        return
    file = Path(connection.sqlite.filename_uri)
    try:
        with (
            durable.unfinished(_copy_of(file)) as partial,
            closing(sqlite3.connect(file, timeout=60)) as store,
            closing(sqlite3.connect(partial)) as copy,
        ):
            store.backup(copy)
    except (OSError, sqlite3.Error) as error:
        _log.info("no copy of %s was kept (%s)", file, error)


def _copy_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.backup")


def state(execution: metadata_store_pb2.Execution) -> NodeState:
    """The summary's name of an execution's state."""
    return _STATES.get(execution.last_known_state, "failed")


def executions(
    connection: metadata_store_pb2.ConnectionConfig, pipeline: str, run_id: str
) -> dict[str, metadata_store_pb2.Execution]:
    """Node → its last execution, for the started nodes of a run. A node that was repeated has several executions."""
    store = MetadataStore(connection)
    context = store.get_context_by_type_and_name("pipeline_run", run_id)
    by_node: dict[str, metadata_store_pb2.Execution] = {}
    of_run = store.get_executions_by_context(context.id) if context else []
    for execution in sorted(of_run, key=lambda execution: execution.id):
        for node in store.get_contexts_by_execution(execution.id):
            if node.type == "node" and node.name.startswith(f"{pipeline}."):
                by_node[node.name.removeprefix(f"{pipeline}.")] = execution
    return by_node


def last_run(connection: metadata_store_pb2.ConnectionConfig, pipeline: str) -> str | None:
    """The id of a pipeline's last run; None if there was no run."""
    store = MetadataStore(connection)
    pipeline_context = store.get_context_by_type_and_name("pipeline", pipeline)
    of_pipeline = store.get_executions_by_context(pipeline_context.id) if pipeline_context else []
    if not of_pipeline:
        return None
    contexts = store.get_contexts_by_execution(max(of_pipeline, key=lambda execution: execution.id).id)
    return next((context.name for context in contexts if context.type == "pipeline_run"), None)


def states(connection: metadata_store_pb2.ConnectionConfig, pipeline: str, run_id: str) -> dict[str, NodeState]:
    """Node → state, for the started nodes of a run."""
    return {node: state(execution) for node, execution in executions(connection, pipeline, run_id).items()}


def node(node_id: str, execution: metadata_store_pb2.Execution, before: list[Node]) -> Node:
    """A node's part of the summary. A resolver always runs; it counts as cached if all nodes before it are cached."""
    became = state(execution)
    if node_id in RESOLVERS and became == "complete" and all(node.cached for node in before):
        became = "cached"
    begun = max(execution.create_time_since_epoch, _attempt_begun(execution))
    seconds = (execution.last_update_time_since_epoch - begun) / 1000
    return Node(id=node_id, state=became, seconds=seconds, cached=became == "cached")


def mark_attempt(connection: metadata_store_pb2.ConnectionConfig, execution: Any, begun: int) -> None:
    """Records the start of the attempt that completed an execution, unless it was the first attempt.

    TFX continues the execution of a killed attempt, so the execution's own start is too early.

    Args:
      connection: of the metadata store.
      execution: the completed execution, which is changed in place.
      begun: start of the attempt in milliseconds since the epoch.
    """
    if execution.create_time_since_epoch < begun:
        execution.custom_properties[_ATTEMPT].double_value = begun
        MetadataStore(connection).put_executions([execution])


def _attempt_begun(execution: metadata_store_pb2.Execution) -> float:
    return execution.custom_properties[_ATTEMPT].double_value if _ATTEMPT in execution.custom_properties else 0


def summarize(
    connection: metadata_store_pb2.ConnectionConfig,
    pipeline: str,
    run_id: str,
    runner: str,
    node_ids: list[str],
    failure: str | None = None,
) -> Summary:
    """The summary of a run, finished or not.

    Args:
      connection: of the metadata store.
      pipeline: the pipeline's name.
      run_id: the run.
      runner: the runner's name.
      node_ids: the nodes in their order.
      failure: the reason of the run's failure, if it failed.
    """
    store = MetadataStore(connection)
    by_node = executions(connection, pipeline, run_id)
    nodes: list[Node] = []
    for node_id in node_ids:
        execution = by_node.get(node_id)
        nodes.append(node(node_id, execution, nodes) if execution else Node(id=node_id, state="not run"))
    complete = failure is None and all(node.state in ("complete", "cached") for node in nodes)
    return of_run(run_id, runner, complete, nodes, _outputs(store, by_node), failure)


def _outputs(store: MetadataStore, by_node: dict[str, metadata_store_pb2.Execution]) -> dict[str, dict[str, Any]]:
    """Custom properties of the run's artifacts by output key, without resolvers' outputs."""
    executions = {execution.id: node for node, execution in by_node.items() if node not in RESOLVERS}
    outputs = {}
    for event in store.get_events_by_execution_ids(list(executions)) if executions else []:
        if event.type == metadata_store_pb2.Event.OUTPUT:
            [artifact] = store.get_artifacts_by_id([event.artifact_id])
            outputs[event.path.steps[0].key] = {
                name: getattr(value, value.WhichOneof("value")) for name, value in artifact.custom_properties.items()
            }
    return outputs
