"""A real Airflow for tests: its four components as processes on this machine, spoken to through its public REST API."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

AIRFLOW = Path(__file__).parents[1] / ".airflow" / "venv" / "bin" / "airflow"

# A component's log server listens on all interfaces. It is not needed where all is on one disk.
COMPONENTS = {
    "api-server": [],
    "scheduler": ["--skip-serve-logs"],
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
MARK = "RETAKE_TEST_COMPONENT"

SETTINGS = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": "4",  # That many processes are forked at the start.
    "CORE__LOAD_EXAMPLES": "false",
    "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "API__HOST": "127.0.0.1",
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
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",  # `parse` is for what has changed.
    "DAG_PROCESSOR__PARSING_PROCESSES": "1",
}

Answer = TypeVar("Answer")


def inherited() -> dict[str, str]:
    """What a process of Airflow may see of this environment: nothing that another Airflow or Python is told."""
    own = ("AIRFLOW", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(own)}


class ApiError(Exception):
    """The API answered with 4xx or 5xx, which is `status`; the message has the answer's text."""

    def __init__(self, request: str, status: int, text: str) -> None:
        super().__init__(f"{request}: {status} {text}")
        self.status = status


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.splitlines()[-lines:])


def wait_for(answer: Callable[[], Answer], seconds: float, otherwise: Callable[[], str]) -> Answer:
    """The first answer that is true. Raises TimeoutError with what `otherwise` says."""
    deadline = time.monotonic() + seconds
    while not (found := answer()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} seconds:\n{otherwise()}")
        time.sleep(0.5)  # Each answer takes Airflow's API server some time of a core.
    return found


