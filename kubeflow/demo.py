"""The whole loop on this machine: each record file that lands in a bucket starts a run, gated against the one before.

    python -m kubeflow.demo
    python -m kubeflow.demo --records baseline.tfrecord taco_bias.tfrecord --pictures "images/hot dog" --weights FILE
    python -m kubeflow.demo --window 1

Servers on free ports stand for Google Cloud: see stand_ins.py. README.md says how they differ from the real services.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from kubeflow import stand_ins
from kubeflow.loop import PROJECT, REGION, Loop
from pipelines import vertex_job
from pipelines.google_cloud import Google
from pipelines.settings import Settings, load
from retake import config as configuration
from retake import quiet, results, sample
from retake.errors import RetakeError, UsageError
from retake.terminal import printable

RECORDS, JOBS = "demo-records", "demo-jobs"
"""The bucket that is watched, and the one in which the compiled job lies."""

DRAWN = [
    "model.weights=none",
    "trainer.start=fresh",
    "trainer.class_weights=false",
    'trainer.record_weights={"baseline*": 1, "*": 4}',
]
"""Settings for the drawn pictures. ImageNet's weights would need a network, and no training goes on from a network of
random weights; where classes are balanced, each new taco takes from the old ones what it adds."""


class Material(NamedTuple):
    """The records, pictures and settings of the demonstration.

    Fields:
      records: the files that land, one after the other.
      pictures: a folder to ask both models about.
    """

    records: list[Path]
    pictures: Path


class Servers(NamedTuple):
    """The addresses of what stands for Google Cloud, each `http://127.0.0.1:PORT`."""

    storage: str
    function: str
    vertex: str


def main(arguments: list[str] | None = None, prog: str = "python -m kubeflow.demo") -> int:
    """Show on this machine how records that land in a bucket start runs on Vertex.

    Returns:
      0, 1 (it failed), 2 (wrong usage) or 130 (interrupted).
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(prog).parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # However it ends, its servers do, too.
    console = Console(highlight=False)
    try:
        show(options, console)
    except RetakeError as error:
        print(printable(f"kubeflow.demo: {error}"), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        again = shlex.join([*prog.split(), *arguments])
        print(f"Interrupted; nothing goes on. Begin again with:\n  {again}")
        return 130
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show the whole loop on this machine: records land, a run starts, its model is gated and pushed.",
    )
    parser.add_argument(
        "--records",
        type=Path,
        nargs=2,
        metavar=("BASELINE", "BIAS"),
        help="record files that land one after the other (default: drawn pictures, then drawn hard tacos)",
    )
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="ask both models about these (default: drawn hot dogs)"
    )
    parser.add_argument(
        "--config", default="hotdog", metavar="NAME", help="a file of configs/, or a path (default: hotdog)"
    )
    parser.add_argument("--weights", metavar="PATH", help="weights file, imagenet or none: model.weights")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path("runs/vertex-demo"),
        metavar="DIR",
        help="emptied first; holds all that comes of it (default: runs/vertex-demo)",
    )
    parser.add_argument(
        "--window",
        type=int,
        choices=range(61),
        default=0,
        metavar="MINUTES",
        help="one run reads all files of so many minutes; 0 is a run for each file at once (default: 0)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any setting, such as trainer.epochs=3"
    )
    return parser


@contextmanager
def _root(root: Path) -> Iterator[None]:
    """Keeps the folder for this demo alone, and empties it of what an earlier one left.

    Raises:
      RetakeError: another demo works there, or it holds something else.
    """
    mark = root / "demo.lock"
    try:
        if root.exists() and any(root.iterdir()) and not mark.exists():
            raise RetakeError(f"{root} holds something other than an earlier demo; give another --root")
        root.mkdir(parents=True, exist_ok=True)
        lock = mark.open("a")
    except OSError as error:
        raise RetakeError(f"{root} cannot be written to ({error.strerror}); give another --root") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetakeError(f"another demo works in {root}; give another --root") from None
        for path in root.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != mark:
                path.unlink()
        yield


def show(options: argparse.Namespace, console: Console) -> None:
    """Shows the loop.

    Raises:
      RetakeError: something is missing, a server does not start, a run fails or pushes no model.
    """
    own = _own_material(options)
    if not stand_ins.FRAMEWORK.exists():
        missing = f"the function's environment {stand_ins.FRAMEWORK.parents[1]} is missing"
        raise RetakeError(f"{missing}; make it with: make setup-function")
    root = options.root.resolve()
    servers = Servers(*(f"http://{stand_ins.HOST}:{port}" for port in stand_ins.free_ports(len(Servers._fields))))
    config = _config(options, root, servers)
    with _root(options.root):
        console.print(f"Compiling the pipeline {config.pipeline.name} …", style="dim")
        compiled = vertex_job.compile(config)
        material = own or _drawn(root)
        with ExitStack() as stack:
            queue = stack.enter_context(stand_ins.CloudTasks())
            for name, command, environment in _commands(root, servers, config, options.window, queue.url):
                url = getattr(servers, name)
                stack.enter_context(stand_ins.serving(url, command, environment, root / "logs" / f"{name}.log"))
                console.print(f"[green]✓[/] {name:<17} {url}")
            console.print(f"Watch the runs at {servers.vertex}")
            bucket = _buckets(servers.storage, compiled, config)
            loop = Loop(root, servers.function, Google(config), compiled, bucket, console, options.window)
            runs = [loop.land(file, f"{config.pipeline.name}/{file.name}") for file in material.records]
        models = {file.stem: Path(str(run.pushed_model)) for file, run in zip(material.records, runs, strict=True)}
        quiet.loggers()
        print(f"\n{results.compare(material.pictures, models, options.root / 'results')}")
        print(f"\n{shift(json.loads((root / 'results.json').read_text()))}")
    again = ["python", "-m", "kubeflow.emulator", "--root", str(options.root / "vertex")]
    print(f"To look at both runs again:\n  {shlex.join(again)}")


