"""Deploys what runs the pipeline on Vertex AI when records land, or takes it away again, with gcloud.

    python -m kubeflow.deploy --project P --region R --bucket B --pipeline hotdog --dry-run
    python -m kubeflow.deploy destroy --project P --region R --bucket B --pipeline hotdog

Again and again, too: what is there is left as it is, but for the function, which becomes what its folder holds.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from retake.config import GOOGLE_NAMES, PIPELINE_NAME

FUNCTION = Path(__file__).parent / "cloud_function"

SERVICES = "aiplatform artifactregistry cloudbuild cloudfunctions cloudtasks eventarc iam logging pubsub run storage"
DATAFLOW_SERVICES = "compute dataflow"

SUBMIT = "aiplatform.pipelineJobs.create,aiplatform.pipelineJobs.list"
"""All that the function may do on Vertex AI; the predefined roles allow far more."""

STORAGE_AGENT = "serviceAccount:the agent of Cloud Storage"
"""Stands for Cloud Storage's own account, whose name has the project's number in it: gcloud has to be asked."""


WHAT_NEXT = """
Now build kubeflow/Dockerfile, push it as IMAGE={to.region}-docker.pkg.dev/{to.project}/{to.name}/retake:TAG, and run
  python -m pipelines.run --runner vertex --config {pipeline} --project {to.project} --region {to.region} \\
    --bucket {to.bucket} --data gs://{to.records}/{to.prefix} --image IMAGE --service-account {runner}
once. From then on, records that land below gs://{to.records}/{to.prefix} start it."""


NOT_THERE = re.compile(r"not.?found|404|does not exist", re.IGNORECASE)


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