class AirflowServer:
    """Context manager: Airflow runs inside it, and none of its processes is left behind.

    Args:
      home: AIRFLOW_HOME; what the components say is in `home/logs/COMPONENT.log`.
      dags: the folder of DAG files.
      database: SQLAlchemy URL of an empty or migrated database; default: SQLite in `home`.
      environment: more variables, for the components and all tasks.
    """

    def __init__(
        self, home: Path, dags: Path, database: str | None = None, environment: dict[str, str] | None = None
    ) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{free_port()}"
        own = {
            **SETTINGS,
            "CORE__DAGS_FOLDER": str(dags),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "DATABASE__SQL_ALCHEMY_CONN": database or f"sqlite:///{home}/airflow.db",
            "API__BASE_URL": self.url,
            "API__PORT": self.url.rpartition(":")[2],
            "API__SECRET_KEY": secrets.token_hex(),
            "API_AUTH__JWT_SECRET": secrets.token_hex(),
            # Where nobody listens: the API server asks there for a running task's log, besides reading it from disk.
            "LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
        }
        self.environment = {
            **inherited(),
            "AIRFLOW_HOME": str(home),
            **{f"AIRFLOW__{name}": value for name, value in own.items()},
            "PYTHONWARNINGS": "ignore",
            **(environment or {}),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._token = ""

    def __enter__(self) -> AirflowServer:
        """Raises RuntimeError or TimeoutError, with what was logged, when a component does not come up."""
        (self.home / "logs").mkdir(parents=True, exist_ok=True)
        migrated = self.cli("db", "migrate")
        if migrated.returncode:
            raise RuntimeError(f"airflow db migrate:\n{tail(migrated.stdout + migrated.stderr)}")
        try:
            self.start(*COMPONENTS)
        except BaseException:
            self.stop(*COMPONENTS)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(*COMPONENTS)

    def start(self, *components: str) -> None:
        """Starts the components and returns when they are healthy.

        Raises RuntimeError when one ends, and TimeoutError when one is not healthy in time.
        """
        started = datetime.now(timezone.utc)
        for component in components:
            with (self.home / "logs" / f"{component}.log").open("ab") as log:
                self._processes[component] = subprocess.Popen(
                    [AIRFLOW, component, *COMPONENTS[component]],
                    cwd=self.home,
                    env={**self.environment, MARK: f"{component} {self.home}"},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

        def healthy() -> bool:
            for component in components:
                if (code := self._processes[component].poll()) is not None:
                    raise RuntimeError(f"{component} ended with {code}:\n{self._said(component)}")
            with suppress(ApiError, URLError, ConnectionError, TimeoutError):
                health = self.api("GET", "/monitor/health")
                return all(
                    health[name]["status"] == "healthy"
                    # The one before, which was killed, counts as healthy for a while.
                    and datetime.fromisoformat(health[name][f"latest_{name}_heartbeat"]) > started
                    for name in (component.replace("-", "_") for component in components)
                    if name != "api_server"
                )
            return False

        wait_for(healthy, 120, lambda: "\n".join(f"{name}:\n{self._said(name)}" for name in components))

    def stop(self, *components: str) -> None:
        """Kills the components with all their children, tasks too, as a power cut would."""
        for component in components:
            if process := self._processes.pop(component, None):
                while members := self._members(component, process.pid):
                    for pid in members:
                        with suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                    time.sleep(0.02)
                process.wait()

    def restart(self, component: str) -> None:
        self.stop(component)
        self.start(component)

    def _members(self, component: str, session: int) -> list[int]:
        """The component's session, in which each task has a process group of its own; and what left the session."""
        mark = f"{MARK}={component} {self.home}\0".encode()
        members = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # It has ended meanwhile, or is another user's.
                state, _, _, its_session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z" and (int(its_session) == session or mark in (folder / "environ").read_bytes()):
                    members.append(int(folder.name))
        return members

    def _said(self, component: str) -> str:
        return tail((self.home / "logs" / f"{component}.log").read_text(errors="replace"))

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The command `airflow` with these arguments, when it has ended."""
        return subprocess.run(
            [AIRFLOW, *arguments], cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=120
        )

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to a request below /api/v2, None when it is empty. Raises ApiError for 4xx and 5xx."""
        if not self._token and path != "/monitor/health":
            self._log_in()
        try:
            return self._request(method, f"/api/v2{path}", body)
        except ApiError as error:
            if error.status != 401:
                raise
            self._log_in()
            return self._request(method, f"/api/v2{path}", body)

    def _log_in(self) -> None:
        passwords = json.loads((self.home / "simple_auth_manager_passwords.json.generated").read_text())
        login = {"username": "admin", "password": passwords["admin"]}
        self._token = self._request("POST", "/auth/token", login)["access_token"]

    def _request(self, method: str, path: str, body: Any) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.url + path, data, headers, method=method), timeout=60) as answer:  # noqa: S310
                text = answer.read()
        except HTTPError as error:
            raise ApiError(f"{method} {path}", error.code, error.read().decode(errors="replace")) from None
        return json.loads(text) if text else None

    def wait_for_dag(self, dag_id: str, timeout: float = 180) -> dict[str, Any]:
        """The DAG when it has been parsed. Raises TimeoutError with the import errors."""

        def dag() -> Any:
            with suppress(ApiError):
                return self.api("GET", f"/dags/{dag_id}")

        return wait_for(dag, timeout, lambda: f"no DAG {dag_id}; import errors: {self.import_errors()}")

    def parse(self, dag_id: str) -> None:
        """Has a DAG's file read anew, and returns when it has been."""
        asked = self.wait_for_dag(dag_id)
        self.api("PUT", f"/parseDagFile/{asked['file_token']}")

        def parsed() -> bool:
            return self.wait_for_dag(dag_id)["last_parsed_time"] != asked["last_parsed_time"]

        wait_for(parsed, 180, lambda: str(self.import_errors()))

    def import_errors(self) -> list[dict[str, Any]]:
        return self.api("GET", "/importErrors")["import_errors"]

    def pause(self, dag_id: str) -> None:
        self.api("PATCH", f"/dags/{dag_id}", {"is_paused": True})

    def unpause(self, dag_id: str) -> None:
        self.api("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, run_id: str | None = None) -> str:
        """The ID of the new run. It waits in the queue while the DAG is paused."""
        body = {"logical_date": None, "conf": conf or {}, **({"dag_run_id": run_id} if run_id else {})}
        return self.api("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"]

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """All runs, the oldest first."""
        return self.api("GET", f"/dags/{dag_id}/dagRuns?limit=1000&order_by=run_after")["dag_runs"]

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 300) -> dict[str, Any]:
        """The run when its state is success or failed. Raises TimeoutError with told()."""

        def finished() -> Any:
            run = self.api("GET", self._run(dag_id, run_id))
            return run if run["state"] in ("success", "failed") else None

        return wait_for(finished, timeout, lambda: self.told(dag_id, run_id))

    def told(self, dag_id: str, run_id: str) -> str:
        """The tasks' states, and the ends of the logs of those that run, failed or will be tried again."""
        said = []
        for name, task in self.tasks(dag_id, run_id).items():
            said.append(f"{name}: {task['state']}, try {task['try_number']}")
            if task["state"] in ("running", "failed", "up_for_retry"):
                said.append(tail(self.log(dag_id, run_id, name, task["try_number"])))
        return "\n".join([f"{dag_id} {run_id}", *said])

    def tasks(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """The task instances by task ID."""
        found = self.api("GET", f"{self._run(dag_id, run_id)}/taskInstances?limit=1000")["task_instances"]
        return {task["task_id"]: task for task in found}

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """What a try of a task has logged so far: a line per event, with the exceptions."""
        path = f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}?full_content=true"
        lines = []
        for event in self.api("GET", path)["content"]:
            lines.append(event["event"])
            lines += [f"{error['exc_type']}: {error['exc_value']}" for error in event.get("error_detail") or []]
        return "\n".join(lines)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What the task returned, or pushed with this key. Raises ApiError 404 when there is none."""
        path = f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/{quote(key)}?stringify=false"
        return self.api("GET", path)["value"]

    def events(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """Asset → extra of the event that a task of the run made."""
        found = self.api("GET", f"/assets/events?source_dag_id={dag_id}&source_run_id={quote(run_id, safe='')}")
        return {event["name"]: event["extra"] for event in found["asset_events"]}

    def upstream_events(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The extras of the asset events that started the run."""
        found = self.api("GET", f"{self._run(dag_id, run_id)}/upstreamAssetEvents")
        return [event["extra"] for event in found["asset_events"]]

    @staticmethod
    def _run(dag_id: str, run_id: str) -> str:
        return f"/dags/{dag_id}/dagRuns/{quote(run_id)}"
