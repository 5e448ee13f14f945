"""The emulator in a process of its own, Google's real client for it, and jobs whose tasks are a line of Python."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from google.cloud.aiplatform.utils import gcs_utils

from kubeflow import stand_ins

PROJECT, REGION = "my-project", "europe-west4"
PARENT = f"projects/{PROJECT}/locations/{REGION}"
MODEL = {"instanceSchema": "title: tfx.Model\ntype: object\n"}
BLESSING = {"instanceSchema": "title: tfx.ModelBlessing\ntype: object\n"}
PRELUDE = """
import json, os, pathlib, sys, time
told = json.loads(sys.argv[1])
inputs, outputs = told["inputs"], told["outputs"]
parameters = inputs.get("parameterValues") or inputs.get("parameters") or {}
def done(metadata={}, **values):
    artifacts = {}
    for key, each in outputs["artifacts"].items():
        uri = each["artifacts"][0]["uri"]
        pathlib.Path(uri).mkdir(exist_ok=True)
        artifacts[key] = {"artifacts": [{"uri": uri, "metadata": metadata}]}
    pathlib.Path(outputs["outputFile"]).write_text(json.dumps({"artifacts": artifacts, "parameterValues": values}))
"""


class VertexEmulator:
    """An emulator that can be ended and started again at the same address."""

    def __init__(self, root: Path) -> None:
        self.root, self._port = root, 0

    def start(self) -> None:
        self.process = subprocess.Popen(
            stand_ins.vertex_command(self.root, self._port, "--parallel=4"),
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline() if self.process.stdout else ""
        match = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert match, f"the emulator said {line!r}"
        self.url, self._port = match[0], int(match[1])

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(60)

    def log(self, task: Any) -> str:
        return (self.root / "logs" / f"{task.task_id}.log").read_text()


@contextmanager
def vertex_emulator(root: Path) -> Iterator[VertexEmulator]:
    """Starts an emulator, and sets Google's client to it."""
    emulator = VertexEmulator(root)
    emulator.start()
    before = aiplatform.initializer.global_config.api_endpoint
    _set_client_to(emulator.url)
    try:
        # Else submit() looks for the root's bucket at Google's first, and prints a traceback where it is a folder.
        with mock.patch(f"{gcs_utils.__name__}.create_gcs_bucket_for_pipeline_artifacts_if_it_does_not_exist"):
            yield emulator
    finally:
        emulator.end()
        if before:
            _set_client_to(before)


def _set_client_to(url: str) -> None:
    credentials = AnonymousCredentials()
    aiplatform.init(project=PROJECT, location=REGION, credentials=credentials, api_endpoint=url, api_transport="rest")


def until(holds: Callable[[], Any], seconds: float = 120) -> Any:
    """Waits for something to become true, and returns it. Asks ever less often: an answer takes some time of a core."""
    begun = time.monotonic()
    while not (value := holds()):
        waited = time.monotonic() - begun
        assert waited < seconds, "waited in vain"
        time.sleep(min(max(0.05, waited / 20), 0.5))
    return value


def ended(job: aiplatform.PipelineJob, seconds: float = 120) -> str:
    """The state that a job ends in."""
    until(job.done, seconds)
    return str(job.state.name.removeprefix("PIPELINE_STATE_"))


def tasks(job: aiplatform.PipelineJob) -> dict[str, Any]:
    """What is told of a job's tasks, by their names; the job itself is one."""
    return {detail.task_name: detail for detail in job.task_details}


def states(job: aiplatform.PipelineJob) -> dict[str, str]:
    return {name: detail.state.name for name, detail in tasks(job).items() if name != job.name}


class Pipeline:
    """A pipeline's specification, written task by task."""

    def __init__(self, folder: Path, version: str = "2.1.0", name: str = "tiny") -> None:
        self.folder = folder
        self.job: dict[str, Any] = {
            "pipelineSpec": {
                "schemaVersion": version,
                "pipelineInfo": {"name": name},
                "root": {"inputDefinitions": {"parameters": {}}, "dag": {"tasks": {}}},
                "components": {},
                "deploymentSpec": {"executors": {}},
            },
            "runtimeConfig": {"gcsOutputDirectory": str(folder / "root")},
        }
        self.spec = self.job["pipelineSpec"]

    def parameter(self, name: str, type_: str = "STRING", **fields: Any) -> Pipeline:
        self.spec["root"]["inputDefinitions"]["parameters"][name] = {
            **({"type": type_} if self.spec["schemaVersion"] == "2.0.0" else {"parameterType": type_}),
            **fields,
        }
        return self

    def task(
        self,
        name: str,
        code: str = "done()",
        parameters: dict[str, Any] | None = None,
        takes: dict[str, str] | None = None,
        gives: dict[str, Any] | None = None,
        after: tuple[str, ...] = (),
        executor: dict[str, Any] | None = None,
        **fields: Any,
    ) -> Pipeline:
        """Adds a task.

        Args:
          name: of the task and its component.
          code: runs with `inputs`, `outputs`, `parameters` and `done(metadata, **parameters)`.
          parameters: constants; a text `=name` is a parameter of the job.
          takes: artifacts by input, each as `TASK.OUTPUT`.
          gives: types of artifacts by output.
          after: tasks that it takes nothing from.
          executor: instead of code.
          fields: of the task.
        """

        def parameter(value: Any) -> dict[str, Any]:
            if isinstance(value, str) and value.startswith("="):
                return {"componentInputParameter": value[1:]}
            return value if isinstance(value, dict) else {"runtimeValue": {"constant": value}}

        made = {key: source.split(".") for key, source in (takes or {}).items()}
        self.spec["root"]["dag"]["tasks"][name] = {
            "taskInfo": {"name": name},
            "componentRef": {"name": name},
            "inputs": {
                "parameters": {key: parameter(value) for key, value in (parameters or {}).items()},
                "artifacts": {
                    key: {"taskOutputArtifact": {"producerTask": task, "outputArtifactKey": output}}
                    for key, (task, output) in made.items()
                },
            },
            "dependentTasks": [*after],
            **fields,
        }
        self.spec["components"][name] = {
            "executorLabel": f"{name}_executor",
            "inputDefinitions": {
                "artifacts": {key: {"artifactType": MODEL} for key in made},
                "parameters": {
                    key: {"parameterType": "NUMBER_INTEGER" if isinstance(value, int) else "STRING"}
                    for key, value in (parameters or {}).items()
                },
            },
            "outputDefinitions": {"artifacts": {key: {"artifactType": type_} for key, type_ in (gives or {}).items()}},
        }
        container = {"container": {"image": "x", "command": ["python", "-c", PRELUDE + code, "{{$}}"]}}
        self.spec["deploymentSpec"]["executors"][f"{name}_executor"] = executor or container
        return self

    def submit(self, job_id: str | None = None, **options: Any) -> aiplatform.PipelineJob:
        file = self.folder / "job.json"
        file.write_text(json.dumps(self.job))
        job_id = job_id or f"{self.spec['pipelineInfo']['name']}-{os.urandom(6).hex()}"
        job = aiplatform.PipelineJob(display_name="tiny", template_path=str(file), job_id=job_id, **options)
        job.submit()
        return job


def is_running(pid: int) -> bool:
    """Tells whether a process is there, and more than a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
