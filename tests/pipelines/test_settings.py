"""The sections of runners: what is given, what is filled in, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from pipelines import settings
from retake import config
from retake.errors import UsageError

PROJECT = Path(__file__).parents[2]
MINIMAL = {"pipeline": {"name": "tiny"}, "data": {"location": "data/tiny", "classes": ["a", "b"]}}


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return str(path)


def refusal(name: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        settings.load(name, list(overrides))
    return str(error.value)


@pytest.mark.parametrize("name", ["sample", "hotdog", "intel"])
def test_each_configuration_of_the_project_is_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    assert settings.load(name).pipeline.name == name


def test_what_is_shown_can_be_loaded_again(tiny: str, tmp_path: Path) -> None:
    loaded = settings.load(tiny, ['vertex.machines={"*": {"cpus": 2, "memory_gb": 4}}'])
    (tmp_path / "again.yaml").write_text(config.as_yaml(loaded))
    assert settings.load(str(tmp_path / "again.yaml")) == loaded


def test_a_configuration_of_the_library_becomes_a_whole_one(tiny: str) -> None:
    whole = settings.whole(config.load(tiny, ["vertex.region=europe-west4", "trainer.epochs=3"]))
    assert (whole.vertex.region, whole.trainer.epochs, whole.airflow.retries) == ("europe-west4", 3, 2)
    assert settings.whole(whole) is whole
    with pytest.raises(UsageError, match=r"unknown key vertex\.zone"):
        settings.whole(config.load(tiny, ["vertex.zone=a"]))


def test_a_bucket_may_be_given_as_a_place_and_what_is_missing_may_be_empty(tiny: str) -> None:
    vertex = settings.load(tiny, ["vertex.bucket=gs://my.bucket_1/", "vertex.project=''", "vertex.region=''"]).vertex
    assert (vertex.bucket, vertex.project, vertex.region) == ("my.bucket_1", "", "")


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("optimizer.name=adam", "unknown key optimizer; allowed here: pipeline, data, model, trainer"),
        ("vertex.zone=a", "unknown key vertex.zone; allowed here: project, region, bucket"),
        ('vertex.machines={"*": {"cpu": 2}}', "unknown key vertex.machines.*.cpu; allowed here: cpus, memory_gb"),
        ("vertex.project=MY PROJECT", "vertex.project = 'MY PROJECT': is not a project's id"),
        ("vertex.region=europe_west", "vertex.region = 'europe_west': is not a region such as europe-west4"),
        ("vertex.bucket=B!", "vertex.bucket = 'B!': is not a bucket's name"),
        ("vertex.bucket=gs://bucket/folder", "vertex.bucket = 'gs://bucket/folder': is not a bucket's name"),
    ],
)
def test_what_no_runner_knows_is_refused_by_key_and_value(tiny: str, override: str, complaint: str) -> None:
    message = refusal(tiny, override)
    assert message.startswith(f"{tiny} with --set: ") and complaint in message


def test_the_reference_in_the_docs_is_what_the_code_says() -> None:
    assert (PROJECT / "docs/configuration.md").read_text() == settings.reference()
