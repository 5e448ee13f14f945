"""The ``retake`` command: records in, answers out. Heavy imports wait until a subcommand needs them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from retake.errors import RetakeError, UsageError
from retake.terminal import Parser, in_one_line, printable

TRUST = "load a model that this account has not pushed: it is code, and may read and write your files"


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code: 0, 1 (it failed) or 2 (wrong usage)."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except RetakeError as error:
        print(printable(f"retake: {error}"), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("retake: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="retake", description="Records for a Retake pipeline, and its models' answers.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sample = commands.add_parser("sample", help="draw the embedded pictures and pack them")
    sample.add_argument(
        "folder", type=Path, nargs="?", default=Path("data/sample"), help="where to (default: data/sample)"
    )
    sample.set_defaults(run=_sample)

    group = commands.add_parser("records", help="pack pictures into TFRecords, look into TFRecords")
    records = group.add_subparsers(required=True, metavar="COMMAND")
    pack = records.add_parser("pack", help="class folders of pictures → one shuffled TFRecord")
    pack.add_argument("images", type=Path, metavar="IMAGES_DIR", help="folder with one folder of pictures per class")
    pack.add_argument("out", type=Path, metavar="OUT.tfrecord", help="ends in .tfrecord or .tfrecord.gz")
    pack.add_argument("--config", required=True, metavar="NAME", help="configuration that names the classes")
    pack.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FOLDER=CLASS",
        help='pack a folder as a class: "hard taco=taco"',
    )
    pack.add_argument("--force", action="store_true", help="replace a record file that exists")
    pack.set_defaults(run=_pack)
    inspect = records.add_parser("inspect", help="counts, classes, sizes, duplicates and unreadable examples of a file")
    inspect.add_argument("file", type=Path, metavar="FILE", help="a record file")
    inspect.set_defaults(run=_inspect)

    results = commands.add_parser(
        "results", help="mean predicted distribution of pushed models over a folder of pictures"
    )
    results.add_argument("--images", type=Path, required=True, metavar="DIR", help="folder of pictures to ask about")
    results.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=DIR",
        help="a name for the table, and models/PIPELINE or one of its versions; repeat it to compare models",
    )
    results.add_argument(
        "--output",
        type=Path,
        metavar="PREFIX",
        help="write a chart and the numbers to PREFIX.png and PREFIX.json",
    )
    results.add_argument("--trust", action="store_true", help=TRUST)
    results.set_defaults(run=_results)

    predict = commands.add_parser("predict", help="a pushed model's answer to single pictures")
    predict.add_argument("model", type=Path, metavar="MODEL", help="models/PIPELINE or one of its versions")
    predict.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="a file, or a folder of files")
    predict.add_argument("--trust", action="store_true", help=TRUST)
    predict.set_defaults(run=_predict)
    return parser


def _sample(options: argparse.Namespace) -> None:
    from retake import sample

    sample.draw(options.folder)


def _pack(options: argparse.Namespace) -> None:
    from retake import config, records

    data = config.load(options.config).data
    mapping = _pairs(options.map, "--map", "FOLDER=CLASS")
    limits = data.max_pixels, data.max_bytes
    print(printable(records.pack(options.images, options.out, data.classes, mapping, *limits, options.force)))


def _inspect(options: argparse.Namespace) -> None:
    from retake import records

    print(printable(records.inspect(options.file)))


def _results(options: argparse.Namespace) -> None:
    from retake import results

    models = {name: Path(folder) for name, folder in _pairs(options.model, "--model", "NAME=DIR").items()}
    print(printable(results.compare(options.images, models, options.output, options.trust)))


def _predict(options: argparse.Namespace) -> None:
    from retake import results

    table, skipped = results.predict(options.model, options.pictures, options.trust)
    print(printable(table))
    if skipped:
        reasons = [f"  {in_one_line(file)}: {reason}" for file, reason in skipped.items()]
        raise RetakeError("\n".join(["not predicted:", *reasons]))


def _pairs(texts: list[str], option: str, form: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (separator and name and value):
            raise UsageError(f"{option} {text!r} must read {form}")
        if name in pairs:
            raise UsageError(f"{option} names {name!r} twice")
        pairs[name] = value
    return pairs


if __name__ == "__main__":
    sys.exit(main())
