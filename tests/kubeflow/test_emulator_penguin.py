"""A pipeline that is not ours: TFX's own penguin example, from its CSV to a pushed model."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
import tensorflow as tf
import tfx
from google.cloud import aiplatform
from tfx.examples.penguin import penguin_pipeline_local
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner
from vertex_emulator import ended, states, tasks, until, vertex_emulator

EXAMPLE = "tfx.examples.penguin.penguin_utils_keras"


def write_penguins(folder: Path) -> None:
    """The example's data as a CSV; TFX comes with the records only."""
    rows = []
    for file in sorted((Path(tfx.__file__).parent / "components/testdata/penguin/data").glob("*/*.gz")):
        for record in tf.data.TFRecordDataset(str(file), "GZIP").as_numpy_iterator():
            features = tf.train.Example.FromString(record).features.feature
            rows.append({key: [*each.float_list.value, *each.int64_list.value][0] for key, each in features.items()})
    folder.mkdir(parents=True)
    with (folder / "penguins.csv").open("w") as file:
        writer = csv.DictWriter(file, sorted(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_tfx_s_own_penguin_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its module is imported where it lies, without pip; and it saves models as Keras 2 did.
    monkeypatch.setenv("UNSUPPORTED_DO_NOT_PACKAGE_USER_MODULES", "1")
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    write_penguins(tmp_path / "data" / "labelled")
    module = importlib.util.find_spec(EXAMPLE)
    assert module and module.origin
    pipeline = penguin_pipeline_local.create_pipeline(
        pipeline_name="penguin",
        pipeline_root=str(tmp_path / "root"),
        data_root=str(tmp_path / "data"),
        module_file=module.origin,
        accuracy_threshold=0.5,
        serving_model_dir=str(tmp_path / "serving"),
        metadata_path="",
        user_provided_schema_path=None,
        enable_tuning=False,
        enable_bulk_inferrer=False,
        enable_example_diff=False,
        examplegen_input_config=None,
        examplegen_range_config_date=None,
        resolver_range_config=None,
        beam_pipeline_args=["--direct_running_mode=in_memory"],
        enable_transform_input_cache=False,
    )
    # The schema that the rest of this project's tests do not use.
    settings = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(default_image="x", use_pipeline_spec_2_1=False)
    kubeflow_v2_dag_runner.KubeflowV2DagRunner(settings, str(tmp_path), "job.json").run(pipeline)
    with vertex_emulator(tmp_path / "emulator"):
        job = aiplatform.PipelineJob("first", str(tmp_path / "job.json"), "first")
        job.submit()
        assert ended(job, seconds=1800) == "SUCCEEDED", job.task_details
        assert set(states(job).values()) == {"SUCCEEDED"}
        assert len(states(job)) == 9
        (version,) = (tmp_path / "serving").iterdir()
        assert (version / "saved_model.pb").exists()

        again = aiplatform.PipelineJob("again", str(tmp_path / "job.json"), "again")
        again.submit()
        # Everything before it comes from the cache; the baseline is new.
        until(lambda: again.done() or tasks(again).get("Evaluator"), seconds=600)
        until(lambda: again.done() or tasks(again)["Evaluator"].inputs, seconds=600)
        baseline = tasks(again)["Evaluator"].inputs["baseline_model"].artifacts[0]
        assert baseline.name == tasks(job)["Trainer"].outputs["model"].artifacts[0].name
        assert {states(again)[name] for name in ("CsvExampleGen", "StatisticsGen", "Transform", "Trainer")} == {
            "SKIPPED"
        }
        again.cancel()
        assert ended(again) == "CANCELLED"
