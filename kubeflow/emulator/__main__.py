"""`python -m kubeflow.emulator --root DIR --port N` serves Vertex AI Pipelines on this machine."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from kubeflow.emulator.service import HOST, Emulator, serve


def main(arguments: list[str] | None = None) -> None:
    """Serves until it is ended."""
    parser = argparse.ArgumentParser(
        prog="python -m kubeflow.emulator", description="Run Vertex AI pipelines on this machine."
    )
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="where its history and logs are kept")
    parser.add_argument("--port", type=int, default=8480, metavar="N", help="0 is any free one (%(default)s)")
    parser.add_argument(
        "--parallel", type=int, default=os.cpu_count(), metavar="N", help="tasks that run at once (%(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        emulator = Emulator(options.root.resolve(), max(1, options.parallel))
    except OSError as error:
        raise SystemExit(f"{options.root} cannot be written to ({error.strerror}): give another --root") from None
    try:
        server = serve(emulator, options.port)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"port {options.port} of {HOST} cannot be served ({error}): give another --port") from None

    def end(number: int, frame: Any) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    left = emulator.go_on()
    print(
        f"Vertex AI Pipelines at http://{HOST}:{server.server_address[1]} · history and logs in {options.root}",
        flush=True,
    )
    if left:
        print(f"{left} unfinished job{'s' * (left > 1)} taken up again", flush=True)
    server.serve_forever()
    emulator.leave()
    sys.stdout.flush()
    os._exit(0)  # Threads that wait for processes have nothing left to do.


if __name__ == "__main__":
    main()
