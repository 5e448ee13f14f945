"""The command: ``python -m pipelines.run [--runner local] [--config sample] …``."""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import sys
from pathlib import Path

from retake import config as configuration
from retake import handover
from retake.errors import RetakeError, UsageError
from retake.terminal import Parser, printable

RUNNERS = ("local", "airflow", "vertex", "kubeflow")
INTERRUPTED = 130

FOR_RUNNERS = {
    **dict.fromkeys(("project", "region", "bucket", "service_account", "endpoint", "wait"), ("vertex",)),
    **dict.fromkeys(("image", "dry_run"), ("vertex", "kubeflow")),
    "definitions": ("airflow",),
    "host": ("kubeflow",),
    **dict.fromkeys(("summary", "require_blessing"), ("local", "vertex")),
    "verbose": ("local",),
}
"""Which runners an option is for; those that are not here are for all."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the pipeline.

    Returns:
      0 (completed, blessed or not), 1 (failed), 2 (wrong usage), 3 (not blessed, with --require-blessing) or 130
      (interrupted).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = _parser()
    options = parser.parse_args(arguments)
    command = shlex.join([_python(), "-m", "pipelines.run", *arguments])
    try:
        if __name__ == "__main__":
            handover.hand_over()
        _check(options, parser)
        config = configuration.load(options.config, _overrides(options))
        if options.show_config:
            print(configuration.as_yaml(config), end="")
            return 0
        sees_folders = options.runner != "vertex" or config.vertex.is_local
        if config.data.sample and sees_folders and not Path(config.data.location).exists():
            from retake import sample

            sample.draw(Path(config.data.location).parent)
        runner = importlib.import_module(f"pipelines.runners.{options.runner}")
        return runner.run(config, options, command)
    except RetakeError as error:
        print(printable(f"pipelines.run: {error}"), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(printable(f"Interrupted. Resume with:\n  {command}"))
        return INTERRUPTED


def _python() -> str:
    """How a person calls this interpreter from this folder: by its name where the environment is activated."""
    return "python" if shutil.which("python") == sys.executable else os.path.relpath(sys.executable)


def _have_streams() -> None:
    """Where stdout or stderr is closed, as after `>&-`, puts nowhere in its place, lest a file takes its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python -m pipelines.run",
        description="Train an image classifier on labelled records, gate it against the model in service, push it.",
    )
    parser.add_argument("--runner", choices=RUNNERS, default="local", help="where the nodes run (default: local)")
    parser.add_argument(
        "--config", default="sample", metavar="NAME", help="a file of configs/, or a path (default: sample)"
    )
    parser.add_argument("--data", metavar="DIR", help="folder of TFRecords: data.location")
    parser.add_argument("--weights", metavar="PATH", help="weights file, imagenet or none: model.weights")
    parser.add_argument("--root", metavar="DIR", help="artifacts, metadata and logs: pipeline.root")
    parser.add_argument("--models", metavar="DIR", help="pushed versions: pusher.destination")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any setting, such as trainer.epochs=3",
    )
    parser.add_argument("--show-config", action="store_true", help="print the whole configuration and stop")
    parser.add_argument(
        "--definitions",
        type=Path,
        default=Path("dags/definitions"),
        metavar="DIR",
        help="airflow: where the DAG file looks for compiled pipelines (default: dags/definitions)",
    )
    vertex = parser.add_argument_group(
        "vertex",
        "Places that are neither absolute nor gs:// lie in the bucket; with the endpoint of a local Vertex they are "
        "folders, and project, region, bucket and image are not needed.",
    )
    vertex.add_argument("--project", metavar="ID", help="Google Cloud project: vertex.project")
    vertex.add_argument("--region", metavar="NAME", help="such as europe-west4: vertex.region")
    vertex.add_argument("--bucket", metavar="NAME", help="in that region: vertex.bucket")
    vertex.add_argument("--image", metavar="IMAGE", help="holds this project's code: vertex.image or kubeflow.image")
    vertex.add_argument("--service-account", metavar="EMAIL", help="runs the nodes: vertex.service_account")
    vertex.add_argument("--endpoint", metavar="URL", help="of a local Vertex: vertex.endpoint")
    vertex.add_argument("--dry-run", action="store_true", help="print the job specification and submit nothing")
    vertex.add_argument("--wait", action="store_true", help="follow the job to its end")
    parser.add_argument("--host", metavar="URL", help="of Kubeflow Pipelines: kubeflow.host")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the summary as JSON, too")
    parser.add_argument(
        "--require-blessing",
        action="store_true",
        help="exit with 3 where the model was not blessed; for vertex together with --wait",
    )
    parser.add_argument("--verbose", action="store_true", help="show the libraries' own messages")
    return parser


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for name, runners in FOR_RUNNERS.items():
        if options.runner not in runners and getattr(options, name) != parser.get_default(name):
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is not for --runner {options.runner}, only for {' and '.join(runners)}")
    if options.require_blessing and options.runner == "vertex" and not options.wait:
        raise UsageError("--require-blessing needs --wait, without which nobody waits for the verdict")


def _overrides(options: argparse.Namespace) -> list[str]:
    places = {
        "data.location": options.data,
        "model.weights": options.weights,
        "pipeline.root": options.root,
        "pusher.destination": options.models,
        "vertex.project": options.project,
        "vertex.region": options.region,
        "vertex.bucket": options.bucket,
        f"{'kubeflow' if options.runner == 'kubeflow' else 'vertex'}.image": options.image,
        "vertex.service_account": options.service_account,
        "vertex.endpoint": options.endpoint,
        "kubeflow.host": options.host,
    }
    given = [f"{key}={configuration.quote(value)}" for key, value in places.items() if value is not None]
    if options.data is not None:
        given.append("data.sample=false")
    return [*options.set, *given]


if __name__ == "__main__":
    _have_streams()
    code = main()
    if code == INTERRUPTED:  # Threads of Beam and TensorFlow would hold up the exit; all that goes on is on disk.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
