"""What `.ci/airflow` does: starts all of Airflow, or hands its arguments to the command `airflow`."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, NoReturn

import psutil

from pipelines.local_airflow.server import AIRFLOW, COMPONENTS, PROJECT, AirflowServer
from retake.handover import VARIABLE as NODE_SERVER

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def die(message: str) -> NoReturn:
    sys.exit(f"airflow: {message}")


def lock(path: Path, wait: bool) -> IO[str]:
    """Ends with the last process that has it open, however that ends."""
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    return file


def keep(starter: int, server: AirflowServer) -> int:
    """Runs the components until one of them ends or the process that started this one does, even by kill -9."""
    os.setsid()  # Ctrl-C is for the process that started this one.
    stops: list[int] = []
    for number in STOPS:  # None of them interrupts, or some of the components would be left running.
        signal.signal(number, lambda number, _: stops.append(number))
    logs = server.home / "logs"
    own = tempfile.TemporaryDirectory(prefix="retake-")
    nodes = None
    if NODE_SERVER not in os.environ:  # Where it is set, even to nothing, that is how it stays.
        server.environment[NODE_SERVER] = f"{own.name}/nodes"
        nodes = node_server(server)
    for component in COMPONENTS:
        (logs / f"{component}.log").unlink(missing_ok=True)
    server.launch(*COMPONENTS)
    ended = None
    while ended is None and not stops and not select.select([starter], [], [], 0.2)[0]:
        ended = server.ended()
        if nodes and nodes.poll() is not None:
            if nodes.returncode == 1:
                print(f"airflow: no node server, so tasks take longer; {logs}/node-server.log says why", flush=True)
            nodes = None if nodes.returncode == 1 else node_server(server)  # The code has changed, or it was killed.
    if ended:
        told = f"its {ended} has ended, so all of it stops; {logs / f'{ended}.log'} says why"
        print(f"airflow: {told}", file=sys.stderr)
    server.end()
    own.cleanup()
    return 1 if ended else 0


def node_server(server: AirflowServer) -> psutil.Popen:
    """Starts the server that imports once what tasks import, and forks for each of them."""
    # As the DAG gives a task its environment.
    ours = {
        name: value for name, value in server.environment.items() if not name.startswith(("AIRFLOW", "_", "PYTHON"))
    }
    with (server.home / "logs" / "node-server.log").open("ab") as log:
        return psutil.Popen(
            [sys.executable, "-m", "pipelines.node_server", ours[NODE_SERVER]],
            cwd=PROJECT,
            env={**ours, NODE_SERVER: ""},
            stdin=subprocess.PIPE,  # Which ends with this process, and the server with it.
            stdout=log,
            stderr=log,
        )


def wait_until_ready(server: AirflowServer, keeper: BaseProcess) -> bool:
    """Whether all components have given a sign of life; not, when their keeper ends first."""
    since = datetime.now(timezone.utc)
    while keeper.is_alive():
        if server.is_healthy(since, *COMPONENTS):
            return True
        time.sleep(0.5)
    return False


def start(server: AirflowServer) -> int:
    """Runs all of it until Ctrl-C."""
    home, port = server.home, server.port
    try:
        running = lock(home / "running", wait=False)
    except BlockingIOError:
        die("it is running already: stop that with Ctrl-C where it was started, or use it (.ci/airflow dags list)")
    # An Airflow whose starter was killed ends by itself, and has the port until then.
    stopped = lock(home / "stopped", wait=True)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            die(f"cannot have port {port} ({error.strerror}): take another one, AIRFLOW_PORT={port + 1} make airflow")

    print(f"starting Airflow, which takes about half a minute; its own logs are in {home / 'logs'}", flush=True)
    if not server.migrate():
        die(f"cannot make its database; {home / 'logs' / 'migrate.log'} says why")

    starter, alive = os.pipe()

    def run_keeper() -> None:
        os.close(alive)
        running.close()
        sys.exit(keep(starter, server))

    keeper = multiprocessing.get_context("fork").Process(target=run_keeper)
    keeper.start()
    stopped.close()
    try:
        if wait_until_ready(server, keeper):
            print(
                f"Airflow is ready: {server.url}, user admin, password {server.password}\n"
                f"To train, press Trigger on {server.url}/dags/sample, or say in another terminal:\n"
                f"  .ci/airflow dags trigger sample\n"
                f"To train again by itself when records arrive: .ci/airflow dags unpause sample-watch\n"
                f"Ctrl-C stops it.",
                flush=True,
            )
        keeper.join()
    except KeyboardInterrupt:
        for number in STOPS:
            signal.signal(number, signal.SIG_IGN)
        os.close(alive)
        with contextlib.suppress(OSError):  # The terminal has gone, too.
            print("\nstopping Airflow …", flush=True)
        keeper.join()
    return keeper.exitcode or 0


def main(arguments: list[str]) -> int:
    try:
        port = int(os.environ.get("AIRFLOW_PORT") or 8080)
    except ValueError:
        die(f"AIRFLOW_PORT is {os.environ['AIRFLOW_PORT']!r}, which is no number")
    server = AirflowServer(PROJECT / ".airflow" / "home", PROJECT / "dags", port=port)
    server.prepare()
    if arguments:
        if not (server.home / "airflow.db").exists():
            print("airflow: it has not been started here yet, so it has no database; make airflow", file=sys.stderr)
        os.execve(AIRFLOW, [str(AIRFLOW), *arguments], server.environment)  # noqa: S606

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in STOPS:
        signal.signal(number, interrupt)
    try:
        return start(server)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
