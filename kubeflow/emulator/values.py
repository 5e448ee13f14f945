"""Parameters and artifacts in the forms of jobs, tasks and the API."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import yaml

from kubeflow.emulator.documents import Document

Artifacts = dict[str, list[Document]]


DEPTH = 100
"""The deepest nesting of a JSON document. Recursive readers of the document need a bound."""


def read_json(text: str | bytes, constant: Callable[[str], Any]) -> Any:
    """Reads a JSON document.

    Args:
      constant: replaces a number that is not finite, such as NaN: it gets the number's text and returns a value, or
        raises.

    Raises:
      ValueError: the text is not JSON, or is nested too deep.
    """

    def number(text: str) -> Any:
        value = float(text)
        return value if math.isfinite(value) else constant(text)

    try:
        document = json.loads(text, parse_constant=constant, parse_float=number)
        level = [document]
        for _ in range(DEPTH):
            level = [child for each in level for child in _children(each)]
        if level:
            raise RecursionError
    except RecursionError:
        raise ValueError(f"it is nested more than {DEPTH} deep") from None
    return document


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def plain(value: Any) -> Any:
    """Converts a value of schema 2.0.0, such as {"intValue": "3"}, to a plain value."""
    if "intValue" in value:
        return int(value["intValue"])
    if "doubleValue" in value:
        return float(value["doubleValue"])
    return value.get("stringValue", "")


def legacy(value: Any) -> Document:
    """Converts a plain value to a value of schema 2.0.0."""
    if isinstance(value, (bool, list, dict)):
        return {"stringValue": json.dumps(value)}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}


def constant(source: Document, parameters: Document) -> Any:
    """The value of a ValueOrRuntimeParameter of either schema."""
    if "runtimeParameter" in source:
        return parameters.get(source["runtimeParameter"])
    return plain(source["constantValue"]) if "constantValue" in source else source.get("constant")


def typed(value: Any, declared: Document) -> Any:
    """Converts a parameter that is declared as an integer to an int: protobuf's JSON has only floats."""
    whole = {declared.get("parameterType"), declared.get("type")} & {"NUMBER_INTEGER", "INT"}
    return int(value) if whole and isinstance(value, float) and value.is_integer() else value


def parsed(text: str, declared: Document) -> Any:
    """The value in a parameter's output file."""
    return text if "STRING" in (declared.get("parameterType"), declared.get("type")) else read_json(text, str)


def parameters_of(output: Document) -> Document:
    """The parameters in an ExecutorOutput."""
    old = {key: plain(value) for key, value in output.get("parameters", {}).items()}
    return {**old, **output.get("parameterValues", {})}


def with_defaults(given: Document, declared: Document) -> Document:
    """Parameters with their declared types. A parameter without a value has its default, or is left out."""
    defaults = {key: each["defaultValue"] for key, each in declared.items() if "defaultValue" in each}
    present = {key: value for key, value in {**defaults, **given}.items() if value is not None}
    return {key: typed(value, declared.get(key, {})) for key, value in present.items()}


def artifact(type_: Document, uri: str, metadata: Document, state: str) -> Document:
    """A new artifact in the form of the store: the fields that the API shows, and the `type` that tasks need."""
    schema = yaml.safe_load(type_.get("instanceSchema") or "{}")
    return {
        "type": type_,
        "uri": uri,
        "metadata": dict(metadata),
        "state": state,
        "displayName": uri.rpartition("/")[2],
        "schemaTitle": type_.get("schemaTitle") or str(schema.get("title", "system.Artifact")),
        "schemaVersion": type_.get("schemaVersion", "0.0.1"),
    }


def for_tasks(artifacts: Artifacts) -> Document:
    """Artifacts with the fields that a task reads."""
    return _lists(artifacts, lambda key: key in ("name", "type", "uri", "metadata"))


def for_api(artifacts: Artifacts) -> Document:
    """Artifacts with the fields that the API shows."""
    return _lists(artifacts, lambda key: key != "type")


def _lists(artifacts: Artifacts, has: Callable[[str], bool]) -> Document:
    return {
        name: {"artifacts": [{key: value for key, value in each.items() if has(key)} for each in several]}
        for name, several in artifacts.items()
    }
