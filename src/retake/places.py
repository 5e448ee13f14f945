"""Places: folders of this machine, and prefixes of object stores such as gs://bucket/folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from retake import durable, quiet
from retake.config import Config

AnyConfig = TypeVar("AnyConfig", bound=Config)


def is_remote(place: str) -> bool:
    """Whether a place is in an object store.

    Example:
        >>> is_remote("gs://bucket/data"), is_remote("data/new")
        (True, False)
    """
    return "://" in place


def absolute(place: str) -> str:
    """The place as processes see it that start in another folder."""
    return place if is_remote(place) else str(Path(place).resolve())


def read(place: str) -> bytes:
    """The content of a file or an object.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    if not is_remote(place):
        return Path(place).read_bytes()
    with _remote() as gfile, gfile.GFile(place, "rb") as file:
        return bytes(file.read())


def write(place: str, content: bytes) -> None:
    """Writes a file or an object, whole or not at all; its folder is made.

    Raises:
      OSError: it cannot be written.
    """
    if is_remote(place):
        with _remote() as gfile, gfile.GFile(place, "wb") as file:
            file.write(content)
    else:
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        durable.write(Path(place), content)


def written(place: str) -> float:
    """When a file or an object was written last, in seconds since 1970.

    Raises:
      OSError: it is not there, or cannot be read.
    """
    if not is_remote(place):
        return Path(place).stat().st_mtime
    with _remote() as gfile:
        return float(gfile.stat(place).mtime_nsec / 1e9)


def found(folder: str, pattern: str) -> list[str]:
    """The files or objects below a place that match, such as `runs/*/summary.json`, sorted.

    Raises:
      OSError: the store cannot be read.
    """
    if not is_remote(folder):
        return sorted(map(str, Path(folder).glob(pattern)))
    with _remote() as gfile:
        return sorted(gfile.glob(f"{folder}/{pattern}"))


@contextmanager
def _remote() -> Iterator[Any]:
    with quiet.imports():
        import tensorflow as tf

    try:
        yield tf.io.gfile
    except tf.errors.OpError as error:
        raise OSError(0, error.message) from None


def of_config(config: Config) -> dict[str, str]:
    """Key → place, of the places that every runner has."""
    return {
        "pipeline.root": config.pipeline.root,
        "data.location": config.data.location,
        "pusher.destination": config.pusher.destination,
    }


def mapped(config: AnyConfig, place: Callable[[str, str], str]) -> AnyConfig:
    """The configuration with each of `of_config` as `place(key, place)` returns it."""
    found = {key: place(key, value) for key, value in of_config(config).items()}
    return config.model_copy(
        update={
            "pipeline": config.pipeline.model_copy(update={"root": found["pipeline.root"]}),
            "data": config.data.model_copy(update={"location": found["data.location"]}),
            "pusher": config.pusher.model_copy(update={"destination": found["pusher.destination"]}),
        }
    )


def located(config: AnyConfig) -> AnyConfig:
    """The configuration with every local place as an absolute path, for processes that start elsewhere."""
    url, sqlite = config.metadata.url, "sqlite:///"
    if url.startswith(sqlite):
        url = f"{sqlite}{absolute(url.removeprefix(sqlite))}"
    config = config.model_copy(update={"metadata": config.metadata.model_copy(update={"url": url})})
    return mapped(config, lambda _, place: absolute(place))


def is_within(place: str, bound: str) -> bool:
    """Whether a place is another one or lies below it. Links of folders are followed.

    Example:
        >>> is_within("gs://bucket/data/new", "gs://bucket/data/"), is_within("gs://bucket-2/data", "gs://bucket")
        (True, False)
    """
    parts, bounds = _parts(place), _parts(bound)
    return ".." not in parts and parts[: len(bounds)] == bounds


def _parts(place: str) -> list[str]:
    if is_remote(place):
        return place.rstrip("/").split("/")
    try:
        with suppress(FileNotFoundError):
            Path(place).stat()  # Python 3.13 resolves links in a circle to themselves.
        return list(Path(place).resolve().parts)
    except (OSError, ValueError):  # Links in a circle, or a name that no file can have.
        return [".."]
