"""Airflow's four components as processes of this machine, which listen on its loopback only.

`airflow standalone` is not used: it mixes the logs of four components on the screen, opens log servers to the network,
does not stop before a running task has ended, and leaves everything running when it is killed.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import socket
import subprocess
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from urllib.error import URLError

import psutil

from pipelines.local_airflow.api import AirflowApi, ApiError, tail, wait_for

PROJECT = Path(__file__).resolve().parents[2]
AIRFLOW = PROJECT / ".airflow" / "venv" / "bin" / "airflow"

# A component's log server listens on all interfaces. It is not needed where all is on one disk.
COMPONENTS = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}

SETTINGS = {
    "CORE__LOAD_EXAMPLES": "False",
    # Else a newcomer's run waits, without a word, until they find the switch.
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "CORE__EXECUTOR": "LocalExecutor",
    # A node takes a gigabyte and more; 32 at once, the default, are for other machines.
    "CORE__PARALLELISM": "4",
    # The default asks the network for this machine's name, and can wait long for that.
    "CORE__HOSTNAME_CALLABLE": "socket.gethostname",
    "CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
    "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
    "API__HOST": "127.0.0.1",
    # A definition that was just compiled is on the page in seconds, not in minutes.
    "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "5",
}

QUICK = {
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "API__WORKERS": "1",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",  # The time between the end of a task and the start of the next.
    "SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
    "SCHEDULER__JOB_HEARTBEAT_SEC": "1",
    "TRIGGERER__JOB_HEARTBEAT_SEC": "1",
    # How long a killed component counts as alive. Two busy cores can hold up a living one for seconds.
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "10",
    "TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "10",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3",
    # How long a task whose supervisor was killed counts as running.
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "45",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "2",
    "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": "1",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",  # `parse` reads a file that has changed.
    "DAG_PROCESSOR__PARSING_PROCESSES": "1",
}
"""For tests and measurements: Airflow notices within seconds that something ended or was killed."""

_MARK = "RETAKE_AIRFLOW_COMPONENT"


def inherited() -> dict[str, str]:
    """The variables of this process that a process of Airflow may see: no settings of another Airflow, which could name
    a database in service, or of another Python."""
    others = ("AIRFLOW_CONFIG", "AIRFLOW__", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class AirflowServer(AirflowApi):
    """Context manager: Airflow runs inside it, and none of its processes is left behind.

    Args:
      home: AIRFLOW_HOME; the log of a component is `home/logs/COMPONENT.log`.
      dags: the folder of DAG files.
      database: SQLAlchemy URL of an empty or migrated database; default: the one that `home/airflow.cfg` names, or
        SQLite in `home`.
      environment: more variables, for the components and all tasks.
      port: of the API server; 0 is any free one.
      settings: more settings of Airflow, such as QUICK.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        database: str | None = None,
        environment: dict[str, str] | None = None,
        port: int = 0,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.home, self.port = home, port or free_port()
        super().__init__(f"http://127.0.0.1:{self.port}", home / "passwords.json")
        own = {
            **SETTINGS,
            "CORE__DAGS_FOLDER": str(dags),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(home / "passwords.json"),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "API__BASE_URL": self.url,
            "API__PORT": str(self.port),
            # Where nobody listens: the API server asks there for a running task's log, besides reading it from disk.
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            **({"DATABASE__SQL_ALCHEMY_CONN": database} if database else {}),
            **(settings or {}),
        }
        self.environment = {
            **inherited(),
            "AIRFLOW_HOME": str(home),
            **{f"AIRFLOW__{name}": value for name, value in own.items()},
            # A proxy cannot reach this machine's loopback.
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "127.0.0.1"])),
            "PYTHONWARNINGS": "ignore",  # They are for Airflow's authors.
            **(environment or {}),
        }
        self.processes: dict[str, psutil.Popen] = {}

    def __enter__(self) -> AirflowServer:
        """Raises RuntimeError or TimeoutError, with the end of the log, when a component does not come up."""
        self.prepare()
        if not self.migrate():
            raise RuntimeError(f"airflow db migrate:\n{self._log_of('migrate')}")
        try:
            self.start(*COMPONENTS)
        except BaseException:
            self.stop(*COMPONENTS)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*COMPONENTS)

    def prepare(self) -> None:
        """Makes the folder and secrets. Without an airflow.cfg Airflow writes one, with all defaults and this path."""
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self.home / "logs").mkdir(exist_ok=True)
        fernet_key = base64.urlsafe_b64encode(os.urandom(32)).decode()
        _write_once(
            self.home / "airflow.cfg",
            f"[core]\nfernet_key = {fernet_key}\n"
            f"[api]\nsecret_key = {secrets.token_urlsafe(32)}\n"
            f"[api_auth]\njwt_secret = {secrets.token_urlsafe(64)}\n",
        )
        _write_once(self.home / "passwords.json", json.dumps({"admin": secrets.token_urlsafe(12)}))

    def migrate(self) -> bool:
        """Makes the database, or brings it up to date, and returns whether that succeeded; see `logs/migrate.log`."""
        with (self.home / "logs" / "migrate.log").open("wb") as log:
            command = [str(AIRFLOW), "db", "migrate"]
            return not subprocess.run(command, stdout=log, stderr=log, env=self.environment, umask=0o077).returncode

    def start(self, *components: str) -> None:
        """Starts the components and returns when they are healthy.

        Raises RuntimeError when one ends, and TimeoutError when one is not healthy in time.
        """
        since = datetime.now(timezone.utc)
        self.launch(*components)

        def healthy() -> bool:
            if ended := self.ended():
                raise RuntimeError(f"{ended} has ended:\n{self._log_of(ended)}")
            return self.is_healthy(since, *components)

        wait_for(healthy, 120, lambda: "\n".join(f"{name}:\n{self._log_of(name)}" for name in components))

    def launch(self, *components: str) -> None:
        """Starts the components, and does not wait for them."""
        for component in components:
            with (self.home / "logs" / f"{component}.log").open("ab") as log:
                self.processes[component] = psutil.Popen(
                    [AIRFLOW, component, *COMPONENTS[component]],
                    cwd=self.home,
                    env={**self.environment, _MARK: f"{component} {self.home}"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def ended(self) -> str | None:
        """A component that has ended by itself."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)

    def is_healthy(self, since: datetime, *components: str) -> bool:
        """Whether the API server answers, and each of the components has given a sign of life since then."""
        names = [component.replace("-", "_") for component in components if component != "api-server"]
        # It does not answer yet, or not with everything.
        with suppress(ApiError, URLError, OSError, ValueError, TypeError):
            health = self.api("GET", "/monitor/health")
            return all(
                health[name]["status"] == "healthy"
                # The one before, which was killed, counts as healthy for a while.
                and datetime.fromisoformat(health[name][f"latest_{name}_heartbeat"]) > since
                for name in names
            )
        return False

    def stop(self, *components: str) -> None:
        """Kills the components with all their children, tasks too, as a power cut would."""
        for component in components:
            if process := self.processes.pop(component, None):
                while members := self._members(component, process.pid):
                    for member in members:
                        with suppress(psutil.NoSuchProcess):
                            member.kill()
                    time.sleep(0.02)
                process.wait()

    def restart(self, component: str) -> None:
        self.stop(component)
        self.start(component)

    def _members(self, component: str, session: int) -> list[psutil.Process]:
        """The component's session, in which each task has a process group of its own; and what left the session."""
        mark = f"{component} {self.home}"
        members = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):  # It has ended meanwhile, or is another user's.
                if process.status() != psutil.STATUS_ZOMBIE and (
                    os.getsid(process.pid) == session or process.environ().get(_MARK) == mark
                ):
                    members.append(process)
        return members

    def _log_of(self, name: str) -> str:
        return tail((self.home / "logs" / f"{name}.log").read_text(errors="replace"))

    def end(self) -> None:
        """Ends the components in order, the scheduler with its tasks first: the API server records how they end."""
        everything = psutil.Process().children(recursive=True)
        scheduled: list[psutil.Process] = []
        with suppress(KeyError, psutil.NoSuchProcess):
            scheduled = [self.processes["scheduler"], *self.processes["scheduler"].children(recursive=True)]
        for processes, signal_name in ((scheduled, "terminate"), (everything, "terminate"), (everything, "kill")):
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    getattr(process, signal_name)()
            deadline = time.monotonic() + 10
            while any(map(_runs, processes)) and time.monotonic() < deadline:
                time.sleep(0.1)


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        # Not every machine has a process 1 that buries what a dead parent leaves.
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _write_once(path: Path, text: str) -> None:
    """Writes a file for its owner only, whole or not at all, where there is none."""
    if not path.exists():
        new = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write(text)
        new.replace(path)
