"""The small languages inside a job: placeholders, trigger conditions (CEL) and filters (AIP-160)."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterable
from functools import reduce
from typing import Any

from kubeflow.emulator.documents import walk

# A path has no braces. So a text of opening braces is scanned once, not once for every brace.
_PLACEHOLDER = re.compile(r"\{\{\$([^{}]*)\}\}")
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?![\w.:-]))"""
    r"""|(?P<path>\w[\w-]*(?:\.[\w-]+|\['[^']*'\]|\[\d+\])*)|(?P<symbol>&&|\|\||[<>!=]=|[<>=:!()+*]))"""
)
# Loosest first. CEL writes symbols, where "and" binds tighter; filters write words, where "or" does.
_LEVELS: list[tuple[str, Callable[[Iterable[Any]], bool]]] = [("||", any), ("&&", all), ("AND", all), ("OR", any)]
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
MAX_LENGTH, MAX_DEPTH = 4096, 32
"""Most characters of a condition or a filter, and the deepest nesting of its parentheses and negations."""
MAX_FILLED = 4 * 2**20
"""Most characters of a command after its placeholders are filled; no operating system accepts more."""
_Value = Callable[[Any], Any]


def placeholders(text: str) -> list[str]:
    """The paths of the placeholders `{{$…}}` in a text."""
    return _PLACEHOLDER.findall(text)


def substitute(text: str, find: Callable[[str], Any], most: int = MAX_FILLED) -> str:
    """Fills the placeholders `{{$…}}` in a text.

    Args:
      text: the text with placeholders.
      find: returns the value of a placeholder's path, or None.
      most: the most characters of the filled text.

    Raises:
      LookupError: a placeholder has no value, or the filled text is too long.
    """
    length = len(text)

    def value(match: re.Match[str]) -> str:
        nonlocal length
        found = find(match[1])
        if found is None:
            raise LookupError(f"the placeholder {match[0]} has no value in this task")
        filled = found if isinstance(found, str) else json.dumps(found)
        length += len(filled)
        if length > most:
            raise LookupError(f"with its placeholders filled, it has more than {MAX_FILLED} characters")
        return filled

    return _PLACEHOLDER.sub(value, text)


def holds(text: str, document: Any) -> bool:
    """Tells whether a condition or a filter holds for a document.

    Raises:
      ValueError: the text is no valid condition or filter.
    """
    return bool(parse(text)(document))


def parse(text: str, judge: Callable[[str, str, Any], Any] | None = None) -> Callable[[Any], Any]:
    """Parses a condition or a filter into a function that decides whether it holds for a document.

    Args:
      text: the condition or filter; an empty text holds for every document.
      judge: checks a comparison. It gets the path, the sign and the constant, and returns the constant to compare
        with, or raises. For a path that stands alone, the sign is `""` and the constant is None.

    Raises:
      ValueError: the text is no valid condition or filter.
    """
    if not text.strip():
        return lambda _: True
    parser = _Parser(text, judge)
    condition = parser.any_of(0)
    if parser.tokens:
        raise ValueError(f"invalid filter or condition {text!r}: did not expect {parser.tokens[0][1]!r}")
    return condition


class _Parser:
    def __init__(self, text: str, judge: Callable[[str, str, Any], Any] | None) -> None:
        if len(text) > MAX_LENGTH:
            raise ValueError(
                f"invalid filter or condition: it has {len(text)} characters; at most {MAX_LENGTH} are read"
            )
        self.text, self.judge, self.tokens, self.depth, at = text, judge, [], 0, 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            if not match:
                raise ValueError(f"invalid filter or condition {text!r} at character {at + 1}")
            self.tokens.append((str(match.lastgroup), match[match.lastgroup or 0]))
            at = match.end()

    def next(self, *expected: str) -> str:
        """Takes the next token if it is one of the expected tokens; otherwise returns an empty text."""
        return self.tokens.pop(0)[1] if self.tokens and self.tokens[0][1] in expected else ""

    def any_of(self, level: int) -> _Value:
        if level == len(_LEVELS):
            return self.term()
        word, combine = _LEVELS[level]
        terms = [self.any_of(level + 1)]
        while self.next(word):
            terms.append(self.any_of(level + 1))
        return (lambda document: combine(term(document) for term in terms)) if len(terms) > 1 else terms[0]

    def deeper(self, part: Callable[[], _Value]) -> _Value:
        """Parses a nested part, and refuses it if it is nested too deep."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"invalid filter or condition: it is nested more than {MAX_DEPTH} deep")
        read = part()
        self.depth -= 1
        return read

    def term(self) -> _Value:
        if self.next("!", "NOT"):
            negated = self.deeper(self.term)
            return lambda document: not negated(document)
        path = self.tokens[0][1] if self.tokens else ""
        left = self.operand(literal=False)
        if sign := self.next("==", "=", "!=", ":", *_ORDER):
            right = self.operand(literal=True)
            if self.judge:
                judged = self.judge(path, sign, right(None))
                return lambda document: self.compare(left(document), sign, judged)
            return lambda document: self.compare(left(document), sign, right(document))
        if self.judge and path != "(":
            self.judge(path, "", None)
        return left

    def operand(self, literal: bool) -> _Value:
        parts = [self.atom(literal)]
        while self.next("+"):
            parts.append(self.atom(literal))
        return (lambda document: reduce(operator.add, (part(document) for part in parts))) if parts[1:] else parts[0]

    def atom(self, literal: bool) -> _Value:
        if self.next("("):
            inner = self.deeper(lambda: self.any_of(0))
            if not self.next(")"):
                raise ValueError(f"invalid filter or condition {self.text!r}: a parenthesis is not closed")
            return inner
        kind, word = self.tokens.pop(0) if self.tokens else ("", "the end")
        if kind == "path" and word not in ("true", "false") and not (literal and "[" not in word):
            return lambda document: walk(document, word)
        if (kind == "symbol" and word != "*") or not kind:
            raise ValueError(f"invalid filter or condition {self.text!r}: did not expect {word}")
        value = self.constant(kind, word)
        return lambda _: value

    @staticmethod
    def constant(kind: str, word: str) -> Any:
        if kind == "text":
            return re.sub(r"\\(.)", r"\1", word[1:-1])
        if kind == "number":
            return float(word)
        return word == "true" if word in ("true", "false") else word

    @staticmethod
    def compare(left: Any, sign: str, right: Any) -> bool:
        if isinstance(left, str) and isinstance(right, str) and "*" in right and sign in ("=", "!=", ":"):
            return matches(right, left) == (sign != "!=")
        if sign == ":":
            return left is not None if right == "*" else right in (left or ())
        if sign in _ORDER:
            return type(left) in (int, float, type(right)) and _ORDER[sign](left, right)
        return (left == right) == (sign != "!=")


def matches(pattern: str, text: str) -> bool:
    """Tells whether a text matches a pattern in which `*` stands for any characters.

    The function searches for each part of the pattern once, after the part before. So the time stays linear for
    every pattern that a page sends.
    """
    first, *parts = pattern.split("*")
    if not parts:
        return text == first
    *middle, last = parts
    if not text.startswith(first):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        found = text.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return at <= end and text.endswith(last)
