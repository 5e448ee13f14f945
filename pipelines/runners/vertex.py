"""The Vertex runner: compiles the pipeline to a job of Vertex AI Pipelines, submits it and follows it to its end.

With `vertex.endpoint` it does the same with a Vertex on this machine, whose nodes see this machine's folders. That one
needs nothing of Google Cloud: no project, no bucket, no credentials.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import posixpath
import re
import signal
import time
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from rich.console import Console

from pipelines import progress
from retake import durable, quiet
from retake import summary as summaries
from retake import weights as weight_files
from retake.config import Config
from retake.errors import RetakeError, UsageError
from retake.summary import RESOLVERS, Node, NodeState, Summary
from retake.weights import Weights

SPECIFICATION = "pipeline.json"
"""Below `pipeline.root`: the job as it was submitted last, a google.cloud.aiplatform.v1.PipelineJob."""

COMMAND = ["python", "-m", "components.vertex"]
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GOOGLE_REGISTRIES = r"(?:[\w-]+\.)?gcr\.io|[\w-]+-docker\.pkg\.dev"
MANIFESTS = ", ".join(
    [
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    ]
)
CONTINENTS = {"US": "us-", "NA": "us-", "EU": "europe-", "AS": "asia-"}
"""How the names of multi-regions of buckets begin, and those of the regions in them."""

STAND_INS = {"project": "local-project", "region": "local-vertex1", "image": "local"}
"""What a job on this machine's Vertex names where the configuration says nothing: it looks at none of them."""

NETWORK = "check the network connection"

SECONDS = 30
POLL_SECONDS, POLL_SECONDS_HERE = 10, 0.3
PATIENCE_SECONDS = 600
"""How long a job is followed while the service does not answer."""

_STATES: dict[str, NodeState] = {
    "SUCCEEDED": "complete",
    "SKIPPED": "cached",
    "FAILED": "failed",
    "RUNNING": "running",
    "CANCEL_PENDING": "running",
    "CANCELLING": "running",
    "CANCELLED": "running",
}
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")

_EXIT = re.compile(r"exited with (?:a non-zero )?status (?:of )?(-?\d+)")
"""How both services tell a task's exit; a local one goes on with `: LAST WORDS (log: FILE)`."""


class Compiled(NamedTuple):
    """A compiled pipeline.

    Fields:
      job: a PipelineJob as JSON, with what the configuration gives the runtime parameters.
      nodes: the pipeline's nodes in their order. A resolver is two tasks of the job.
    """

    job: dict[str, Any]
    nodes: list[str]

    @property
    def text(self) -> str:
        """The job, the same for the same inputs, byte by byte."""
        return json.dumps(self.job, indent=1, sort_keys=True) + "\n"


def run(config: Config, options: argparse.Namespace, command: str) -> int:
    """Compiles the pipeline and, but for a dry run, submits it.

    Args:
      config: the whole configuration.
      options: `dry_run`, `wait`, `require_blessing` and `summary` of the command.
      command: unused; another call makes another job.

    Returns:
      The exit code: 0 submitted or completed, 1 the job failed, 130 interrupted while it goes on.

    Raises:
      UsageError: a setting is missing; nothing was started.
      RetakeError: Google Cloud refuses or cannot be reached; nothing was submitted.
      NotBlessedError: the job is complete, and `require_blessing` asks for more.
    """
    begun = time.monotonic()
    config = placed(config)
    if options.dry_run:
        print(compile(config).text, end="")
        return 0
    google = Google(config)
    google.check(config.data.location)
    compiled = compile(config)
    google.upload(compiled, config)
    name = google.submit(compiled.job)
    logging.getLogger("retake").propagate = False  # Else a library shows it once more, on stderr.
    console = Console(highlight=False)
    console.print(f"[bold]{config.pipeline.name}[/] · job {name}", soft_wrap=True)
    console.print(google.link(name), soft_wrap=True)
    if not options.wait:
        return 0
    try:
        job = follow(google, name, compiled.nodes, progress.Progress(console))
    except KeyboardInterrupt:
        console.print(f"Interrupted. The job goes on: {google.link(name)}", soft_wrap=True)
        return 130
    summary = summarize(job, compiled.nodes, google.failure(job))
    if options.summary:
        summaries.write(summary, options.summary)
    console.print()
    console.print(summaries.render(summary, time.monotonic() - begun, nodes=False))
    if options.require_blessing:
        summaries.require_blessing(summary)
    return 0 if summary.state == "complete" else 1


