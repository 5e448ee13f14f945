"""The command: ``python -m pipelines.run [--runner local] [--config sample] …``."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from retake import config as configuration
from retake.errors import RetakeError, UsageError

RUNNERS = ("local",)


def main(arguments: list[str] | None = None) -> int:
    """Runs the pipeline and returns the exit code: 0 completed (blessed or not), 1 failed, 2 wrong usage."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(arguments)
    try:
        config = configuration.load(options.config, _overrides(options))
        if options.show_config:
            print(configuration.as_yaml(config), end="")
            return 0
        if config.data.sample and not Path(config.data.location).exists():
            from retake import sample

            sample.draw(Path(config.data.location).parent)
        runner = importlib.import_module(f"pipelines.runners.{options.runner}")
        return runner.run(config, options, ["python", "-m", "pipelines.run", *arguments])
    except UsageError as error:
        print(f"pipelines.run: {error}", file=sys.stderr)
        return 2
    except RetakeError as error:
        print(f"pipelines.run: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("pipelines.run: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
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
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the summary as JSON, too")
    parser.add_argument("--verbose", action="store_true", help="show the libraries' own messages")
    return parser


def _overrides(options: argparse.Namespace) -> list[str]:
    places = {
        "data.location": options.data,
        "model.weights": options.weights,
        "pipeline.root": options.root,
        "pusher.destination": options.models,
    }
    given = [f"{key}={configuration.quote(value)}" for key, value in places.items() if value is not None]
    if options.data is not None:
        given.append("data.sample=false")
    return [*options.set, *given]


if __name__ == "__main__":
    sys.exit(main())
