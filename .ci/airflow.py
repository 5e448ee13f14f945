"""What `.ci/airflow` does: starts all of Airflow, or hands its arguments to the command `airflow`.

`airflow standalone` is not used: it mixes the logs of four components on the screen, opens log servers to the network,
does not stop before a running task has ended, and leaves everything running when it is killed.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import multiprocessing
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    import psutil

PROJECT = Path(__file__).resolve().parents[1]
COMMAND = PROJECT / ".airflow" / "venv" / "bin" / "airflow"
PYTHON = PROJECT / ".venv" / "bin" / "python"
NODE_SERVER = "RETAKE_NODE_SERVER"
"""Names the server that forks tasks; where it is set, even to nothing, that is how it stays."""

# Both would serve task logs to the network, on all interfaces. Here, everyone reads the files.
COMPONENTS = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def environment(home: Path, port: int) -> dict[str, str]:
    """What makes Airflow this project's, on this machine only."""
    url = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # Else what a newcomer triggers waits, without a word, until they find the switch.
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        # A node takes a gigabyte and more; 32 at once, the default, are for other machines.
        "AIRFLOW__CORE__PARALLELISM": "4",
        # The default asks the network for this machine's name, and can wait long for that.
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": "socket.gethostname",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        # A definition that was just compiled is on the page in seconds, not in minutes.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
        # A proxy cannot reach this machine's loopback.
        "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
    }


def die(message: str) -> NoReturn:
    sys.exit(f"airflow: {message}")


def write_once(path: Path, text: str) -> None:
    """For the owner only, and whole or not at all."""
    if not path.exists():
        new = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(text)
        new.replace(path)


