"""The metadata store's file is damaged, or the server's password has characters that mean something to others."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto.metadata_store_pb2 import ArtifactType, Context, ContextType, Execution, ExecutionType
from postgres_server import Postgres, postgres_server

from pipelines import metadata
from retake.errors import RetakeError, UsageError


def test_of_a_nodes_attempts_the_last_one_counts_and_its_seconds_are_its_own(tmp_path: Path) -> None:
    connection = metadata.connection_config(f"sqlite:///{tmp_path}/metadata.sqlite")
    store = MetadataStore(connection)
    contexts = [
        Context(type_id=store.put_context_type(ContextType(name=kind)), name=name)
        for kind, name in (("pipeline_run", "first"), ("node", "birds.Trainer"))
    ]
    kind = store.put_execution_type(ExecutionType(name="Trainer"))
    ids = []
    for state in (Execution.FAILED, Execution.COMPLETE):
        made = Execution(type_id=kind, last_known_state=state)
        ids.append(store.put_execution(made, [], contexts, reuse_context_if_already_exist=True)[0])
    last = metadata.executions(connection, "birds", "first")["Trainer"]
    assert last.id == ids[-1]

    time.sleep(0.2)
    begun = int(time.time() * 1000)
    metadata.mark_attempt(connection, last, begun)  # It was killed, and another attempt has completed it.
    again = metadata.executions(connection, "birds", "first")["Trainer"]
    assert metadata.node("Trainer", again, []).seconds == (again.last_update_time_since_epoch - begun) / 1000 < 0.2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A store that knows one type of artifact, and a copy of it."""
    file = tmp_path / "its folder" / "metadata.sqlite"
    connection = metadata.connection_config(f"sqlite:///{file}")
    MetadataStore(connection).put_artifact_type(ArtifactType(name="Thing"))
    metadata.back_up(connection)
    return file


def types(file: Path) -> list[str]:
    return [each.name for each in MetadataStore(metadata.connection_config(f"sqlite:///{file}")).get_artifact_types()]


DAMAGE = {
    "garbage": lambda content: b"?" * len(content),
    "cut off": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
}


@pytest.mark.parametrize("damage", [*DAMAGE, "gone"])
def test_a_damaged_store_is_refused_and_the_command_that_is_named_brings_the_copy_back(file: Path, damage: str) -> None:
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(DAMAGE[damage](file.read_bytes()))
    Path(f"{file}-journal").write_bytes(b"of the damaged one")
    with pytest.raises(RetakeError, match="cannot be opened as a metadata store") as error:
        types(file)

    message = str(error.value)
    assert "\n" not in message
    command = message.partition("restore the copy of ")[2].partition(" with: ")[2].partition(" (")[0]
    subprocess.run(command, shell=True, check=True)  # noqa: S602
    assert types(file) == ["Thing"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_without_a_copy_the_message_says_what_beginning_anew_loses(file: Path, damage: str) -> None:
    file.with_name("metadata.sqlite.backup").unlink()
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(RetakeError, match=r"there is no copy of it; to begin anew: rm '.*' \(every node runs again"):
        types(file)


def test_a_store_that_may_not_be_opened_is_no_reason_to_remove_it(tmp_path: Path) -> None:
    (tmp_path / "metadata.sqlite").mkdir()
    with pytest.raises(RetakeError, match="cannot be opened as a metadata store") as error:
        types(tmp_path / "metadata.sqlite")
    assert "rm" not in str(error.value)


def test_the_copy_is_of_the_last_time_that_it_was_made(file: Path) -> None:
    connection = metadata.connection_config(f"sqlite:///{file}")
    MetadataStore(connection).put_artifact_type(ArtifactType(name="Other"))
    assert types(file.with_name("metadata.sqlite.backup")) == ["Thing"]
    metadata.back_up(connection)
    assert sorted(types(file.with_name("metadata.sqlite.backup"))) == ["Other", "Thing"]
    assert sorted(path.name for path in file.parent.iterdir()) == ["metadata.sqlite", "metadata.sqlite.backup"]


USER = "o'dd us=er"
PASSWORDS = ["two words", "host=elsewhere dbname=postgres", r"it's a \back='slash'\\", " = "]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        server.create_database("metadata")
        psql(server, f'CREATE ROLE "{USER}" SUPERUSER LOGIN')
        yield server


def psql(server: Postgres, statement: str) -> None:
    place = ["-h", server.host, "-p", str(server.port), "-U", server.user, "-d", "postgres"]
    command = [server.binaries / "psql", "-q", *place, "-c", statement]
    subprocess.run(command, env={**os.environ, "PGPASSWORD": server.password}, check=True)


def address(postgres: Postgres, password: str, patch: pytest.MonkeyPatch) -> str:
    """The store's URL for a role that has this password now, and puts the password into the environment."""
    text = password.replace("'", "''")
    psql(postgres, f"ALTER ROLE \"{USER}\" PASSWORD '{text}'")
    patch.setenv(metadata.PASSWORD_VARIABLE, password)
    return f"postgresql://{quote(USER)}@{postgres.host}:{postgres.port}/metadata"


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_is_one_word_to_postgresql_whatever_it_holds(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    config = metadata.connection_config(address(postgres, password, monkeypatch))
    assert config.postgresql.dbname == "metadata"
    MetadataStore(config).get_artifact_types()


def test_a_wrong_password_with_spaces_is_not_told(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = address(postgres, "right", monkeypatch)
    monkeypatch.setenv(metadata.PASSWORD_VARIABLE, "not s3cret='enough'")
    with pytest.raises(RetakeError, match="is the server up, and its password in RETAKE_METADATA_PASSWORD") as error:
        metadata.connection_config(url)
    told = str(error.value) + "".join(capfd.readouterr())
    assert not any(part in told for part in ("s3cret", "enough"))


@pytest.mark.parametrize("name", ["a b", "a=b", "a'b", "host=elsewhere"])
def test_a_name_that_is_no_databases_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="the database's name may hold letters, digits, _ and - only"):
        metadata.connection_config(f"postgresql://user@127.0.0.1/{name}")


def test_mysql_takes_its_password_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(metadata.PASSWORD_VARIABLE, "it's two words")
    config = metadata._connection_config("mysql://some%20one@127.0.0.1/store")
    assert (config.mysql.user, config.mysql.password, config.mysql.database) == ("some one", "it's two words", "store")
