"""Restores a node's own error message, which Beam wraps in its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from retake.errors import RetakeError


@contextmanager
def reported() -> Iterator[None]:
    """Raises a Beam stage's RetakeError again, without Beam's note about the stage."""
    try:
        yield
    except Exception as error:
        message = re.sub(r"\s*\[while running .*\]$", "", str(error), flags=re.DOTALL)
        if isinstance(error, RetakeError) or "retake.errors.RetakeError" in message:
            raise RetakeError(message.split("RetakeError: ")[-1]) from error
        raise
