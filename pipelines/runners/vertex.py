"""The Vertex runner: compiles the pipeline to a job of Vertex AI Pipelines, submits it and follows it to its end.

`vertex.endpoint` can name a local Vertex, whose nodes see this machine's folders. It needs no project, no bucket and no
credentials.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.console import Console

from pipelines import progress, vertex_job
from pipelines.google_cloud import Google
from pipelines.runners.base import Run, Runner, Task
from pipelines.settings import Settings
from retake import summary as summaries
from retake.summary import RESOLVERS, Node, NodeState, Summary
from retake.terminal import printable

_STATES: dict[str, NodeState] = {
    "SUCCEEDED": "complete",
    "SKIPPED": "cached",
    "FAILED": "failed",
    "RUNNING": "running",
    "CANCEL_PENDING": "running",
    "CANCELLING": "running",
    "CANCELLED": "cancelled",
}
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")


@dataclass
class Vertex(Runner):
    """Submits the pipeline to Vertex AI, or to a Vertex on this machine.

    Relative places lie in the bucket. With the endpoint of a local Vertex, they are folders of this machine, and
    project, region, bucket and image are not needed.
    """

    SETTINGS: ClassVar[dict[str, str]] = {
        name: f"vertex.{name}" for name in ("project", "region", "bucket", "image", "service_account", "endpoint")
    }

    dry_run: bool = False
    upload: bool = False
    wait: bool = False

    @classmethod
    def add_options(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--project", metavar="ID", help="Google Cloud project: vertex.project")
        group.add_argument("--region", metavar="NAME", help="such as europe-west4: vertex.region")
        group.add_argument("--bucket", metavar="NAME", help="in that region: vertex.bucket")
        group.add_argument("--image", metavar="IMAGE", help="holds this project's code: vertex.image")
        group.add_argument("--service-account", metavar="EMAIL", help="runs the nodes: vertex.service_account")
        group.add_argument("--endpoint", metavar="URL", help="of a local Vertex: vertex.endpoint")
        group.add_argument("--dry-run", action="store_true", help="print the job specification and submit nothing")
        group.add_argument(
            "--upload", action="store_true", help="put the job where the Cloud Function finds it and submit nothing"
        )
        group.add_argument("--wait", action="store_true", help="follow the job to its end")

    @property
    def waits(self) -> bool:  # type: ignore[override]
        return self.wait

    def sees_folders(self, config: Settings) -> bool:
        return config.vertex.is_local

    def place(self, config: Settings) -> Settings:
        return vertex_job.placed(config)

    @contextmanager
    def session(self, task: Task, verbose: bool) -> Iterator[Console]:
        """Stops Google's libraries from printing the messages of `progress` a second time, on stderr."""
        logger = logging.getLogger("retake")
        before, logger.propagate = logger.propagate, False
        try:
            yield Console(highlight=False)
        finally:
            logger.propagate = before

    def run(self, task: Task, console: Console) -> Run:
        """Compiles the pipeline, and submits it unless this is a dry run.

        Raises:
          RetakeError: Google Cloud refuses the job or cannot be reached; nothing was submitted.
        """
        config = task.config
        if self.dry_run:
            compiled = vertex_job.compile(config)
            print(compiled.text, end="")
            print(
                printable(
                    f"{config.pipeline.name}: {len(compiled.nodes)} nodes · image {config.vertex.image}\n"
                    f"root {config.pipeline.root}\ndata {config.data.location}\nmodels {config.pusher.destination}\n"
                    "This was a dry run: nothing was submitted."
                ),
                file=sys.stderr,
            )
            return Run(config.pipeline.name)
        google = Google(config)
        google.check("" if self.upload else config.data.location)  # The first records may arrive later.
        compiled = vertex_job.compile(config)
        google.upload(compiled, config)
        if self.upload:
            file = f"{config.pipeline.root}/{vertex_job.SPECIFICATION}"
            console.print(f"{config.pipeline.name} · job in {file}, nothing was submitted", soft_wrap=True)
            return Run(file)
        name = google.submit(compiled.job)
        console.print(f"[bold]{config.pipeline.name}[/] · job {name}", soft_wrap=True)
        console.print(google.link(name), soft_wrap=True)
        if not self.wait:
            return Run(name)
        try:
            job = follow(google, name, compiled.nodes, progress.Progress(console))
        except KeyboardInterrupt:
            return Run(name, interrupted=True, advice=f"Interrupted. The job goes on: {google.link(name)}")
        summary = summarize(job, compiled.nodes, google.failure(job))
        google.write(summaries.FILE.format(run_id=summary.run_id), summary.model_dump_json(indent=2) + "\n")
        return Run(name, summary)


def follow(google: Google, name: str, nodes: list[str], show: progress.Progress) -> Any:
    """Shows the nodes of a job as they end.

    Returns:
      The PipelineJob at its end.
    """
    shown: set[str] = set()
    with show.node("Vertex"):
        while True:
            job = google.job(name)
            now = _nodes(job, nodes)
            for node in now:
                if node.id not in shown and node.state in ("complete", "cached", "failed"):
                    show.done(node.state, node.id, node.seconds)
                    shown.add(node.id)
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
      failure: the reason of the job's failure, if it failed.
    """
    outputs: dict[str, dict[str, Any]] = {}
    for task in job.job_detail.task_details:
        if not any(_is_of(task.task_name, resolver) for resolver in RESOLVERS):
            for key, output in task.outputs.items():
                for artifact in output.artifacts:
                    outputs[key] = dict(artifact.metadata or {})
    complete = job.state.name == "PIPELINE_STATE_SUCCEEDED"
    return summaries.of_run(job.name.rpartition("/")[2], "vertex", complete, _nodes(job, nodes), outputs, failure)


def _nodes(job: Any, nodes: list[str]) -> list[Node]:
    """The nodes' states. A resolver always runs; it counts as cached if all nodes before it are cached."""
    results: list[Node] = []
    for node in nodes:
        tasks = [task for task in job.job_detail.task_details if _is_of(task.task_name, node)]
        states = {_STATES.get(task.state.name, "not run") for task in tasks}
        order: tuple[NodeState, ...] = ("failed", "cancelled", "running", "not run", "complete", "cached")
        state = next((state for state in order if state in states), "not run")
        if node in RESOLVERS and state == "complete" and all(before.cached for before in results):
            state = "cached"
        ended = [task for task in tasks if task.start_time and task.end_time]
        seconds = sum((task.end_time - task.start_time).total_seconds() for task in ended) if ended else None
        results.append(Node(id=node, state=state, seconds=seconds, cached=state == "cached"))
    return results


def _is_of(task: str, node: str) -> bool:
    """A resolver NODE is the tasks NODE-model-resolver and NODE-model-blessing-resolver."""
    return task == node or task.startswith(f"{node}-")
