"""A blessed model becomes the next numbered version, whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tensorflow as tf
from colours import config
from one_node import artifact, run_node
from tfx.types import standard_artifacts

from components import pusher
from pipelines.factory import MODELS_PARAMETER
from retake import seal
from retake import versions as versioning
from retake.errors import RetakeError


@pytest.fixture
def model(tmp_path):
    """A Model artifact with a small SavedModel."""
    module = tf.Module()
    module.double = tf.function(lambda x: 2 * x, input_signature=[tf.TensorSpec([], tf.float32)])
    made = artifact(standard_artifacts.Model, tmp_path / "model")
    tf.saved_model.save(module, str(tmp_path / "model" / "Format-Serving"))
    return made


def blessing(folder, blessed=1):
    made = artifact(standard_artifacts.ModelBlessing, folder / "blessing")
    made.uri = f"{made.uri}-{made.id}"
    Path(made.uri).mkdir()
    (Path(made.uri) / ("BLESSED" if blessed else "NOT_BLESSED")).write_text("")
    made.set_int_custom_property("blessed", blessed)
    return made


def another(model):
    made = artifact(standard_artifacts.Model, Path(f"{model.uri}-another"))
    shutil.copytree(model.uri, made.uri)
    return made


def push(model, blessed, models):
    return run_node(
        Path(model.uri).parent, "Pusher", config(), {MODELS_PARAMETER: str(models)}, model=model, model_blessing=blessed
    )["pushed_model"]


def versions(models):
    return sorted(int(path.name) for path in models.iterdir() if path.name.isdecimal())


def test_a_blessed_model_is_pushed_as_it_is_and_loads(model, tmp_path):
    pushed = push(model, blessing(tmp_path), tmp_path / "models")
    [version] = versions(tmp_path / "models")
    assert pushed.get_string_custom_property("pushed_destination") == str(tmp_path / "models" / str(version))
    assert pushed.get_int_custom_property("pushed") == 1
    assert tf.saved_model.load(str(tmp_path / "models" / str(version))).double(2.0) == 4
    assert [path.name for path in (tmp_path / "models").iterdir()] == [str(version)]
    assert seal.broken(tmp_path / "models" / str(version)) is None


def test_a_model_that_is_not_blessed_is_not_pushed(model, tmp_path):
    pushed = push(model, blessing(tmp_path, blessed=0), tmp_path / "models")
    assert pushed.get_int_custom_property("pushed") == 0
    assert not (tmp_path / "models").exists()


def test_versions_only_grow_even_from_one_that_the_clock_has_not_reached(model, tmp_path):
    future = int(time.time()) + 10**6
    (tmp_path / "models" / str(future)).mkdir(parents=True)
    for each in (model, another(model)):
        push(each, blessing(tmp_path), tmp_path / "models")
    assert versions(tmp_path / "models") == [future, future + 1, future + 2]


def test_the_model_in_service_is_not_pushed_again_even_if_it_is_blessed_again(model, tmp_path):
    first, second = (push(model, blessing(tmp_path), tmp_path / "models") for _ in range(2))
    assert len(versions(tmp_path / "models")) == 1
    assert first.get_string_custom_property("pushed_destination") == second.get_string_custom_property(
        "pushed_destination"
    )


def test_pushes_at_the_same_time_get_versions_of_their_own(model, tmp_path):
    blessings = [blessing(tmp_path) for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        pushed = list(
            pool.map(
                lambda blessed: pusher._push_local(
                    f"{model.uri}/Format-Serving", str(tmp_path / "models"), json.dumps({"blessing": blessed.uri})
                ),
                blessings,
            )
        )
    assert len(set(pushed)) == 8
    assert versions(tmp_path / "models") == sorted(pushed)
    for version in pushed:
        assert (tmp_path / "models" / str(version) / "saved_model.pb").is_file()


def test_a_crash_between_copy_and_rename_leaves_nothing_numbered(model, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Path, "rename", killed)
        push(model, blessing(tmp_path), tmp_path / "models")
    assert versions(tmp_path / "models") == []
    push(model, blessing(tmp_path), tmp_path / "models")
    assert len(versions(tmp_path / "models")) == 1


PUSH_AND_HANG = """
import shutil, sys, time
from components import pusher
shutil.copytree = lambda _, incoming: (incoming.mkdir(), print("copying", flush=True), time.sleep(600))
pusher._push_local(*sys.argv[1:], "origin")
"""


def test_a_push_in_progress_is_left_alone_and_removed_as_soon_as_its_process_is_dead(model, tmp_path):
    models = tmp_path / "models"
    with subprocess.Popen(
        [sys.executable, "-c", PUSH_AND_HANG, f"{model.uri}/Format-Serving", models], stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"copying\n"
        push(model, blessing(tmp_path), models)
        assert list(models.glob(".incoming-*"))
        other.kill()
    push(another(model), blessing(tmp_path), models)
    assert not list(models.glob(".incoming-*"))
    assert len(versions(models)) == 2


def test_an_unfinished_push_of_another_machine_is_left_alone_for_an_hour(model, tmp_path, monkeypatch):
    left_behind = tmp_path / "models" / ".incoming-elsewhere-0"
    left_behind.mkdir(parents=True)
    os.utime(left_behind, (0, 0))  # As copied from an old model: its age says nothing about the push.
    push(model, blessing(tmp_path), tmp_path / "models")
    assert left_behind.exists()
    monkeypatch.setattr(versioning, "LEFT_BEHIND_SECONDS", -1)
    push(another(model), blessing(tmp_path), tmp_path / "models")
    assert not left_behind.exists()


@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_a_pushed_version_that_is_damaged_is_pushed_again_and_named(model, tmp_path, said, damage):
    blessed = blessing(tmp_path)
    push(model, blessed, tmp_path / "models")
    [damaged] = versions(tmp_path / "models")
    file = tmp_path / "models" / str(damaged) / "saved_model.pb"
    file.write_bytes(b"") if damage == "empty" else file.unlink()
    push(model, blessed, tmp_path / "models")

    _, new = versions(tmp_path / "models")
    assert tf.saved_model.load(str(tmp_path / "models" / str(new))).double(2.0) == 4
    assert said == [
        f"{file.parent} is damaged: saved_model.pb is {damage}; it is pushed again as another version, "
        "remove the damaged one"
    ]


def test_a_version_that_cannot_be_copied_leaves_nothing_and_says_why(model, tmp_path, monkeypatch):
    def full(_, incoming):
        incoming.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(RetakeError, match=r"cannot be pushed to .*No space left on device.*pusher.destination"):
        push(model, blessing(tmp_path), tmp_path / "models")
    assert not list((tmp_path / "models").iterdir())


def test_a_destination_that_cannot_be_made_is_named(model, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RetakeError, match=f"cannot be pushed to {tmp_path}/file/models .*pusher.destination"):
        push(model, blessing(tmp_path), tmp_path / "file" / "models")


def test_a_folder_with_another_name_among_the_versions_does_no_harm(model, tmp_path):
    for name in ("²", "notes", "٣"):
        (tmp_path / "models" / name).mkdir(parents=True)
    push(model, blessing(tmp_path), tmp_path / "models")
    assert versions(tmp_path / "models")


def test_a_push_through_an_object_store_writes_the_file_that_makes_it_loadable_last(model, tmp_path, monkeypatch):
    written = []
    copy_file = pusher.io_utils.copy_file
    monkeypatch.setattr(
        pusher.io_utils, "copy_file", lambda *args: (written.append(sorted(tmp_path.rglob("*"))), copy_file(*args))
    )
    models = tmp_path / "models"
    version = pusher._push_remote(f"{model.uri}/Format-Serving", str(models), "origin")
    assert (models / str(version) / "saved_model.pb").is_file()
    [before] = written
    assert models / str(version) / "variables" in before
    assert models / str(version) / "saved_model.pb" not in before
    assert pusher._push_remote(f"{model.uri}/Format-Serving", str(models), "origin") == version
    assert pusher._push_remote(f"{model.uri}/Format-Serving", str(models), "another") > version
