"""The command `retake data`: pictures come in.

retake data search --provider openverse --class "hard taco"
"""

from __future__ import annotations

import importlib

from retake.errors import UsageError

COMMANDS = {"search": "retake.search"}
"""Command → module with a `main(arguments, prog)`."""


def main(arguments: list[str], prog: str = "retake data") -> int:
    """Search for pictures on the internet, and keep where each came from."""
    name = arguments[0] if arguments else ""
    if name in ("-h", "--help"):
        print(f"usage: {prog} {{{','.join(COMMANDS)}}} …\n\nEach command has its own help: {prog} search --help")
        return 0
    if name not in COMMANDS:
        raise UsageError(f"{prog} needs one of the commands {', '.join(COMMANDS)}")
    return int(importlib.import_module(COMMANDS[name]).main(arguments[1:], prog=f"{prog} {name}"))
