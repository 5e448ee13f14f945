"""What the emulator refuses before anything of a job runs, and what a list of jobs takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from google.cloud import aiplatform
from test_emulator import post
from vertex_emulator import MODEL, PARENT, Pipeline, VertexEmulator, ended, tasks, vertex_emulator


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VertexEmulator]:
    with vertex_emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


def submitted(emulator: VertexEmulator, job: dict[str, Any]) -> tuple[int, str]:
    code, error = post(f"{emulator.url}/v1/{PARENT}/pipelineJobs", json.dumps(job).encode())
    return code, error.get("message", "")


def two_tasks(folder: Path, version: str = "2.1.0") -> Pipeline:
    """B takes A's model, and two parameters."""
    pipeline = Pipeline(folder, version).parameter("word").task("A", gives={"m": MODEL})
    pipeline.task("B", "done()", {"word": "=word", "n": 3}, {"m": "A.m"})
    pipeline.job["runtimeConfig"]["parameterValues"] = {"word": "x"}
    return pipeline


def task(job: Any, name: str = "B") -> Any:
    return job["pipelineSpec"]["root"]["dag"]["tasks"][name]


def container(job: Any, name: str = "B") -> Any:
    return job["pipelineSpec"]["deploymentSpec"]["executors"][f"{name}_executor"]["container"]


def outputs(job: Any, **fields: Any) -> None:
    job["pipelineSpec"]["root"]["dag"]["outputs"] = fields


def trigger(job: Any, **policy: str) -> None:
    task(job)["triggerPolicy"] = policy


def selected(subtask: str, key: str) -> dict[str, Any]:
    return {"o": {"artifactSelectors": [{"producerSubtask": subtask, "outputArtifactKey": key}]}}


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a job's field": (lambda job: job.update(serviceAcount="me"), '"serviceAcount"'),
    "a field of its configuration": (lambda job: job["runtimeConfig"].update(failurPolicy=1), '"failurPolicy"'),
    "a failure policy's name": (lambda job: job["runtimeConfig"].update(failurePolicy="FAST"), "FAST"),
    "a failure policy's number": (lambda job: job["runtimeConfig"].update(failurePolicy=7), "failure_policy 7"),
    "a field of the pipeline": (lambda job: job["pipelineSpec"].update(pipelneInfo={}), '"pipelneInfo"'),
    "a task's field": (lambda job: task(job).update(retryPolcy={"maxRetryCount": 1}), '"retryPolcy"'),
    "a container's field": (lambda job: container(job).update(comand=[]), '"comand"'),
    "a trigger's strategy": (lambda job: trigger(job, strategy="ALL_UPSTREM"), "ALL_UPSTREM"),
    "a condition": (lambda job: trigger(job, condition="inputs.("), "condition of task 'B' cannot be read"),
    "an input in a condition": (
        lambda job: trigger(job, condition="inputs.parameters['wrod'] == 'x'"),
        "inputs.parameters['wrod']",
    ),
    "an input in a placeholder": (
        lambda job: container(job)["command"].append("{{$.inputs.parameters['wrod']}}"),
        "inputs.parameters['wrod']",
    ),
    "an output in a placeholder": (
        lambda job: container(job).update(args=["{{$.outputs.artifacts['modle'].uri}}"]),
        "outputs.artifacts['modle'].uri",
    ),
    "a parameter of the graph": (
        lambda job: task(job)["inputs"]["parameters"].update(word={"componentInputParameter": "wrod"}),
        "'wrod', which is no input of the root",
    ),
    "an artifact of the graph": (
        lambda job: task(job)["inputs"]["artifacts"].update(m={"componentInputArtifact": "modle"}),
        "'modle', which is no input of the root",
    ),
    "an input of the component": (
        lambda job: task(job)["inputs"]["parameters"].update(wrod={"componentInputParameter": "word"}),
        "'wrod', no input of its component",
    ),
    "no source": (lambda job: task(job)["inputs"]["parameters"].update(word={}), "from nothing"),
    "a constant's type": (
        lambda job: task(job)["inputs"]["parameters"].update(n={"runtimeValue": {"constant": "v"}}),
        "must be of type NUMBER_INTEGER",
    ),
    "no image": (lambda job: container(job).pop("image"), "names no image"),
    "the task of an output": (lambda job: outputs(job, artifacts=selected("Zzz", "m")), "of 'Zzz'"),
    "the name of an output": (lambda job: outputs(job, artifacts=selected("A", "n")), "'n' of 'A'"),
    "the task of a value": (
        lambda job: outputs(
            job, parameters={"o": {"valueFromParameter": {"producerSubtask": "A", "outputParameterKey": "n"}}}
        ),
        "'n' of 'A'",
    ),
    "no bucket": (lambda job: job["runtimeConfig"].update(gcsOutputDirectory="gs://"), "gs://BUCKET"),
    "a digit first in a label": (lambda job: job.update(labels={"1a": "x"}), "Invalid label '1a'"),
    "a dash as a label": (lambda job: job.update(labels={"-": "x"}), "Invalid label '-'"),
    "too many labels": (lambda job: job.update(labels={f"l{n}": "" for n in range(65)}), "65 labels"),
}


