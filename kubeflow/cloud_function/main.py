"""Starts the pipeline on Vertex AI when record files land in a bucket. Cloud Storage and Cloud Tasks call `on_event`.

Which objects: those that the pipeline's ExampleGen reads, and no others.

How many runs: an object belongs to the window of RETAKE_WINDOW_MINUTES in which it was created. One task for each
window, named for it, comes back here when the window is over. It starts a run, named for the window, too, unless

- a run of this function goes on: then the task is delivered again later, so that one run goes on at a time;
- a run that did not fail was created after the window was over: that one reads all of the window's objects.

No object is lost, whatever the order and number of deliveries. The window comes from the object, so each delivery asks
for the same task and the same run; and no run counts for a window unless it was created when all of the window's
objects could be listed. With a window of 0 minutes each object generation starts a run of its own, at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import functions_framework
from cloudevents.exceptions import GenericException
from cloudevents.http import CloudEvent
from function_settings import settings_from
from google_calls import Later, Refused, call, create, download

FINALIZED = "google.cloud.storage.object.v1.finalized"
WINDOW_OVER = "retake.window.over.v1"
"""The type of a task's event. Its data is {"end": the end of the window}."""

HIDDEN = (".", "_", "beam-temp-")
"""Prefixes of files and folders that the function ignores. Beam first writes its files into such a folder."""

RECORDS = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?(-\d{5,}-of-\d{5,})?(\.gz)?$", re.IGNORECASE)
SHARD = re.compile(r"-\d{5,}-of-\d{5,}")
"""Suffixes of record files: see components/record_files.py."""

FIELDS = {
    "bucket": r"\S{1,222}",
    "name": r"[^\r\n\ud800-\udfff]{1,1024}",
    "generation": r"[1-9][0-9]{0,18}",
    "size": r"[0-9]{1,19}",
    "timeCreated": r"\S{1,64}",
}
"""The fields of an event that describe its object."""

SETTLED = timedelta(minutes=1)
"""The time after a window's end until the bucket's listing shows all its objects, with the errors of all clocks."""

LONGEST = 1500
"""Characters of a text in the log: what events tell may be as long as whoever sends them likes."""

ACTIVE = {f"PIPELINE_STATE_{state}" for state in ("QUEUED", "PENDING", "RUNNING", "CANCELLING", "PAUSED")}
UNFINISHED = {f"PIPELINE_STATE_{state}" for state in ("FAILED", "CANCELLING", "CANCELLED")}
"""States of runs that count for no window."""


class Ignored(Exception):
    """An event that is not for this function."""


@dataclass(frozen=True)
class Object:
    """A generation of an object in a bucket."""

    bucket: str
    name: str
    generation: int
    size: int
    created: datetime

    def __str__(self) -> str:
        return f"gs://{self.bucket}/{self.name}#{self.generation}"


def log(severity: str, message: str, **fields: str) -> None:
    """Writes a line that Cloud Logging takes apart, without control characters."""
    entry = {key: text[:LONGEST] for key, text in {"severity": severity, "message": message, **fields}.items()}
    print(json.dumps(entry), flush=True)


try:
    SETTINGS = settings_from(dict(os.environ))
except ValueError as error:
    log("CRITICAL", f"the function cannot start: {error}")
    sys.exit(1)


@functions_framework.cloud_event
def on_event(event: CloudEvent) -> None:
    """Takes an event; where it raises, the event is delivered again."""
    about = {"event": event["id"]}
    try:
        if event["type"] == FINALIZED:
            found = object_of(event.data)
            about["object"] = str(found)
            arrived(found, about)
        elif event["type"] == WINDOW_OVER:
            window_over(end_of(event.data), about)
        else:
            raise Ignored(f"events of type {event['type']} are not for this function")
    except Ignored as reason:
        log("INFO", f"ignored: {reason}", **about)
    except Refused as reason:
        log("ERROR", f"given up: {reason}", **about)
    except Exception as reason:
        log("WARNING", f"to be delivered again: {reason}", **about)
        raise


@functions_framework.errorhandler(Later)
def later(reason: Exception) -> tuple[str, int]:
    """Keeps what is expected out of the error reports: an unhandled exception writes a traceback."""
    return str(reason), 503


@functions_framework.errorhandler(GenericException)
@functions_framework.errorhandler(UnicodeDecodeError)
@functions_framework.errorhandler(RecursionError)
@functions_framework.errorhandler(400)
@functions_framework.errorhandler(415)
def broken(reason: Exception) -> tuple[str, int]:
    """Acknowledges what is no CloudEvent: it would be delivered again for a day."""
    log("ERROR", f"given up: not a CloudEvent: {str(reason)[:300]}")
    return "not a CloudEvent", 200


def object_of(data: Any) -> Object:
    """The object that an event tells of.

    Raises:
      Refused: the event does not tell what it should.
    """
    try:
        for key, pattern in FIELDS.items():
            if not re.fullmatch(pattern, data[key]):
                raise ValueError(f"{key} is {data[key]!r}")
        created = moment(data["timeCreated"])
        return Object(data["bucket"], data["name"], int(data["generation"]), int(data["size"]), created)
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"the event's data are not those of a stored object: {type(error).__name__}: {error}") from None


def end_of(data: Any) -> datetime:
    """The end of the window that a task tells of.

    Raises:
      Refused: it tells of none.
    """
    try:
        return moment(data["end"])
    except (KeyError, TypeError, ValueError) as error:
        raise Refused(f"the event's data are not those of a window: {type(error).__name__}: {error}") from None