def placed(config: Config) -> Config:
    """The configuration with every place as the nodes see it.

    Raises:
      UsageError: a setting of `vertex` is missing, or a place is one that the nodes do not see.
    """
    vertex = config.vertex
    if vertex.is_local:
        names = {name: getattr(vertex, name) or stand_in for name, stand_in in STAND_INS.items()}
        vertex = vertex.model_copy(update=names)
    for name in ("project", "region", "image"):
        if not getattr(vertex, name):
            raise UsageError(f"vertex.{name} is missing; give it with --{name}")

    def place(key: str, given: str) -> str:
        if vertex.is_local and given.startswith("gs://") and "STORAGE_EMULATOR_HOST" not in os.environ:
            raise UsageError(
                f"{key} {given}: a local Vertex uses no Google Cloud; give a folder, or set STORAGE_EMULATOR_HOST to "
                "the address of a Cloud Storage emulator"
            )
        if Path(given).is_absolute() and not vertex.is_local:
            raise UsageError(f"{key} {given} is a folder that Vertex does not see; give a gs:// place")
        if "://" in given:
            return given
        if vertex.is_local:
            return str(Path(given).resolve())
        if not vertex.bucket:
            raise UsageError(f"{key} {given} lies in a bucket, and vertex.bucket is missing; give it with --bucket")
        return f"gs://{vertex.bucket}/{posixpath.normpath(given)}"

    root = place("pipeline.root", config.pipeline.root)
    stand_for = {**vertex.model_dump(include={"project", "region", "image", "service_account"}), "root": root}
    arguments = [_filled(argument, stand_for) for argument in config.beam.arguments]
    return config.model_copy(
        update={
            "vertex": vertex,
            "pipeline": config.pipeline.model_copy(update={"root": root}),
            "data": config.data.model_copy(update={"location": place("data.location", config.data.location)}),
            "pusher": config.pusher.model_copy(
                update={"destination": place("pusher.destination", config.pusher.destination)}
            ),
            "beam": config.beam.model_copy(update={"arguments": arguments}),
        }
    )


