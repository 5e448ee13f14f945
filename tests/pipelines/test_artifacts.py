"""What was damaged since a node wrote it is not taken from the cache; what is whole is."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipelines import artifacts, metadata
from retake import durable, seal
from retake.errors import RetakeError


@pytest.fixture
def store(tmp_path: Path) -> MetadataStore:
    return MetadataStore(metadata.connection_config(f"sqlite:///{tmp_path}/metadata.sqlite"))


def written(
    store: MetadataStore,
    folder: Path,
    settled: bool = True,
    version: Path | None = None,
    below: str = ".",
    kind: str = "Model",
) -> mlmd.Artifact:
    """A live output of Trainer that is a SavedModel, in the store; for a push, the version is that."""
    folder.mkdir(parents=True)
    for name in ("saved_model.pb", "variables/variables.index"):
        file = (version or folder) / below / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("whole")
    artifact = mlmd.Artifact(
        type_id=store.put_artifact_type(mlmd.ArtifactType(name=kind)), uri=str(folder), state=mlmd.Artifact.LIVE
    )
    if version:
        artifact.custom_properties["pushed_destination"].string_value = str(version)
    if settled:
        artifacts.settle([artifact])
    [artifact.id] = store.put_artifacts([artifact])
    context = mlmd.Context(type_id=store.put_context_type(mlmd.ContextType(name="node")), name="birds.Trainer")
    known = store.get_context_by_type_and_name("node", "birds.Trainer")
    context_id = known.id if known else store.put_contexts([context])[0]
    store.put_attributions_and_associations([mlmd.Attribution(artifact_id=artifact.id, context_id=context_id)], [])
    return artifact


def is_live(store: MetadataStore, artifact: mlmd.Artifact) -> bool:
    artifacts.forget_damaged(store, "birds", "Trainer")
    [found] = store.get_artifacts_by_id([artifact.id])
    return found.state == mlmd.Artifact.LIVE


@pytest.mark.parametrize("settled", [True, False], ids=["noted", "of an earlier version of the project"])
def test_an_output_with_an_empty_file_is_not_used_any_more_and_named(
    store: MetadataStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, settled: bool
) -> None:
    folder = tmp_path / "Trainer" / "model" / "6"
    artifact = written(store, folder, settled)
    assert is_live(store, artifact)
    (folder / "saved_model.pb").write_text("")
    with caplog.at_level(logging.INFO, "retake"):
        assert not is_live(store, artifact)
    assert caplog.messages == [f"{folder} is damaged: saved_model.pb is empty; it is not used any more"]


def test_an_output_that_lacks_a_file_is_not_used_any_more(store: MetadataStore, tmp_path: Path) -> None:
    artifact = written(store, tmp_path / "Trainer" / "model" / "6")
    (tmp_path / "Trainer" / "model" / "6" / "variables" / "variables.index").unlink()
    assert not is_live(store, artifact)


def test_a_push_is_what_its_version_is(store: MetadataStore, tmp_path: Path) -> None:
    version = tmp_path / "models" / "birds" / "7"
    artifact = written(store, tmp_path / "Trainer" / "pushed_model" / "9", version=version)
    assert is_live(store, artifact)
    (version / "saved_model.pb").write_text("")
    assert not is_live(store, artifact)


def test_a_damaged_model_gets_back_what_it_held_from_the_version_that_was_pushed_of_it(
    store: MetadataStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, version = tmp_path / "Trainer" / "model" / "6", tmp_path / "models" / "birds" / "7"
    model = written(store, folder, below="Format-Serving")
    push = written(store, tmp_path / "Pusher" / "pushed_model" / "9", version=version, kind="PushedModel")
    (version / "assets.extra").mkdir()
    (version / "assets.extra" / "pushed_from.json").write_text("{}")
    seal.put(version)
    pusher = mlmd.Execution(type_id=store.put_execution_type(mlmd.ExecutionType(name="Pusher")))
    given = mlmd.Event(type=mlmd.Event.INPUT, artifact_id=model.id)
    made = mlmd.Event(type=mlmd.Event.OUTPUT, artifact_id=push.id)
    store.put_execution(pusher, [(model, given), (push, made)], [])
    before = durable.contents(folder)

    (folder / "Format-Serving" / "saved_model.pb").write_text("")
    with caplog.at_level(logging.INFO, "retake"):
        assert is_live(store, model)
    assert durable.contents(folder) == before
    assert caplog.messages[0].endswith(f"Format-Serving/saved_model.pb is empty; it was copied back from {version}")

    (folder / "Format-Serving" / "saved_model.pb").write_text("")
    (version / "saved_model.pb").write_text("another one, which nobody sealed")
    assert not is_live(store, model)


def test_damaged_inputs_of_a_node_are_not_its_to_forget(store: MetadataStore, tmp_path: Path) -> None:
    artifact = written(store, tmp_path / "ExampleGen" / "examples" / "1")
    (tmp_path / "ExampleGen" / "examples" / "1" / "saved_model.pb").unlink()
    assert is_live(store, artifact)


def test_an_artifact_gets_no_properties_that_it_had_not(store: MetadataStore, tmp_path: Path) -> None:
    artifact = written(store, tmp_path / "Trainer" / "model" / "6", settled=False)
    assert artifacts.damage(artifact) is None
    assert not artifact.custom_properties


def test_what_does_not_get_onto_the_disk_fails_the_node_and_is_named(
    store: MetadataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("retake.durable.sync", full)
    with pytest.raises(RetakeError, match=r"model/6 cannot be written \(No space left on device\)"):
        written(store, tmp_path / "Trainer" / "model" / "6")
