"""The emulator as Google's real client sees it, with jobs whose tasks are a line of Python and take no time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gcp_storage_emulator.server import create_server
from google.api_core import exceptions
from google.cloud import aiplatform
from google.cloud.aiplatform import pipeline_jobs
from vertex_emulator import (
    BLESSING,
    MODEL,
    PARENT,
    Pipeline,
    VertexEmulator,
    ended,
    is_running,
    states,
    tasks,
    until,
    vertex_emulator,
)

CACHED = {"cachingOptions": {"enableCache": True}}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VertexEmulator]:
    with vertex_emulator(tmp_path_factory.mktemp("emulator")) as running:
        yield running


@pytest.fixture
def pipeline(emulator: VertexEmulator, tmp_path: Path, request: pytest.FixtureRequest) -> Pipeline:
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower())[-60:].strip("-")
    return Pipeline(tmp_path, name=name)


class TestJobs:
    def test_a_job_succeeds_and_tells_what_its_tasks_took_and_gave(self, pipeline: Pipeline) -> None:
        pipeline.parameter("word").task(
            "Writer", "done({'blessed': 1})", {"word": "=word", "n": 3}, gives={"model": MODEL}
        )
        pipeline.task("Reader", takes={"model": "Writer.model"})
        job = pipeline.submit(parameter_values={"word": "taco"}, labels={"colour": "red"})
        assert ended(job) == "SUCCEEDED"
        writer, reader = tasks(job)["Writer"], tasks(job)["Reader"]
        assert dict(writer.execution.metadata) == {"input:word": "taco", "input:n": 3}
        (model,) = writer.outputs["model"].artifacts
        assert (model.schema_title, model.metadata["blessed"], model.state.name) == ("tfx.Model", 1, "LIVE")
        assert model.uri.startswith(f"{pipeline.folder}/root/my-project/{job.name}/Writer_")
        assert reader.inputs["model"].artifacts[0].name == model.name
        assert writer.start_time <= writer.end_time <= reader.start_time <= reader.end_time
        assert tasks(job)[job.name].task_id == writer.parent_task_id
        assert dict(job.gca_resource.labels) == {"colour": "red"}

    def test_waiting_raises_what_a_failed_task_said(
        self, emulator: VertexEmulator, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pipeline_jobs, "_JOB_WAIT_TIME", 0.05)
        job = pipeline.task("Broken", "raise ValueError('no tacos')").task("Next", after=("Broken",)).submit()
        with pytest.raises(RuntimeError, match=r"The failed tasks are: \[Broken\]"):
            job.wait()
        assert states(job) == {"Broken": "FAILED", "Next": "NOT_TRIGGERED"}
        assert "exited with status 1: ValueError: no tacos" in tasks(job)["Broken"].error.message
        assert "Traceback" in emulator.log(tasks(job)["Broken"])

    def test_an_id_is_used_once(self, pipeline: Pipeline) -> None:
        pipeline.task("Only").submit("used-once")
        with pytest.raises(exceptions.Conflict, match="already exists"):
            pipeline.submit("used-once")

    def test_jobs_are_listed_by_filter_and_order_page_by_page(self, pipeline: Pipeline) -> None:
        pipeline.task("Only")
        made = [pipeline.submit(f"listed-{number}", labels={"list": "yes"}) for number in range(3)]
        assert [ended(job) for job in made] == ["SUCCEEDED"] * 3
        by_label = 'labels.list="yes" AND state=PIPELINE_STATE_SUCCEEDED'
        found = aiplatform.PipelineJob.list(filter=by_label, order_by="create_time desc", enable_simple_view=True)
        assert [job.name for job in found] == ["listed-2", "listed-1", "listed-0"]
        assert not aiplatform.PipelineJob.list(filter='display_name="other*" OR labels.list="no"')
        request = {"parent": PARENT, "filter": "labels.list:*", "page_size": 2, "order_by": "create_time"}
        pages = list(made[0].api_client.list_pipeline_jobs(request=request).pages)
        assert [[job.name[-1] for job in page.pipeline_jobs] for page in pages] == [["0", "1"], ["2"]]
        with pytest.raises(exceptions.BadRequest, match="invalid filter"):
            aiplatform.PipelineJob.list(filter="state=(")

    def test_a_job_that_is_not_there_is_not_found_and_one_that_is_deleted_is_gone(self, pipeline: Pipeline) -> None:
        with pytest.raises(exceptions.NotFound):
            aiplatform.PipelineJob.get("never-was")
        job = pipeline.task("Only").submit("to-delete")
        ended(job)
        job.delete()
        with pytest.raises(exceptions.NotFound):
            aiplatform.PipelineJob.get("to-delete")


class TestTasks:
    def test_independent_tasks_run_at_once(self, pipeline: Pipeline) -> None:
        """Each waits for the other to begin."""
        meet = "f = pathlib.Path({0!r}); (f / {1!r}).touch()\nwhile not (f / {2!r}).exists(): time.sleep(.01)"
        pipeline.task("One", meet.format(str(pipeline.folder), "one", "two"))
        pipeline.task("Two", meet.format(str(pipeline.folder), "two", "one"))
        assert ended(pipeline.submit()) == "SUCCEEDED"

    @pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
    def test_parameters_have_defaults_and_the_form_that_the_schema_wants(self, version: str, tmp_path: Path) -> None:
        pipeline = Pipeline(tmp_path, version)
        old = version == "2.0.0"
        constant = {"runtimeValue": {"constantValue": {"intValue": "7"}} if old else {"constant": 7.0}}
        pipeline.parameter("given").parameter("default", defaultValue="d")
        pipeline.task("Only", "print(json.dumps(inputs))", {"a": "=given", "b": "=default", "c": constant})
        declared = pipeline.spec["components"]["Only"]["inputDefinitions"]["parameters"]
        declared["c"] = {"type": "INT"} if old else {"parameterType": "NUMBER_INTEGER"}
        job = pipeline.submit(parameter_values={"given": "g"})
        assert ended(job) == "SUCCEEDED"
        assert dict(tasks(job)["Only"].execution.metadata) == {"input:a": "g", "input:b": "d", "input:c": 7}

    def test_a_command_gets_its_placeholders_filled_without_a_shell(
        self, emulator: VertexEmulator, pipeline: Pipeline
    ) -> None:
        command = ["python", "-c", "import sys; print(sys.argv[1:])", "{{$.inputs.parameters['a']}}; $(exit 1)"]
        command += ["{{$.inputs.artifacts['model'].uri}}/x", "{{$.pipeline_task_name}}", "{{$.inputs.parameters['n']}}"]
        pipeline.task("Writer", gives={"model": MODEL})
        executor = {"container": {"image": "x", "command": command, "env": [{"name": "COLOUR", "value": "red"}]}}
        pipeline.task("Only", parameters={"a": "'b'", "n": 5}, takes={"model": "Writer.model"}, executor=executor)
        job = pipeline.submit()
        assert ended(job) == "SUCCEEDED"
        uri = tasks(job)["Writer"].outputs["model"].artifacts[0].uri
        assert emulator.log(tasks(job)["Only"]).splitlines()[-1] == str(["'b'; $(exit 1)", f"{uri}/x", "Only", "5"])

    def test_a_condition_decides_whether_a_task_runs(self, pipeline: Pipeline) -> None:
        pipeline.task("Evaluator", "done({'blessed': 1})", gives={"blessing": BLESSING})
        blessed = "(inputs.artifacts['b'].artifacts[0].metadata['blessed'] == 1.0)"
        for name, condition in (("Pusher", blessed), ("Mourner", f"!({blessed}) && (1.0 == 1.0)")):
            pipeline.task(name, takes={"b": "Evaluator.blessing"}, triggerPolicy={"condition": condition})
        job = pipeline.submit()
        assert ended(job) == "SUCCEEDED"
        assert states(job) == {"Evaluator": "SUCCEEDED", "Pusher": "SUCCEEDED", "Mourner": "NOT_TRIGGERED"}

    def test_a_value_of_one_task_is_a_parameter_of_the_next(self, pipeline: Pipeline) -> None:
        pipeline.task("Maker", "done(number=42)")
        pipeline.spec["components"]["Maker"]["outputDefinitions"]["parameters"] = {
            "number": {"parameterType": "NUMBER_INTEGER"}
        }
        # TFX names the producer so.
        output = {"taskOutputParameter": {"producerTask": "Maker_task", "outputParameterKey": "number"}}
        job = pipeline.task("Taker", "assert parameters['n'] == 42", {"n": output}).submit()
        assert ended(job) == "SUCCEEDED"
        assert tasks(job)["Maker"].execution.metadata["output:number"] == 42

    def test_a_task_that_fails_is_tried_again_as_often_as_it_says(self, pipeline: Pipeline) -> None:
        once = f"f = pathlib.Path({str(pipeline.folder / 'tried')!r})\nif not f.exists(): f.touch(); sys.exit(3)\n"
        nothing_left = "assert not os.path.exists(outputs['artifacts']['model']['artifacts'][0]['uri']); done()\n"
        code = nothing_left + once
        retry = {"maxRetryCount": 1, "backoffDuration": "0s"}
        job = pipeline.task("Shaky", code, gives={"model": MODEL}, retryPolicy=retry).submit()
        assert ended(job) == "SUCCEEDED"
        history = [status.state.name for status in tasks(job)["Shaky"].pipeline_task_status]
        assert history == ["PENDING", "RUNNING", "PENDING", "RUNNING", "SUCCEEDED"]

    @pytest.mark.parametrize(
        ("code", "told"),
        [
            ("sys.exit(1)", "exited with status 1: it said nothing (log: "),
            ("print('\\n' * 400_000); sys.exit(1)", "exited with status 1: it said nothing (log: "),
            ("print('ValueError: x'); print('later'); sys.exit(1)", "exited with status 1: ValueError: x (log: "),
        ],
    )
    def test_a_task_that_fails_is_told_in_its_own_words(self, pipeline: Pipeline, code: str, told: str) -> None:
        job = pipeline.task("Broken", code).submit()
        assert ended(job) == "FAILED"
        assert told in tasks(job)["Broken"].error.message

    def test_what_is_no_number_is_told_as_a_text(self, pipeline: Pipeline) -> None:
        job = pipeline.task("Odd", "done({'loss': float('nan')})", gives={"model": MODEL}).submit()
        assert ended(job) == "SUCCEEDED"
        assert tasks(job)["Odd"].outputs["model"].artifacts[0].metadata["loss"] == "NaN"

    @pytest.mark.parametrize(("policy", "state"), [("slow", "SUCCEEDED"), ("fast", "NOT_TRIGGERED")])
    def test_the_failure_policy_decides_about_other_tasks(self, pipeline: Pipeline, policy: str, state: str) -> None:
        failed = pipeline.folder / "failed"
        wait = f"while not os.path.exists({str(failed)!r}): time.sleep(.01)\ntime.sleep(.5)"
        pipeline.task("Broken", f"pathlib.Path({str(failed)!r}).touch(); sys.exit(1)")
        pipeline.task("Scheduled", wait).task("Later", after=("Scheduled",))
        job = pipeline.submit(failure_policy=policy)
        assert ended(job) == "FAILED"
        assert states(job) == {"Broken": "FAILED", "Scheduled": "SUCCEEDED", "Later": state}

    def test_an_exit_handler_is_told_how_the_graph_ended(self, emulator: VertexEmulator, pipeline: Pipeline) -> None:
        pipeline.parameter("word").task("Broken", "assert parameters['w'] == 'x'; sys.exit(1)", {"w": "=word"})
        inner = pipeline.spec["root"]["dag"]["tasks"]
        pipeline.spec["root"]["dag"]["tasks"] = {}
        status = {"taskFinalStatus": {"producerTask": "tfx-dag"}}
        policy = {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
        pipeline.task(
            "Exit", "print(parameters['status'])", {"status": status}, after=("tfx-dag",), triggerPolicy=policy
        )
        pipeline.spec["root"]["dag"]["tasks"]["tfx-dag"] = {"componentRef": {"name": "tfx-dag"}}
        pipeline.spec["components"]["tfx-dag"] = {"dag": {"tasks": inner}}
        job = pipeline.submit(parameter_values={"word": "x"})
        assert ended(job) == "FAILED"
        assert states(job) == {"tfx-dag": "FAILED", "Broken": "FAILED", "Exit": "SUCCEEDED"}
        assert tasks(job)["Broken"].parent_task_id == tasks(job)["tfx-dag"].task_id
        told = json.loads(emulator.log(tasks(job)["Exit"]).splitlines()[-1])
        assert (told["state"], told["pipelineTaskName"]) == ("FAILED", "tfx-dag")

    @pytest.mark.parametrize("place", ["/some/schéma", "/some/*"])
    def test_an_importer_gives_the_same_artifact_for_the_same_place(self, pipeline: Pipeline, place: str) -> None:
        importer = {"artifactUri": {"constant": place}, "typeSchema": MODEL, "metadata": {"k": "v"}}
        decoy = {**importer, "artifactUri": {"constant": "/some/decoy"}}
        pipeline.task("Decoy", gives={"result": MODEL}, executor={"importer": decoy})
        pipeline.task("Importer", gives={"result": MODEL}, executor={"importer": importer}, after=("Decoy",))
        pipeline.task("Taker", takes={"model": "Importer.result"})
        given = []
        for _ in range(2):
            job = pipeline.submit()
            assert ended(job) == "SUCCEEDED"
            given.append(tasks(job)["Taker"].inputs["model"].artifacts[0])
        assert given[0].name == given[1].name
        assert (given[0].uri, given[0].metadata["k"]) == (place, "v")

    def test_a_resolver_finds_the_model_that_was_blessed_last(self, pipeline: Pipeline) -> None:
        live = "state=LIVE AND schema_title"
        named = "{{$.inputs.artifacts['input'].metadata['current_model_id']}}"
        queries = {
            "blessings": {"b": {"filter": f'{live}="tfx.ModelBlessing" AND metadata.blessed.number_value=1'}},
            "models": {"m": {"filter": f'{live}="tfx.Model" AND name="{named}"'}},
        }
        resolvers = {name: {"resolver": {"outputArtifactQueries": each}} for name, each in queries.items()}
        pipeline.task("Blessings", gives={"b": BLESSING}, executor=resolvers["blessings"])
        found = {"input": "Blessings.b"}
        pipeline.task("Models", takes=found, gives={"m": MODEL}, executor=resolvers["models"])
        pipeline.parameter("blessed", "NUMBER_INTEGER")
        pipeline.task("Trainer", gives={"model": MODEL})
        model = "inputs['artifacts']['model']['artifacts'][0]['name']"
        judge = f"done({{'blessed': parameters['blessed'], 'current_model_id': {model}}})"
        takes = {"model": "Trainer.model", "baseline": "Models.m"}
        pipeline.task("Evaluator", judge, {"blessed": "=blessed"}, takes, {"blessing": BLESSING})
        pipeline.spec["components"]["Evaluator"]["inputDefinitions"]["parameters"]["blessed"] = {
            "parameterType": "NUMBER_INTEGER"
        }
        baselines, models = [], []
        for blessed in (1, 0, 1):
            job = pipeline.submit(parameter_values={"blessed": blessed})
            assert ended(job) == "SUCCEEDED"
            baselines.append([each.name for each in tasks(job)["Evaluator"].inputs["baseline"].artifacts])
            models.append(tasks(job)["Trainer"].outputs["model"].artifacts[0].name)
        assert baselines == [[], [models[0]], [models[0]]]

    def test_a_pipeline_root_may_be_a_bucket(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="my-bucket")
        server.start()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server._api._httpd.server_port}")
        code = """
