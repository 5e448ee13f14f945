"""Search for pictures of a class, and download them with a manifest of where each one came from.

retake data search --provider openverse --class "hard taco" --count 200
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from retake import durable, fetch, images, manifest, providers
from retake.errors import RetakeError, UsageError
from retake.providers import LICENCES, PROVIDERS, Found, Provider
from retake.sections import MAX_BYTES, MAX_PIXELS
from retake.terminal import Parser, in_one_line

RAW, ASKED = Path("data/raw"), Path("data/ask")
"""Where pictures for training go, and those that models are only asked about."""

LOOKED_AT_ONCE = 2
"""Pictures that are decoded at the same time: each takes up to 0.45 GB."""

LONGEST_NAME, LONGEST_TEXT = 100, 2000
"""Characters of a class's name, and of an address or another text of a provider."""

MOST_PAGES = 100
"""Pages of one search: a service that repeats itself is not asked for ever."""

ENDINGS = {"JPEG": "jpg", "MPO": "jpg", "JPEG2000": "jp2", "TIFF": "tif"}
"""Format → file ending, where it is not the format's name."""

DUPLICATE = "already there"


Shown = Callable[[int], None]


class Outcome(NamedTuple):
    """The result of a search: the number of pictures in the folder, of new pictures, and of refusals by reason."""

    there: int
    new: int
    refused: dict[str, int]


class Search(NamedTuple):
    """The query of a search, and the folder for its pictures.

    Fields:
      provider: a key of retake.providers.PROVIDERS.
      name: the name of the class and of its folder.
      query: the text that is sent to the service.
      wanted: how many pictures of this provider and query the folder is to have.
      folder: the folder of the class folders.
      licence: one of retake.providers.LICENCES.
      endpoint: another address of the service; empty for its own.
    """

    provider: str
    name: str
    query: str
    wanted: int
    folder: Path
    licence: str = "any"
    endpoint: str = ""


async def run(search: Search, key: str, show: Shown = lambda _: None) -> Outcome:
    """Downloads pictures until `wanted` of this provider and query are there. Skips pictures that are there.

    Args:
      search: what to look for.
      key: the key of the service; it appears in no message and no file.
      show: called with the number of pictures in the folder.

    Raises:
      RetakeError: the service refuses the search or cannot be reached; pictures that were downloaded stay.
    """
    provider = providers.find(search.provider)
    endpoint = search.endpoint or provider.ENDPOINT
    before = [event for event in manifest.events(search.folder, "found") if event.keys() >= {"file", "id", "sha256"}]
    ours = [event for event in before if (event.get("provider"), event.get("query")) == (search.provider, search.query)]
    ours = [event for event in ours if (search.folder / str(event["file"])).exists()]
    store = _Store(search, {event["id"] for event in ours}, {event["sha256"]: event["file"] for event in before})
    show(len(ours))
    async with fetch.session(search.endpoint or None) as client:

        async def ask(path: str, params: dict[str, str], headers: dict[str, str] | None = None) -> dict[str, Any]:
            return await fetch.answer(client, search.provider, endpoint + path, params, headers or {})

        if len(ours) < search.wanted and (left := await provider.quota(ask, key)) is not None and left < 1:
            raise RetakeError(f"{search.provider}: no searches are left this month; nothing was asked")
        async with aclosing(_candidates(provider, ask, key, search, store.ids)) as candidates:
            await _take_all(candidates, search.wanted - len(ours), client, store, lambda new: show(len(ours) + new))
    return Outcome(len(ours) + store.new, store.new, dict(store.refused.most_common()))


async def _candidates(
    provider: Provider, ask: providers.Ask, key: str, search: Search, known: set[str]
) -> AsyncGenerator[tuple[int, Found], None]:
    """(rank, picture) of the pictures that are not there yet."""
    rank = pages = 0
    try:
        async for page in provider.pages(ask, key, search.query, search.licence):
            pages += 1
            if pages > MOST_PAGES:
                return
            for found in page:
                rank += 1
                if found.id not in known:
                    known.add(found.id)
                    yield rank, _bounded(found)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RetakeError(f"{search.provider} answers in a form that this version of Retake does not know") from None


def _bounded(found: Found) -> Found:
    """Without what is too long for an address, a name or a sentence."""
    addresses = tuple(address for address in found.addresses if len(address) <= LONGEST_TEXT)
    others = {name: text and text[:LONGEST_TEXT] for name, text in found._asdict().items() if name != "addresses"}
    return Found(addresses=addresses, **others)


