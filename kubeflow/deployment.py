"""The parts of a deployment: the resources of a project, the roles of its accounts, and the function."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FUNCTION = Path(__file__).parent / "cloud_function"

SUBMIT = "aiplatform.pipelineJobs.create,aiplatform.pipelineJobs.list"
"""All that the function may do on Vertex AI; the predefined roles allow far more."""

STORAGE_AGENT = "serviceAccount:the agent of Cloud Storage"
PROJECT_NUMBER = "NUMBER-OF-THE-PROJECT"
"""Placeholders for values that gcloud looks up first: Cloud Storage's own account, and the number of the project."""

LABEL = "retake"
"""Of a bucket or registry that `create` made: whose it is."""

SHARED = "more_than_one"
"""The label of a bucket that more than one deployment uses; no deployment has this name."""


class Settings(NamedTuple):
    """What is deployed where.

    Fields:
      bucket: for jobs, artifacts and models: the runner's `--bucket`.
      records, prefix: the bucket and prefix that are watched.
      job: the compiled job.
      name: begins the names of everything else.
      window: minutes; see cloud_function/main.py.
      dataflow: whether Beam nodes run on Dataflow.
    """

    project: str
    region: str
    bucket: str
    records: str
    prefix: str
    job: str
    name: str
    window: int
    dataflow: bool

    def account(self, role: str) -> str:
        return f"{self.name}-{role}@{self.project}.iam.gserviceaccount.com"

    @property
    def submitter(self) -> str:
        return f"{self.name.replace('-', '_')}_submitter"

    @property
    def owner(self) -> str:
        """Tells this deployment from all others, as buckets are everybody's; at most 63 characters, as in a label."""
        return f"{self.name}_{self.project}_{self.region}"[:63]

    @property
    def queue(self) -> str:
        return f"projects/{self.project}/locations/{self.region}/queues/{self.name}"

    @property
    def function_registry(self) -> str:
        return f"{self.name}-function"


class Thing(NamedTuple):
    """Something that is there once, and that `destroy` deletes only where `create` made it.

    Fields:
      what: for a person.
      describe, delete: arguments of gcloud; no `delete` where it stays.
      create: the same, of one command after another.
      shows: what tells who made it: a format for `describe`, and what that says where `create` made it.
      share: marks it as used by more than one deployment.
    """

    what: str
    describe: list[str]
    create: list[list[str]]
    delete: list[str] | None
    shows: tuple[str, str]
    share: list[str] | None = None


class Grant(NamedTuple):
    """A role that an account has on something.

    Fields:
      where: gcloud's group of commands, and what the role is on.
      member, role, why: who may do what, and what for.
      more: further arguments.
    """

    where: list[str]
    member: str
    role: str
    why: str
    more: list[str]

    def command(self, verb: str) -> list[str]:
        """The command that makes or ends it; `verb` is add or remove."""
        group, on = self.where[:-1], self.where[-1]
        if self.where[0] == "functions":
            return [*group, f"{verb}-invoker-policy-binding", on, f"--member={self.member}", *self.more]
        binding = [f"--member={self.member}", f"--role={self.role}"]
        return [*group, f"{verb}-iam-policy-binding", on, *binding, *self.more]


