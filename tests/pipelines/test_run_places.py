"""The places that whoever starts a run may name: nothing gets around the configured ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from colours import config

from pipelines.definition import Definition, Parameter
from pipelines.run_node import check_places
from retake.errors import UsageError


@pytest.fixture
def definition(tmp_path: Path) -> Definition:
    """With the folders `data`, `models` and `shared`; `secret` beside them is not for runs."""
    for name in ("data/old", "models", "shared", "secret"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to("../secret")
    (tmp_path / "data" / "circle").symlink_to("circle")
    (tmp_path / "entrance").symlink_to("shared")
    defaults = {name: str(tmp_path / name) for name in ("data", "models")}
    return Definition(
        pipeline="colours",
        command="",
        project="",
        sources={},
        config=config(airflow={"places": [str(tmp_path / "entrance"), "gs://my-bucket/pictures/"]}),
        nodes=[],
        parameters={name: Parameter(default=place, description="") for name, place in defaults.items()},
        pods={},
        ir={},
    )


@pytest.mark.parametrize(
    ("parameter", "place"),
    [
        ("data", "{folder}"),
        ("data", "{folder}/data-of-another"),
        ("data", "{folder}/data/../secret"),
        ("data", "{folder}/data/link"),
        ("data", "{folder}/data/circle"),
        ("data", "{folder}/models"),
        ("data", "data"),
        ("data", ""),
        ("data", "{folder}/data/\0"),
        ("data", "file://{folder}/data"),
        ("data", "gs://my-bucket"),
        ("data", "gs://my-bucket-evil/pictures"),
        ("data", "gs://my-bucket/pictures-of-another"),
        ("data", "gs://my-bucket/pictures/../secret"),
        ("data", "gs://my-bucket//pictures"),
        ("data", "GS://my-bucket/pictures"),
        ("models", "{folder}/data"),
        ("models", "/"),
    ],
)
def test_a_place_elsewhere_is_refused_with_those_that_are_allowed(
    definition: Definition, tmp_path: Path, parameter: str, place: str
) -> None:
    with pytest.raises(UsageError) as refused:
        check_places(definition, {parameter: place.format(folder=tmp_path)})
    allowed = f"{tmp_path}/{parameter}, {tmp_path}/entrance, gs://my-bucket/pictures/"
    message = str(refused.value)
    assert message.startswith(f"{parameter} ") and allowed in message and "airflow.places" in message


@pytest.mark.parametrize(
    ("parameter", "place"),
    [
        ("data", "{folder}/data"),
        ("data", "{folder}/data/"),
        ("data", "{folder}/data/old/../new"),
        ("data", "{folder}/shared/records"),
        ("data", "{folder}/entrance/records"),
        ("data", "gs://my-bucket/pictures"),
        ("models", "{folder}/models/1"),
        ("models", "gs://my-bucket/pictures/models"),
    ],
)
def test_the_configured_places_those_that_are_allowed_and_what_lies_below_are_taken(
    definition: Definition, tmp_path: Path, parameter: str, place: str
) -> None:
    check_places(definition, {parameter: place.format(folder=tmp_path)})
