"""Reports the content of record files of any origin, and formats the lines of such reports."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retake import images as pictures
from retake.records import MISSING_LABEL, as_text, raw_label, read
from retake.sections import MAX_BYTES, MAX_PIXELS
from retake.terminal import in_one_line

_NAMED = 5  # names listed per finding, before "…"
_LONGEST = 200  # characters of a name or label in a report
_ONE_HOT_SHOWN = 20  # numbers of a label


class Packed(NamedTuple):
    """A picture of a record file: its name, its label for people, and the digest of its bytes."""

    name: str
    label: str
    digest: bytes


def inspect(file: Path) -> str:
    """Reports the content of a TFRecord of pictures. Any program may have written the file.

    Args:
      file: A TFRecord, plain or gzip, whose examples have the features `image` and `label`.

    Returns:
      Counts per label, formats, sizes, identical pictures and unreadable ones, for people.

    Raises:
      RetakeError: as `read`.

    Example:
        >>> print(inspect(Path("data/sample/records/drawn.tfrecord")))  # doctest: +SKIP
    """
    labels: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    groups: dict[bytes, list[Packed]] = defaultdict(list)
    refused: dict[str, list[str]] = defaultdict(list)
    lengths: list[int] = []
    for number, example in enumerate(read(file), start=1):
        features = example.features.feature
        encoded = b"".join(features["image"].bytes_list.value[:1])
        name = shown(as_text(b"".join(features["filename"].bytes_list.value[:1])[:_LONGEST])) or f"record {number:,}"
        try:
            text = shown(raw_label(example))
        except ValueError as problem:
            text = str(problem)
        labels[text] += 1
        lengths.append(len(encoded))
        groups[hashlib.sha256(encoded).digest()].append(Packed(name, text, b""))
        reason = pictures.acceptable(encoded, MAX_PIXELS, MAX_BYTES)
        if reason:
            refused[reason].append(name)
        try:
            kind, width, height = pictures.probe(encoded)
        except ValueError:
            continue
        formats[kind] += 1
        sizes[width, height] += 1
    if not lengths:
        return f"{file}: no examples, {size(file.stat().st_size)}"

    lines = [f"{file}: {len(lengths):,} examples, {size(file.stat().st_size)}", ""]
    lines += columns([("label", "examples"), *((name, f"{count:,}") for name, count in sorted(labels.items()))])
    lines += [
        "",
        "formats: " + (", ".join(f"{name} {count:,}" for name, count in formats.most_common()) or "none"),
    ]
    if sizes:
        widths, heights = (sorted(size[axis] for size in sizes.elements()) for axis in (0, 1))
        common = ", ".join(f"{w}×{h} ({count:,})" for (w, h), count in sizes.most_common(3))
        lines.append(f"width × height: {_spread(widths)} × {_spread(heights)}; most frequent: {common}")
    lines.append(f"bytes a picture: {_spread(sorted(lengths))}")
    identical = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in identical if len({file.label for file in group}) > 1]
    lines += explain_identical(identical, conflicts, len(groups)) or ["identical pictures: none"]
    lines += [listed(f"refused, {reason}", names) for reason, names in sorted(refused.items())]
    return "\n".join(lines)


def shown(label: str | list[int] | None) -> str:
    """A label or a name for a line of the report."""
    if label is None:
        return MISSING_LABEL
    if isinstance(label, list) and len(label) > _ONE_HOT_SHOWN:
        return f"{len(label):,} numbers, {max(label)} at {label.index(max(label)):,}"
    text = in_one_line(str(label)[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def explain_identical(identical: list[list[Packed]], conflicts: list[list[Packed]], different: int) -> list[str]:
    if not identical:
        return []
    total = sum(len(group) for group in identical)
    lines = [f"identical pictures: {total:,} in {_groups(identical)}; {different:,} different pictures in all"]
    if conflicts:
        lines.append(f"identical pictures with different labels: {_groups(conflicts)}")
        lines += [
            "  " + " = ".join(f"{shown(file.name)} [{file.label}]" for file in group) for group in conflicts[:_NAMED]
        ]
        lines += [f"  and {len(conflicts) - _NAMED:,} more"] * (len(conflicts) > _NAMED)
    return lines


def _groups(found: list[list[Packed]]) -> str:
    return f"{len(found):,} group{'s' * (len(found) != 1)}"


def listed(what: str, names: list[str]) -> str:
    named = ", ".join(map(in_one_line, names[:_NAMED]))
    return f"{what}: {len(names):,} ({named}{', …' * (len(names) > _NAMED)})"


def quoted(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned lines; the second column holds numbers."""
    rows = [tuple(map(in_one_line, row)) for row in rows]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return ["  ".join((row[0].ljust(first), row[1].rjust(second), *row[2:])) for row in rows]


def _spread(ordered: list[int]) -> str:
    median = round(statistics.median(ordered))
    return f"{ordered[0]:,}" if ordered[0] == ordered[-1] else f"{ordered[0]:,}–{ordered[-1]:,} (median {median:,})"


def size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"
