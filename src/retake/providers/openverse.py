"""Openverse (api.openverse.org): openly licensed pictures, with licence, author and attribution in each answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from retake.providers import Ask, Found

FILTERS = {"modify": "modification", "commercial": "commercial", "commercial-modify": "commercial,modification"}
PAGE_SIZE = 20
"""What an anonymous client may ask for at once; after 240 pictures the service refuses another page."""


class Openverse:
    ENDPOINT, KEY, FOR_TRAINING = "https://api.openverse.org", None, True

    async def quota(self, ask: Ask, key: str) -> int | None:
        return None

    async def pages(self, ask: Ask, key: str, query: str, licence: str) -> AsyncIterator[list[Found]]:
        parameters = {"q": query, "page_size": str(PAGE_SIZE)}
        if licence in FILTERS:
            parameters["license_type"] = FILTERS[licence]
        page = pages = 1
        while page <= pages:
            answer = await ask("/v1/images/", {**parameters, "page": str(page)})
            hits = [hit for hit in answer.get("results") or [] if isinstance(hit, dict) and hit.get("id")]
            if not hits:
                return
            yield [self._found(hit) for hit in hits]
            page, pages = page + 1, int(answer.get("page_count") or 1)

    def _found(self, hit: dict[str, object]) -> Found:
        def text(name: str) -> str | None:
            return str(hit[name]) if hit.get(name) else None

        licence = " ".join(filter(None, (text("license"), text("license_version"))))
        return Found(
            id=str(hit["id"]),
            addresses=tuple(filter(None, (text("url"), text("thumbnail")))),
            page=text("foreign_landing_url"),
            author=text("creator"),
            licence=text("license_url") or licence or None,
            attribution=text("attribution"),
        )
