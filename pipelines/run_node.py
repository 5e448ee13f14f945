"""Runs one node of a compiled pipeline and tells from ML Metadata how it went.

`python -m pipelines.run_node DEFINITION --node ID --run-id ID` is what an orchestrator gives for each node. It exits
with 0 when the execution is complete or cached, in this call or an earlier one of the same run; with 1 when the node
failed; with 2 when it cannot run, and trying again would not help.
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
    logging.getLogger("tensorflow").handlers.clear()  # In a fork it was imported before; it logs by the one above.
    logging.getLogger("absl").addFilter(_first_line)
    logging.getLogger("apache_beam.typehints").setLevel(logging.WARNING)  # Else dozens of lines about its own types.
    warnings.simplefilter("ignore")
    begun = time.monotonic()
    try:
        definition = definitions.read(options.definition)
        if options.runner == "airflow":
            check_places(definition, _parameters(definition, options.parameter))
        connection = metadata.connection_config(definition.config.metadata.url)
        try:
            told = run(definition, options.node, options.run_id, options.parameter, connection)
        except UsageError:
            raise
        except Exception as error:
            with suppress(Exception):  # What has gone wrong first is what a person has to know.
                _summarize(definition, connection, options, in_words(error))
            raise
        print(printable(f"{options.node} {told} · {time.monotonic() - begun:.1f} s"))
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
    """Writes the run's summary where the local runner does, and shows that of a run that is over."""
    nodes = [node.id for node in definition.nodes]
    summary = metadata.summarize(connection, definition.pipeline, options.run_id, options.runner, nodes, failure)
    root = definition.config.pipeline.root
    if options.summary:
        summaries.write(summary, options.summary)
    if not places.is_remote(root) and (failure or summary.state == "complete"):
        summaries.write(summary, Path(root) / "runs" / options.run_id / "summary.json")
    if summary.state == "complete":
        metadata.back_up(connection)
        Console(width=100).print(summaries.render(summary))


def _first_line(record: logging.LogRecord) -> bool:
    """Cuts what TFX tells short: whole protos, hundreds of lines of them."""
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
      given: runtime parameters that are not to have their default, as `NAME=VALUE`.
      connection: ML Metadata's ConnectionConfig.

    Returns:
      What became of it, for a person.

    Raises:
      UsageError: no such node or parameter, or a node that it needs is not done in this run.
      Exception: whatever the node's executor raised.
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
            told = ", ".join(f"{node} ({states.get(node, 'not run')})" for node in missing)
            raise UsageError(f"cannot run before what it needs is done in run {run_id}: {told}")
        leftovers.clear(connection, definition.pipeline, root, alone=False)
        with quiet.imports():
            from pipelines import tfx_internals

        pipeline = tfx_internals.parsed(definition.ir)
        tfx_internals.bind(pipeline, run_id, parameters)
        return metadata.state(launch(pipeline, node_id, connection))


def _parameters(definition: Definition, given: list[str]) -> dict[str, str]:
    parameters = {name: parameter.default for name, parameter in definition.parameters.items()}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or name not in parameters:
            raise UsageError(f"--parameter {each!r} must read NAME=VALUE with NAME one of {', '.join(parameters)}")
        parameters[name] = value
    return parameters


def check_places(definition: Definition, parameters: dict[str, str]) -> None:
    """Holds a run that somebody else may have started to the configured places and to `airflow.places`.

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
      UsageError: its inputs are not there; otherwise whatever the node's driver or executor raised.
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
        raise UsageError("what it needs from earlier nodes of this run is not there")
    metadata.mark_attempt(connection, execution, begun)
    metadata.settle(connection)
    return execution


def _mark_failed(connection: Any, pipeline: Any, node_id: str) -> None:
    """Does what TFX forgets when a node fails before its executor begins."""
    run_id = pipeline.runtime_spec.pipeline_run_id.field_value.string_value
    execution = metadata.executions(connection, pipeline.pipeline_info.id, run_id).get(node_id)
    if execution and execution.last_known_state == _State.RUNNING:
        execution.last_known_state = _State.FAILED
        MetadataStore(connection).put_executions([execution])


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Taking TensorFlow and Beam apart takes seconds, and all that counts is on disk.