class TestTypos:
    @pytest.mark.parametrize("what", REFUSED)
    def test_a_typo_is_refused_at_once(self, emulator: VertexEmulator, tmp_path: Path, what: str) -> None:
        job = two_tasks(tmp_path).job
        spoil, message = REFUSED[what]
        spoil(job)
        code, told = submitted(emulator, job)
        assert (code, message in told, "\n" in told) == (400, True, False), told

    @pytest.mark.parametrize(("value", "code"), [({"intValue": "3"}, 200), ({"stringValue": "v"}, 400)])
    def test_the_constants_of_the_older_schema_are_checked_too(
        self, emulator: VertexEmulator, tmp_path: Path, value: Any, code: int
    ) -> None:
        pipeline = Pipeline(tmp_path, "2.0.0").task("A", "done()", {"n": {"runtimeValue": {"constantValue": value}}})
        pipeline.spec["components"]["A"]["inputDefinitions"]["parameters"]["n"] = {"type": "INT"}
        assert submitted(emulator, pipeline.job)[0] == code

    def test_what_json_allows_for_a_message_is_understood(self, emulator: VertexEmulator, tmp_path: Path) -> None:
        """Such as names with underscores: read or refused, but not passed over."""
        pipeline = two_tasks(tmp_path)
        policy = {"retry_policy": {"max_retry_count": 1, "backoff_duration": "0s"}}
        once = f"f = pathlib.Path({str(tmp_path / 'tried')!r})\nif not f.exists(): f.touch(); sys.exit(3)\ndone()"
        pipeline.task("C", once, **policy)
        job = {"display_name": "underscores", "pipeline_spec": pipeline.spec, "end_time": "2020-05-18T13:30:00Z"}
        job["runtime_config"] = {"gcs_output_directory": str(tmp_path / "root"), "parameter_values": {"word": "x"}}
        assert submitted(emulator, job) == (200, "")
        (found,) = aiplatform.PipelineJob.list(filter='display_name="underscores"')
        assert ended(found) == "SUCCEEDED"
        assert found.gca_resource.end_time > found.gca_resource.create_time
        assert len(tasks(found)["C"].pipeline_task_status) == 5
        assert found.name.startswith("tiny-")

    def test_the_schema_of_pipelines_is_read_without_the_sdk(self, tmp_path: Path) -> None:
        job = json.dumps(two_tasks(tmp_path).job)
        code = "import json, sys; from kubeflow.emulator.refusals import check; "
        code += f"check({PARENT!r}, 'a', json.loads(sys.argv[1]))"
        loaded = f"{code}; print('kfp' in sys.modules, 'tensorflow' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", loaded, job], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.stderr) == ("False False\n", "")


