"""A search downloads pictures from a local server that answers as each provider does, its faults included."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from retake import fetch, manifest, search
from retake.cli import main
from retake.errors import RetakeError

KEY = "a-secret-of-the-user"
FAULTS = ("missing", "a page", "cut off", "slow", "huge")
"""Each twentieth picture is one of these."""


def picture(number: int) -> bytes:
    """A JPEG of noise that no other number gives."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


class Service(ThreadingHTTPServer):
    """SerpApi, Openverse and Pexels, and the pictures that they name."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: Counter[str] = Counter()
        self.busy = 0
        self.delay = 0.0
        self.pictures = 400

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no error."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def address(self, number: int) -> str:
        return f"{self.url}/pictures/{number}"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def document(self, status: int, **values: Any) -> None:
        self.answer(status, json.dumps(values).encode())

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        service = self.server
        service.asked[parts.path] += 1
        if parts.path.startswith("/pictures/"):
            self.picture(int(parts.path.rpartition("/")[2]))
        elif service.busy:
            service.busy -= 1
            self.answer(429, b'{"error": "too fast"}', Retry_After="0")
        elif parts.path == "/account.json":
            self.document(200, total_searches_left=7)
        elif parts.path == "/search.json" and asked.get("api_key") == KEY:
            first = int(asked["ijn"]) * 100
            numbers = range(first, min(first + 100, service.pictures))
            hits = [
                {
                    "position": number + 1,
                    "thumbnail": service.address(10_000 + number),
                    "source": "a site",
                    "link": f"{service.url}/page/{number}",
                    **({} if number % 50 == 7 else {"original": service.address(number)}),
                }
                for number in numbers
            ]
            if hits:
                self.document(200, images_results=hits)
            else:
                self.document(200, search_metadata={"status": "Success"}, error="Google has no results.")
        elif parts.path == "/v1/images/":
            size, page = int(asked["page_size"]), int(asked["page"])
            hits = [
                {
                    "id": f"id-{number}",
                    "url": service.address(number),
                    "creator": "Ann",
                    "license": "by",
                    "license_version": "4.0",
                    "license_url": "https://creativecommons.org/licenses/by/4.0/",
                    "attribution": f"Picture {number} by Ann is licensed under CC BY 4.0.",
                    "foreign_landing_url": f"{service.url}/page/{number}",
                }
                for number in range((page - 1) * size, min(page * size, 240))
            ]
            self.document(200, results=hits, page_count=12)
        elif parts.path == "/v1/search" and self.headers["Authorization"] == KEY:
            photos = [
                {"id": n, "url": f"{service.url}/p/{n}", "photographer": "Bo", "src": {"large": service.address(n)}}
                for n in range(30)
            ]
            self.document(200, photos=photos)
        else:
            self.document(401, error=f"Invalid API key {KEY}.")

    def picture(self, number: int) -> None:
        time.sleep(self.server.delay)
        fault = FAULTS[number // 20 % len(FAULTS)] if number % 20 == 11 and number < 10_000 else ""
        encoded = picture(number)
        if fault == "missing":
            self.answer(404, b"gone", "text/plain")
        elif fault == "a page":
            self.answer(200, b"<html>Buy this picture</html>", "image/jpeg")
        elif fault == "cut off":
            self.answer(200, encoded[:-200], "image/jpeg")
        elif fault == "slow":
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            time.sleep(3)
        elif fault == "huge":
            self.answer(200, b"\0" * (search.MAX_BYTES + 1), "image/jpeg")
        else:
            self.answer(200, encoded, "text/plain")


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SECONDS", 2)


def looked_for(service: Service, folder: Path, **changes: Any) -> search.Search:
    changes = {"provider": "serpapi", "name": "hard taco", "query": "hard taco", "wanted": 40} | changes
    return search.Search(folder=folder, endpoint=service.url, **changes)


def found(folder: Path) -> list[dict[str, Any]]:
    return [*manifest.events(folder, "found")]


def test_a_search_downloads_whole_pictures_with_their_origin(service: Service, tmp_path: Path) -> None:
    outcome = asyncio.run(search.run(looked_for(service, tmp_path), KEY))

    assert (outcome.there, outcome.new) == (40, 40)
    events = found(tmp_path)
    files = sorted(str(file.relative_to(tmp_path)) for file in (tmp_path / "hard taco").iterdir())
    assert sorted(event["file"] for event in events) == files
    for event in events:
        content = (tmp_path / event["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == event["sha256"] and len(content) == event["bytes"]
    assert {event["class"] for event in events} == {"hard taco"}
    assert {(event["width"], event["height"]) for event in events} == {(32, 24)}
    assert all(event["page"].startswith(service.url) and len(event["phash"]) == 16 for event in events)
    without_original = next(event for event in events if event["rank"] == 8)
    assert without_original["addresses"] == [f"{service.url}/pictures/10007"]


def test_what_is_no_picture_is_replaced_by_its_thumbnail_and_counted_where_there_is_none(
    service: Service, tmp_path: Path
) -> None:
    asyncio.run(search.run(looked_for(service, tmp_path, wanted=100), KEY))
    assert [event["rank"] for event in found(tmp_path) if event["thumbnail"]] and len(found(tmp_path)) == 100

    outcome = asyncio.run(search.run(looked_for(service, tmp_path / "open", provider="openverse", wanted=230), ""))
    assert (outcome.there, outcome.new) == (228, 228)
    assert outcome.refused == {
        "HTTP 404": 3,
        "not a picture": 3,
        "damaged or cut off": 2,
        "timed out": 2,
        "over the byte limit": 2,
    }


def test_a_search_that_is_killed_goes_on_and_downloads_nothing_twice(service: Service, tmp_path: Path) -> None:
    service.delay = 0.02
    command = [sys.executable, "-m", "retake.cli", "data", "search", "--provider", "serpapi", "--class", "hard taco"]
    command += ["--count", "200", "--folder", str(tmp_path), "--endpoint", service.url]
    environment = {**os.environ, "SERPAPI_API_KEY": KEY}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while len(found(tmp_path)) < 60:
            assert first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
    there = {event["addresses"][0] for event in found(tmp_path)}
    service.asked.clear()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert second.returncode == 0, second.stderr
    assert "200 pictures" in second.stdout
    assert not {f"/pictures/{address.rpartition('/')[2]}" for address in there} & set(service.asked)
    files = [file.read_bytes() for file in (tmp_path / "hard taco").iterdir() if not file.name.startswith(".")]
    assert len(files) == len(set(files)) == len(found(tmp_path)) == 200
    third = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "200 pictures, 0 of them new" in third.stdout
    everything = "".join([second.stdout, second.stderr, (tmp_path / manifest.NAME).read_text()])
    assert KEY not in everything


@pytest.mark.parametrize(
    ("provider", "key", "message"),
    [
        ("serpapi", "wrong", "serpapi does not accept the key (HTTP 401)"),
        ("pexels", "wrong", "pexels does not accept the key (HTTP 401)"),
    ],
)
def test_a_wrong_key_is_one_message_without_the_key(
    service: Service, tmp_path: Path, provider: str, key: str, message: str
) -> None:
    with pytest.raises(RetakeError) as error:
        asyncio.run(search.run(looked_for(service, tmp_path, provider=provider), key))
    assert str(error.value) == message and KEY not in str(error.value)


@pytest.mark.parametrize(
    "document",
    [
        {"images_results": 5},
        {"images_results": [None, 7, "x"]},
        {"images_results": [{"original": 5, "thumbnail": ["x"]}, {"original": "x" * 5000}, {"original": "data:,x"}]},
        {"images_results": {"original": "x"}},
        {"search_metadata": [], "error": {}},
    ],
)
def test_an_answer_in_another_form_is_no_traceback(
    service: Service, tmp_path: Path, document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "_json", lambda body: {} if b"total_searches" in body else document)
    try:
        outcome = asyncio.run(search.run(looked_for(service, tmp_path, wanted=5), KEY))
    except RetakeError as error:
        assert "serpapi" in str(error)
    else:
        assert outcome.there == 0


def test_an_answer_that_comes_in_pieces_is_read_whole(service: Service, tmp_path: Path) -> None:
    class Slow(Handler):
        def answer(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
            if kind != "application/json":
                return super().answer(status, body, kind, **headers)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for half in (body[: len(body) // 2], body[len(body) // 2 :]):
                self.wfile.write(half)
                self.wfile.flush()
                time.sleep(0.1)

    service.RequestHandlerClass = Slow
    assert asyncio.run(search.run(looked_for(service, tmp_path, wanted=5), KEY)).new == 5


def test_a_redirect_of_the_service_does_not_take_the_key_along(service: Service, tmp_path: Path) -> None:
    class Redirect(Handler):
        def do_GET(self) -> None:
            self.server.asked[self.path] += 1
            self.answer(302, b"", Location=f"{self.server.url}/elsewhere?{self.path}")

    service.RequestHandlerClass = Redirect
    with pytest.raises(RetakeError, match=r"serpapi refuses the search \(HTTP 302\)"):
        asyncio.run(search.run(looked_for(service, tmp_path), KEY))
    assert len(service.asked) == 1


def test_broken_exif_data_does_not_cost_the_picture(tmp_path: Path) -> None:
    broken = b"\xff\xd8\xff\xe1" + (2 + 40).to_bytes(2, "big") + b"Exif\0\0MM\0*" + b"\xff" * 30 + picture(1)[2:]
    kind, facts = search._look(broken)
    assert (kind, facts["width"], facts["height"]) == ("JPEG", 32, 24)


def test_a_busy_service_is_asked_again(service: Service, tmp_path: Path) -> None:
    service.busy = 3
    assert asyncio.run(search.run(looked_for(service, tmp_path, wanted=5), KEY)).new == 5


def test_a_service_that_is_away_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, service: Service
) -> None:
    monkeypatch.setattr(fetch, "_backoff", lambda attempt: 0.0)
    gone = looked_for(service, tmp_path)._replace(endpoint="http://127.0.0.1:9")
    with pytest.raises(RetakeError, match=r"serpapi gives no answer \(it cannot be reached\); repeat the command"):
        asyncio.run(search.run(gone, KEY))


@pytest.mark.parametrize("address", ["http://127.0.0.1:{port}/x", "http://localhost:{port}/x", "http://[::1]:{port}/x"])
def test_addresses_of_the_users_own_network_are_refused(service: Service, address: str) -> None:
    async def ask() -> None:
        async with fetch.session() as client:
            await fetch.content(client, address.format(port=service.server_port), 1000)

    with pytest.raises(fetch.RefusedError, match=fetch.PRIVATE):
        asyncio.run(ask())
    assert not service.asked


def test_a_redirect_into_the_users_own_network_is_refused(service: Service) -> None:
    inner = Service()
    threading.Thread(target=inner.serve_forever, daemon=True).start()

    class Redirect(Handler):
        def do_GET(self) -> None:
            self.answer(302, b"", Location=inner.address(1))

    service.RequestHandlerClass = Redirect

    async def ask() -> None:
        async with fetch.session(service.url) as client:
            await fetch.content(client, service.address(1), 1000)

    with pytest.raises(fetch.RefusedError, match=fetch.PRIVATE):
        asyncio.run(ask())
    assert not inner.asked
    inner.shutdown()


def test_licences_and_attribution_are_kept(service: Service, tmp_path: Path) -> None:
    asyncio.run(search.run(looked_for(service, tmp_path, provider="openverse", wanted=3), ""))
    first = min(found(tmp_path), key=lambda event: event["rank"])
    assert first["licence"] == "https://creativecommons.org/licenses/by/4.0/"
    assert (first["author"], first["attribution"]) == ("Ann", "Picture 0 by Ann is licensed under CC BY 4.0.")


def test_pictures_of_pexels_are_for_asking_models_only(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text(f"PEXELS_API_KEY={KEY}\n")
    command = [
        "data",
        "search",
        "--provider",
        "pexels",
        "--class",
        "glacier",
        "--count",
        "5",
        "--endpoint",
        service.url,
    ]
    assert main(command) == 0
    assert len([*Path("data/ask/glacier").iterdir()]) == 5 and not Path("data/raw").exists()
    assert main([*command, "--folder", "data/raw"]) == 2
    told = capsys.readouterr()
    assert "pexels forbids training with its pictures without permission" in told.err
    assert main([*command, "--with-permission-to-train"]) == 0
    assert len([*Path("data/raw/glacier").iterdir()]) == 5
    assert KEY not in told.out + told.err + Path("data/ask/manifest.jsonl").read_text()


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "_x", " ", "x" * 101])
def test_a_class_that_is_no_name_of_a_folder_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", "search", "--provider", "openverse", "--class", name]) == 2
    assert "must be the name of a folder" in capsys.readouterr().err
    assert not Path("data").exists()


def test_a_missing_key_says_where_it_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SERPAPI_API_KEY", raising=False)
    assert main(["data", "search", "--provider", "serpapi", "--class", "taco"]) == 2
    assert "SERPAPI_API_KEY is not set: put the service's key into the environment" in capsys.readouterr().err


def test_a_line_of_the_manifest_that_was_cut_off_costs_nothing_else(tmp_path: Path) -> None:
    manifest.add(tmp_path, {"event": "found", "file": "1"})
    with (tmp_path / manifest.NAME).open("a") as file:
        file.write('{"event": "found", "fi')
    manifest.add(tmp_path, {"event": "found", "file": "2"})
    assert [event["file"] for event in manifest.events(tmp_path, "found")] == ["1", "2"]
