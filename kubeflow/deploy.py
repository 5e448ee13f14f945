"""Deploys what runs the pipeline on Vertex AI when records land, or takes it away again, with gcloud.

    python -m kubeflow.deploy --project P --region R --bucket B --pipeline hotdog --dry-run
    python -m kubeflow.deploy destroy --project P --region R --bucket B --pipeline hotdog

Again and again, too: what is there is left as it is, but for the function, which becomes what its folder holds.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import sys
from collections.abc import Callable

from kubeflow.deployment import STORAGE_AGENT, Grant, Settings, function, grants, invoker, things
from kubeflow.gcloud import NOT_THERE, Failed, Gcloud
from pipelines.settings import GOOGLE_NAMES
from pipelines.vertex_job import SPECIFICATION
from retake.sections import PIPELINE_NAME, PipelineSection

SERVICES = "aiplatform artifactregistry cloudbuild cloudfunctions cloudtasks eventarc iam logging pubsub run storage"
DATAFLOW_SERVICES = "compute dataflow"

WHAT_NEXT = """
Now build the image, push it, and put the compiled job where the function finds it:
  gcloud auth configure-docker {to.region}-docker.pkg.dev
  IMAGE={to.region}-docker.pkg.dev/{to.project}/{to.name}/retake:$(git rev-parse HEAD)
  docker build --platform linux/amd64 -f kubeflow/Dockerfile -t "$IMAGE" . && docker push "$IMAGE"
  python -m pipelines.run --runner vertex --config {pipeline} --project {to.project} --region {to.region} \\
    --bucket {to.bucket} --root {root} --data gs://{to.records}/{to.prefix} \\
    --image "$IMAGE" --service-account {runner} --upload
From then on, records that land start a run, the first ones, too:
  gcloud storage cp FILE.tfrecord gs://{to.records}/{to.prefix}/"""


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
        gcloud.ask()  # If gcloud fails, the script ends here. Otherwise, everything would count as missing.
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
    parser = _parser(prog)
    options = parser.parse_args(arguments)
    root = _root(options.root.replace("{name}", options.pipeline), options.bucket)
    if not root:
        parser.error(f"--root {options.root} does not lie in gs://{options.bucket}, all that the accounts may write in")
    to = Settings(
        project=options.project,
        region=options.region,
        bucket=options.bucket,
        records=options.records.partition("/")[0] if options.records else f"{options.bucket}-records",
        prefix=options.records.partition("/")[2].strip("/") if options.records else options.pipeline,
        job=f"{root}/{SPECIFICATION}",
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
        print(WHAT_NEXT.format(to=to, pipeline=options.pipeline, root=root, runner=to.account("runner")))
    return 0


def _root(root: str, bucket: str) -> str | None:
    """The folder in which the Vertex runner puts a pipeline's job; None if the pipeline's root is not in the bucket."""
    below = root.removeprefix(f"gs://{bucket}/")
    if "://" in below or below.startswith("/") or ".." in below.split("/"):
        return None
    return f"gs://{bucket}/{posixpath.normpath(below)}"


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
        "--root",
        type=_is(r"[-_./=:{}A-Za-z0-9]+", "a folder or a gs:// place"),
        default=PipelineSection.model_fields["root"].default,
        metavar="PLACE",
        help="the root of the pipeline, as its configuration or the runner's --root says it (default: %(default)s)",
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