def _filled(text: str, stand_for: dict[str, str]) -> str:
    for name, value in stand_for.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def compile(config: Config) -> Compiled:
    """Compiles the pipeline, without a network.

    Args:
      config: with `placed` places.

    Raises:
      UsageError: `vertex.machines` names what is not a node.
      RetakeError: the weights file cannot be read.
    """
    weights = weights_of(config)
    with quiet.imports():  # Google's clients warn of what Python they are going to need.
        from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
        from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

        from pipelines import factory

    pipeline = factory.build(config, config.pipeline.root, weights, LatestBlessedModelStrategy)
    settings = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
        default_image=config.vertex.image, default_commands=[*COMMAND, "executor"], use_pipeline_spec_2_1=True
    )
    job = kubeflow_v2_dag_runner.KubeflowV2DagRunner(settings).run(
        pipeline, parameter_values=factory.parameters(config), write_out=False
    )
    job["labels"] = {**job["labels"], **config.vertex.labels}
    job["runtimeConfig"]["failurePolicy"] = "PIPELINE_FAILURE_POLICY_FAIL_FAST"
    if config.vertex.service_account:
        job["serviceAccount"] = config.vertex.service_account
    tasks = job["pipelineSpec"]["root"]["dag"]["tasks"]
    executors = job["pipelineSpec"]["deploymentSpec"]["executors"]
    nodes = [component.id for component in pipeline.components]
    containers = {node: executors[f"{node}_executor"]["container"] for node in nodes if node in tasks}
    containers["ExampleGen"]["lifecycle"]["preCacheCheck"]["command"] = [*COMMAND, "hook"]
    # The baseline is the model that was blessed last besides the candidate, as with BaselineStrategy elsewhere.
    _leave_out(job["pipelineSpec"], "Resolver", "current_model", "candidate", "Trainer", "model")
    if config.trainer.asks_model_in_service:  # As with StartStrategy elsewhere.
        _leave_out(job["pipelineSpec"], "StartResolver", "examples", "examples", "ExampleGen", "examples")
    # A model must not be pushed before the statistics are validated.
    tasks["Pusher"]["dependentTasks"] = sorted({*tasks["Pusher"]["dependentTasks"], "ExampleValidator"})
    machines = config.vertex.machines
    if unknown := sorted(set(machines) - {"*", *containers}):
        raise UsageError(
            f"vertex.machines: there is no node {', '.join(unknown)}; there are * and {', '.join(containers)}"
        )
    for node, container in containers.items():
        if machine := machines.get(node, machines.get("*")):
            container["resources"] = {"cpuLimit": machine.cpus, "memoryLimit": machine.memory_gb}
            if machine.accelerator:
                accelerator = {"type": machine.accelerator, "count": str(machine.accelerators)}
                container["resources"]["accelerator"] = accelerator
            container["image"] = machine.image or container["image"]
        if config.vertex.retries:
            tasks[node]["retryPolicy"] = {"maxRetryCount": config.vertex.retries}
    return Compiled(job, nodes)


def _leave_out(
    specification: dict[str, Any], resolver: str, name: str, channel: str, producer: str, output: str
) -> None:
    """Leaves blessings out whose property `name` is the address of what this run's `producer` makes as `output`.

    The resolver takes it by the name `channel`.

    TFX's query takes the last blessing of all, and waits for nothing. A run with nothing new would compare its cached
    model with itself, and push it again.
    """
    task_name = f"{resolver}-model-blessing-resolver"
    task = specification["root"]["dag"]["tasks"][task_name]
    made = specification["components"][producer]["outputDefinitions"]["artifacts"][output]
    specification["components"][task_name]["inputDefinitions"] = {"artifacts": {channel: made}}
    made_by = {"producerTask": producer, "outputArtifactKey": output}
    task["inputs"] = {"artifacts": {channel: {"taskOutputArtifact": made_by}}}
    task["dependentTasks"] = [producer]
    executor = specification["deploymentSpec"]["executors"][f"{task_name}_executor"]
    query = executor["resolver"]["outputArtifactQueries"]["model_blessing"]
    query["filter"] += f" AND metadata.{name}.string_value!=\"{{{{$.inputs.artifacts['{channel}'].uri}}}}\""


def weights_of(config: Config) -> Weights:
    """What `model.weights` comes to, as the nodes see it; a file of this machine is uploaded with the job.

    Raises:
      RetakeError: the weights file cannot be read.
    """
    if config.vertex.is_local:
        return weight_files.resolve(config.model)
    if config.model.weights == "auto" and config.model.backbone != "LeNet5":
        return Weights("imagenet", "")  # What can be had from here says nothing of what can be had there.
    weights, fingerprint = weight_files.resolve(config.model)
    if fingerprint:
        # Where the service shows buckets to every node as folders.
        root = config.pipeline.root.removeprefix("gs://")
        weights = f"/gcs/{root}/weights/{fingerprint[:16]}-{Path(weights).name}"
    return Weights(weights, fingerprint)