def things(to: Settings) -> Iterator[Thing]:
    """The resources that are made before roles are granted on them, in this order."""
    here = f"--location={to.region}"
    label = f"value(labels.{LABEL})"
    private = ["--uniform-bucket-level-access", "--public-access-prevention"]
    for bucket in dict.fromkeys((to.bucket, to.records)):
        url, buckets = f"gs://{bucket}", ["storage", "buckets"]
        # gcloud creates no bucket with a label. One whose label never came counts as found, and is left.
        update = [*buckets, "update", url, f"--update-labels={LABEL}"]
        yield Thing(
            f"bucket {url}",
            [*buckets, "describe", url],
            [[*buckets, "create", url, here, *private], [*update[:-1], f"{update[-1]}={to.owner}"]],
            ["storage", "rm", url, "--recursive"],
            (label, to.owner),
            [*update[:-1], f"{update[-1]}={SHARED}"],
        )
    # Builds of functions move tags of theirs, such as latest.
    for name, images, tags in (
        (to.name, "the pipeline's images", ["--immutable-tags"]),
        (to.function_registry, "the function's images", []),
    ):
        repository = ["artifacts", "repositories"]
        kind = ["--repository-format=docker", f"--labels={LABEL}={to.name}"]
        yield Thing(
            f"registry {name}, for {images}",
            [*repository, "describe", name, here],
            [[*repository, "create", name, here, *kind, *tags]],
            [*repository, "delete", name, here],
            (label, to.name),
        )
    for role in ("runner", "function", "trigger", "build"):
        accounts = ["iam", "service-accounts"]
        yield Thing(
            f"service account {to.name}-{role}",
            [*accounts, "describe", to.account(role)],
            [[*accounts, "create", f"{to.name}-{role}", f"--display-name=Retake {role}"]],
            [*accounts, "delete", to.account(role)],
            ("value(displayName)", f"Retake {role}"),
        )
    # Google keeps a deleted role's name for weeks. The role costs nothing, and in the end nobody has it.
    roles = ["iam", "roles"]
    title = "Submits pipeline jobs"
    yield Thing(
        f"role {to.submitter}",
        [*roles, "describe", to.submitter],
        [[*roles, "create", to.submitter, f"--title={title}", f"--permissions={SUBMIT}", "--stage=GA"]],
        None,
        ("value(title)", title),
    )
    # One task at a time: else two could see that no run goes on. No end of tries: else a long run would lose windows.
    queues = ["tasks", "queues"]
    tries = ["--max-attempts=unlimited", "--min-backoff=60s", "--max-backoff=300s"]
    yield Thing(
        f"queue {to.name}",
        [*queues, "describe", to.name, here],
        [[*queues, "create", to.name, here, "--max-concurrent-dispatches=1", *tries]],
        [*queues, "delete", to.name, here],
        # A queue takes no label. No other has these settings.
        ("value[separator='/'](rateLimits.maxConcurrentDispatches,retryConfig.minBackoff)", "1/60s"),
    )


def grants(to: Settings) -> Iterator[Grant]:
    """Who may do what, and why."""
    project = ["projects", to.project]
    always = ["--condition=None"]
    here = f"--location={to.region}"

    def account(role: str) -> str:
        return f"serviceAccount:{to.account(role)}"

    def on_bucket(bucket: str) -> list[str]:
        return ["storage", "buckets", f"gs://{bucket}"]

    registry, function_registry = (["artifacts", "repositories", name] for name in (to.name, to.function_registry))
    runner, function, trigger, build = map(account, ("runner", "function", "trigger", "build"))
    yield Grant(project, runner, "roles/aiplatform.user", "tasks are custom jobs of Vertex AI", always)
    yield Grant(on_bucket(to.bucket), runner, "roles/storage.objectUser", "writes artifacts, pushes models", [])
    yield Grant(on_bucket(to.records), runner, "roles/storage.objectViewer", "reads records", [])
    for bucket in dict.fromkeys((to.bucket, to.records)):
        look = "TensorFlow and Beam look at a bucket before they look into it"
        yield Grant(on_bucket(bucket), runner, "roles/storage.legacyBucketReader", look, [])
    yield Grant(registry, runner, "roles/artifactregistry.reader", "pulls the image", [here])
    if to.dataflow:
        itself = ["iam", "service-accounts", to.account("runner")]
        yield Grant(project, runner, "roles/dataflow.developer", "Beam nodes submit jobs of Dataflow", always)
        yield Grant(itself, runner, "roles/iam.serviceAccountUser", "those jobs' workers run as it, too", [])
        yield Grant(project, runner, "roles/dataflow.worker", "and ask Dataflow for their work", always)

    yield Grant(project, function, f"projects/{to.project}/roles/{to.submitter}", "submits and lists jobs", always)
    yield Grant(on_bucket(to.bucket), function, "roles/storage.objectViewer", "reads the compiled job", [])
    yield Grant(["tasks", "queues", to.name], function, "roles/cloudtasks.enqueuer", "a task for each window", [here])
    for other, why in (("runner", "jobs run as it"), ("trigger", "tasks call the function as it")):
        accounts = ["iam", "service-accounts", to.account(other)]
        yield Grant(accounts, function, "roles/iam.serviceAccountUser", why, [])

    yield Grant(project, trigger, "roles/eventarc.eventReceiver", "events of the bucket come to it", always)
    yield Grant(project, STORAGE_AGENT, "roles/pubsub.publisher", "events of the bucket come from it", always)

    yield Grant(project, build, "roles/logging.logWriter", "logs of the function's build", always)
    yield Grant(function_registry, build, "roles/artifactregistry.writer", "pushes the function's image", [here])
    sources = 'expression=resource.name.startsWith("projects/_/buckets/gcf-v2-"),title=functions'
    yield Grant(project, build, "roles/storage.objectViewer", "reads the function's source", [f"--condition={sources}"])


