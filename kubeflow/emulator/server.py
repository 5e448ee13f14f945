"""The emulator's REST transport and its page. It serves only clients on this machine, and checks every request."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import sqlite3
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kubeflow.emulator.documents import Document
from kubeflow.emulator.refusals import ApiError, invalid
from kubeflow.emulator.service import Emulator
from kubeflow.emulator.values import read_json

HOST = "127.0.0.1"
MAX_BYTES = 16 * 2**20
"""The largest body of a request."""
PATIENCE = 60.0
"""Seconds for a client to send the head of its first request, and to send a body."""
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}

_OWN = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
_PARENT = r"/v1/(?P<parent>projects/[^/]+/locations/[^/]+)/pipelineJobs"
_JOB = rf"{_PARENT}/(?P<job_id>[^/:]+)"
_METHODS: list[tuple[str, str, Callable[..., Document | bytes]]] = [
    ("GET", r"/logs/(?P<task_id>\d+)", Emulator.log),
    ("GET", _JOB, Emulator.get),
    ("GET", _PARENT, Emulator.list),
    ("POST", _PARENT, Emulator.create),
    ("POST", rf"{_JOB}:cancel", Emulator.cancel),
    ("DELETE", _JOB, Emulator.delete),
]
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
}


class _Protocol(H11Protocol):
    """HTTP that also closes a connection without a first request. uvicorn has a limit only for later requests."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(PATIENCE, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None:
            self.transport.close()


def listen(port: int) -> socket.socket:
    """Listens on a port, so that clients can connect from now on; port 0 takes any free port."""
    try:
        return socket.create_server((HOST, port), backlog=1024)
    except (OSError, OverflowError) as error:
        raise SystemExit(f"port {port} of {HOST} cannot be served ({error}): give another --port") from None


def server(emulator: Emulator) -> uvicorn.Server:
    """The server of an emulator: `run` serves until `should_exit` is set."""
    # The client sees the errors of its connection; the emulator does not log them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    config = uvicorn.Config(
        app(emulator),
        loop="asyncio",
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def app(emulator: Emulator) -> ASGIApp:
    """The emulator as a web application."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await _answer(emulator, request)
        except ClientDisconnect:
            return
        except ApiError as error:
            response = _failure(error)
        except sqlite3.OperationalError as error:  # Such as a full disk.
            response = _failure(ApiError(429, "RESOURCE_EXHAUSTED", f"The emulator's history: {error}."))
        except Exception as error:
            traceback.print_exc()
            response = _failure(ApiError(500, "INTERNAL", f"{type(error).__name__}: {error}"))
        await response(scope, receive, send)

    return answer


async def _answer(emulator: Emulator, request: Request) -> Response:
    _refuse_strangers(request)
    path = request.scope["path"]
    if request.method == "GET" and path in _FILES:
        name, type_ = _FILES[path]
        return _response(200, (Path(__file__).parent / name).read_bytes(), type_)
    for method, pattern, call in _METHODS:
        if method == request.method and (match := re.fullmatch(pattern, path)):
            query = dict(request.query_params)
            ask = partial(call, emulator, **match.groupdict(), query=query, body=await _body(request))
            result = await asyncio.to_thread(ask)
            if isinstance(result, bytes):
                return _response(200, result, "text/plain")
            return _response(200, json.dumps(result).encode(), "application/json")
    raise ApiError(404, "NOT_FOUND", f"This emulator has no method {request.method} {path}.")


def _refuse_strangers(request: Request) -> None:
    """Refuses requests of other sites' pages in a browser of this machine, because a job runs commands."""
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    if not _OWN.fullmatch(host) or (origin and origin.partition("://")[2] != host):
        raise ApiError(403, "PERMISSION_DENIED", f"Only {HOST} and localhost are served here.")
    # A request for an image has no origin, but this header shows which site's page sent it.
    if request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise ApiError(403, "PERMISSION_DENIED", "Pages of other sites are not served here.")


async def _body(request: Request) -> Document:
    async def read() -> bytes:
        size, parts = int(length) if (length := request.headers.get("content-length", "")).isdecimal() else 0, []
        if size <= MAX_BYTES:
            size = 0
            async for part in request.stream():
                size += len(part)
                parts.append(part)
                if size > MAX_BYTES:
                    break
        if size > MAX_BYTES:
            raise ApiError(413, "INVALID_ARGUMENT", f"The request has {size} bytes; at most {MAX_BYTES} are taken.")
        return b"".join(parts)

    def refuse(text: str) -> None:
        raise ValueError(f"{text} is not a finite number")

    try:
        document = read_json(await asyncio.wait_for(read(), PATIENCE) or b"{}", refuse)
    except asyncio.TimeoutError:
        raise ApiError(408, "DEADLINE_EXCEEDED", f"The request did not arrive within {PATIENCE:.0f} s.") from None
    except ValueError as error:
        raise invalid(f"Invalid JSON payload: {error}.") from None
    if not isinstance(document, dict):
        raise invalid("Invalid JSON payload: an object was expected.")
    return document


def _failure(error: ApiError) -> Response:
    status = {"code": error.code, "message": str(error), "status": error.status}
    response = _response(error.code, json.dumps({"error": status}).encode(), "application/json")
    if error.code == 408:  # The rest of the body must not be read as a new request.
        response.headers["Connection"] = "close"
    return response


def _response(code: int, body: bytes, type_: str) -> Response:
    return Response(body, code, {**HEADERS, "Content-Type": f"{type_}; charset=utf-8"})