class Google:
    """Google Cloud, or what stands for it on this machine.

    Args:
      config: with `placed` places.

    Raises:
      RetakeError: there are no credentials.
    """

    def __init__(self, config: Config):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import google.auth
            from google.api_core.client_options import ClientOptions
            from google.auth.credentials import AnonymousCredentials
            from google.cloud import aiplatform_v1

        self._vertex, self._root = config.vertex, config.pipeline.root
        self._credentials: Any = AnonymousCredentials()
        if not self._vertex.is_local:
            with _explained("looking for credentials"):
                self._credentials, _ = google.auth.default(scopes=[SCOPE])
        self._jobs = aiplatform_v1.PipelineServiceClient(
            transport="rest",
            credentials=self._credentials,
            client_options=ClientOptions(
                api_endpoint=self._vertex.endpoint or f"https://{self._vertex.region}-aiplatform.googleapis.com"
            ),
        )

    @cached_property
    def _storage(self) -> Any:
        """Asked for only where a place is in a bucket."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        emulated = "STORAGE_EMULATOR_HOST" in os.environ
        return storage.Client(
            self._vertex.project, credentials=AnonymousCredentials() if emulated else self._credentials
        )

    def check(self, data: str) -> None:
        """Finds out in a moment what the service would find out after minutes.

        Args:
          data: the data location.

        Raises:
          RetakeError: the bucket, the image or the data is not there, not permitted, or in another region.
        """
        from google.api_core.exceptions import Forbidden, NotFound

        if self._root.startswith("gs://"):
            name, region = self._bucket, self._vertex.region
            with _explained(f"reading of bucket {name}"):
                try:
                    bucket = self._storage.get_bucket(name, timeout=SECONDS, retry=None)
                except NotFound:
                    raise RetakeError(
                        f"bucket {name} is not there; make it with: "
                        f"gcloud storage buckets create gs://{name} --location={region}"
                    ) from None
            if not self._vertex.is_local and _is_elsewhere(bucket.location, bucket.location_type, region):
                raise RetakeError(
                    f"bucket {name} is in {bucket.location.lower()}, and the job would run in {region}: "
                    "give a bucket of that region with --bucket, or another region with --region"
                )
        others = [machine.image for machine in self._vertex.machines.values() if machine.image]
        for image in dict.fromkeys([self._vertex.image, *others]):
            if (manifest := _manifest(image)) and not self._vertex.is_local:
                self._check_image(image, manifest)
        if data.startswith("gs://"):
            bucket, _, prefix = f"{data.rstrip('/')}/".removeprefix("gs://").partition("/")
            # Only the nodes need to be allowed to look there.
            with _explained(f"reading of {data}"), suppress(Forbidden):
                if not list(
                    self._storage.list_blobs(bucket, prefix=prefix, max_results=1, timeout=SECONDS, retry=None)
                ):
                    raise RetakeError(
                        f"data location {data} holds nothing; copy records there with: "
                        f"gcloud storage cp --recursive DIR {data}"
                    )

    @property
    def _bucket(self) -> str:
        return self._root.removeprefix("gs://").partition("/")[0]

    def _check_image(self, image: str, manifest: str) -> None:
        from google.auth.transport.requests import AuthorizedSession

        with _explained(f"reading of image {image}"):
            answer = AuthorizedSession(self._credentials).head(manifest, headers={"Accept": MANIFESTS}, timeout=SECONDS)
        if answer.status_code == 404:
            raise RetakeError(f"image {image} is not there; push it, or name another one")
        if answer.status_code in (401, 403):
            raise RetakeError(f"reading of image {image} is not permitted; ask for the role Artifact Registry Reader")

    def upload(self, compiled: Compiled, config: Config) -> None:
        """Puts the job's specification, and a weights file that it needs, below `pipeline.root`.

        Raises:
          RetakeError: it cannot be written there.
        """
        weights, fingerprint = weights_of(config)
        if fingerprint and weights.startswith("/gcs/"):
            with _explained(f"writing to bucket {self._bucket}"):
                blob = self._storage.bucket(self._bucket).blob(weights.removeprefix(f"/gcs/{self._bucket}/"))
                if not blob.exists(timeout=SECONDS):
                    blob.upload_from_filename(config.model.weights)
        if self._root.startswith("gs://"):
            with _explained(f"writing to bucket {self._bucket}"):
                blob = self._storage.bucket(self._bucket).blob(f"{self._prefix}/{SPECIFICATION}")
                blob.upload_from_string(compiled.text, content_type="application/json", timeout=SECONDS)
            return
        try:
            Path(self._root).mkdir(parents=True, exist_ok=True)
            durable.write(Path(self._root) / SPECIFICATION, compiled.text.encode())
        except OSError as error:
            raise RetakeError(f"pipeline.root {self._root} cannot be written to ({error.strerror})") from None

    @property
    def _prefix(self) -> str:
        return self._root.removeprefix(f"gs://{self._bucket}/")

    def submit(self, job: dict[str, Any]) -> str:
        """Makes a job.

        Returns:
          Its resource name.

        Raises:
          RetakeError: the service refuses it or cannot be reached.
        """
        from google.cloud import aiplatform_v1

        vertex = self._vertex
        doing, advice = f"starting of a job in {vertex.region} of project {vertex.project}", NETWORK
        if vertex.is_local:
            doing = f"starting of a job at {vertex.endpoint}"
            port = urlsplit(vertex.endpoint).port or 80
            advice = f"start a local Vertex with: python -m kubeflow.emulator --root vertex --port {port}"
        job_id = f"{job['displayName']}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
        with _explained(doing, advice):
            made = self._jobs.create_pipeline_job(
                parent=f"projects/{vertex.project}/locations/{vertex.region}",
                pipeline_job=aiplatform_v1.PipelineJob.from_json(json.dumps(job)),
                pipeline_job_id=job_id,
                timeout=SECONDS,
            )
        return made.name

    def link(self, name: str) -> str:
        """The page of a job."""
        if self._vertex.is_local:
            return f"{self._vertex.endpoint}/#{name}"
        page = f"locations/{self._vertex.region}/pipelines/runs/{name.rpartition('/')[2]}"
        return f"https://console.cloud.google.com/vertex-ai/{page}?project={self._vertex.project}"

    def job(self, name: str) -> Any:
        """A PipelineJob as it is now. A service that does not answer is asked again for minutes.

        Raises:
          RetakeError: it refuses, or cannot be reached for long.
        """
        import requests
        from google.api_core import exceptions, retry
        from google.auth.exceptions import TransportError

        passing = (
            exceptions.ServerError,
            exceptions.TooManyRequests,
            requests.exceptions.ConnectionError,
            requests.exceptions.Timeout,
            TransportError,
        )
        again = retry.Retry(retry.if_exception_type(*passing), maximum=10, timeout=PATIENCE_SECONDS)
        with _explained(f"following of job {name} (it goes on)"):
            return self._jobs.get_pipeline_job(name=name, retry=again, timeout=SECONDS)

    @property
    def poll_seconds(self) -> float:
        return POLL_SECONDS_HERE if self._vertex.is_local else POLL_SECONDS

    def failure(self, job: Any) -> str | None:
        """Why a job failed, as its failed tasks tell it; None where it did not fail."""
        if job.state.name == "PIPELINE_STATE_SUCCEEDED":
            return None
        if job.state.name == "PIPELINE_STATE_CANCELLED":
            return "the job was cancelled"
        details = job.job_detail.task_details
        failed = [task for task in details if task.state.name == "FAILED"]
        graphs = {task.parent_task_id for task in details}
        told = {task.task_name: self._reason(job, task) for task in failed if task.task_id not in graphs}
        told = {name: reason for name, reason in told.items() if reason}
        if len(told) > 1:
            return "; ".join(f"{name}: {reason}" for name, reason in told.items())
        said = [*told.values(), *(task.error.message for task in failed), job.error.message]
        return next((message for message in said if message), "the service does not say why")

    def _reason(self, job: Any, task: Any) -> str:
        """Why a task failed: its own words or the last of its log, how its process ended, and where its log is."""
        job_id, message, words = job.name.rpartition("/")[2], task.error.message, None
        with suppress(Exception):  # The service's words will do.
            words = self._words(f"*/{job_id}/{task.task_name}_*/failure.txt")
        log, last = "", ""
        if local := re.search(r"status -?\d+: (.*) \(log: (.+)\)$", message, re.DOTALL):
            last, log = local.groups()
        elif link := re.search(r"https://console\.cloud\.google\.com/logs\S*", message):
            log = link[0].rstrip(".")
        elif not self._vertex.is_local and (
            number := task.executor_detail.container_detail.main_job.rpartition("/")[2]
        ):
            log = f"gcloud logging read 'resource.labels.job_id=\"{number}\"' --project={self._vertex.project}"
        code = _EXIT.search(message)
        exit_ = _exit(int(code[1])) if code else ""
        if not words:
            words, exit_ = exit_ or message, ""
            if last and last != "it said nothing":
                words += f"; its last words: {last}"
        details = "; ".join(filter(None, [exit_, f"log: {log}" if log else ""]))
        return f"{words} ({details})" if words and details else words

    def _words(self, pattern: str) -> str | None:
        """What components.vertex wrote beside a task's output."""
        if not self._root.startswith("gs://"):
            return next((file.read_text() for file in Path(self._root).glob(pattern)), None)
        found = self._storage.list_blobs(self._bucket, match_glob=f"{self._prefix}/{pattern}", timeout=SECONDS)
        return next((blob.download_as_text(timeout=SECONDS) for blob in found), None)