def _own_material(options: argparse.Namespace) -> Material | None:
    """The user's own records and pictures, or None.

    Raises:
      UsageError: one of the options is missing, or names what is not there.
    """
    if (options.records is None) != (options.pictures is None):
        raise UsageError("--records and --pictures go together: both models are asked about the pictures")
    if options.records is None:
        return None
    for file in options.records:
        if not file.is_file():
            raise UsageError(f"there is no record file {file}; make one with: retake records pack IMAGES_DIR {file}")
    if options.records[0].name == options.records[1].name:
        raise UsageError(f"both record files are named {file.name}: the second would take the first one's place")
    if not options.pictures.is_dir():
        raise UsageError(f"there is no folder {options.pictures}; name a folder of pictures with --pictures")
    for path in (*options.records, options.pictures):
        if path.resolve().is_relative_to(options.root.resolve()):
            raise UsageError(f"{path} lies in {options.root}, which is emptied first; give another --root")
    return Material(options.records, options.pictures)


def _drawn(root: Path) -> Material:
    folder = root / "sample"
    sample.draw(folder)
    baseline = shutil.copy(folder / "records" / "drawn.tfrecord", root / "baseline.tfrecord")
    bias = root / "taco_bias.tfrecord"
    sample.draw_hard_tacos(bias)
    return Material([Path(baseline), bias], folder / "hot dog")


def _config(options: argparse.Namespace, root: Path, servers: Servers) -> Settings:
    settings = [*([] if options.records else DRAWN), *options.set]
    name = configuration.load(options.config, settings).pipeline.name
    places = {
        # TensorFlow's own client of Cloud Storage knows no other address than Google's.
        "data.location": str(root / "buckets" / RECORDS / name),
        "model.weights": options.weights,
        "pipeline.root": str(root / "runs"),
        "pusher.destination": str(root / "models"),
        "vertex.project": PROJECT,
        "vertex.region": REGION,
        "vertex.image": "this-machine",
        "vertex.endpoint": servers.vertex,
    }
    overrides = [f"{key}={configuration.quote(value)}" for key, value in places.items() if value is not None]
    return vertex_job.placed(load(options.config, [*settings, *overrides, "data.sample=false"]))


def _job(config: Settings) -> str:
    return f"runs/{config.pipeline.name}/{vertex_job.SPECIFICATION}"


def _commands(
    root: Path, servers: Servers, config: Settings, window: int, queue: str
) -> list[tuple[str, list[str], dict[str, str]]]:
    """Each server's name, command and environment."""
    storage, function, local_vertex = (int(url.rpartition(":")[2]) for url in servers)
    settings = {
        "STORAGE_EMULATOR_HOST": servers.storage,
        "RETAKE_PROJECT": PROJECT,
        "RETAKE_REGION": REGION,
        "RETAKE_BUCKET": RECORDS,
        "RETAKE_PREFIX": config.pipeline.name,
        "RETAKE_JOB": f"gs://{JOBS}/{_job(config)}",
        "RETAKE_DATA": config.data.location,
        "RETAKE_WINDOW_MINUTES": str(window),
        "RETAKE_VERTEX_ENDPOINT": servers.vertex,
        "RETAKE_TASKS_ENDPOINT": queue,
        "RETAKE_QUEUE": f"projects/{PROJECT}/locations/{REGION}/queues/retake",
        "RETAKE_URL": servers.function,
        "RETAKE_INVOKER": f"retake-trigger@{PROJECT}.iam.gserviceaccount.com",
    }
    return [
        ("storage", stand_ins.storage_command(root, storage), {**os.environ, "STORAGE_DIR": "buckets"}),
        ("vertex", stand_ins.vertex_command(root / "vertex", local_vertex), {**os.environ}),
        ("function", stand_ins.function_command(function), stand_ins.function_environment(root, settings)),
    ]


def _buckets(url: str, compiled: vertex_job.Compiled, config: Settings) -> Any:
    """The watched bucket, beside one that holds the compiled job."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import storage

    client = storage.Client(PROJECT, AnonymousCredentials(), client_options={"api_endpoint": url})
    client.create_bucket(JOBS).blob(_job(config)).upload_from_string(compiled.text, "application/json")
    return client.create_bucket(RECORDS)


def shift(results: dict[str, Any]) -> str:
    """Describes which class the last model of results.json predicts more often than the first model."""
    models = [model["mean"] for model in results["models"].values()]
    risen = {name: share - models[0].get(name, 0) for name, share in models[-1].items()}
    name = max(risen, key=risen.__getitem__)
    return f"What rose most: {name}, from {models[0].get(name, 0):.1%} to {models[-1][name]:.1%}."


if __name__ == "__main__":
    sys.exit(main())
