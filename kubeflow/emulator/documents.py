"""The JSON documents that the emulator reads and writes, and how to find a value in them."""

from __future__ import annotations

import re
from typing import Any

Document = dict[str, Any]

_STEP = re.compile(r"\.?(?:\['([^']*)'\]|\[(\d+)\]|([\w-]+))")
_TYPED = ("number_value", "string_value", "bool_value")


def walk(document: Any, path: str) -> Any:
    """The value at a path such as `.inputs.artifacts['model'].artifacts[0].uri`, or None.

    A name in snake_case finds the same name in camelCase.
    """
    for key, index, name in _STEP.findall(path):
        if isinstance(document, dict):
            key = key or name
            camel = re.sub("_(.)", lambda match: match[1].upper(), key)
            document = document.get(key, document.get(camel))
        elif isinstance(document, list):
            document = document[int(index)] if index and int(index) < len(document) else None
        elif name not in _TYPED:
            return None
    return document