def _exit(code: int) -> str:
    """How a process ended: below zero is the signal that ended it, and so is what a shell makes of one, from 129 on."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return "killed (signal 9), probably out of memory"
    try:
        return f"killed (signal {number}, {signal.Signals(number).name})"
    except ValueError:
        return f"exited with status {code}"


def _manifest(image: str) -> str | None:
    """Where a registry that takes Google's credentials says whether it has an image; None for other registries."""
    found = re.fullmatch(rf"({GOOGLE_REGISTRIES})/([^:@]+)(?::([^:@]+))?(?:@(.+))?", image)
    if not found:
        return None
    host, name, tag, digest = found.groups()
    return f"https://{host}/v2/{name}/manifests/{digest or tag or 'latest'}"


def _is_elsewhere(location: str, location_type: str, region: str) -> bool:
    if location_type == "region":
        return location.lower() != region
    return not region.startswith(CONTINENTS.get(location[:2], ""))


@contextmanager
def _explained(doing: str, advice: str = NETWORK) -> Iterator[None]:
    """Says in one message what Google's clients raise in many ways, and gives advice where nobody answers."""
    import requests
    from google.api_core import exceptions as api
    from google.auth import exceptions as auth

    login = "gcloud auth application-default login"
    unreachable = (
        auth.TransportError,
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        api.RetryError,
        api.ServiceUnavailable,
    )
    try:
        yield
    except auth.DefaultCredentialsError:
        raise RetakeError(f"there are no Google Cloud credentials; log in with: {login}") from None
    except auth.RefreshError as error:
        raise RetakeError(
            f"the Google Cloud credentials are invalid or expired ({_words(error)}); log in with: {login}"
        ) from None
    except unreachable as error:
        raise RetakeError(f"{doing}: the service cannot be reached ({_words(error)}); {advice}") from None
    except (api.Forbidden, api.Unauthorized) as error:
        raise RetakeError(f"{doing} is not permitted: {_words(error)}") from None
    except api.GoogleAPICallError as error:
        raise RetakeError(f"{doing} was refused: {_words(error)}") from None


