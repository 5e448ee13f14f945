"""The emulator and what is meant to harm it: pages of other sites, broken requests, odd jobs, full disks."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from google.cloud import aiplatform
from test_emulator import post
from vertex_emulator import (
    MODEL,
    PARENT,
    Pipeline,
    VertexEmulator,
    ended,
    is_running,
    states,
    tasks,
    until,
    vertex_emulator,
)

from kubeflow.emulator import server
from kubeflow.emulator.expressions import matches
from kubeflow.emulator.service import Emulator

JOBS = f"/v1/{PARENT}/pipelineJobs"


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VertexEmulator]:
    with vertex_emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    return Pipeline(tmp_path)


def submitted(emulator: VertexEmulator, job: dict[str, Any]) -> tuple[int, str]:
    code, error = post(emulator.url + JOBS, json.dumps(job).encode())
    return code, error.get("message", "")


def exchanged(emulator: VertexEmulator, *parts: bytes) -> bytes:
    """What a connection gets for the bytes of a request."""
    with socket.create_connection(("127.0.0.1", int(emulator.url.rpartition(":")[2])), timeout=30) as connection:
        for part in parts:
            connection.sendall(part)
        return connection.recv(65536)


class TestStrangers:
    @pytest.mark.parametrize(
        ("site", "code"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
    )
    def test_what_a_browser_asks_for_another_site_s_page_is_refused(
        self, emulator: VertexEmulator, site: str, code: int
    ) -> None:
        """A picture's address, which has no origin."""
        assert post(f"{emulator.url}{JOBS}?filter=labels.a=1", None, **{"Sec-Fetch-Site": site})[0] == code

    @pytest.mark.parametrize(
        ("host", "code"),
        [
            ("127.0.0.1", 200),
            ("localhost:9000", 200),
            ("[::1]:8480", 200),
            ("[::1].evil.example", 403),
            ("[", 403),
            ("127.0.0.1:80@evil.example", 403),
            ("localhost.evil.example", 403),
        ],
    )
    def test_only_this_machine_s_own_names_are_served(self, emulator: VertexEmulator, host: str, code: int) -> None:
        assert post(emulator.url + JOBS, None, Host=host)[0] == code

    @pytest.mark.parametrize("origin", ["null", "http://[", "http://127.0.0.1:1"])
    def test_another_origin_is_refused(self, emulator: VertexEmulator, origin: str) -> None:
        assert post(emulator.url + JOBS, None, Origin=origin)[0] == 403


