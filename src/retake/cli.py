"""The `retake` command. Heavy imports wait until a subcommand needs them.

Other packages add subcommands by entry points of the group `retake.commands`: NAME = "MODULE:FUNCTION [EXTRA]". The
function takes the arguments and `prog`, and returns the exit code. The first line of its docstring is its help. EXTRA
names what the command needs besides the library.
"""

from __future__ import annotations

import argparse
import ast
import sys
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path

from retake.errors import RetakeError, UsageError
from retake.terminal import INTERRUPTED, Parser, in_one_line, printable, run_command, typed

COMMANDS = "retake.commands"
"""The group of entry points."""

_MODULES = {"pipeline": "tfx"}
"""Extra → a module that is there where the extra is installed."""

TRUST = "load a model that this account has not pushed: it is code, and may read and write your files"


def main(arguments: list[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code: 0, 1 (it failed), 2 (wrong usage) or 130 (interrupted)."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        words = typed() or arguments
        for point in entry_points(group=COMMANDS):
            if words[:1] == [point.name]:
                if lacking := _lacking(point):
                    raise UsageError(
                        f"retake {point.name} needs the extra `{lacking}`, which is not installed: in the project's "
                        f"folder, run pip install '.[{lacking}]', or make setup"
                    )
                return int(point.load()(words[1:], prog=f"retake {point.name}") or 0)
        options = _parser().parse_args(arguments)
        options.run(options)
    except RetakeError as error:
        print(printable(f"retake: {error}"), file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("retake: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="retake", description="Train, gate and push an image classifier, again and again; ask its models."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for point in entry_points(group=COMMANDS):
        if about := _about(point):
            needs = f" (needs retake[{lacking}])" if (lacking := _lacking(point)) else ""
            commands.add_parser(point.name, help=f"{about}{needs}", add_help=False)

    init = commands.add_parser("init", help="write a configuration for folders of pictures")
    init.add_argument("name", metavar="NAME", help="of the pipeline, such as birds")
    init.add_argument("photos", type=Path, metavar="PHOTOS", help="folder with one folder of pictures for each class")
    init.set_defaults(run=_init)

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

    results = commands.add_parser("results", help="compare what pushed models predict for a folder of pictures")
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

    predict = commands.add_parser("predict", help="ask a pushed model about single pictures")
    predict.add_argument("model", type=Path, metavar="MODEL", help="models/PIPELINE or one of its versions")
    predict.add_argument("pictures", type=Path, nargs="+", metavar="PICTURE", help="a file, or a folder of files")
    predict.add_argument("--trust", action="store_true", help=TRUST)
    predict.set_defaults(run=_predict)
    return parser


def _lacking(point: EntryPoint) -> str | None:
    """The extra that a command needs and this environment has not."""
    return next((extra for extra in point.extras if find_spec(_MODULES[extra]) is None), None)


def _about(point: EntryPoint) -> str | None:
    """A command's help text, read without importing its module; None if the module is not installed."""
    try:
        spec = find_spec(point.module)
    except ModuleNotFoundError:
        return None
    if not spec or not spec.origin:
        return None
    for node in ast.parse(Path(spec.origin).read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == point.attr:
            first = (ast.get_docstring(node) or "").partition("\n")[0].rstrip(".")
            return first[:1].lower() + first[1:]
    return None


def _init(options: argparse.Namespace) -> None:
    from retake import project

    print(printable(project.begin(options.name, options.photos)))


def _sample(options: argparse.Namespace) -> None:
    from retake import sample

    sample.draw(options.folder)


def _pack(options: argparse.Namespace) -> None:
    from retake import config, packing

    data = config.load(options.config).data
    mapping = _pairs(options.map, "--map", "FOLDER=CLASS")
    limits = data.max_pixels, data.max_bytes
    print(printable(packing.pack(options.images, options.out, data.classes, mapping, *limits, options.force)))


def _inspect(options: argparse.Namespace) -> None:
    from retake import inspection

    print(printable(inspection.inspect(options.file)))


def _results(options: argparse.Namespace) -> None:
    from retake import quiet, results

    quiet.loggers()
    models = {name: Path(folder) for name, folder in _pairs(options.model, "--model", "NAME=DIR").items()}
    print(printable(results.compare(options.images, models, options.output, options.trust)))


def _predict(options: argparse.Namespace) -> None:
    from retake import quiet, results

    quiet.loggers()
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


def command() -> None:
    """The entry point of the installed script."""
    run_command(main)


if __name__ == "__main__":
    command()