def _words(error: Exception) -> str:
    """The first line of what an error says, without the request that it answers."""
    text = str(getattr(error, "message", None) or error).strip() or type(error).__name__
    if system := re.search(r"\[Errno -?\d+\] [^'\")]+", text):  # Within three errors of others.
        return system[0]
    return re.sub(r"^(?:GET|POST|PUT) https?://\S+: ", "", text.splitlines()[0])[:500]


def follow(google: Google, name: str, nodes: list[str], show: progress.Progress) -> Any:
    """Shows how a job's nodes come to their ends.

    Returns:
      The PipelineJob at its end.
    """
    told: set[str] = set()
    with show.node("Vertex"):
        while True:
            job = google.job(name)
            now = _nodes(job, nodes)
            for node in now:
                if node.id not in told and node.state in ("complete", "cached", "failed"):
                    show.done(node.state, node.id, node.seconds)
                    told.add(node.id)
            if job.state.name.removeprefix("PIPELINE_STATE_") in _ENDED:
                return job
            running = ", ".join(node.id for node in now if node.state == "running")
            show.passing(f"runs {running}" if running else "waits")
            time.sleep(google.poll_seconds)


def summarize(job: Any, nodes: list[str], failure: str | None = None) -> Summary:
    """The summary of a job, finished or not.

    Args:
      job: a google.cloud.aiplatform_v1.PipelineJob.
      nodes: the pipeline's nodes in their order.
      failure: why the job failed, if it did.
    """
    found: dict[str, dict[str, Any]] = {}
    for task in job.job_detail.task_details:
        if not any(_is_of(task.task_name, resolver) for resolver in RESOLVERS):
            for key, output in task.outputs.items():
                for artifact in output.artifacts:
                    found[key] = dict(artifact.metadata or {})
    counts = _json(found, "examples", "counts") or {}
    blessing = found.get("blessing", {})
    return Summary(
        run_id=job.name.rpartition("/")[2],
        runner="vertex",
        state="complete" if job.state.name == "PIPELINE_STATE_SUCCEEDED" else "failed",
        nodes=_nodes(job, nodes),
        examples=counts.get("examples", {}),
        dropped=counts.get("dropped", {}),
        metrics=_json(found, "evaluation", "metrics"),
        baseline_metrics=_json(found, "evaluation", "baseline_metrics"),
        comparison=_json(found, "evaluation", "comparison"),
        test_metrics=_json(found, "evaluation", "test_metrics"),
        blessed=bool(blessing["blessed"]) if "blessed" in blessing else None,
        reason=failure or blessing.get("reason"),
        pushed_model=found.get("pushed_model", {}).get("pushed_destination"),
    )


def _json(found: dict[str, dict[str, Any]], key: str, name: str) -> Any:
    text = found.get(key, {}).get(name)
    return json.loads(text) if text else None


def _nodes(job: Any, nodes: list[str]) -> list[Node]:
    """What became of the nodes; a resolver only looks up, so it counts as cached where all before it is."""
    made: list[Node] = []
    for node in nodes:
        tasks = [task for task in job.job_detail.task_details if _is_of(task.task_name, node)]
        states = {_STATES.get(task.state.name, "not run") for task in tasks}
        order: tuple[NodeState, ...] = ("failed", "running", "not run", "complete", "cached")
        state = next((state for state in order if state in states), "not run")
        if node in RESOLVERS and state == "complete" and all(before.cached for before in made):
            state = "cached"
        ended = [task for task in tasks if task.start_time and task.end_time]
        seconds = sum((task.end_time - task.start_time).total_seconds() for task in ended) if ended else None
        made.append(Node(id=node, state=state, seconds=seconds, cached=state == "cached"))
    return made


def _is_of(task: str, node: str) -> bool:
    """A resolver NODE is the tasks NODE-model-resolver and NODE-model-blessing-resolver."""
    return task == node or task.startswith(f"{node}-")
