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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from pipelines.settings import GOOGLE_NAMES
from retake.sections import PIPELINE_NAME

FUNCTION = Path(__file__).parent / "cloud_function"

SERVICES = "aiplatform artifactregistry cloudbuild cloudfunctions cloudtasks eventarc iam logging pubsub run storage"
DATAFLOW_SERVICES = "compute dataflow"

SUBMIT = "aiplatform.pipelineJobs.create,aiplatform.pipelineJobs.list"
"""All that the function may do on Vertex AI; the predefined roles allow far more."""

STORAGE_AGENT = "serviceAccount:the agent of Cloud Storage"
PROJECT_NUMBER = "NUMBER-OF-THE-PROJECT"
"""These stand for what gcloud has to be asked first: Cloud Storage's own account, and the number of the project."""

LABEL = "retake"
"""Of a bucket or registry that `create` made: whose it is."""

SHARED = "more_than_one"
"""What the label says of a bucket once another deployment uses it: no deployment has this name."""


WHAT_NEXT = """
Now build the image, push it, and put the compiled job where the function finds it:
  gcloud auth configure-docker {to.region}-docker.pkg.dev
  IMAGE={to.region}-docker.pkg.dev/{to.project}/{to.name}/retake:$(git rev-parse HEAD)
  docker build --platform linux/amd64 -f kubeflow/Dockerfile -t "$IMAGE" . && docker push "$IMAGE"
  python -m pipelines.run --runner vertex --config {pipeline} --project {to.project} --region {to.region} \\
    --bucket {to.bucket} --data gs://{to.records}/{to.prefix} --image "$IMAGE" --service-account {runner} --upload
From then on, records that land start a run, the first ones, too:
  gcloud storage cp FILE.tfrecord gs://{to.records}/{to.prefix}/"""

PATIENCE_SECONDS = 60
"""How long a grant is tried again: Google's other services may not know an account that was made just now."""


NOT_THERE = re.compile(r"not.?found|\b404\b|does not exist", re.IGNORECASE)


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
    """What is made before any role is granted on it, in this order."""
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


class Failed(Exception):
    """gcloud could not do what it should."""


class Gcloud:
    """Runs gcloud for a project, or only prints a shell script of what it would run."""

    def __init__(self, project: str, dry_run: bool) -> None:
        self.project, self.dry_run = project, dry_run
        self.asked = {  # What stands for an answer, the script's variable for it, and the question.
            STORAGE_AGENT.partition(":")[2]: ("STORAGE_AGENT", ["storage", "service-agent"]),
            PROJECT_NUMBER: ("PROJECT_NUMBER", ["projects", "describe", project, "--format=value(projectNumber)"]),
        }

    def command(self, arguments: list[str]) -> list[str]:
        for words, (variable, question) in self.asked.items():
            if any(words in argument for argument in arguments):
                answer = f"${variable}" if self.dry_run else self.call(question)
                arguments = [argument.replace(words, answer) for argument in arguments]
        return ["gcloud", *arguments, f"--project={self.project}", "--quiet"]

    def call(self, arguments: list[str]) -> str:
        command = self.command(arguments)
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        except FileNotFoundError:
            raise Failed("there is no gcloud: install it from https://cloud.google.com/sdk/docs/install") from None
        except subprocess.CalledProcessError as error:
            said = " ".join(error.stderr.split()) or f"exit code {error.returncode}"
            again = "Give the same command again: what is done stays done."
            raise Failed(f"gcloud {' '.join(arguments[:3])} …: {said}\n{again}") from None
        return done.stdout.strip()

    def shell(self, arguments: list[str]) -> str:
        # The script's variables have to be outside of single quotes.
        return re.sub(r"\$(STORAGE_AGENT|PROJECT_NUMBER)", r"""'"$\1"'""", shlex.join(self.command(arguments)))

    def do(self, what: str, arguments: list[str]) -> None:
        if self.dry_run:
            print(f"# {what}", self.shell(arguments), sep="\n", flush=True)
            return
        print(what, flush=True)
        self.call(arguments)

    def grant(self, grant: Grant) -> None:
        """Grants a role; to an account that was made just now as soon as Google's other services know it."""
        what, command = f"{grant.member.partition(':')[2]} has {grant.role}: {grant.why}", grant.command("add")
        if self.dry_run:
            again = f"tries=0\nuntil {self.shell(command)}; do"
            more = f'  [ "$tries" -lt {PATIENCE_SECONDS // 5} ] || exit 1; tries=$((tries + 1)); sleep 5'
            print(f"# {what}", again, more, "done", sep="\n", flush=True)
            return
        print(what, flush=True)
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                self.call(command)
                return
            except Failed as error:
                if not NOT_THERE.search(str(error)) or time.monotonic() > until:
                    raise
            time.sleep(5)

    def ask(self) -> None:
        """Sets the script's variables."""
        if self.dry_run:
            for variable, question in self.asked.values():
                print(f"{variable}=$({self.shell(question)})")

    def look(self, thing: Thing, wanted: bool) -> str | None:
        """What shows who made a thing; None where it is not there."""
        try:
            return self.call(question(thing))
        except Failed as error:
            # Of a bucket that is someone else's, making one of that name says more.
            if NOT_THERE.search(str(error)) or (wanted and re.search(r"\b403\b", str(error))):
                return None
            raise

    def if_there(self, thing: Thing, *then: str) -> None:
        """Begins the script's part for a thing; `$made` is what shows who made it."""
        print(f"if made=$({self.shell(question(thing))} 2>/dev/null); then", *then, sep="\n  ")

    def make(self, thing: Thing) -> None:
        """Makes a thing that is not there."""
        mine = thing.shows[1]
        if self.dry_run and thing.share:
            not_shared = f'[ -z "$made" ] || [ "$made" = {mine} ] || [ "$made" = {SHARED} ] ||'
            self.if_there(thing, not_shared, f"  {self.shell(thing.share)}")
            print("else", *map(self.shell, thing.create), sep="\n  ")
            print("fi")
            return
        if self.dry_run:
            print(f"{self.shell(thing.describe)} >/dev/null 2>&1 ||", *map(self.shell, thing.create), sep="\n  ")
            return
        made = self.look(thing, wanted=True)
        if made is None:
            print(f"{thing.what}: made", flush=True)
            for command in thing.create:
                self.call(command)
        elif thing.share and made not in ("", mine, SHARED):
            print(f"{thing.what}: used by {made}, too, so no destroy will delete it", flush=True)
            self.call(thing.share)

    def take_away(self, thing: Thing) -> None:
        """Deletes a thing that `create` made, or says what it leaves."""
        if not thing.delete:
            return
        mine, delete = thing.shows[1], self.shell(thing.delete)
        left = f"{thing.what}: left as it is: this deployment has not made it, or does not use it alone"
        if self.dry_run:
            self.if_there(thing, f'if [ "$made" = {shlex.quote(mine)} ]; then', f"  {delete}")
            print("  else", f"  echo {shlex.quote(left)}", "fi", sep="\n  ")
            print("fi")
            return
        made = self.look(thing, wanted=False)
        if made == mine:
            print(f"{thing.what}: deleted", flush=True)
            self.call(thing.delete)
        elif made is not None:
            print(f"{left}. To delete it all the same:\n  {delete}", flush=True)

    def refuse(self, thing: Thing) -> None:
        """Stops where a thing is there and is someone else's."""
        mine, delete = thing.shows[1], self.shell(thing.delete or [])
        problem = f"{thing.what} is there, and someone else's or never whole: give another --name, or say {delete}"
        if self.dry_run:
            stop = f"{{ echo {shlex.quote(problem)} >&2; exit 1; }}"
            self.if_there(thing, f'[ "$made" = {shlex.quote(mine)} ] || {stop}')
            print("fi")
        elif self.look(thing, wanted=True) not in (None, mine):
            raise Failed(problem)


