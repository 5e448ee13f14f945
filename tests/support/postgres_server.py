"""A private PostgreSQL for tests, from the binaries of Debian's package `postgresql`."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from pipelines.local_airflow.server import free_port

USER = "retake"


def binaries() -> Path:
    """The folder of initdb and its like. Skips the test where there is none, and fails it where CI is set."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if on_path := shutil.which("initdb"):
        found.append(Path(on_path).resolve().parent)
    if not found:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up("PostgreSQL is not installed: apt-get install postgresql")
    return found[0]


class Postgres(NamedTuple):
    """A running server. Its user may do anything."""

    binaries: Path
    port: int
    password: str
    host: str = "127.0.0.1"
    user: str = USER

    def create_database(self, name: str) -> str:
        """The new, empty database's address: postgresql://USER:PASSWORD@HOST:PORT/NAME."""
        subprocess.run(
            [self.binaries / "createdb", "-h", self.host, "-p", str(self.port), "-U", self.user, name],
            env={**os.environ, "PGPASSWORD": self.password},
            check=True,
        )
        return f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}/{name}"


@contextmanager
def postgres_server() -> Iterator[Postgres]:
    """PostgreSQL on a free port of loopback, with a password; it ends and is gone with the context.

    It syncs nothing, and does not compile queries: for those of Airflow's DAG processor that took 45% of a core, and
    without it they take 1%.
    """
    server = Postgres(binaries(), free_port(), secrets.token_hex())
    owner = "postgres" if os.getuid() == 0 else None  # PostgreSQL refuses to run as root.
    # Not pytest's tmp_path: another user may not enter that.
    with tempfile.TemporaryDirectory(prefix="retake-postgres-", dir="/tmp") as folder:
        if owner:
            shutil.chown(folder, owner)

        def run(command: str, *arguments: str) -> None:
            ended = subprocess.run(
                [server.binaries / command, "-D", f"{folder}/data", *arguments],
                user=owner,
                group=owner,
                extra_groups=[] if owner else None,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
            if ended.returncode:
                raise RuntimeError(f"{command} ended with {ended.returncode}:\n{Path(log.name).read_text()}")

        # A file, as the server would hold a pipe open for ever.
        with Path(folder, "log").open("wb") as log:
            password = Path(folder, "password")
            password.write_text(server.password)
            password.chmod(0o644)  # The folder itself is for its owner only.
            run("initdb", "-U", USER, "-A", "scram-sha-256", "--pwfile", str(password), "--no-sync")
            options = f"-p {server.port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c jit=off"
            run("pg_ctl", "-w", "-o", options, "start")
            try:
                yield server
            finally:
                run("pg_ctl", "-w", "-m", "immediate", "stop")
