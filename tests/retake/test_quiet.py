"""What libraries say while they are imported does not reach the user, unless the user asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, sys, warnings
from retake import quiet
with quiet.imports():
    os.write(2, b"native greeting\\n")
    warnings.warn("a warning")
    print("a print", file=sys.stderr)
print("afterwards", file=sys.stderr)
warnings.warn("shown")
"""


def said(code: str, shell: str = "", **variables: str) -> str:
    command = ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, code]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True, timeout=60).stderr


def test_nothing_is_said_meanwhile_and_everything_afterwards() -> None:
    told = said(CODE)
    assert told.startswith("afterwards\n") and "shown" in told
    assert "greeting" not in told and "a warning" not in told and "a print" not in told


def test_who_asks_for_tensorflows_log_hears_all() -> None:
    told = said(CODE, TF_CPP_MIN_LOG_LEVEL="0")
    assert all(words in told for words in ("native greeting", "a warning", "a print", "afterwards"))


def test_without_a_stderr_imports_work() -> None:
    assert said("from retake import quiet\nwith quiet.imports():\n    import json", "2>&-") == ""


def test_an_import_that_fails_is_told() -> None:
    code = "from retake import quiet\ntry:\n    with quiet.imports():\n        import no_such_module\nfinally:\n    import sys; print('restored', file=sys.stderr)"  # noqa: E501
    with pytest.raises(subprocess.CalledProcessError) as failed:
        said(code)
    assert "restored" in failed.value.stderr and "no_such_module" in failed.value.stderr
