"""Keeps a node's own words through Beam, which wraps what a worker raises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from retake.errors import RetakeError


@contextmanager
def reported() -> Iterator[None]:
    """Raises the RetakeError that a Beam stage raised, without Beam's note of the stage."""
    try:
        yield
    except Exception as error:
        message = re.sub(r"\s*\[while running .*\]$", "", str(error), flags=re.DOTALL)
        if isinstance(error, RetakeError) or "retake.errors.RetakeError" in message:
            raise RetakeError(message.split("RetakeError: ")[-1]) from error
        raise