async def _take_all(
    candidates: AsyncGenerator[tuple[int, Found], None], wanted: int, client: Any, store: _Store, show: Shown
) -> None:
    """Downloads candidates, several at once, until enough are new or there are none left."""
    tasks: set[asyncio.Task[None]] = set()
    left = True
    try:
        while store.new < wanted:
            while left and len(tasks) < min(fetch.AT_ONCE, wanted - store.new):
                candidate = await anext(candidates, None)
                if candidate:
                    tasks.add(asyncio.create_task(store.take(client, *candidate)))
                left = candidate is not None
            if not tasks:
                return
            done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            show(store.new)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Store:
    """The folder of a class: takes pictures, and counts what it refuses."""

    def __init__(self, search: Search, ids: set[str], files: dict[str, str]):
        self.ids, self._files, self._search = ids, files, search
        self._looking = asyncio.Semaphore(LOOKED_AT_ONCE)
        self.new = 0
        self.refused: Counter[str] = Counter()

    async def take(self, client: Any, rank: int, found: Found) -> None:
        """Downloads a picture from the first of its addresses that has one."""
        reason = "no address"
        for address in found.addresses:
            try:
                if urlsplit(address).scheme not in ("http", "https"):
                    raise fetch.RefusedError("no web address")
                encoded = await fetch.content(client, address, MAX_BYTES)
                async with self._looking:
                    kind, facts = await asyncio.to_thread(_look, encoded)
            except (fetch.RefusedError, ValueError) as refused:
                reason = str(refused) or "no web address"
                continue
            self._keep(encoded, kind, {**facts, "thumbnail": address != found.addresses[0]}, rank, found)
            return
        self.refused[reason] += 1

    def _keep(self, encoded: bytes, kind: str, facts: dict[str, Any], rank: int, found: Found) -> None:
        digest = hashlib.sha256(encoded).hexdigest()
        if digest in self._files:
            self.refused[DUPLICATE] += 1
            return
        search = self._search
        name = f"{search.name}/{search.provider}-{digest[:16]}.{ENDINGS.get(kind, kind.lower())}"
        self._files[digest] = name
        (search.folder / search.name).mkdir(parents=True, exist_ok=True)
        durable.write(search.folder / name, encoded)
        event = {
            "event": "found",
            "file": name,
            "class": search.name,
            "provider": search.provider,
            "query": search.query,
            "rank": rank,
            **found._asdict(),
            **facts,
            "bytes": len(encoded),
            "sha256": digest,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        manifest.add(search.folder, event)
        self.new += 1


def _look(encoded: bytes) -> tuple[str, dict[str, Any]]:
    """The format, and the size and perceptual hash, of a picture that the pipeline can train on.

    Raises:
      ValueError: the pipeline cannot train on the picture; the message is one of retake.images.REASONS.
    """
    import imagehash
    from PIL import Image, ImageOps

    decodable = images.to_graph_format(encoded, MAX_PIXELS, MAX_BYTES)
    kind, width, height = images.probe(encoded)
    with Image.open(io.BytesIO(decodable)) as image:
        with suppress(Exception):  # Training ignores EXIF data that cannot be read, too.
            ImageOps.exif_transpose(image, in_place=True)
        phash = imagehash.phash(image.convert("RGB"))
    return kind, {"width": width, "height": height, "phash": str(phash)}


def main(arguments: list[str], prog: str) -> int:
    """The command `retake data search`."""
    options = _parser(prog).parse_args(arguments)
    name = options.name
    if name.startswith((".", "_")) or "/" in name or len(name) > LONGEST_NAME or not name.strip():
        raise UsageError(f"--class {in_one_line(name)!r} must be the name of a folder, such as 'hard taco'")
    provider = providers.find(options.provider)
    folder = options.folder or (RAW if provider.FOR_TRAINING or options.permission else ASKED)
    if not provider.FOR_TRAINING and not options.permission and folder.resolve() == RAW.resolve():
        raise UsageError(
            f"{options.provider} forbids training with its pictures without permission: leave --folder out, and they "
            f"go to {ASKED}; with permission, add --with-permission-to-train"
        )
    query = options.query or name
    search = Search(options.provider, name, query, options.count, folder, options.licence, options.endpoint)
    console = Console(highlight=False)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, console=Console(stderr=True)) as progress:
            bar = progress.add_task(in_one_line(name), total=options.count)
            outcome = asyncio.run(run(search, _key(provider), lambda there: progress.update(bar, completed=there)))
    except OSError as error:
        raise RetakeError(f"{folder} cannot be written to ({error.strerror or error})") from None
    console.print(f"{folder / name}: {outcome.there} pictures, {outcome.new} of them new", soft_wrap=True, markup=False)
    for reason, number in outcome.refused.items():
        console.print(f"  {number} not taken: {reason}", soft_wrap=True, markup=False)
    if outcome.there < options.count:
        console.print(
            f"{options.provider} has no more pictures of {in_one_line(query)!r}", soft_wrap=True, markup=False
        )
    if not outcome.there:
        raise RetakeError(f"no picture of {query!r} could be taken from {options.provider}")
    return 0


def _key(provider: Provider) -> str:
    """The key from the environment, or from the file `.env` of this folder.

    Raises:
      UsageError: there is none.
    """
    from dotenv import dotenv_values

    if not provider.KEY:
        return ""
    if key := os.environ.get(provider.KEY) or dotenv_values(".env").get(provider.KEY):
        return key
    raise UsageError(f"{provider.KEY} is not set: put the service's key into the environment or into a file .env")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = Parser(prog=prog, description="Search for pictures of a class, and download them with a manifest.")
    parser.add_argument("--provider", required=True, choices=PROVIDERS, help="the service that is asked")
    parser.add_argument("--class", required=True, dest="name", metavar="NAME", help="the pictures' folder and label")
    parser.add_argument("--query", metavar="TEXT", help="what the service is asked (default: the class)")
    parser.add_argument(
        "--count", type=_positive, default=100, metavar="N", help="pictures that the folder is to have (default: 100)"
    )
    parser.add_argument(
        "--licence", "--license", choices=LICENCES, default="any", help="what a picture's licence has to allow"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help=f"of the class folders (default: {RAW})")
    parser.add_argument(
        "--with-permission-to-train",
        action="store_true",
        dest="permission",
        help="pexels: you have its permission to train with its pictures",
    )
    parser.add_argument("--endpoint", default="", metavar="URL", help="another address of the service")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{in_one_line(text)!r} is not a number from 1 on")
    return int(text)
