"""Google Images through SerpApi (serpapi.com/google-images-api). It filters by licence, and does not name licences."""

from __future__ import annotations

from collections.abc import AsyncIterator

from retake.errors import RetakeError
from retake.providers import Ask, Found

FILTERS = {"share": "f", "modify": "fm", "commercial": "fc", "commercial-modify": "fmc"}


class SerpApi:
    ENDPOINT, KEY, FOR_TRAINING = "https://serpapi.com", "SERPAPI_API_KEY", True

    async def quota(self, ask: Ask, key: str) -> int | None:
        left = (await ask("/account.json", {"api_key": key})).get("total_searches_left")
        return left if isinstance(left, int) else None

    async def pages(self, ask: Ask, key: str, query: str, licence: str) -> AsyncIterator[list[Found]]:
        parameters = {"engine": "google_images", "q": query, "api_key": key}
        if licence in FILTERS:
            parameters["licenses"] = FILTERS[licence]
        page = 0
        while True:
            answer = await ask("/search.json", {**parameters, "ijn": str(page)})
            hits = [self._found(hit) for hit in answer.get("images_results") or [] if isinstance(hit, dict)]
            if not hits:
                status = (answer.get("search_metadata") or {}).get("status")
                if answer.get("error") and status != "Success":  # "No results" is a Success with an error.
                    raise RetakeError(f"serpapi refuses the search: {str(answer['error'])[:200]}")
                return
            yield [hit for hit in hits if hit.addresses]
            page += 1

    def _found(self, hit: dict[str, object]) -> Found:
        addresses = [hit[name] for name in ("original", "thumbnail") if isinstance(hit.get(name), str)]
        page = hit.get("link")
        return Found(
            id=str(addresses[0]) if addresses else "",
            addresses=tuple(map(str, addresses)),
            page=page if isinstance(page, str) else None,
            author=str(hit["source"]) if hit.get("source") else None,
        )