@pytest.fixture(scope="module")
def listed(emulator: VertexEmulator, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a pipeline with two jobs that have ended: `first` and `second`."""
    pipeline = Pipeline(tmp_path_factory.mktemp("listed"), name="listed-steps").task("Only")
    for number, name in enumerate(("first", "second")):
        pipeline.job["displayName"] = f"my step job {name}"
        file = pipeline.folder / "job.json"
        file.write_text(json.dumps(pipeline.job))
        labels = {"list": "yes", "number": str(number)}
        job = aiplatform.PipelineJob(f"my step job {name}", str(file), f"listed-{name}", labels=labels)
        job.submit()
        assert ended(job) == "SUCCEEDED"
        time.sleep(0.01)
    return "listed-steps"


def names(**query: str) -> list[str]:
    return [job.name.removeprefix("listed-") for job in aiplatform.PipelineJob.list(**query)]


class TestLists:
    @pytest.mark.parametrize(
        ("filter_", "found"),
        [
            ('display_name:"*step*"', ["second", "first"]),
            ('display_name:"*sec*" AND labels.list="yes"', ["second"]),
            ('display_name="my step job first"', ["first"]),
            ('pipeline_name="listed-steps"', ["second", "first"]),
            ('pipeline_job_user_id:"listed-f*"', ["first"]),
            ("labels.number=1", ["second"]),
            ("labels:number", ["second", "first"]),
            ("labels.list:* AND NOT (labels.number=0)", ["second"]),
            ('pipeline_name="listed-steps" AND state=PIPELINE_STATE_SUCCEEDED', ["second", "first"]),
            ('pipeline_name="listed-steps" AND state!="PIPELINE_STATE_SUCCEEDED"', []),
            ('labels.list="yes" AND create_time>"2020-05-18T13:30:00Z"', ["second", "first"]),
            ('labels.list="yes" AND end_time<"2020-05-18T13:30:00+02:00"', []),
            ("template_uri:*", []),
        ],
    )
    def test_a_filter_finds_what_its_documentation_says(self, listed: str, filter_: str, found: list[str]) -> None:
        assert names(filter=filter_) == found

    def test_a_list_has_the_order_that_is_asked_for(self, listed: str) -> None:
        mine = f'pipeline_name="{listed}"'
        client = aiplatform.PipelineJob.get("listed-first").api_client
        for order, found in (
            ("", ["second", "first"]),
            ("create_time desc, end_time", ["second", "first"]),
            ("end_time asc", ["first", "second"]),
        ):
            jobs = client.list_pipeline_jobs(request={"parent": PARENT, "filter": mine, "order_by": order})
            assert [job.name.rpartition("-")[2] for job in jobs] == found

    @pytest.mark.parametrize(
        "query",
        [
            "filter=staet=x",
            "filter=state=PIPELINE_STATE_SUCEEDED",
            "filter=state:PIPELINE_STATE_FAILED",
            "filter=state",
            "filter=labels=list",
            "filter=state=(",
            "filter=start_time>2020-05-18T13:30:00Z",
            "filter=create_time>yesterday",
            'filter=create_time>"2020-05-18"',
            "orderBy=state",
            "orderBy=create_time sideways",
            "orderBy=create_time,,",
            "pageSize=-1",
            "pageToken=-3",
            "pageToken=x",
        ],
    )
    def test_what_is_not_documented_is_refused_though_there_is_no_job(
        self, emulator: VertexEmulator, query: str
    ) -> None:
        name, _, value = query.partition("=")
        url = f"{emulator.url}/v1/projects/empty/locations/none/pipelineJobs?{name}={urllib.parse.quote(value)}"
        code, error = post(url, None)
        assert (code, error.get("status")) == (400, "INVALID_ARGUMENT")
