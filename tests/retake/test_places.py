"""Places on this machine and in object stores, which answer alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from retake import places
from retake.config import Config


@pytest.fixture(params=["folder", "object store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and TensorFlow's own file system in memory, which knows objects as gs:// does."""
    return str(tmp_path) if request.param == "folder" else f"ram://{tmp_path.name}"


def test_what_is_written_is_found_and_read(root: str) -> None:
    for run in ("b", "a"):
        places.write(f"{root}/runs/{run}/summary.json", run.encode())
    names = [place.removeprefix(root) for place in places.found(root, "runs/*/summary.json")]
    assert names == ["/runs/a/summary.json", "/runs/b/summary.json"]
    assert places.read(f"{root}/runs/b/summary.json") == b"b"
    assert places.written(f"{root}/runs/a/summary.json") >= 0  # The one in memory has no clock.


def test_what_is_not_there_is_an_error_of_the_operating_system(root: str) -> None:
    for ask in (places.read, places.written):
        with pytest.raises(OSError):
            ask(f"{root}/nothing")


def test_only_local_places_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config.model_validate({"pipeline": {"name": "birds"}, "data": {"location": "gs://bucket/data"}})
    located = places.located(config)
    assert places.of_config(located) == {
        "pipeline.root": f"{tmp_path}/runs/birds",
        "data.location": "gs://bucket/data",
        "pusher.destination": f"{tmp_path}/models/birds",
    }
    assert located.metadata.url == f"sqlite:///{tmp_path}/runs/birds/metadata.sqlite"