class TestRequests:
    def test_a_filter_of_many_wildcards_is_answered(self, emulator: VertexEmulator, pipeline: Pipeline) -> None:
        pipeline.task("Only").job["displayName"] = "a" * 120
        assert submitted(emulator, pipeline.job)[0] == 200
        for wild, found in (("*a" * 30 + "*b", 0), ("*a" * 30 + "*", 1)):
            jobs = aiplatform.PipelineJob.list(filter=f'display_name="{wild}"')
            assert len(jobs) == found

    @pytest.mark.parametrize(
        ("pattern", "text", "found"),
        [
            ("*", "", True),
            ("a*", "abc", True),
            ("*c", "abc", True),
            ("a*b*c", "aXbYc", True),
            ("ab*bc", "abc", False),
            ("a**c", "ac", True),
            ("*b*b*", "abc", False),
            ("a*", "ba", False),
        ],
    )
    def test_a_wildcard_stands_for_any_characters(self, pattern: str, text: str, found: bool) -> None:
        assert matches(pattern, text) == found

    @pytest.mark.parametrize("text", ["(" * 3000, "!" * 3000, "NOT " * 1000, "labels.a=1 AND " * 300 + "labels.a=1"])
    def test_a_filter_that_is_nested_too_deep_or_too_long_is_refused(self, emulator: VertexEmulator, text: str) -> None:
        code, error = post(f"{emulator.url}{JOBS}?filter={urllib.parse.quote(text)}", None)
        assert (code, error["status"], len(error["message"]) < 200) == (400, "INVALID_ARGUMENT", True)

    def test_an_order_of_a_thousand_times_is_refused(self, emulator: VertexEmulator) -> None:
        assert post(f"{emulator.url}{JOBS}?orderBy={','.join(['end_time'] * 1000)}", None)[0] == 400

    @pytest.mark.parametrize(
        ("body", "told"),
        [
            (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested more than 100 deep"),
            (b'{"a":' * 300 + b"1" + b"}" * 300, "nested more than 100 deep"),
            (b'{"a": NaN}', "NaN is not a finite number"),
            (b'{"a": 1e999}', "1e999 is not a finite number"),
            (b'{"displayName": "\xff"}', "Invalid JSON payload"),
            (b"[1]", "an object was expected"),
            (b'{"a": ' + b"1" * 10_000 + b"}", "Invalid JSON payload"),
        ],
        ids=["deep", "less deep", "NaN", "infinite", "not UTF-8", "a list", "a long number"],
    )
    def test_a_body_that_is_not_plain_json_is_refused(self, emulator: VertexEmulator, body: bytes, told: str) -> None:
        code, error = post(emulator.url + JOBS, body)
        assert (code, error["status"]) == (400, "INVALID_ARGUMENT")
        assert told in error["message"]

    def test_a_body_in_chunks_is_read(self, emulator: VertexEmulator, pipeline: Pipeline) -> None:
        body = json.dumps(pipeline.task("Only").job).encode()
        parts = [body[at : at + 500] for at in range(0, len(body), 500)]
        chunks = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts]
        head = f"POST {JOBS} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        assert exchanged(emulator, head, *chunks, b"0\r\n\r\n").startswith(b"HTTP/1.1 200 ")

    def test_a_body_in_chunks_that_is_too_large_is_refused_and_not_kept(self, emulator: VertexEmulator) -> None:
        head = f"POST {JOBS} HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        chunks = [b"100000\r\n" + b"a" * 2**20 + b"\r\n"] * 300
        assert exchanged(emulator, head, *chunks, b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
        told = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{emulator.process.pid}/status").read_text())
        assert told and int(told[1]) < 300 * 1024

    @pytest.mark.parametrize(
        "head",
        [
            "Transfer-Encoding: chunked\r\nHost: 127.0.0.1\r\n\r\nzz\r\n",
            "Content-Length: 2\r\nContent-Length: 40\r\nHost: 127.0.0.1\r\n\r\n{}",
            "Content-Length: -2\r\nHost: 127.0.0.1\r\n\r\n{}",
            "Host: 127.0.0.1\r\nHost: evil.example\r\nContent-Length: 2\r\n\r\n{}",
            "Content-Length: 2\r\n\r\n{}",
        ],
        ids=["a bad chunk", "two lengths", "a length below zero", "two hosts", "no host"],
    )
    def test_what_is_not_http_is_refused(self, emulator: VertexEmulator, head: str) -> None:
        told = exchanged(emulator, f"POST {JOBS} HTTP/1.1\r\n{head}".encode())
        assert told.startswith(b"HTTP/1.1 400 ")

    @pytest.mark.parametrize(
        ("part", "answer"),
        [("", b""), ("Host: 127.0.0.1", b""), ("Host: 127.0.0.1\r\nContent-Length: 9\r\n\r\n{", b"HTTP/1.1 408 ")],
        ids=["nothing", "half a head", "half a body"],
    )
    def test_a_request_that_does_not_arrive_is_given_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, answer: bytes
    ) -> None:
        monkeypatch.setattr(server, "PATIENCE", 0.1)
        listener, serving = server.listen(0), server.server(Emulator(tmp_path, 1))
        thread = Thread(target=serving.run, args=[[listener]])
        thread.start()
        try:
            with socket.create_connection(listener.getsockname(), timeout=30) as connection:
                connection.sendall(f"POST {JOBS} HTTP/1.1\r\n{part}".encode() if part else b"")
                told = b""
                while got := connection.recv(65536):
                    told += got
            assert told[: len(answer) or None] == answer
        finally:
            serving.should_exit = True
            thread.join()

    def test_two_hundred_clients_at_once_are_all_served(self, emulator: VertexEmulator) -> None:
        with ThreadPoolExecutor(200) as pool:
            told = list(pool.map(lambda _: post(emulator.url + JOBS, None)[0], range(200)))
        assert told == [200] * 200


def graph(*names: str) -> dict[str, Any]:
    return {"dag": {"tasks": {f"t{number}": {"componentRef": {"name": name}} for number, name in enumerate(names)}}}


GRAPHS: dict[str, tuple[dict[str, Any], str]] = {
    "itself": ({"a": graph("a")}, "contains itself: a → a"),
    "itself through another": ({"a": graph("b"), "b": graph("a")}, "contains itself"),
    "too many tasks": (
        {"a": graph("n0"), **{f"n{n}": graph(f"n{n + 1}", f"n{n + 1}") for n in range(12)}, "n12": graph("Only")},
        "at most 1000",
    ),
    "too many levels": (
        {"a": graph("n0"), **{f"n{n}": graph(f"n{n + 1}") for n in range(30)}, "n30": graph("Only")},
        "deep; at most 20",
    ),
}


