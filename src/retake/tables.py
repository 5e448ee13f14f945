"""Tables of text, and the numbers in them."""

from __future__ import annotations

import io
import shutil
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


def percent(share: float | None) -> str:
    """A share from 0 to 1 in percent; a dash where it is unknown.

    Example:
        >>> percent(0.7549), percent(None)
        ('75.5%', '–')
    """
    return dash(share, "{:.1%}")


def dash(value: Any, form: str = "{}") -> str:
    """A value as text; a dash for None."""
    return "–" if value is None else form.format(value)


def count(number: int, thing: str) -> str:
    """A number and its noun.

    Example:
        >>> count(1, "picture"), count(1200, "picture")
        ('1 picture', '1,200 pictures')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def fitting(rows: list[list[str]]) -> str:
    """The rows as a table, the first one as its head; the columns as rows where the terminal is too narrow."""
    upright = _table(rows)
    if _width(upright) <= shutil.get_terminal_size().columns:
        return _text(upright)
    return aligned([list(column) for column in zip(*rows, strict=True)])


def aligned(rows: list[list[str]], left: int = 1) -> str:
    """The rows as a table of any width, the first one as its head.

    Args:
      rows: texts, as many in each row.
      left: number of columns that are aligned on the left; the others are numbers, aligned on the right.

    Example:
        >>> print(aligned([["class", "share"], ["taco", "3.5%"]]), end="")
        class   share
        ─────────────
        taco     3.5%
    """
    return _text(_table(rows, left))


def _table(rows: list[list[str]], left: int = 1) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for at, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if at < left else "right", overflow="fold")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def _console(width: int) -> Console:
    # Plain text, and names are no markup.
    return Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False, color_system=None)


def _width(table: Table) -> int:
    return _console(10_000).measure(table).maximum


def _text(table: Table) -> str:
    # No number is broken into two lines, even where a table is wider than the terminal.
    console = _console(max(_width(table), 1))
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"  # type: ignore[attr-defined]


def plain_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", border_style="dim")
    for at, name in enumerate(columns):
        table.add_column(Text(name), justify="right" if at else "left", overflow="fold")
    return table
