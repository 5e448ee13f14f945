"""A compiled pipeline as a file, from which an orchestrator without TFX can run the pipeline node by node.

An orchestrator reads `nodes` and `parameters`, and runs `python -m pipelines.run_node FILE --node ID --run-id ID` for
each node. Only that command reads `ir`.
"""

from __future__ import annotations

import ast
import base64
import gzip
import hashlib
import importlib.util
import json
import os
import zlib
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipelines.settings import Settings
from retake import places, quiet
from retake import weights as weight_files
from retake.errors import UsageError

PROJECT = Path(__file__).resolve().parents[1]
CODE = ("retake", "components", "pipelines")
MAKE_AND_RUN = ("pipelines.factory", "pipelines.run_node")
"""The modules that compile the pipeline and run its nodes."""


class Node(BaseModel):
    """A node, the nodes that have to finish before it, and the types of its output artifacts."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    upstream: list[str]
    outputs: list[str]


class Parameter(BaseModel):
    """A runtime parameter. Its value is a string."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default: str
    description: str


class Definition(BaseModel):
    """A compiled pipeline.

    Fields:
      format: version of the file format.
      pipeline: the pipeline's name.
      command: the command that writes this file.
      project: the project's folder, in which the command runs.
      sources: file below `project` → SHA-256 of its content; if a file has changed, the definition is outdated.
      config: the whole configuration, with absolute local paths.
      nodes: in an order in which they can run. The last node runs after all others.
      parameters: the runtime parameters.
      pods: node or "*" → Kubernetes pod template; other nodes run on the orchestrator's own worker.
      ir: TFX's intermediate representation, a pipeline_pb2.Pipeline as JSON.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    pipeline: str
    command: str
    project: str
    sources: dict[str, str]
    config: Settings
    nodes: list[Node]
    parameters: dict[str, Parameter]
    pods: dict[str, dict[str, Any]]
    ir: dict[str, Any]


def compile(config: Settings, file: Path | None, command: str, pods: dict[str, dict[str, Any]]) -> Definition:
    """Compiles the configured pipeline.

    Args:
      config: the whole configuration.
      file: the configuration's file, for the field `sources`; None for a configuration without a file.
      command: the field `command`.
      pods: the field `pods`.

    Raises:
      RetakeError: the weights file cannot be read.
      UsageError: `model.weights` is auto, and ImageNet cannot be reached from here.
    """
    weights = weight_files.resolve(config.model, elsewhere=True)
    config = places.located(config)
    config = config.model_copy(update={"model": config.model.model_copy(update={"weights": weights.weights})})

    with quiet.imports():  # Google's clients warn about old versions of Python.
        from google.protobuf import json_format
        from tfx.dsl.compiler.compiler import Compiler

        from pipelines import factory

    pipeline = Compiler().compile(factory.build(config, config.pipeline.root, weights))
    order = [node.pipeline_node for node in pipeline.nodes]
    return Definition(
        pipeline=config.pipeline.name,
        command=command,
        project=str(PROJECT),
        sources=_sources(file),
        config=config,
        nodes=[
            Node(
                id=node.node_info.id,
                upstream=list(node.upstream_nodes),
                outputs=sorted(output.artifact_spec.type.name for output in node.outputs.outputs.values()),
            )
            for node in order
        ],
        parameters={
            name: Parameter(default=value, description=factory.PARAMETERS[name])
            for name, value in factory.parameters(config).items()
        },
        pods=pods,
        ir=json.loads(json_format.MessageToJson(pipeline, sort_keys=True)),  # The order of its maps is random.
    )


def packed(definition: Definition) -> str:
    """The definition as a string for an environment variable NAME. `read` reads it from `env:NAME`."""
    return base64.b64encode(gzip.compress(definition.model_dump_json().encode(), mtime=0)).decode()


def read(place: str) -> Definition:
    """Reads a definition.

    Args:
      place: a file, a gs:// object, or `env:NAME`: an environment variable that holds the definition packed with gzip
        and base64, for tasks without a shared file system.

    Raises:
      UsageError: the definition is missing, or this version of the project cannot read it.
    """
    again = "make it with: python -m pipelines.run --runner airflow --config NAME"
    try:
        return Definition.model_validate_json(_content(place))
    except OSError as error:
        raise UsageError(f"definition {place} cannot be read ({error.strerror or error}); {again}") from None
    except (ValueError, EOFError, zlib.error):
        raise UsageError(f"{place} is not a definition that this version of the project made; {again}") from None


def _content(place: str) -> bytes:
    if place.startswith("env:"):
        return gzip.decompress(base64.b64decode(os.environ.get(place.removeprefix("env:"), "")))
    return places.read(place)


def _sources(config: Path | None) -> dict[str, str]:
    """SHA-256 of the configuration's file, and of the project's modules that compile the pipeline or run its nodes."""
    files: set[Path] = set()
    for name in MAKE_AND_RUN:
        _add_imported(name, files)
    return {
        str(file.relative_to(PROJECT)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted({*files, *([config.resolve()] if config else [])})
        if file.is_relative_to(PROJECT)
    }


def _add_imported(name: str, files: set[Path]) -> None:
    """Adds the files of a module and of all the project's modules that it imports, also inside functions."""
    if name.partition(".")[0] not in CODE or not (spec := _spec(name)) or not spec.origin:
        return
    file = Path(spec.origin).resolve()
    if file in files:
        return
    files.add(file)
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for imported in names:
            _add_imported(imported, files)


def _spec(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:  # The name is not a module, but a function, for example.
        return None