def invoker(to: Settings) -> Grant:
    """The one role that can be granted only when the function is there."""
    trigger = f"serviceAccount:{to.account('trigger')}"
    where = ["functions", to.name]
    return Grant(where, trigger, "roles/run.invoker", "calls the function", [f"--region={to.region}"])


def function(to: Settings) -> Thing:
    """The function, with its trigger; its `create` makes it anew where it is there."""
    variables = {
        "RETAKE_PROJECT": to.project,
        "RETAKE_REGION": to.region,
        "RETAKE_BUCKET": to.records,
        "RETAKE_PREFIX": to.prefix,
        "RETAKE_JOB": to.job,
        "RETAKE_SERVICE_ACCOUNT": to.account("runner"),
        "RETAKE_WINDOW_MINUTES": str(to.window),
        "RETAKE_QUEUE": to.queue,
        # With internal ingress, Cloud Tasks is let in at this address of the function only, not at cloudfunctions.net:
        # https://docs.cloud.google.com/run/docs/securing/ingress
        "RETAKE_URL": f"https://{to.name}-{PROJECT_NUMBER}.{to.region}.run.app",
        "RETAKE_INVOKER": to.account("trigger"),
    }
    named = [to.name, "--gen2", f"--region={to.region}"]
    deploy = [
        *("functions", "deploy", *named, "--runtime=python312"),
        *(f"--source={FUNCTION}", "--entry-point=on_event", f"--service-account={to.account('function')}"),
        f"--build-service-account=projects/{to.project}/serviceAccounts/{to.account('build')}",
        f"--docker-repository=projects/{to.project}/locations/{to.region}/repositories/{to.function_registry}",
        "--trigger-event-filters=type=google.cloud.storage.object.v1.finalized",
        f"--trigger-event-filters=bucket={to.records}",
        *(f"--trigger-location={to.region}", f"--trigger-service-account={to.account('trigger')}", "--retry"),
        *("--memory=256Mi", "--timeout=120s", "--max-instances=5", "--no-allow-unauthenticated"),
        # Its only callers, Eventarc and Cloud Tasks of the same project, count as internal: see RETAKE_URL.
        "--ingress-settings=internal-only",
        "--set-env-vars=" + ",".join(f"{name}={value}" for name, value in variables.items()),
    ]
    return Thing(
        f"function {to.name}",
        ["functions", "describe", *named],
        [deploy],
        ["functions", "delete", *named],
        ("value(serviceConfig.environmentVariables.RETAKE_QUEUE)", to.queue),
    )
