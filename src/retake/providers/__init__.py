"""Where pictures can be searched: one small module for each service, all of them a `Provider`."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Protocol

Ask = Callable[..., Awaitable[dict[str, Any]]]
"""ask(path, params, headers): the JSON object that the service answers, after polite repetitions."""

LICENCES = ("any", "share", "modify", "commercial", "commercial-modify")
"""What a picture's licence has to allow. Each provider translates them."""


class Found(NamedTuple):
    """A picture that a service names.

    Fields:
      id: the service's own name of it.
      addresses: of the picture, the best one first; the last one may be a thumbnail.
      page: address of the page that shows it.
    """

    id: str
    addresses: tuple[str, ...]
    page: str | None = None
    author: str | None = None
    licence: str | None = None
    attribution: str | None = None


class Provider(Protocol):
    """A service that finds pictures."""

    ENDPOINT: str
    """Address that paths are below."""

    KEY: str | None
    """Environment variable of the key; None where there is none."""

    FOR_TRAINING: bool
    """Whether its terms allow training without permission."""

    async def quota(self, ask: Ask, key: str) -> int | None:
        """Searches that are left, where the service says so without taking one."""

    def pages(self, ask: Ask, key: str, query: str, licence: str) -> AsyncIterator[list[Found]]:
        """The pictures of a query, a page at a time, until there is none.

        Raises:
          RetakeError: the service refuses the query.
        """


PROVIDERS = {
    "openverse": "retake.providers.openverse:Openverse",
    "pexels": "retake.providers.pexels:Pexels",
    "serpapi": "retake.providers.serpapi:SerpApi",
}


def find(name: str) -> Provider:
    """A provider by its name."""
    module, _, cls = PROVIDERS[name].partition(":")
    provider: Provider = getattr(importlib.import_module(module), cls)()
    return provider
