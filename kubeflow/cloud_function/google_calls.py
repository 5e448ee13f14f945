"""Calls Google's APIs, and tells temporary errors from permanent errors."""

from __future__ import annotations

from functools import cache
from typing import Any
from urllib.parse import urlsplit

import google.auth
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage

SECONDS = 30
"""Seconds that an API may take to answer."""


class Refused(Exception):
    """A permanent error: every retry would fail too. `code` is the HTTP status of the API that refused the call."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Later(Exception):
    """A temporary error: a second delivery of the event may succeed."""


def download(project: str, place: str, advice: str) -> bytes:
    """Reads the object at a gs:// place.

    Raises:
      Later: Cloud Storage cannot be reached, is busy or broken.
      Refused: the object is not there, or the function must not read it; the message ends with the advice.
    """
    bucket, _, name = place.removeprefix("gs://").partition("/")
    try:
        return bytes(_client(project).bucket(bucket).blob(name).download_as_bytes(timeout=SECONDS, retry=None))
    except GoogleAPICallError as error:
        raise _problem(error.code or 0, f"GET {place}", error.message, advice) from None
    except (requests.ConnectionError, requests.Timeout, GoogleAuthError) as error:
        raise Later(f"GET {place}: {error}") from None


@cache
def _client(project: str) -> storage.Client:
    return storage.Client(project)  # Knows STORAGE_EMULATOR_HOST, and is anonymous there.


@cache
def _session(endpoint: str) -> AuthorizedSession:
    if urlsplit(endpoint).scheme == "http":
        return AuthorizedSession(AnonymousCredentials())
    return AuthorizedSession(google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])[0])


def create(url: str, **request: Any) -> bool:
    """Creates something with a name, and tells whether it was not there before."""
    try:
        call("POST", url, **request)
    except Refused as error:
        if error.code != 409:
            raise
        return False
    return True


def call(method: str, url: str, **request: Any) -> Any:
    """Calls an API.

    Raises:
      Later: it cannot be reached, is busy or broken.
      Refused: it says no.
    """
    about = f"{method} {url}"
    try:
        answer = _session("{0.scheme}://{0.netloc}".format(urlsplit(url))).request(
            method, url, timeout=SECONDS, **request
        )
    except (requests.ConnectionError, requests.Timeout, GoogleAuthError) as error:
        raise Later(f"{about}: {error}") from None
    if answer.ok:
        return answer.json()
    raise _problem(answer.status_code, about, answer.text)


def _problem(code: int, about: str, said: str, advice: str = "") -> Exception:
    message = "; ".join(filter(None, [f"{about}: {code} {' '.join(said.split())[:500]}", advice]))
    return Later(message) if code in (408, 429) or code >= 500 else Refused(message, code)
