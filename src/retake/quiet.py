"""Libraries that say nothing to the user."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def environment(level: str = "3") -> None:
    """Has TensorFlow log nothing, where it is imported later, unless TF_CPP_MIN_LOG_LEVEL is set.

    Args:
      level: "1" leaves out information only, "2" warnings, too, "3" errors, too.
    """
    os.environ.setdefault(_LEVEL, level)


@contextmanager
def imports() -> Iterator[None]:
    """Hides what imports say on stderr, unless TF_CPP_MIN_LOG_LEVEL asks for it.

    TensorFlow 2.21, which comes with TFX 1.21, prints to file descriptor 2 itself and heeds that variable only later.
    """
    environment()
    if os.environ[_LEVEL] != "3" or not sys.stderr:
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def tensorflow() -> Any:
    """TensorFlow, imported late (it takes seconds) and quietly."""
    with imports():
        import tensorflow
    return tensorflow


def loggers() -> None:
    """Has TensorFlow's loggers pass errors only. For a command, whose process nobody else logs in."""
    for name in ("tensorflow", "absl"):
        logging.getLogger(name).setLevel(logging.ERROR)
