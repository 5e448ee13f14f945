"""YAML files from strangers: one document, each key once, bounded in size and depth.

Example:
    >>> parse("trainer: {epochs: 3}")
    {'trainer': {'epochs': 3}}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from retake.files import open_regular

MAX_YAML_BYTES = 1_000_000
MOST_YAML_VALUES = 100_000
DEEPEST_YAML = 50
"""Bounds of a YAML file. Values count as often as an alias repeats them: a kilobyte can stand for a billion."""

LONGEST_VALUE = 200
"""Characters of a value that a refusal quotes."""


def read(file: Path) -> Any:
    """The one document of a YAML file.

    Raises:
      OSError: it cannot be read, or is not a regular file.
      ValueError: it is not YAML, names a key twice, or is larger or deeper than a configuration needs.
    """
    with open_regular(file) as stream:
        content = stream.read(MAX_YAML_BYTES + 1)
    if len(content) > MAX_YAML_BYTES:
        raise ValueError(f"it has more than {MAX_YAML_BYTES:,} bytes")
    return parse(content.decode())


def parse(text: str) -> Any:
    """The value of a YAML text.

    Raises:
      ValueError: it is not YAML, names a key twice, or is deeper than a configuration needs.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506
    except Exception as error:  # A tag on a value of another kind raises almost anything.
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


class _Loader(yaml.SafeLoader):
    """Refuses what takes memory without end, and keys that stand twice, of which the last one would count."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            node: Any = super().compose_node(parent, index)
            self._require(hasattr(node, "values"), node, "an alias stands within its own anchor")
            return node
        self.depth += 1
        self._require(self.depth <= DEEPEST_YAML, self.peek_event(), f"nested more than {DEEPEST_YAML} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    name = f"the key {key.value[:LONGEST_VALUE]!r} stands twice"
                    self._require((key.tag, key.value) not in keys, key, name)
                    keys.add((key.tag, key.value))
            children = [each for pair in node.value for each in pair]
        node.values = 1 + sum(each.values for each in children)
        self._require(node.values <= MOST_YAML_VALUES, node, f"more than {MOST_YAML_VALUES:,} values")
        return node

    def _require(self, fine: bool, where: Any, otherwise: str) -> None:
        if not fine:
            raise yaml.constructor.ConstructorError(None, None, otherwise, where.start_mark)