class TestJobs:
    @pytest.mark.parametrize("what", GRAPHS)
    def test_a_component_that_would_never_end_is_refused(
        self, emulator: VertexEmulator, pipeline: Pipeline, what: str
    ) -> None:
        components, message = GRAPHS[what]
        pipeline.task("Only").spec["components"].update(components)
        pipeline.spec["root"]["dag"]["tasks"]["outer"] = {"componentRef": {"name": "a"}}
        code, told = submitted(emulator, pipeline.job)
        assert (code, message in told) == (400, True), told

    @pytest.mark.parametrize(
        "name", ["../../../../precious", "/etc", "..", ".", "", "a/b", "a\0b", "a\nb", "T" * 201, "é" * 101]
    )
    @pytest.mark.parametrize("kind", ["task", "input", "output", "output parameter"])
    def test_a_name_that_is_not_one_of_a_file_is_refused(
        self, emulator: VertexEmulator, pipeline: Pipeline, kind: str, name: str
    ) -> None:
        parameters = {name: "x"} if kind == "input" else None
        gives = {name: MODEL} if kind == "output" else None
        pipeline.task(name if kind == "task" else "Only", parameters=parameters, gives=gives)
        if kind == "output parameter":
            made = {"parameters": {name: {"parameterType": "STRING"}}}
            pipeline.spec["components"]["Only"]["outputDefinitions"] = made
        code, told = submitted(emulator, pipeline.job)
        assert (code, "Invalid name" in told, "\n" in told) == (400, True, False), told

    @pytest.mark.parametrize("name", ["executor_output.json", "output_parameters"])
    def test_an_output_cannot_have_the_name_of_what_lies_beside_it(
        self, emulator: VertexEmulator, pipeline: Pipeline, name: str
    ) -> None:
        assert submitted(emulator, pipeline.task("Only", gives={name: MODEL}).job)[0] == 400

    @pytest.mark.parametrize("project", ["%2e%2e", "-", "a b"])
    def test_a_project_that_is_not_one_is_refused(
        self, emulator: VertexEmulator, pipeline: Pipeline, project: str
    ) -> None:
        body = json.dumps(pipeline.task("Only", gives={"model": MODEL}).job).encode()
        url = f"{emulator.url}/v1/projects/{urllib.parse.quote(project, safe='%')}/locations/x/pipelineJobs"
        assert post(url, body)[0] == 400

    def test_what_a_link_of_a_task_points_to_stays(self, pipeline: Pipeline, tmp_path: Path) -> None:
        for name in ("folder", "other"):
            (tmp_path / name / "model").mkdir(parents=True)
            (tmp_path / name / "model" / "precious").touch()
        retry = {"retryPolicy": {"maxRetryCount": 1, "backoffDuration": "0s"}}
        model = "model = pathlib.Path(outputs['artifacts']['model']['artifacts'][0]['uri'])\n"
        once = f"tried = pathlib.Path({str(tmp_path)!r}, told['outputs']['outputFile'].split('/')[-2][:2])\n"
        once += "if tried.exists(): done(); sys.exit()\ntried.touch()\n"
        leaf = f"model.symlink_to({str(tmp_path / 'folder' / 'model')!r}); sys.exit(1)"
        pipeline.task("AA", once + model + leaf, gives={"model": MODEL}, **retry)
        above = f"model.parent.rename({str(tmp_path / 'moved')!r})\n"
        above += f"model.parent.symlink_to({str(tmp_path / 'other')!r}); sys.exit(1)"
        pipeline.task("BB", once + model + above, gives={"model": MODEL}, **retry)
        job = pipeline.submit()
        assert ended(job) == "FAILED"
        assert states(job) == {"AA": "SUCCEEDED", "BB": "FAILED"}
        assert "a link leads to it" in tasks(job)["BB"].error.message
        assert all((tmp_path / name / "model" / "precious").exists() for name in ("folder", "other"))

    @pytest.mark.parametrize(
        "told",
        [
            b'{"artifacts": {"model": {"artifacts": [{"metadata": "x"}]}}}',
            b'{"artifacts": {"model": {"artifacts": [{"uri": ["x"]}]}}}',
            b'{"artifacts": {"model": {"artifacts": [{"metadata": {"a": ' + b"[" * 500 + b"]" * 500 + b"}}]}}}",
            b'{"parameters": {"a": 3}}',
            b"[1]",
            b"\xff",
            b'{"a": "' + b"a" * 2**24 + b'"}',
        ],
        ids=["metadata", "uri", "deep", "parameters", "a list", "not UTF-8", "16 MB"],
    )
    def test_a_task_whose_output_file_is_odd_fails(self, pipeline: Pipeline, tmp_path: Path, told: bytes) -> None:
        (tmp_path / "told").write_bytes(told)
        code = f"pathlib.Path(outputs['outputFile']).write_bytes(open({str(tmp_path / 'told')!r}, 'rb').read())"
        job = pipeline.task("Odd", code, gives={"model": MODEL}).submit()
        assert ended(job) == "FAILED"
        assert "executor_output.json cannot be read: " in tasks(job)["Odd"].error.message

    def test_a_command_that_its_placeholders_make_too_long_fails(
        self, emulator: VertexEmulator, pipeline: Pipeline
    ) -> None:
        pipeline.task("Long")
        container = pipeline.spec["deploymentSpec"]["executors"]["Long_executor"]["container"]
        container["args"] = ["{{$}}" * 10_000] * 10
        job = pipeline.submit()
        assert ended(job) == "FAILED"
        assert "more than 4194304 characters" in tasks(job)["Long"].error.message
        container["args"] = ["{{$" * 300_000]  # No placeholder, but as many beginnings of one.
        assert submitted(emulator, pipeline.job)[0] == 200

    def test_a_program_that_is_not_there_is_told(self, pipeline: Pipeline) -> None:
        pipeline.task("Gone")
        pipeline.spec["deploymentSpec"]["executors"]["Gone_executor"]["container"]["command"] = ["no-such-program"]
        job = pipeline.submit()
        assert ended(job) == "FAILED"
        assert "status 127: no-such-program: No such file or directory" in tasks(job)["Gone"].error.message

    def test_a_task_that_a_signal_has_ended_is_told_so(self, pipeline: Pipeline) -> None:
        job = pipeline.task("Killed", "os.kill(os.getpid(), 9)").submit()
        assert ended(job) == "FAILED"
        assert "exited with status -9" in tasks(job)["Killed"].error.message