from google.cloud.storage import Blob, Client
client = Client(project="my-project")
uri = outputs["artifacts"]["model"]["artifacts"][0]["uri"]
assert uri.startswith("gs://my-bucket/root/my-project/"), uri
Blob.from_string(f"{uri}/weights", client).upload_from_string("w")
told = {"artifacts": {"model": {"artifacts": [{"uri": uri, "metadata": {"colour": "red"}}]}}}
Blob.from_string(outputs["outputFile"], client).upload_from_string(json.dumps(told))
tried = pathlib.Path("TRIED")
if not tried.exists(): tried.touch(); sys.exit(1)
"""
        try:
            with vertex_emulator(tmp_path / "emulator"):
                pipeline = Pipeline(tmp_path)
                retry = {"retryPolicy": {"maxRetryCount": 1, "backoffDuration": "0s"}}
                pipeline.task("Only", code.replace("TRIED", str(tmp_path / "tried")), gives={"model": MODEL}, **retry)
                job = pipeline.submit(pipeline_root="gs://my-bucket/root")
                assert ended(job) == "SUCCEEDED", job.task_details
                assert tasks(job)["Only"].outputs["model"].artifacts[0].metadata["colour"] == "red"
        finally:
            server.stop()


class TestCache:
    def counted(self, pipeline: Pipeline, **options: Any) -> tuple[str, str, int]:
        """A job's state of its task, the artifact, and how often its command has run in all."""
        job = pipeline.submit(**options)
        assert ended(job) == "SUCCEEDED", tasks(job)
        detail = tasks(job)["Counter"]
        runs = len((pipeline.folder / "runs").read_text())
        return detail.state.name, detail.outputs["model"].artifacts[0].name, runs

    def count(self, pipeline: Pipeline) -> str:
        return f"open({str(pipeline.folder / 'runs')!r}, 'a').write('.'); done()"

    def test_the_same_inputs_take_the_outputs_from_the_cache(self, pipeline: Pipeline) -> None:
        pipeline.parameter("word")
        pipeline.task("Counter", self.count(pipeline), {"word": "=word"}, gives={"model": MODEL}, **CACHED)
        first = self.counted(pipeline, parameter_values={"word": "a"})
        again = self.counted(pipeline, parameter_values={"word": "a"})
        other = self.counted(pipeline, parameter_values={"word": "b"})
        anew = self.counted(pipeline, parameter_values={"word": "a"}, enable_caching=False)
        assert [told[0] for told in (first, again, other, anew)] == ["SUCCEEDED", "SKIPPED", "SUCCEEDED", "SUCCEEDED"]
        assert [told[2] for told in (first, again, other, anew)] == [1, 1, 2, 3]
        assert first[1] == again[1]

    def test_outputs_that_somebody_removed_are_made_again(self, pipeline: Pipeline) -> None:
        pipeline.task("Counter", self.count(pipeline), gives={"model": MODEL}, **CACHED)
        self.counted(pipeline)
        subprocess.run(["rm", "-r", pipeline.folder / "root"], check=True)
        assert self.counted(pipeline)[::2] == ("SUCCEEDED", 2)

    def test_an_output_that_somebody_removed_is_made_again(self, pipeline: Pipeline) -> None:
        pipeline.task("Counter", self.count(pipeline), gives={"model": MODEL}, **CACHED)
        self.counted(pipeline)
        [model] = pipeline.folder.glob("root/*/*/Counter_*/model")
        model.rmdir()
        assert self.counted(pipeline)[::2] == ("SUCCEEDED", 2)

    def test_another_machine_takes_the_outputs_from_the_cache(self, pipeline: Pipeline) -> None:
        pipeline.task("Counter", self.count(pipeline), gives={"model": MODEL}, **CACHED)
        self.counted(pipeline)
        pipeline.spec["deploymentSpec"]["executors"]["Counter_executor"]["container"]["resources"] = {"cpuLimit": 2}
        assert self.counted(pipeline)[::2] == ("SKIPPED", 1)

    def test_what_the_hook_before_the_cache_finds_is_part_of_the_key(self, pipeline: Pipeline) -> None:
        data = pipeline.folder / "data"
        data.write_text("one")
        pipeline.task("Counter", self.count(pipeline), gives={"model": MODEL}, **CACHED)
        container = pipeline.spec["deploymentSpec"]["executors"]["Counter_executor"]["container"]
        hook = f"done({{'fingerprint': open({str(data)!r}).read()}}, fingerprint=open({str(data)!r}).read())"
        command = [*container["command"][:2], container["command"][2].replace(self.count(pipeline), hook), "{{$}}"]
        container["lifecycle"] = {"preCacheCheck": {"command": command}}
        told = [self.counted(pipeline), self.counted(pipeline)]
        data.write_text("two")
        told.append(self.counted(pipeline))
        assert [each[0] for each in told] == ["SUCCEEDED", "SKIPPED", "SUCCEEDED"]


