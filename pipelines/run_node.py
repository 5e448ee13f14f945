"""Runs one node of a compiled pipeline, and returns its state from ML Metadata.

An orchestrator calls `python -m pipelines.run_node DEFINITION --node ID --run-id ID` for each node. The exit status is
0 if the execution is complete or cached, in this call or in an earlier call of the same run. It is 1 if the node
failed, and 2 if the node cannot run, so that a retry would not help.
"""

from __future__ import annotations

import os

from retake import handover, quiet

if __name__ == "__main__":
    quiet.environment()
    handover.hand_over()  # Before the imports below, which take seconds.

import argparse
import functools
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2
from rich.console import Console

from pipelines import artifacts, leftovers, metadata
from pipelines import definition as definitions
from pipelines.definition import Definition
from retake import locks, places
from retake import summary as summaries
from retake.errors import RetakeError, UsageError, in_words
from retake.terminal import Formatter, Parser, printable

DONE = ("complete", "cached")

_State = metadata_store_pb2.Execution.State
_log = logging.getLogger("retake")


def main(arguments: list[str] | None = None) -> int:
    """Runs the node and returns the exit code."""
    options = _parser().parse_args(arguments)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Formatter("%(levelname).1s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("tensorflow").handlers.clear()  # A fork has it; the root logger suffices.
    logging.getLogger("absl").addFilter(_first_line)
    logging.getLogger("apache_beam.typehints").setLevel(logging.WARNING)  # Its INFO messages are dozens of lines.
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    try:
        definition = definitions.read(options.definition)
        if options.runner == "airflow":
            check_places(definition, _parameters(definition, options.parameter))
        connection = metadata.connection_config(definition.config.metadata.url)
        try:
            state = run(definition, options.node, options.run_id, options.parameter, connection)
        except UsageError:
            raise
        except Exception as error:
            with suppress(Exception):  # The user has to see the first error.
                _summarize(definition, connection, options, in_words(error))
            raise
        print(printable(f"{options.node} {state} · {time.monotonic() - begun:.1f} s"))
        if options.summary or options.node == definition.nodes[-1].id:
            _summarize(definition, connection, options)
        return 0
    except RetakeError as error:
        print(printable(f"{options.node}: {error}"), file=sys.stderr)
        return error.code
    except Exception as error:
        logging.exception("%s failed", options.node)
        print(printable(f"{options.node}: {in_words(error)}"), file=sys.stderr)
        return 1


def _summarize(
    definition: Definition, connection: Any, options: argparse.Namespace, failure: str | None = None
) -> None:
    """Writes the run's summary to the same place as the local runner, and prints it if the run is complete."""
    nodes = [node.id for node in definition.nodes]
    summary = metadata.summarize(connection, definition.pipeline, options.run_id, options.runner, nodes, failure)
    root = definition.config.pipeline.root
    if options.summary:
        summaries.write(summary, options.summary)
    if failure or summary.state == "complete":
        summaries.write(summary, summaries.place_of(root, options.run_id))
    if summary.state == "complete":
        metadata.back_up(connection)
        Console(width=100).print(summaries.render(summary))


def _first_line(record: logging.LogRecord) -> bool:
    """Keeps the first line of a message: TFX logs whole protos of hundreds of lines."""
    if record.levelno <= logging.INFO:
        record.msg, record.args = record.getMessage().partition("\n")[0][:300], ()
    return True


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="python -m pipelines.run_node", description="Run one node of a compiled pipeline.")
    parser.add_argument("definition", metavar="DEFINITION", help="file, gs:// object or env:NAME")
    parser.add_argument("--node", required=True, metavar="ID", help="such as Trainer")
    parser.add_argument("--run-id", required=True, metavar="ID", help="the same for all nodes of a run")
    parser.add_argument(
        "--parameter", action="append", default=[], metavar="NAME=VALUE", help="a runtime parameter, such as data=DIR"
    )
    parser.add_argument("--runner", default="node", metavar="NAME", help="what the summary calls the runner")
    parser.add_argument(
        "--summary", type=Path, metavar="FILE", help="write the run's summary, as far as it has come, as JSON"
    )
    return parser