def question(thing: Thing) -> list[str]:
    """Asks gcloud who made a thing."""
    return [*thing.describe, f"--format={thing.shows[0]}"]


def create(to: Settings, gcloud: Gcloud) -> None:
    """Makes what is not there, and the function what its folder holds."""
    services = f"{SERVICES} {DATAFLOW_SERVICES}" if to.dataflow else SERVICES
    apis = [f"{service}.googleapis.com" for service in services.split()]
    gcloud.do(f"services: {services}", ["services", "enable", *apis])
    gcloud.refuse(function(to))
    for thing in things(to):
        gcloud.make(thing)
    gcloud.ask()
    for grant in grants(to):
        gcloud.grant(grant)
    [deploy] = function(to).create
    gcloud.do(f"function {to.name}, which takes about three minutes", deploy)
    gcloud.grant(invoker(to))


def destroy(to: Settings, gcloud: Gcloud, data: bool) -> None:
    """Takes away what `create` made, and the buckets with all that is in them only if `data`."""
    if gcloud.dry_run:
        gcloud.ask()  # Ends the script here where gcloud cannot be asked, lest all counts as not there.
    gcloud.take_away(function(to))
    for grant in reversed(list(grants(to._replace(dataflow=True)))):  # Any call before may have been for Dataflow.
        if grant.member != STORAGE_AGENT:  # Other triggers of the project need it, too.
            revoke(grant, gcloud)
    for thing in reversed(list(things(to))):
        if data or thing.describe[0] != "storage":
            gcloud.take_away(thing)


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


def main(arguments: list[str] | None = None, prog: str = "python -m kubeflow.deploy") -> int:
    """Deploy what runs the pipeline on Vertex AI when records land, or take it away.

    Returns:
      0 (done), 1 (gcloud failed) or 2 (wrong usage).
    """
    options = _parser(prog).parse_args(arguments)
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
        print(f"kubeflow.deploy: {error}", file=sys.stderr)
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


def _parser(prog: str) -> argparse.ArgumentParser:
    bucket = r"[a-z0-9][-_a-z0-9]{1,53}[a-z0-9]"  # Leaves room for what is added to it.
    parser = argparse.ArgumentParser(
        prog=prog,
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
        type=_is(
            r"(?!.*-function$)[a-z][-a-z0-9]{3,19}[a-z0-9]", "5 to 21 of a-z, 0-9 and -, without -function at the end"
        ),
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