def pids(folder: Path, count: int) -> list[int]:
    """The processes that `forking` has started, when there are so many."""
    until(lambda: len(list(folder.glob("[0-9]*"))) >= count)
    return [int(file.name) for file in folder.glob("[0-9]*")]


def forking(folder: Path) -> str:
    """Code that never ends, in two processes that do not either when asked to, and that say who they are."""
    return f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
gone = pathlib.Path({str(folder)!r}) / "go on"
if not gone.exists():
    os.fork()
    (pathlib.Path({str(folder)!r}) / str(os.getpid())).touch()
    while True: time.sleep(1)
done()
"""


class TestEnds:
    def test_a_cancelled_job_ends_its_processes_and_begins_no_more(self, pipeline: Pipeline) -> None:
        pipeline.task("Forking", forking(pipeline.folder).replace("SIG_IGN", "SIG_DFL")).task(
            "Next", after=("Forking",)
        )
        job = pipeline.submit()
        started = pids(pipeline.folder, 2)
        job.cancel()
        assert ended(job) == "CANCELLED"
        assert states(job) == {"Forking": "CANCELLED"}
        assert not any(is_running(pid) for pid in started)
        with pytest.raises(exceptions.BadRequest, match="cannot be cancelled"):
            job.cancel()

    def test_a_cancel_that_meets_the_end_of_its_job_leaves_it_ended(self, pipeline: Pipeline) -> None:
        importer = {"artifactUri": {"constant": "/data/x"}, "typeSchema": MODEL}
        pipeline.task("Importer", gives={"result": MODEL}, executor={"importer": importer})
        jobs = []

        def cancel(job: aiplatform.PipelineJob) -> None:
            with suppress(exceptions.BadRequest):
                job.cancel()

        with ThreadPoolExecutor(2) as pool:
            for _ in range(60):
                jobs.append(pipeline.submit())
                list(pool.map(cancel, [jobs[-1]] * 2))
        assert {ended(job) for job in jobs} <= {"SUCCEEDED", "CANCELLED"}

    def test_what_a_task_has_left_behind_ends_with_it(self, pipeline: Pipeline) -> None:
        left = "import subprocess; child = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        left += f"pathlib.Path({str(pipeline.folder)!r}, str(child.pid)).touch(); sys.exit('Error: no')"
        pipeline.task("Leaving", left, retryPolicy={"maxRetryCount": 1, "backoffDuration": "0s"})
        job = pipeline.submit()
        assert ended(job, 60) == "FAILED"
        assert not any(is_running(pid) for pid in pids(pipeline.folder, 2))

    def test_a_task_that_waits_for_others_can_be_cancelled(self, pipeline: Pipeline) -> None:
        for number in range(5):  # One more than run at once.
            pipeline.task(f"Task-{number}", forking(pipeline.folder).replace("SIG_IGN", "SIG_DFL"))
        first = pipeline.submit()
        pids(pipeline.folder, 8)
        waiting = pipeline.submit()
        until(lambda: waiting.state.name == "PIPELINE_STATE_RUNNING")
        waiting.cancel()
        assert ended(waiting, 10) == "CANCELLED"
        assert not first.done()
        first.cancel()
        assert ended(first) == "CANCELLED"

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "terminate"])
    def test_an_emulator_that_is_started_again_goes_on(self, number: int, tmp_path: Path) -> None:
        with vertex_emulator(tmp_path / "emulator") as emulator:
            done = Pipeline(tmp_path).task("Only").submit("done-before")
            ended(done)
            pipeline = Pipeline(tmp_path)
            once = f"open({str(tmp_path / 'runs')!r}, 'a').write('.'); done()"
            pipeline.task("First", once, gives={"model": MODEL})
            pipeline.task("Forking", forking(tmp_path), takes={"model": "First.model"})
            job = pipeline.submit()
            started = pids(tmp_path, 2)
            emulator.end(number)
            (tmp_path / "go on").touch()
            emulator.start()
            assert ended(job) == "SUCCEEDED"
            assert not any(is_running(pid) for pid in started)
            assert (tmp_path / "runs").read_text() == "."
            assert states(job) == {"First": "SUCCEEDED", "Forking": "SUCCEEDED"}
            assert "run again" in str(tasks(job)["Forking"].pipeline_task_status)
            assert ended(aiplatform.PipelineJob.get("done-before")) == "SUCCEEDED"

    def test_what_an_emulator_cannot_have_is_said_in_a_line(self, emulator: VertexEmulator, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        taken = emulator.url.rpartition(":")[2]
        for root, port, told in (
            (emulator.root, "0", "in use by another emulator"),
            (tmp_path / "file" / "root", "0", "cannot be written to (Not a directory): give another --root"),
            (tmp_path / "root", taken, "give another --port"),
            (tmp_path / "root", "99999", "give another --port"),
        ):
            command = [sys.executable, "-m", "kubeflow.emulator", "--port", port, "--root", root]
            second = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert (second.returncode, len(second.stderr.splitlines())) == (1, 1)
            assert told in second.stderr


def tasks_of(job: dict[str, Any]) -> Any:
    return job["pipelineSpec"]["root"]["dag"]["tasks"]


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "an unknown parameter": (
        lambda job: job["runtimeConfig"].update(parameterValues={"wrod": "x", "word": "x"}),
        "Unknown runtime parameter 'wrod'",
    ),
    "a missing parameter": (lambda job: job["runtimeConfig"].update(parameterValues={}), "'word' is required"),
    "a wrong type": (lambda job: job["runtimeConfig"].update(parameterValues={"word": 3}), "must be of type STRING"),
    "the other schema's parameters": (
        lambda job: job["runtimeConfig"].update(parameters={"word": {"stringValue": "x"}}),
        "does not go with schema_version 2.1.0",
    ),
    "a wrong schema version": (
        lambda job: job["pipelineSpec"].update(schemaVersion="3.0.0"),
        "'3.0.0' is not supported",
    ),
    "no pipeline root": (lambda job: job["runtimeConfig"].update(gcsOutputDirectory=""), "gcs_output_directory"),
    "a relative root": (lambda job: job["runtimeConfig"].update(gcsOutputDirectory="runs"), "gcs_output_directory"),
    "no specification": (lambda job: job.pop("pipelineSpec"), "pipeline_spec is required"),
    "no tasks": (lambda job: tasks_of(job).clear(), "no tasks"),
    "a task that is not there": (lambda job: tasks_of(job)["A"]["dependentTasks"].append("C"), "depends on C"),
    "a circle": (lambda job: tasks_of(job)["A"]["dependentTasks"].append("B"), "depend on each other"),
    "an input that nothing gives": (
        lambda job: tasks_of(job)["B"]["inputs"]["artifacts"].clear(),
        "lacks its required",
    ),
    "an output that nothing makes": (
        lambda job: tasks_of(job)["B"]["inputs"]["artifacts"]["m"]["taskOutputArtifact"].update(outputArtifactKey="x"),
        "which has no such output",
    ),
    "a component that is not there": (
        lambda job: job["pipelineSpec"]["components"].pop("A"),
        "names the component 'A'",
    ),
    "an executor that is not there": (
        lambda job: job["pipelineSpec"]["deploymentSpec"]["executors"].pop("A_executor"),
        "names the executor",
    ),
    "what has another form": (lambda job: job["pipelineSpec"]["root"].update(dag=[]), "no tasks"),
    "tasks in a list": (lambda job: job["pipelineSpec"]["root"]["dag"].update(tasks=["A"]), "malformed"),
    "a label that is none": (lambda job: job.update(labels={"UPPER": "x"}), "Invalid label"),
}


def post(url: str, body: bytes, **headers: str) -> Any:
    """The status that a request is answered with, and the error."""
    headers = {"Content-Type": "application/json", **headers}
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60)  # noqa: S310
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["error"]
    return 200, {}


class TestRefusals:
    @pytest.mark.parametrize("what", REFUSED)
    def test_what_vertex_would_refuse_is_refused_at_once(
        self, emulator: VertexEmulator, pipeline: Pipeline, what: str
    ) -> None:
        pipeline.parameter("word").task("A", gives={"m": MODEL}).task("B", takes={"m": "A.m"})
        pipeline.job["runtimeConfig"]["parameterValues"] = {"word": "x"}
        spoil, message = REFUSED[what]
        spoil(pipeline.job)
        code, error = post(f"{emulator.url}/v1/{PARENT}/pipelineJobs", json.dumps(pipeline.job).encode())
        assert (code, error["status"]) == (400, "INVALID_ARGUMENT")
        assert message in error["message"]

    def test_an_id_that_is_none_is_refused(self, emulator: VertexEmulator, pipeline: Pipeline) -> None:
        body = json.dumps(pipeline.task("Only").job).encode()
        code, error = post(f"{emulator.url}/v1/{PARENT}/pipelineJobs?pipelineJobId=Not_An_Id", body)
        assert (code, error["status"], "Not_An_Id" in error["message"]) == (400, "INVALID_ARGUMENT", True)

    def test_loops_are_said_not_to_be_run(self, emulator: VertexEmulator, pipeline: Pipeline) -> None:
        pipeline.task("Loop", parameterIterator={"items": {"raw": "[1]"}})
        code, error = post(f"{emulator.url}/v1/{PARENT}/pipelineJobs", json.dumps(pipeline.job).encode())
        assert (code, error["status"]) == (501, "UNIMPLEMENTED")

    def test_pages_of_other_sites_can_run_nothing(self, emulator: VertexEmulator, pipeline: Pipeline) -> None:
        url, body = f"{emulator.url}/v1/{PARENT}/pipelineJobs", json.dumps(pipeline.task("Only").job).encode()
        assert post(url, body, Origin="https://evil.example")[0] == 403
        assert post(url, body, Host="evil.example")[0] == 403
        assert post(url, body)[0] == 200

    def test_requests_that_are_too_large_or_no_json_are_refused(self, emulator: VertexEmulator) -> None:
        url = f"{emulator.url}/v1/{PARENT}/pipelineJobs"
        assert post(url, b"", **{"Content-Length": str(2**40)})[0] == 413
        assert post(url, b"{")[0] == 400
        assert post(f"{emulator.url}/v1/{PARENT}/endpoints", b"{}")[0] == 404