DAEMON = """
def daemon(name, environment):
    if os.fork(): return os.wait()
    os.setsid()
    if os.fork(): os._exit(0)
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3): os.dup2(null, number)
    here = pathlib.Path(FOLDER, str(os.getpid()))
    here.touch()
    os.execvpe("sleep", ["sleep", "600"], environment)
daemon("as it is", os.environ)
daemon("without its environment", {"PATH": os.environ["PATH"]})
while len(list(pathlib.Path(FOLDER).glob("[0-9]*"))) < 2: time.sleep(.01)
"""


class TestDaemons:
    """Processes with a session of their own, none of the task's streams, and its environment or another."""

    def code(self, folder: Path, rest: str) -> str:
        return DAEMON.replace("FOLDER", repr(str(folder))) + rest

    def pids(self, folder: Path) -> list[int]:
        until(lambda: len(list(folder.glob("[0-9]*"))) == 2)
        return [int(file.name) for file in folder.glob("[0-9]*")]

    def test_they_end_with_their_task(self, pipeline: Pipeline, tmp_path: Path) -> None:
        job = pipeline.task("Leaving", self.code(tmp_path, "done()")).submit()
        assert ended(job) == "SUCCEEDED"
        assert not any(is_running(pid) for pid in self.pids(tmp_path))

    def test_they_end_with_a_cancelled_job(self, pipeline: Pipeline, tmp_path: Path) -> None:
        job = pipeline.task("Waiting", self.code(tmp_path, "time.sleep(600)")).submit()
        pids = self.pids(tmp_path)
        assert all(is_running(pid) for pid in pids)
        job.cancel()
        assert ended(job) == "CANCELLED"
        assert not any(is_running(pid) for pid in pids)

    def test_they_end_with_a_killed_emulator(self, tmp_path: Path) -> None:
        with vertex_emulator(tmp_path / "emulator") as emulator:
            Pipeline(tmp_path).task("Waiting", self.code(tmp_path, "time.sleep(600)")).submit()
            pids = self.pids(tmp_path)
            emulator.end(signal.SIGKILL)
            until(lambda: not any(is_running(pid) for pid in pids))

    def test_the_next_emulator_ends_what_lost_its_supervisor_too(self, tmp_path: Path) -> None:
        with vertex_emulator(tmp_path / "emulator") as emulator:
            code = f"pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()\nif not os.path.exists('GO'): "
            code = (code + "time.sleep(600)\ndone()").replace("GO", str(tmp_path / "go on"))
            job = Pipeline(tmp_path).task("Waiting", code).submit()
            until(lambda: list(tmp_path.glob("[0-9]*")))
            [pid] = [int(file.name) for file in tmp_path.glob("[0-9]*")]
            supervisor = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(emulator.process.pid, signal.SIGSTOP)  # It must not learn of its supervisor's end.
            os.kill(supervisor, signal.SIGKILL)
            emulator.end(signal.SIGKILL)
            assert is_running(pid)
            (tmp_path / "go on").touch()
            emulator.start()
            assert ended(job) == "SUCCEEDED"
            assert not is_running(pid)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder]).returncode:
        pytest.skip("only root can mount a small disk, and not in every container")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(disk: Path) -> Path:
    file = disk / "filler"
    with file.open("wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(b"x" * 4096)
    return file


class TestFiles:
    def test_they_are_readable_by_their_owner_only(self, tmp_path: Path) -> None:
        (tmp_path / "emulator" / "logs").mkdir(parents=True)  # As an earlier release left it.
        (tmp_path / "emulator" / "emulator.sqlite").touch(0o644)
        with vertex_emulator(tmp_path / "emulator") as emulator:
            job = Pipeline(tmp_path).task("Only", "print(oct(os.umask(0)))").submit()
            assert ended(job) == "SUCCEEDED"
            umask = os.umask(0)
            os.umask(umask)
            assert emulator.log(tasks(job)["Only"]).splitlines()[-1] == oct(umask)
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in emulator.root.rglob("*")}
        assert modes.pop("logs") == 0o700
        assert len(modes) == 5
        assert set(modes.values()) == {0o600}

    def test_a_full_disk_fails_a_job_and_not_the_service(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk") as disk, vertex_emulator(disk / "emulator") as emulator:
            wait = f"while not os.path.exists({str(tmp_path / 'go on')!r}): time.sleep(.01)\n"
            first = Pipeline(tmp_path).task("Waiting", wait).task("Next", gives={"m": MODEL}, after=("Waiting",))
            job = first.submit("failing")
            forever = Pipeline(tmp_path).task("Sleeping", "print('asleep'); time.sleep(600)").submit("cancelled")
            for each, name in ((job, "Waiting"), (forever, "Sleeping")):
                until(lambda each=each, name=name: states(each).get(name) == "RUNNING")
            filler = fill(disk)
            (tmp_path / "go on").touch()
            assert ended(job) == "FAILED"
            assert "database or disk is full" in str(tasks(job)["Next"].error) + str(tasks(job)["Waiting"].error)
            forever.cancel()
            assert ended(forever) == "CANCELLED"
            new = json.dumps(Pipeline(tmp_path).task("Only").job).encode()
            code, error = post(emulator.url + JOBS, new)
            assert (code, error["status"]) == (429, "RESOURCE_EXHAUSTED")
            filler.unlink()
            assert ended(Pipeline(tmp_path).task("Only", gives={"m": MODEL}).submit()) == "SUCCEEDED"
            # What the disk had no room for is written now.
            history = sqlite3.connect(disk / "emulator" / "emulator.sqlite")
            unfinished = "SELECT name FROM jobs WHERE json_extract(document, '$.endTime') IS NULL"
            until(lambda: not history.execute(unfinished).fetchall())
            emulator.end()
            emulator.start()
            assert [ended(aiplatform.PipelineJob.get(name)) for name in ("failing", "cancelled")] == [
                "FAILED",
                "CANCELLED",
            ]

    @pytest.mark.parametrize("kind", ["garbage", "half of it", "another program's", "a folder"])
    def test_a_history_that_cannot_be_read_is_told_in_a_line(self, tmp_path: Path, kind: str) -> None:
        file = tmp_path / "emulator.sqlite"
        if kind == "a folder":
            file.mkdir()
        elif kind == "garbage":
            file.write_bytes(os.urandom(50_000))
        else:
            with sqlite3.connect(file) as database:
                table = "jobs (x)" if kind == "another program's" else "jobs (name TEXT PRIMARY KEY, document TEXT)"
                database.execute(f"CREATE TABLE {table}")
                if kind == "half of it":
                    rows = [(str(n), json.dumps({"pad": "x" * 5000})) for n in range(50)]
                    database.executemany("INSERT INTO jobs VALUES (?, ?)", rows)
            database.close()
            if kind == "half of it":
                os.truncate(file, file.stat().st_size // 2)
        command = [sys.executable, "-m", "kubeflow.emulator", "--port", "0", "--root", str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)
        assert f"{file} cannot be read (" in done.stderr
        assert "move it away" in done.stderr