def moment(text: str) -> datetime:
    """A time that an event tells of.

    Raises:
      ValueError: it has no time zone, or nothing can have happened then.
    """
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    if not 1970 < time.year <= datetime.now(timezone.utc).year + 1:
        raise ValueError(f"{text} is long ago or far off")
    return time.astimezone(timezone.utc)


def arrived(found: Object, about: dict[str, str]) -> None:
    """Sees to it that a run reads the object."""
    check(found)
    if not SETTINGS.window:
        digest = hashlib.sha256(f"{found.bucket}/{found.name}".encode()).hexdigest()[:12]
        start(f"retake-{SETTINGS.trigger}-{digest}-{found.generation}", about)
        return
    length = SETTINGS.window // timedelta(seconds=1)
    end = datetime.fromtimestamp((int(found.created.timestamp()) // length + 1) * length, timezone.utc)
    schedule(end, about)


def check(found: Object) -> None:
    """Raises Ignored for an object that the pipeline does not read: see components/record_files.py."""
    if found.bucket != SETTINGS.bucket:
        raise Ignored(f"not in bucket {SETTINGS.bucket}")
    if not found.name.startswith(SETTINGS.prefix):
        raise Ignored(f"not below {SETTINGS.prefix}")
    if not RECORDS.search(found.name):
        raise Ignored("not named as a record file, such as x.tfrecord or x.tfrecord.gz")
    if any(part.startswith(HIDDEN) for part in found.name.removeprefix(SETTINGS.prefix).split("/")):
        raise Ignored("temporary or hidden")
    if not found.size and not SHARD.search(found.name):  # A set of shards may hold empty ones.
        raise Ignored("empty")


def name_of(end: datetime) -> str:
    """The name of a window's task and run."""
    return f"retake-{SETTINGS.trigger}-{end:%Y%m%d-%H%M%S}"


def schedule(end: datetime, about: dict[str, str]) -> None:
    """Asks for the event WINDOW_OVER when everything of the window can be listed; once, however often it is called."""
    name = name_of(end)
    task = {
        "name": f"{SETTINGS.queue}/tasks/{name}",
        "scheduleTime": (end + SETTLED).isoformat(),
        "httpRequest": {
            "url": SETTINGS.url,
            "httpMethod": "POST",
            "headers": {
                "Content-Type": "application/json",
                "ce-id": name,
                "ce-source": f"//cloudtasks.googleapis.com/{SETTINGS.queue}",
                "ce-specversion": "1.0",
                "ce-type": WINDOW_OVER,
            },
            "body": base64.b64encode(json.dumps({"end": end.isoformat()}).encode()).decode(),
            "oidcToken": {"serviceAccountEmail": SETTINGS.invoker, "audience": SETTINGS.url},
        },
    }
    made = create(f"{SETTINGS.tasks}/v2/{SETTINGS.queue}/tasks", json={"task": task})
    log("INFO", f"a run is {'' if made else 'already '}due after {end + SETTLED:%Y-%m-%d %H:%M:%S} UTC", **about)


def window_over(end: datetime, about: dict[str, str]) -> None:
    """Starts a run that reads the window, unless one does already."""
    settled = end + SETTLED
    if datetime.now(timezone.utc) < settled:
        raise Later(f"the window is not over before {settled:%Y-%m-%d %H:%M:%S} UTC")
    query = {"filter": f'labels.retake_trigger="{SETTINGS.trigger}"', "orderBy": "create_time desc", "pageSize": "1"}
    for newest in call("GET", SETTINGS.jobs, params=query).get("pipelineJobs", []):
        run = newest["name"].rpartition("/")[2]
        if datetime.fromisoformat(newest["createTime"]) >= settled and newest["state"] not in UNFINISHED:
            log("INFO", f"{run} was created after the window was over and reads all of it", **about)
            return
        if newest["state"] in ACTIVE:
            raise Later(f"{run} goes on: the next run begins when it has ended")
    start(name_of(end), about)


def start(run: str, about: dict[str, str]) -> None:
    """Submits the compiled job, once, however often it is called for the same run."""
    job = compiled_job()
    parameters = {"data": SETTINGS.data} | ({"models": SETTINGS.models} if SETTINGS.models else {})
    config = job.get("runtimeConfig", {})
    # Vertex takes typed values for the schema before 2.1, and plain ones since.
    if job["pipelineSpec"].get("schemaVersion", "") < "2.1":
        typed = {name: {"stringValue": value} for name, value in parameters.items()}
        config = {**config, "parameters": {**config.get("parameters", {}), **typed}}
    else:
        config = {**config, "parameterValues": {**config.get("parameterValues", {}), **parameters}}
    body = {
        **job,
        "labels": {**job.get("labels", {}), "retake_trigger": SETTINGS.trigger},
        "runtimeConfig": config,
        **({"serviceAccount": SETTINGS.service_account} if SETTINGS.service_account else {}),
    }
    made = create(SETTINGS.jobs, params={"pipelineJobId": run}, json=body)
    log("INFO", f"started {run}" if made else f"{run} was started before", run=run, **about)


def compiled_job() -> dict[str, Any]:
    """Reads the job at RETAKE_JOB.

    Raises:
      Later: it may be readable later.
      Refused: it is not there, must not be read, or is no compiled job.
    """
    upload = "upload it with: python -m pipelines.run --runner vertex"
    try:
        job = json.loads(download(SETTINGS.project, SETTINGS.job, upload))
        if isinstance(job["pipelineSpec"], dict):
            return dict(job)
    except (KeyError, TypeError, ValueError):
        pass
    raise Refused(f"{SETTINGS.job} is not a compiled pipeline job; {upload}")
