"""Pexels (pexels.com/api). Its help forbids training models with its pictures without permission."""

from __future__ import annotations

from collections.abc import AsyncIterator

from retake.providers import Ask, Found

PAGE_SIZE = 80
LICENCE = "https://www.pexels.com/license/"


class Pexels:
    ENDPOINT, KEY, FOR_TRAINING = "https://api.pexels.com", "PEXELS_API_KEY", False

    async def quota(self, ask: Ask, key: str) -> int | None:
        return None

    async def pages(self, ask: Ask, key: str, query: str, licence: str) -> AsyncIterator[list[Found]]:
        page = 1
        while True:
            parameters = {"query": query, "page": str(page), "per_page": str(PAGE_SIZE)}
            answer = await ask("/v1/search", parameters, {"Authorization": key})
            photos = [photo for photo in answer.get("photos") or [] if isinstance(photo, dict) and photo.get("id")]
            if not photos:
                return
            yield [self._found(photo) for photo in photos]
            if not answer.get("next_page"):
                return
            page += 1

    def _found(self, photo: dict[str, object]) -> Found:
        sources = photo.get("src")
        sizes = sources if isinstance(sources, dict) else {}
        author = str(photo.get("photographer") or "")
        return Found(
            id=str(photo["id"]),
            addresses=tuple(str(sizes[size]) for size in ("large", "medium") if sizes.get(size)),
            page=str(photo["url"]) if photo.get("url") else None,
            author=author or None,
            licence=LICENCE,
            attribution=f"Photo by {author} on Pexels" if author else "Photo on Pexels",
        )
