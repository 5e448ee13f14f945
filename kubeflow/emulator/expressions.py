"""The small languages inside a job: placeholders, trigger conditions (CEL) and filters (AIP-160)."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any

_STEP = re.compile(r"\.?(?:\['([^']*)'\]|\[(\d+)\]|([\w-]+))")
_PLACEHOLDER = re.compile(r"\{\{\$(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?![\w.:-]))"""
    r"""|(?P<path>\w[\w-]*(?:\.[\w-]+|\['[^']*'\]|\[\d+\])*)|(?P<symbol>&&|\|\||[<>!=]=|[<>=:!()+*]))"""
)
# Loosest first. CEL writes symbols, where "and" binds tighter; filters write words, where "or" does.
_LEVELS: list[tuple[str, Callable[[list[Any]], bool]]] = [("||", any), ("&&", all), ("AND", all), ("OR", any)]
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
_TYPED = ("number_value", "string_value", "bool_value")


def walk(document: Any, path: str) -> Any:
    """What lies at a path such as `.inputs.artifacts['model'].artifacts[0].uri`, or None; snake_ finds camelCase."""
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


def substitute(text: str, find: Callable[[str], Any]) -> str:
    """Fills the placeholders `{{$…}}` in a text.

    Raises:
      LookupError: there is nothing to fill in.
    """

    def value(match: re.Match[str]) -> str:
        found = find(match[1])
        if found is None:
            raise LookupError(f"{match[0]} stands for nothing in this task")
        return found if isinstance(found, str) else json.dumps(found)

    return _PLACEHOLDER.sub(value, text)


def holds(text: str, document: Any) -> bool:
    """Tells whether a condition or a filter holds for a document.

    Raises:
      ValueError: it cannot be understood.
    """
    if not text.strip():
        return True
    parser = _Parser(text, document)
    told = parser.any_of(0)
    if parser.tokens:
        raise ValueError(f"invalid filter or condition {text!r}: did not expect {parser.tokens[0][1]!r}")
    return bool(told)


class _Parser:
    def __init__(self, text: str, document: Any) -> None:
        self.text, self.document, self.tokens, at = text, document, [], 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if not match:
                raise ValueError(f"invalid filter or condition {text!r} at character {at + 1}")
            self.tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            at = match.end()

    def next(self, *expected: str) -> str:
        """Takes the next token, where it is one of the expected, else an empty text."""
        return self.tokens.pop(0)[1] if self.tokens and self.tokens[0][1] in expected else ""

    def any_of(self, level: int) -> Any:
        if level == len(_LEVELS):
            return self.term()
        word, combine = _LEVELS[level]
        terms = [self.any_of(level + 1)]
        while self.next(word):
            terms.append(self.any_of(level + 1))
        return combine(terms) if len(terms) > 1 else terms[0]

    def term(self) -> Any:
        if self.next("!", "NOT"):
            return not self.term()
        left = self.operand(literal=False)
        if sign := self.next("==", "=", "!=", ":", *_ORDER):
            return self.compare(left, sign, self.operand(literal=True))
        return left

    def operand(self, literal: bool) -> Any:
        value = self.atom(literal)
        while self.next("+"):
            value = value + self.atom(literal)
        return value

    def atom(self, literal: bool) -> Any:
        if self.next("("):
            value = self.any_of(0)
            if not self.next(")"):
                raise ValueError(f"invalid filter or condition {self.text!r}: a parenthesis is not closed")
            return value
        kind, word = self.tokens.pop(0) if self.tokens else ("", "the end")
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", word[1:-1])
        if kind == "number":
            return float(word)
        if kind == "path" and word in ("true", "false"):
            return word == "true"
        if kind == "path":
            return word if literal and "[" not in word else walk(self.document, word)
        if word == "*":
            return word
        raise ValueError(f"invalid filter or condition {self.text!r}: did not expect {word}")

    @staticmethod
    def compare(left: Any, sign: str, right: Any) -> bool:
        if sign == ":":
            return left is not None if right == "*" else right in (left or ())
        if sign in _ORDER:
            return type(left) in (int, float, type(right)) and _ORDER[sign](left, right)
        wild = isinstance(left, str) and isinstance(right, str) and "*" in right and sign != "=="
        return (fnmatchcase(left, right) if wild else left == right) == (sign != "!=")
