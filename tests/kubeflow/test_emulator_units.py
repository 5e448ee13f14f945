"""Parts of the local Vertex without its server."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from vertex_emulator import PARENT, Pipeline

from kubeflow.emulator import store
from kubeflow.emulator.refusals import check
from kubeflow.emulator.service import Emulator, InUse


def test_a_check_returns_the_job_in_one_form_and_leaves_the_request_as_it_is(tmp_path: Path) -> None:
    spec = Pipeline(tmp_path).task("A").spec
    body = {"pipeline_spec": spec, "runtime_config": {"gcs_output_directory": str(tmp_path)}}
    before = copy.deepcopy(body)
    job = check(PARENT, "job", body)
    assert body == before
    assert job["pipelineSpec"]["schemaVersion"] == spec["schemaVersion"]
    assert job["runtimeConfig"] == {"gcsOutputDirectory": str(tmp_path)}


def test_a_root_that_another_emulator_has_is_an_error_and_ends_no_process(tmp_path: Path) -> None:
    first = Emulator(tmp_path, 1, forks=False)
    with pytest.raises(InUse, match=f"{tmp_path} is in use by another emulator"):
        Emulator(tmp_path, 1, forks=False)
    first.leave()


def test_a_list_parses_only_the_jobs_that_have_changed_since_the_last_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = store.Store(tmp_path / "history.sqlite")
    for number in range(60):
        history.add_job({"name": f"job-{number}", "state": "PIPELINE_STATE_SUCCEEDED"})
    listed = list(history.jobs())
    parsed: list[str] = []

    def loads(text: str) -> Any:
        parsed.append(text)
        return original(text)

    original = json.loads
    monkeypatch.setattr(store.json, "loads", loads)
    assert list(history.jobs()) == listed and parsed == []
    changed = {"name": "job-7", "state": "PIPELINE_STATE_FAILED"}
    history.update_job("job-7", json.dumps(changed))
    assert changed in list(history.jobs())
    assert len(parsed) == 1
    history.delete_job("job-59")
    history.add_job({"name": "job-59", "state": "PIPELINE_STATE_PENDING"})
    assert next(history.jobs())["state"] == "PIPELINE_STATE_PENDING"
