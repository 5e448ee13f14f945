"""The settings of the function, which it reads from its environment."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True)
class Settings:
    """The settings from the environment. README.md beside this folder describes the variables."""

    bucket: str
    prefix: str
    job: str
    data: str
    models: str
    project: str
    region: str
    service_account: str
    window: timedelta
    queue: str
    url: str
    invoker: str
    vertex: str
    tasks: str

    @property
    def trigger(self) -> str:
        """Tells this function's runs and tasks from those of others."""
        return hashlib.sha256(f"{self.bucket}\0{self.prefix}\0{self.job}".encode()).hexdigest()[:12]

    @property
    def jobs(self) -> str:
        return f"{self.vertex}/v1/projects/{self.project}/locations/{self.region}/pipelineJobs"


def settings_from(environment: dict[str, str]) -> Settings:
    """Reads and checks the environment.

    Raises:
      ValueError: a line for each variable that is missing or wrong.
    """
    problems = []

    def take(name: str, pattern: str, says: str, default: str | None = None) -> str:
        value = environment.get(name, "").strip()
        if not value and default is not None:
            return default
        if not re.fullmatch(pattern, value):
            problems.append(f"{name} must be {says}, not {value!r}")
        return value

    endpoint = r"https://[^/\s]+|http://(127\.0\.0\.1|localhost|\[::1\]):\d+"
    says_endpoint = "https://HOST, or for an emulator http://127.0.0.1:PORT"
    bucket = take("RETAKE_BUCKET", r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]", "a bucket's name")
    prefix = take("RETAKE_PREFIX", r"[^\s#?*]+", "a prefix such as records", "").strip("/")
    region = take("RETAKE_REGION", r"[a-z]+-[a-z]+\d+", "a region such as us-central1")
    minutes = take("RETAKE_WINDOW_MINUTES", r"\d{1,4}", "a number of minutes, 0 for a run for each object", "10")
    without = "" if minutes == "0" else None
    settings = Settings(
        bucket=bucket,
        prefix=f"{prefix}/" if prefix else "",
        job=take("RETAKE_JOB", r"gs://[^/\s]+/\S+", "the gs:// place of the compiled job"),
        data=take("RETAKE_DATA", r"\S+", "a place", f"gs://{bucket}/{prefix}".rstrip("/")),
        models=take("RETAKE_MODELS", r"\S+", "a place", ""),
        project=take("RETAKE_PROJECT", r"[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project's id"),
        region=region,
        service_account=take("RETAKE_SERVICE_ACCOUNT", r"[^@\s]+@[^@\s]+", "a service account's address", ""),
        window=timedelta(minutes=int(minutes) if minutes.isdecimal() else 0),
        queue=take("RETAKE_QUEUE", r"projects/[^/\s]+/locations/[^/\s]+/queues/[^/\s]+", "a queue", without),
        url=take("RETAKE_URL", r"https?://\S+", "this function's own address", without),
        invoker=take("RETAKE_INVOKER", r"[^@\s]+@[^@\s]+", "the account that may call this function", without),
        vertex=take("RETAKE_VERTEX_ENDPOINT", endpoint, says_endpoint, f"https://{region}-aiplatform.googleapis.com"),
        tasks=take("RETAKE_TASKS_ENDPOINT", endpoint, says_endpoint, "https://cloudtasks.googleapis.com"),
    )
    if problems:
        raise ValueError("; ".join(problems))
    return settings
