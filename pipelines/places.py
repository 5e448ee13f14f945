"""Which places a run may be told to read records from and to push models to, where others than the owner start runs."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pipelines.definition import Definition
from retake.errors import UsageError


def check(definition: Definition, parameters: dict[str, str]) -> None:
    """Holds a run's runtime parameters to the configured places and to `airflow.places`.

    Args:
      definition: of the pipeline.
      parameters: runtime parameter → place: a folder or a gs:// prefix.

    Raises:
      UsageError: a place lies elsewhere.
    """
    for name, place in parameters.items():
        allowed = [definition.parameters[name].default, *definition.config.airflow.places]
        if not any(is_within(place, bound) for bound in allowed):
            raise UsageError(
                f"{name} {place!r} is not a place that a run may be given; it must be one of these or lie below it: "
                f"{', '.join(allowed)}. Add it to airflow.places in the configuration and compile the pipeline again"
            )


def is_within(place: str, bound: str) -> bool:
    """Whether a folder or gs:// prefix is another one or lies below it. Links of folders are followed.

    Example:
        >>> is_within("gs://bucket/data/new", "gs://bucket/data/"), is_within("gs://bucket-2/data", "gs://bucket")
        (True, False)
    """
    parts, bounds = _parts(place), _parts(bound)
    return ".." not in parts and parts[: len(bounds)] == bounds


def _parts(place: str) -> list[str]:
    if "://" in place:
        return place.rstrip("/").split("/")
    try:
        with suppress(FileNotFoundError):
            Path(place).stat()  # Python 3.13 resolves links in a circle to themselves.
        return list(Path(place).resolve().parts)
    except (OSError, ValueError):  # Links in a circle, or a name that no file can have.
        return [".."]