def run(definition: Definition, node_id: str, run_id: str, given: list[str], connection: Any) -> str:
    """Runs a node of a run, unless it is done.

    Args:
      definition: of the pipeline.
      node_id: for example `Trainer`.
      run_id: the same for all nodes of a run.
      given: runtime parameters as `NAME=VALUE`; the others have their defaults.
      connection: ML Metadata's ConnectionConfig.

    Returns:
      The node's state, for people.

    Raises:
      UsageError: the node or a parameter does not exist, or a node before it is not done in this run.
      Exception: an error of the node's executor.
    """
    parameters = _parameters(definition, given)
    upstream = {node.id: node.upstream for node in definition.nodes}
    if node_id not in upstream:
        raise UsageError(f"there is no such node; the nodes of {definition.pipeline} are {', '.join(upstream)}")
    root = definition.config.pipeline.root
    with _alone(root, node_id, run_id):
        states = metadata.states(connection, definition.pipeline, run_id)
        if states.get(node_id) in DONE:
            return f"{states[node_id]}, by an earlier call for this run"
        if missing := [node for node in upstream[node_id] if states.get(node) not in DONE]:
            unfinished = ", ".join(f"{node} ({states.get(node, 'not run')})" for node in missing)
            raise UsageError(f"cannot run before the nodes that it needs are done in run {run_id}: {unfinished}")
        leftovers.clear(connection, definition.pipeline, root, alone=False)
        with quiet.imports():
            from pipelines import tfx_internals

        pipeline = tfx_internals.parsed(definition.ir)
        tfx_internals.bind(pipeline, run_id, parameters)
        return metadata.state(launch(pipeline, node_id, connection))


def _parameters(definition: Definition, given: list[str]) -> dict[str, str]:
    parameters = {name: parameter.default for name, parameter in definition.parameters.items()}
    for argument in given:
        name, equals, value = argument.partition("=")
        if not equals or name not in parameters:
            raise UsageError(f"--parameter {argument!r} must read NAME=VALUE with NAME one of {', '.join(parameters)}")
        parameters[name] = value
    return parameters


def check_places(definition: Definition, parameters: dict[str, str]) -> None:
    """Checks that a run only names the configured places and `airflow.places`, as another user may have started it.

    Args:
      definition: of the pipeline.
      parameters: runtime parameter → place: a folder or a gs:// prefix.

    Raises:
      UsageError: a place lies elsewhere.
    """
    for name, place in parameters.items():
        allowed = [definition.parameters[name].default, *definition.config.airflow.places]
        if not any(places.is_within(place, bound) for bound in allowed):
            raise UsageError(
                f"{name} {place!r} is not a place that a run may be given; it must be one of these or lie below it: "
                f"{', '.join(allowed)}. Add it to airflow.places in the configuration and compile the pipeline again"
            )


@contextmanager
def _alone(root: str, node_id: str, run_id: str) -> Iterator[None]:
    """Lets one process at a time run a node of a run: an orchestrator may have lost sight of one that goes on. A run of
    the local runner has the root for itself."""
    if places.is_remote(root):
        yield
        return
    file = leftovers.lock_of(Path(root), node_id, run_id)
    local, same = "a run of the local runner works in this root", "another process is running this node"
    with ExitStack() as stack:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            for lock, shared, busy in ((Path(root) / locks.ROOT, True, local), (file, False, same)):
                waiting = functools.partial(_log.info, "%s: waiting for it to end", busy)
                stack.enter_context(locks.held(lock, shared, waiting))
        except OSError as error:
            raise RetakeError(f"pipeline.root {root} cannot be written to ({error.strerror})") from None
        yield


def launch(pipeline: Any, node_id: str, connection: Any) -> metadata_store_pb2.Execution:
    """Runs a node, or takes its outputs from the cache.

    Args:
      pipeline: a pipeline_pb2.Pipeline, with parameters bound.
      node_id: for example `Trainer`.
      connection: ML Metadata's ConnectionConfig.

    Returns:
      The node's execution, COMPLETE or CACHED.

    Raises:
      UsageError: the node's inputs are missing.
      Exception: an error of the node's driver or executor.
    """
    from pipelines import tfx_internals

    artifacts.forget_damaged(MetadataStore(connection), pipeline.pipeline_info.id, node_id)
    begun = int(time.time() * 1000)
    try:
        execution = tfx_internals.launch(pipeline, node_id, connection)
    except Exception:
        _mark_failed(connection, pipeline, node_id)
        raise
    if not execution or execution.last_known_state not in (_State.COMPLETE, _State.CACHED):
        raise UsageError("its inputs from earlier nodes of this run are missing")
    metadata.mark_attempt(connection, execution, begun)
    metadata.settle(connection)
    return execution


def _mark_failed(connection: Any, pipeline: Any, node_id: str) -> None:
    """Marks the execution as failed; TFX does not do so if a node fails before its executor starts."""
    run_id = pipeline.runtime_spec.pipeline_run_id.field_value.string_value
    execution = metadata.executions(connection, pipeline.pipeline_info.id, run_id).get(node_id)
    if execution and execution.last_known_state == _State.RUNNING:
        execution.last_known_state = _State.FAILED
        MetadataStore(connection).put_executions([execution])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # A normal exit of TensorFlow and Beam takes seconds, and all outputs are on disk.