class Thing(NamedTuple):
    """Something that is there once.

    Fields:
      what: for a person.
      describe, create, delete: arguments of gcloud; nothing where it stays.
    """

    what: str
    describe: list[str]
    create: list[str]
    delete: list[str] | None


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
    """What is made before any role is granted on it, in this order."""
    here = f"--location={to.region}"
    private = ["--uniform-bucket-level-access", "--public-access-prevention"]
    for bucket in dict.fromkeys((to.bucket, to.records)):
        yield Thing(
            f"bucket gs://{bucket}",
            ["storage", "buckets", "describe", f"gs://{bucket}"],
            ["storage", "buckets", "create", f"gs://{bucket}", here, *private],
            ["storage", "rm", f"gs://{bucket}", "--recursive"],
        )
    repository = ["artifacts", "repositories"]
    yield Thing(
        f"registry {to.name}, for the pipeline's image and the function's",
        [*repository, "describe", to.name, here],
        [*repository, "create", to.name, here, "--repository-format=docker"],
        [*repository, "delete", to.name, here],
    )
    for role in ("runner", "function", "trigger", "build"):
        accounts = ["iam", "service-accounts"]
        yield Thing(
            f"service account {to.name}-{role}",
            [*accounts, "describe", to.account(role)],
            [*accounts, "create", f"{to.name}-{role}", f"--display-name=Retake {role}"],
            [*accounts, "delete", to.account(role)],
        )
    # Google keeps a deleted role's name for weeks. The role costs nothing, and in the end nobody has it.
    roles = ["iam", "roles"]
    yield Thing(
        f"role {to.submitter}",
        [*roles, "describe", to.submitter],
        [*roles, "create", to.submitter, "--title=Submits pipeline jobs", f"--permissions={SUBMIT}", "--stage=GA"],
        None,
    )
    # One task at a time: else two could see that no run goes on. No end of tries: else a long run would lose windows.
    queues = ["tasks", "queues"]
    tries = ["--max-attempts=unlimited", "--min-backoff=60s", "--max-backoff=300s"]
    yield Thing(
        f"queue {to.name}",
        [*queues, "describe", to.name, here],
        [*queues, "create", to.name, here, "--max-concurrent-dispatches=1", *tries],
        [*queues, "delete", to.name, here],
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

    registry = ["artifacts", "repositories", to.name]
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
    yield Grant(registry, build, "roles/artifactregistry.writer", "pushes the function's image", [here])
    sources = 'expression=resource.name.startsWith("projects/_/buckets/gcf-v2-"),title=functions'
    yield Grant(project, build, "roles/storage.objectViewer", "reads the function's source", [f"--condition={sources}"])


def invoker(to: Settings) -> Grant:
    """The one role that can be granted only when the function is there."""
    trigger = f"serviceAccount:{to.account('trigger')}"
    where = ["functions", to.name]
    return Grant(where, trigger, "roles/run.invoker", "calls the function", [f"--region={to.region}"])


def function(to: Settings) -> list[str]:
    """Makes the function and its trigger, or makes them anew."""
    variables = {
        "RETAKE_PROJECT": to.project,
        "RETAKE_REGION": to.region,
        "RETAKE_BUCKET": to.records,
        "RETAKE_PREFIX": to.prefix,
        "RETAKE_JOB": to.job,
        "RETAKE_SERVICE_ACCOUNT": to.account("runner"),
        "RETAKE_WINDOW_MINUTES": str(to.window),
        "RETAKE_QUEUE": f"projects/{to.project}/locations/{to.region}/queues/{to.name}",
        "RETAKE_URL": f"https://{to.region}-{to.project}.cloudfunctions.net/{to.name}",
        "RETAKE_INVOKER": to.account("trigger"),
    }
    return [
        *("functions", "deploy", to.name, "--gen2", f"--region={to.region}", "--runtime=python312"),
        *(f"--source={FUNCTION}", "--entry-point=on_event", f"--service-account={to.account('function')}"),
        f"--build-service-account=projects/{to.project}/serviceAccounts/{to.account('build')}",
        f"--docker-repository=projects/{to.project}/locations/{to.region}/repositories/{to.name}",
        "--trigger-event-filters=type=google.cloud.storage.object.v1.finalized",
        f"--trigger-event-filters=bucket={to.records}",
        *(f"--trigger-location={to.region}", f"--trigger-service-account={to.account('trigger')}", "--retry"),
        *("--memory=256Mi", "--timeout=120s", "--max-instances=5", "--no-allow-unauthenticated"),
        "--set-env-vars=" + ",".join(f"{name}={value}" for name, value in variables.items()),
    ]


class Failed(Exception):
    """gcloud could not do what it should."""


class Gcloud:
    """Runs gcloud for a project, or only prints a shell script of what it would run."""

    def __init__(self, project: str, dry_run: bool) -> None:
        self.project, self.dry_run = project, dry_run

    def command(self, arguments: list[str]) -> list[str]:
        named = f"--member={STORAGE_AGENT}"
        if named in arguments:
            agent = "$STORAGE_AGENT" if self.dry_run else self.call(["storage", "service-agent"]).stdout.strip()
            arguments = [f"--member=serviceAccount:{agent}" if each == named else each for each in arguments]
        return ["gcloud", *arguments, f"--project={self.project}", "--quiet"]

    def call(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                self.command(arguments), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
            )
        except FileNotFoundError:
            raise Failed("there is no gcloud: install it from https://cloud.google.com/sdk/docs/install") from None
        except subprocess.CalledProcessError as error:
            said = " ".join(error.stderr.split())
            raise Failed(f"gcloud {' '.join(arguments[:3])} …: {said or f'exit code {error.returncode}'}") from None

    def shell(self, arguments: list[str]) -> str:
        # The one variable in the script has to be outside of single quotes.
        return shlex.join(self.command(arguments)).replace("$STORAGE_AGENT", """'"$STORAGE_AGENT"'""")

    def do(self, what: str, arguments: list[str]) -> None:
        print(self.shell(arguments) if self.dry_run else what, flush=True)
        if not self.dry_run:
            self.call(arguments)

    def once(self, what: str, describe: list[str], arguments: list[str], wanted: bool) -> None:
        """Runs a command unless something is there (`wanted`) or is not there."""
        if self.dry_run:
            print(f"{'' if wanted else '! '}{self.shell(describe)} >/dev/null 2>&1 ||\n  {self.shell(arguments)}")
            return
        if self.is_there(describe, wanted) == wanted:
            return
        print(f"{what}: {'made' if wanted else 'deleted'}", flush=True)
        self.call(arguments)

    def is_there(self, describe: list[str], wanted: bool) -> bool:
        try:
            self.call(describe)
        except Failed as error:
            # Of a bucket that is someone else's, making one of that name says more.
            if NOT_THERE.search(str(error)) or (wanted and "403" in str(error)):
                return False
            raise
        return True


def create(to: Settings, gcloud: Gcloud) -> None:
    """Makes what is not there, and the function what its folder holds."""
    services = f"{SERVICES} {DATAFLOW_SERVICES}" if to.dataflow else SERVICES
    apis = [f"{service}.googleapis.com" for service in services.split()]
    gcloud.do(f"services: {services}", ["services", "enable", *apis])
    for thing in things(to):
        gcloud.once(thing.what, thing.describe, thing.create, wanted=True)
    if gcloud.dry_run:
        print(f"STORAGE_AGENT=$({gcloud.shell(['storage', 'service-agent'])})")
    for grant in grants(to):
        gcloud.do(f"{grant.member.partition(':')[2]} has {grant.role}: {grant.why}", grant.command("add"))
    gcloud.do(f"function {to.name}, which takes about three minutes", function(to))
    grant = invoker(to)
    gcloud.do(f"{grant.member.partition(':')[2]} has {grant.role}: {grant.why}", grant.command("add"))


def destroy(to: Settings, gcloud: Gcloud, data: bool) -> None:
    """Takes away what `create` made, and the buckets with all that is in them only if `data`."""
    here = f"--region={to.region}"
    gcloud.once(
        f"function {to.name}",
        ["functions", "describe", to.name, "--gen2", here],
        ["functions", "delete", to.name, "--gen2", here],
        wanted=False,
    )
    for grant in reversed(list(grants(to._replace(dataflow=True)))):  # Any call before may have been for Dataflow.
        if grant.member != STORAGE_AGENT:  # Other triggers of the project need it, too.
            revoke(grant, gcloud)
    for thing in reversed(list(things(to))):
        if thing.delete and (data or thing.delete[0] != "storage"):
            gcloud.once(thing.what, thing.describe, thing.delete, wanted=False)


def revoke(grant: Grant, gcloud: Gcloud) -> None:
    if gcloud.dry_run:
        print(f"{gcloud.shell(grant.command('remove'))} ||\n  true")
        return
    try:
        gcloud.call(grant.command("remove"))
    except Failed as error:
        if not NOT_THERE.search(str(error)):
            raise
    else:
        print(f"{grant.member.partition(':')[2]} no longer has {grant.role}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Returns 0 (done), 1 (gcloud failed) or 2 (wrong usage)."""
    options = _parser().parse_args(arguments)
    to = Settings(
        project=options.project,
        region=options.region,
        bucket=options.bucket,
        records=options.records.partition("/")[0] if options.records else f"{options.bucket}-records",
        prefix=options.records.partition("/")[2].strip("/") if options.records else options.pipeline,
        job=f"gs://{options.bucket}/runs/{options.pipeline}/pipeline.json",
        name=options.name,
        window=options.window,
        dataflow=options.dataflow,
    )
    gcloud = Gcloud(to.project, options.dry_run)
    if options.dry_run:
        print("set -eu")
    try:
        if options.action == "destroy":
            destroy(to, gcloud, options.delete_data)
        else:
            create(to, gcloud)
    except Failed as error:
        print(f"kubeflow.deploy: {error}\nGive the same command again: what is done stays done.", file=sys.stderr)
        return 1
    if options.action == "create" and not options.dry_run:
        print(WHAT_NEXT.format(to=to, pipeline=options.pipeline, runner=to.account("runner")))
    return 0


def _is(pattern: str, says: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise argparse.ArgumentTypeError(f"{text!r} is not {says}")
        return text

    return check


def _parser() -> argparse.ArgumentParser:
    bucket = r"[a-z0-9][-_a-z0-9]{1,53}[a-z0-9]"  # Leaves room for what is added to it.
    parser = argparse.ArgumentParser(
        prog="python -m kubeflow.deploy",
        description="Deploy what runs the pipeline on Vertex AI when records land in a bucket, or take it away again.",
    )
    parser.add_argument("action", nargs="?", choices=("create", "destroy"), default="create")
    parser.add_argument("--project", required=True, type=_is(*GOOGLE_NAMES["project"]))
    parser.add_argument("--region", required=True, type=_is(*GOOGLE_NAMES["region"]))
    parser.add_argument(
        "--bucket", required=True, type=_is(bucket, "a bucket's name"), help="for jobs, artifacts and models"
    )
    parser.add_argument(
        "--pipeline",
        required=True,
        type=_is(PIPELINE_NAME, "a pipeline's name: a-z, 0-9 and -, a letter first"),
        metavar="NAME",
        help="the name in its configuration",
    )
    parser.add_argument(
        "--records",
        type=_is(rf"{bucket}(/[-_.=A-Za-z0-9]+)+/?", "BUCKET/PREFIX"),
        metavar="BUCKET/PREFIX",
        help="where records land (default: the bucket's name and -records, the pipeline's name)",
    )
    parser.add_argument(
        "--window", type=int, choices=range(1, 1441), default=10, metavar="MINUTES", help="one run for that long"
    )
    parser.add_argument(
        "--name",
        type=_is(r"[a-z][-a-z0-9]{3,19}[a-z0-9]", "5 to 21 of a-z, 0-9 and -"),
        default="retake",
        help="begins all names; another for each deployment of a project",
    )
    parser.add_argument("--dataflow", action="store_true", help="let the Beam nodes run on Dataflow, too")
    parser.add_argument("--dry-run", action="store_true", help="print the commands as a shell script, run none")
    parser.add_argument(
        "--delete-data", action="store_true", help="destroy: the buckets, too, with records, artifacts and models"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
