"""Downloads from strangers' addresses: bounded, repeated politely, and never from the user's own network."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from retake.errors import RetakeError

AT_ONCE, AT_ONCE_FROM_A_HOST = 8, 2
SECONDS, SECONDS_TO_CONNECT = 30, 10
LONGEST_WAIT = 60.0
"""Seconds: a service that asks for a longer one is not waited for."""
TRIES = 5
MOST_JSON_BYTES = 20_000_000
MOST_REDIRECTS = 5
AGENT = "retake (image classification; polite client)"

PRIVATE = "private address"
"""The reason for refusing an address that is not on the internet."""


class RefusedError(Exception):
    """A download failed or was refused; the message is one of a few reasons."""


class _PrivateError(OSError):
    pass


@asynccontextmanager
async def session(allowed: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """A client that connects to public addresses only: each connection is checked, so redirects and names are, too.

    Args:
      allowed: an address such as http://127.0.0.1:8000 whose host and port may be reached all the same.
    """
    parts = urlsplit(allowed or "")
    exempt = (parts.hostname, parts.port) if parts.hostname else None

    def connect(address: Any) -> socket.socket:
        family, kind, protocol, _, place = address
        host, port = place[0], place[1]
        if (host, port) != exempt and not ipaddress.ip_address(host.partition("%")[0]).is_global:
            raise _PrivateError(PRIVATE)
        return socket.socket(family, kind, protocol)

    connector = aiohttp.TCPConnector(
        limit=AT_ONCE, limit_per_host=AT_ONCE_FROM_A_HOST, socket_factory=connect, ttl_dns_cache=60
    )
    timeout = aiohttp.ClientTimeout(total=SECONDS, connect=SECONDS_TO_CONNECT)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers={"User-Agent": AGENT}) as client:
        yield client


async def content(client: aiohttp.ClientSession, address: str, most: int) -> bytes:
    """The bytes at an address.

    Args:
      client: of `session`.
      address: http or https.
      most: bytes; a longer answer is refused before it is read whole.

    Raises:
      RefusedError: the download failed or was refused; the message is one of a few reasons.
    """
    for attempt in range(2):
        try:
            async with client.get(address, max_redirects=MOST_REDIRECTS) as answer:
                if answer.status in (429, 503) and attempt == 0 and (wait := _wait(answer, 0)) <= LONGEST_WAIT:
                    await asyncio.sleep(wait)
                    continue
                if answer.status != 200:
                    raise RefusedError(f"HTTP {answer.status}")
                return await _body(answer, most)
        except asyncio.TimeoutError:
            raise RefusedError("timed out") from None
        except aiohttp.TooManyRedirects:
            raise RefusedError("too many redirects") from None
        except (aiohttp.ClientPayloadError, aiohttp.http_exceptions.HttpProcessingError):
            raise RefusedError("cut off") from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise RefusedError(PRIVATE if _is_private(error) else "cannot be reached") from None
    raise RefusedError("HTTP 429")


async def answer(
    client: aiohttp.ClientSession, name: str, address: str, params: dict[str, str], headers: dict[str, str]
) -> dict[str, Any]:
    """Requests a JSON object from a service. If the service is busy, repeats the request with growing delays.

    Args:
      client: of `session`.
      name: of the service, for messages. They name neither the address nor the parameters, which may hold a key.
      address: of the call.
      params: of its query.
      headers: beside the client's own.

    Raises:
      RetakeError: the service refuses, or cannot be reached.
    """
    reason = ""
    for attempt in range(TRIES):
        wait = _backoff(attempt)
        try:
            async with client.get(address, params=params, headers=headers, allow_redirects=False) as response:
                document = _json(await _body(response, MOST_JSON_BYTES))
                if response.status == 200 and document is not None:
                    return document
                reason = f"HTTP {response.status}" if response.status != 200 else "an answer that is not JSON"
                words = str((document or {}).get("error") or "")[:200]
                if response.status in (401, 403):
                    raise RetakeError(f"{name} does not accept the key ({reason})")
                if response.status == 429 and "run out" in words:
                    raise RetakeError(f"{name}: {words}")
                if response.status not in (200, 429) and response.status < 500:
                    raise RetakeError(f"{name} refuses the search ({reason}{f': {words}' if words else ''})")
                wait = _wait(response, attempt)
        except RefusedError:
            raise RetakeError(f"{name} answers with more than {MOST_JSON_BYTES:,} bytes") from None
        except asyncio.TimeoutError:
            reason = "it does not answer"
        except (aiohttp.ClientError, OSError) as error:
            reason = PRIVATE if _is_private(error) else "it cannot be reached"
        if wait > LONGEST_WAIT:
            raise RetakeError(f"{name} asks to wait for {wait:.0f} s; repeat the command then")
        if attempt < TRIES - 1:
            await asyncio.sleep(wait)
    raise RetakeError(f"{name} gives no answer ({reason}); repeat the command later: it goes on where it ended")


async def _body(response: aiohttp.ClientResponse, most: int) -> bytes:
    """The whole body, which is refused as soon as it is known to be longer than `most` bytes."""
    body = bytearray()
    if (response.content_length or 0) <= most:
        async for chunk in response.content.iter_chunked(65536):
            body += chunk
            if len(body) > most:
                break
        else:
            return bytes(body)
    raise RefusedError("over the byte limit")


def _json(body: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _wait(response: aiohttp.ClientResponse, attempt: int) -> float:
    """The seconds of the service's Retry-After header; without it, a delay that grows with each attempt."""
    header = response.headers.get("Retry-After", "")
    return float(header) if header.isdecimal() else _backoff(attempt)


def _backoff(attempt: int) -> float:
    return float(2**attempt * (0.5 + random.random() / 2))  # noqa: S311


def _is_private(error: BaseException | None) -> bool:
    while error:
        if isinstance(error, _PrivateError) or PRIVATE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
