"""Airflow's public REST API, with an answer to all that a person would look up on its pages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

Answer = TypeVar("Answer")

_DIRECT = build_opener(ProxyHandler({}))
"""A proxy cannot reach this machine's loopback."""


class ApiError(Exception):
    """The API answered with the code 4xx or 5xx, which is `status`; the message has the text of the answer."""

    def __init__(self, request: str, status: int, text: str) -> None:
        super().__init__(f"{request}: {status} {text}")
        self.status = status


def tail(text: str, lines: int = 30) -> str:
    return "\n".join(text.splitlines()[-lines:])


def wait_for(answer: Callable[[], Answer], seconds: float, otherwise: Callable[[], str]) -> Answer:
    """The first answer that is true. Raises TimeoutError with the text of `otherwise`."""
    deadline = time.monotonic() + seconds
    while not (found := answer()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:g} seconds:\n{otherwise()}")
        time.sleep(0.5)  # Each answer takes Airflow's API server some time of a core.
    return found


class AirflowApi:
    """A client, as the user admin.

    Args:
      url: of the API server.
      passwords: the file of Airflow's simple auth manager.
    """

    def __init__(self, url: str, passwords: Path) -> None:
        self.url, self._passwords, self._token = url, passwords, ""

    @property
    def password(self) -> str:
        return str(json.loads(self._passwords.read_text())["admin"])

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
        login = {"username": "admin", "password": self.password}
        self._token = self._request("POST", "/auth/token", login)["access_token"]

    def _request(self, method: str, path: str, body: Any) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with _DIRECT.open(Request(self.url + path, data, headers, method=method), timeout=60) as answer:  # noqa: S310
                text = answer.read()
        except HTTPError as error:
            raise ApiError(f"{method} {path}", error.code, error.read().decode(errors="replace")) from None
        return json.loads(text) if text else None

    def wait_for_dag(self, dag_id: str, timeout: float = 180) -> dict[str, Any]:
        """The DAG, as soon as Airflow has parsed it. Raises TimeoutError with the import errors."""

        def dag() -> Any:
            with suppress(ApiError):
                return self.api("GET", f"/dags/{dag_id}")

        return wait_for(dag, timeout, lambda: f"no DAG {dag_id}; import errors: {self.import_errors()}")

    def parse(self, dag_id: str) -> None:
        """Makes Airflow parse a DAG's file again, and returns when it has."""
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
        """The run, as soon as its state is success or failed. Raises TimeoutError with the text of told()."""

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
        """The log of a task's try up to now: a line for each event, with the exceptions."""
        path = f"{self._run(dag_id, run_id)}/taskInstances/{task_id}/logs/{try_number}?full_content=true"
        lines = []
        for event in self.api("GET", path)["content"]:
            lines.append(event["event"])
            lines += [f"{error['exc_type']}: {error['exc_value']}" for error in event.get("error_detail") or []]
        return "\n".join(lines)

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """The value that the task returned, or pushed with this key. Raises ApiError 404 when there is none."""
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