def prepare(home: Path) -> None:
    """Its folder and secrets. Without an airflow.cfg Airflow writes one, with all defaults and this folder's path."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    fernet_key = base64.urlsafe_b64encode(os.urandom(32)).decode()
    write_once(
        home / "airflow.cfg",
        f"[core]\nfernet_key = {fernet_key}\n"
        f"[api]\nsecret_key = {secrets.token_urlsafe(32)}\n"
        f"[api_auth]\njwt_secret = {secrets.token_urlsafe(64)}\n",
    )
    write_once(home / "passwords.json", json.dumps({"admin": secrets.token_urlsafe(12)}))


def lock(path: Path, wait: bool) -> IO[str]:
    """Ends with the last process that has it open, however that ends."""
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    return file


def keep(starter: int, home: Path) -> int:
    """Run the components until one of them ends or the process that started this one does, even by kill -9."""
    import psutil

    os.setsid()  # Ctrl-C is for the process that started this one.
    told: list[int] = []
    for number in STOPS:  # None of them interrupts, or some of them would be left running.
        signal.signal(number, lambda number, _: told.append(number))
    components: dict[str, psutil.Popen] = {}
    own = tempfile.TemporaryDirectory(prefix="retake-")
    nodes = None
    if NODE_SERVER not in os.environ and os.access(PYTHON, os.X_OK):
        os.environ[NODE_SERVER] = f"{own.name}/nodes"
        nodes = node_server(home)
    for name, options in COMPONENTS.items():
        with (home / "logs" / f"{name}.log").open("wb") as log:
            components[name] = psutil.Popen(
                [COMMAND, name, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
    ended = None
    while ended is None and not told and not select.select([starter], [], [], 0.2)[0]:
        ended = next((name for name, process in components.items() if process.poll() is not None), None)
        if nodes and nodes.poll() is not None:
            if nodes.returncode == 1:
                print(
                    f"airflow: no node server, so tasks take longer; {home}/logs/node-server.log says why", flush=True
                )
            nodes = None if nodes.returncode == 1 else node_server(home)  # The code has changed, or it was killed.
    if ended:
        log_file = home / "logs" / f"{ended}.log"
        print(f"airflow: its {ended} has ended, so all of it stops; {log_file} says why", file=sys.stderr)
    stop(components)
    own.cleanup()
    return 1 if ended else 0


def node_server(home: Path) -> psutil.Popen:
    """Starts the server that imports once what tasks import."""
    import psutil

    # As the DAG gives a task its environment.
    told = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "_", "PYTHON"))}
    with (home / "logs" / "node-server.log").open("ab") as log:
        return psutil.Popen(
            [PYTHON, "-m", "pipelines.node_server", os.environ[NODE_SERVER]],
            cwd=PROJECT,
            env={**told, NODE_SERVER: ""},
            stdin=subprocess.PIPE,  # Which ends with this process, and the server with it.
            stdout=log,
            stderr=log,
        )


def stop(components: dict[str, psutil.Popen]) -> None:
    """The scheduler first, with its tasks: their end is recorded through the API server."""
    import psutil

    def runs(process: psutil.Process) -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):
            # Not every machine has a process 1 that buries what a dead parent leaves.
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        return False

    everything = psutil.Process().children(recursive=True)
    scheduled: list[psutil.Process] = []
    with contextlib.suppress(KeyError, psutil.NoSuchProcess):
        scheduled = [components["scheduler"], *components["scheduler"].children(recursive=True)]
    for processes, signal_name in ((scheduled, "terminate"), (everything, "terminate"), (everything, "kill")):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, signal_name)()
        deadline = time.monotonic() + 10
        while any(map(runs, processes)) and time.monotonic() < deadline:
            time.sleep(0.1)


def wait_until_ready(port: int, keeper: multiprocessing.process.BaseProcess) -> bool:
    """Whether all components have sent a sign of life; no, when their keeper has ended before."""
    since = datetime.now(timezone.utc)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while keeper.is_alive():
        # It does not answer yet, or not with everything.
        with contextlib.suppress(OSError, ValueError, TypeError):
            with opener.open(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=5) as answer:
                health = json.load(answer)
            names = ("scheduler", "dag_processor", "triggerer")
            # What was there before a kill -9 counts as healthy for half a minute.
            if all(datetime.fromisoformat(health[name][f"latest_{name}_heartbeat"]) > since for name in names):
                return True
        time.sleep(0.5)
    return False


def start(home: Path, port: int) -> int:
    """All of it, until Ctrl-C."""
    try:
        running = lock(home / "running", wait=False)
    except BlockingIOError:
        die("it is running already: stop that with Ctrl-C where it was started, or use it (.ci/airflow dags list)")
    # What a kill -9 has left ends by itself, and has the port until then.
    stopped = lock(home / "stopped", wait=True)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            die(f"cannot have port {port} ({error.strerror}): take another one, AIRFLOW_PORT={port + 1} make airflow")

    print(f"starting Airflow, which takes about half a minute; its own logs are in {home / 'logs'}", flush=True)
    log_file = home / "logs" / "migrate.log"
    with log_file.open("wb") as log:
        migrated = subprocess.run([COMMAND, "db", "migrate"], stdout=log, stderr=log, umask=0o077, check=False)
    if migrated.returncode:
        die(f"cannot make its database; {log_file} says why")

    starter, alive = os.pipe()

    def run_keeper() -> None:
        os.close(alive)
        running.close()
        sys.exit(keep(starter, home))

    keeper = multiprocessing.get_context("fork").Process(target=run_keeper)
    keeper.start()
    stopped.close()
    try:
        if wait_until_ready(port, keeper):
            password = json.loads((home / "passwords.json").read_text())["admin"]
            print(
                f"Airflow is ready: http://127.0.0.1:{port}, user admin, password {password}\n"
                f"To train, press Trigger on http://127.0.0.1:{port}/dags/sample, or say in another terminal:\n"
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


def main() -> int:
    home = PROJECT / ".airflow" / "home"
    try:
        port = int(os.environ.get("AIRFLOW_PORT") or 8080)
    except ValueError:
        die(f"AIRFLOW_PORT is {os.environ['AIRFLOW_PORT']!r}, which is no number")
    # Settings of another Airflow are not for this one: they could name a database in service. More of this one's can be
    # in its own airflow.cfg.
    for name in [name for name in os.environ if name == "AIRFLOW_CONFIG" or name.startswith("AIRFLOW__")]:
        del os.environ[name]
    os.environ.update(environment(home, port))
    prepare(home)
    if len(sys.argv) > 1:
        if not (home / "airflow.db").exists():
            print("airflow: it has not been started here yet, so it has no database; make airflow", file=sys.stderr)
        os.environ["PYTHONWARNINGS"] = "ignore"  # They are for Airflow's authors, and longer than its answer.
        os.execv(COMMAND, [str(COMMAND), *sys.argv[1:]])  # noqa: S606

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in STOPS:
        signal.signal(number, interrupt)
    try:
        return start(home, port)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
