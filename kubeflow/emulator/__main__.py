"""`python -m kubeflow.emulator --root DIR --port N` serves Vertex AI Pipelines on this machine."""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
from pathlib import Path

from kubeflow.emulator.server import HOST, listen, server
from kubeflow.emulator.service import Emulator, InUse


def main(arguments: list[str] | None = None, prog: str = "python -m kubeflow.emulator") -> None:
    """Serve Vertex AI Pipelines on this machine until SIGTERM or SIGINT ends the process."""
    parser = argparse.ArgumentParser(prog=prog, description="Run Vertex AI pipelines on this machine.")
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="folder of the history and the logs")
    parser.add_argument("--port", type=int, default=8480, metavar="N", help="0 takes any free port (%(default)s)")
    parser.add_argument(
        "--parallel", type=int, default=os.cpu_count(), metavar="N", help="tasks that run at once (%(default)s)"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="start a new Python process with new imports for every task; no node server",
    )
    options = parser.parse_args(arguments)
    history = options.root / "emulator.sqlite"
    try:
        emulator = Emulator(options.root.resolve(), max(1, options.parallel), forks=not options.fresh)
        listener = listen(options.port)
        serving = server(emulator)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, serving.handle_exit)
        left = emulator.go_on()
    except InUse as error:
        raise SystemExit(f"{error}: end that, or give another --root") from None
    except OSError as error:
        raise SystemExit(f"{options.root} cannot be written to ({error.strerror}): give another --root") from None
    except (sqlite3.Error, ValueError) as error:
        message = f"{history} cannot be read ({error})"
        raise SystemExit(f"{message}: move it away to begin without history, or give another --root") from None
    print(
        f"Vertex AI Pipelines at http://{HOST}:{listener.getsockname()[1]} · history and logs in {options.root}",
        flush=True,
    )
    if left:
        print(f"{left} unfinished job{'s' * (left > 1)} taken up again", flush=True)
    serving.run([listener])
    emulator.leave()
    sys.stdout.flush()
    os._exit(0)  # Threads that wait for processes have nothing left to do.


if __name__ == "__main__":
    main()
