"""Google Cloud, or its emulators on this machine: checks places, submits jobs and follows them."""

from __future__ import annotations

import json
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.settings import Settings
from pipelines.vertex_job import SPECIFICATION, Compiled, weights_of
from retake import durable, quiet
from retake.errors import RetakeError

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
"""Prefix of a bucket's multi-region → prefix of the regions in it."""

NETWORK = "check the network connection"

SECONDS = 30
POLL_SECONDS, POLL_SECONDS_HERE = 10, 0.3
PATIENCE_SECONDS = 600
"""How long `Google.job` retries if the service does not answer."""

_EXIT = re.compile(r"exited with (?:a non-zero )?status (?:of )?(-?\d+)")
"""The exit status in both services' messages. The local Vertex adds `: LAST WORDS (log: FILE)`."""


class Google:
    """Clients of Google Cloud, or of its emulators on this machine.

    Args:
      config: the configuration, as `placed` returns it.

    Raises:
      RetakeError: there are no credentials.
    """

    def __init__(self, config: Settings):
        with quiet.imports():
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
        """The client of Cloud Storage. It is only made if a place is in a bucket."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import storage

        emulated = "STORAGE_EMULATOR_HOST" in os.environ
        return storage.Client(
            self._vertex.project, credentials=AnonymousCredentials() if emulated else self._credentials
        )

    def check(self, data: str) -> None:
        """Checks the bucket, the images and the data at once; the service would fail after minutes.

        Args:
          data: the data location; empty if there may be no records yet.

        Raises:
          RetakeError: the bucket, an image or the data is missing, not permitted, or in another region.
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
            # The data may be forbidden to this account: only the nodes need to read it.
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

    def upload(self, compiled: Compiled, config: Settings) -> None:
        """Writes the job's specification, and its weights file if it has one, below `pipeline.root`.

        Raises:
          RetakeError: a file cannot be written.
        """
        weights, fingerprint = weights_of(config)
        if fingerprint and weights.startswith("/gcs/"):
            with _explained(f"writing to bucket {self._bucket}"):
                blob = self._storage.bucket(self._bucket).blob(weights.removeprefix(f"/gcs/{self._bucket}/"))
                if not blob.exists(timeout=SECONDS):
                    blob.upload_from_filename(config.model.weights)
        self.write(SPECIFICATION, compiled.text)

    def write(self, name: str, text: str) -> None:
        """Writes a JSON document below `pipeline.root`.

        Raises:
          RetakeError: the document cannot be written.
        """
        if self._root.startswith("gs://"):
            with _explained(f"writing to bucket {self._bucket}"):
                blob = self._storage.bucket(self._bucket).blob(f"{self._prefix}/{name}")
                blob.upload_from_string(text, content_type="application/json", timeout=SECONDS)
            return
        file = Path(self._root) / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            durable.write(file, text.encode())
        except OSError as error:
            raise RetakeError(f"pipeline.root {self._root} cannot be written to ({error.strerror})") from None

    @property
    def _prefix(self) -> str:
        return self._root.removeprefix(f"gs://{self._bucket}/")

    def submit(self, job: dict[str, Any]) -> str:
        """Submits a job.

        Returns:
          The job's resource name.

        Raises:
          RetakeError: the service refuses the job or cannot be reached.
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
            submitted = self._jobs.create_pipeline_job(
                parent=f"projects/{vertex.project}/locations/{vertex.region}",
                pipeline_job=aiplatform_v1.PipelineJob.from_json(json.dumps(job)),
                pipeline_job_id=job_id,
                timeout=SECONDS,
            )
        return submitted.name

    def link(self, name: str) -> str:
        """The page of a job."""
        if self._vertex.is_local:
            return f"{self._vertex.endpoint}/#{name}"
        page = f"locations/{self._vertex.region}/pipelines/runs/{name.rpartition('/')[2]}"
        return f"https://console.cloud.google.com/vertex-ai/{page}?project={self._vertex.project}"

    def job(self, name: str) -> Any:
        """The current PipelineJob. If the service does not answer, the request is repeated for PATIENCE_SECONDS.

        Raises:
          RetakeError: the service refuses the request, or cannot be reached for that long.
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
        """The reason of a job's failure, from its failed tasks; None if the job succeeded."""
        if job.state.name == "PIPELINE_STATE_SUCCEEDED":
            return None
        if job.state.name == "PIPELINE_STATE_CANCELLED":
            return "the job was cancelled"
        details = job.job_detail.task_details
        failed = [task for task in details if task.state.name == "FAILED"]
        graphs = {task.parent_task_id for task in details}
        reasons = {task.task_name: self._reason(job, task) for task in failed if task.task_id not in graphs}
        reasons = {name: reason for name, reason in reasons.items() if reason}
        if len(reasons) > 1:
            return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        messages = [*reasons.values(), *(task.error.message for task in failed), job.error.message]
        return next((message for message in messages if message), "the service does not say why")

    def _reason(self, job: Any, task: Any) -> str:
        """The reason of a task's failure: its own message or its log's last line, its exit status, and its log."""
        job_id, message, words = job.name.rpartition("/")[2], task.error.message, None
        with suppress(Exception):  # Without the task's message, the service's suffices.
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
        """The message that pipelines.run_vertex_task wrote beside a task's output."""
        if not self._root.startswith("gs://"):
            return next((file.read_text() for file in Path(self._root).glob(pattern)), None)
        blobs = self._storage.list_blobs(self._bucket, match_glob=f"{self._prefix}/{pattern}", timeout=SECONDS)
        return next((blob.download_as_text(timeout=SECONDS) for blob in blobs), None)


def _exit(code: int) -> str:
    """A process's end in words. A signal is a status below zero, or from 129 on if a shell reports it."""
    number = -code if code < 0 else code - 128
    if number == signal.SIGKILL:
        return "killed (signal 9), probably out of memory"
    try:
        return f"killed (signal {number}, {signal.Signals(number).name})"
    except ValueError:
        return f"exited with status {code}"


def _manifest(image: str) -> str | None:
    """The address of an image's manifest in a registry that accepts Google's credentials; None for other registries."""
    match = re.fullmatch(rf"({GOOGLE_REGISTRIES})/([^:@]+)(?::([^:@]+))?(?:@(.+))?", image)
    if not match:
        return None
    host, name, tag, digest = match.groups()
    return f"https://{host}/v2/{name}/manifests/{digest or tag or 'latest'}"


def _is_elsewhere(location: str, location_type: str, region: str) -> bool:
    if location_type == "region":
        return location.lower() != region
    return not region.startswith(CONTINENTS.get(location[:2], ""))


@contextmanager
def _explained(doing: str, advice: str = NETWORK) -> Iterator[None]:
    """Turns the many errors of Google's clients into one message, with advice if the service cannot be reached."""
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
    """The first line of an error's message, without the request."""
    text = str(getattr(error, "message", None) or error).strip() or type(error).__name__
    if system := re.search(r"\[Errno -?\d+\] [^'\")]+", text):  # The system's error is nested in three others.
        return system[0]
    return re.sub(r"^(?:GET|POST|PUT) https?://\S+: ", "", text.splitlines()[0])[:500]
