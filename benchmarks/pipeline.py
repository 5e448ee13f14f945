"""Compare the pipeline with a hand-written script: time, memory, and the time of each node.

Run the benchmark alone on the machine; it takes about eight minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table

EPOCHS = 20
"""Epochs of a classic notebook with early stopping. One epoch is measured; the others are extrapolated."""


class Measured(NamedTuple):
    seconds: float
    gigabytes: float
    output: str


def main(images: Path, weights: Path) -> None:
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        records, doubled = work / "records", work / "doubled"
        pack = measure("retake.cli", "records", "pack", str(images), str(records / "baseline.tfrecord"), *HOTDOG)
        double(images, work / "again")
        doubled.mkdir()
        os.link(records / "baseline.tfrecord", doubled / "baseline.tfrecord")
        measure("retake.cli", "records", "pack", str(work / "again"), str(doubled / "again.tfrecord"), *HOTDOG)

        console.print("plain Keras, frozen features …")
        plain = measure("benchmarks.plain_keras", "frozen", str(images), str(weights), str(work / "plain"))
        console.print("this pipeline …")
        first, summary = pipeline(records, weights, work, "first")
        console.print("this pipeline again, nothing new …")
        again, _ = pipeline(records, weights, work, "first")
        console.print("this pipeline, twice the pictures …")
        twice, doubled_summary = pipeline(doubled, weights, work, "twice")
        console.print("plain Keras, one epoch of the whole network …")
        whole = measure("benchmarks.plain_keras", "whole", str(images), str(weights), str(work / "whole"))
        help_ = measure("pipelines.run", "--help")

    frozen, epoch = (json.loads(run.output.splitlines()[-1]) for run in (plain, whole))
    extrapolated = whole.seconds + (EPOCHS - 1) * epoch["epoch"]
    table = Table("", "seconds", "peak GB", "accuracy", title="1,200 pictures, EfficientNetV2B0")
    rows = [
        ("a plain Keras, frozen features", plain, frozen["accuracy"]),
        ("b this pipeline", first, summary["metrics"]["accuracy"]),
        ("b again, all cached", again, None),
        ("b with twice the pictures", twice, None),
        ("c plain Keras, whole network, 1 epoch", whole, epoch["accuracy"]),
        ("retake records pack", pack, None),
        ("--help", help_, None),
    ]
    for name, run, accuracy in rows:
        table.add_row(name, f"{run.seconds:.1f}", f"{run.gigabytes:.2f}", "" if accuracy is None else f"{accuracy:.3f}")
    console.print(table)
    console.print(f"b / a                  {first.seconds / plain.seconds:.2f}   (at most 2.0)")
    console.print(f"c × {EPOCHS} epochs / b       {extrapolated / first.seconds:.1f}   (at least 10)")
    console.print(f"memory, twice / once   {twice.gigabytes / first.gigabytes:.2f}   (at most 1.15)")
    console.print(f"pictures, twice / once {pictures(doubled_summary)} / {pictures(summary)}")
    nodes = Table("node", "seconds", "share", title="where b's time goes")
    accounted = sum(node["seconds"] or 0 for node in summary["nodes"])
    for node in summary["nodes"]:
        nodes.add_row(node["id"], f"{node['seconds']:.1f}", f"{node['seconds'] / first.seconds:.0%}")
    outside = first.seconds - accounted
    nodes.add_row("start, imports, summary", f"{outside:.1f}", f"{outside / first.seconds:.0%}")
    console.print(nodes)


HOTDOG = ("--config", "hotdog")


def pipeline(records: Path, weights: Path, work: Path, name: str) -> tuple[Measured, Any]:
    places = ["--root", str(work / name), "--models", str(work / f"{name}-models"), "--data", str(records)]
    backbone = ["--weights", str(weights), "--set", "model.backbone=EfficientNetV2B0"]
    summary = work / f"{name}.json"
    run = measure("pipelines.run", *HOTDOG, *places, *backbone, "--summary", str(summary))
    return run, json.loads(summary.read_text())


def pictures(summary: Any) -> int:
    return sum(number for classes in summary["examples"].values() for number in classes.values())


def measure(module: str, *arguments: str) -> Measured:
    """Runs a module in a separate process, and measures its wall time and peak memory."""
    with tempfile.TemporaryFile("w+") as output:
        begun = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=output, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        sys.exit(f"{module} {' '.join(arguments)} failed:\n{text}")
    return Measured(seconds, peak(usage), text)


def peak(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


def double(images: Path, out: Path) -> None:
    """Writes a mirrored copy of each picture, which counts as a different picture."""
    for folder in ("food", "sandwich", "taco"):
        (out / folder).mkdir(parents=True)
        for path in track(sorted((images / folder).iterdir()), f"mirroring {folder}", transient=True):
            content = io.BytesIO()
            with Image.open(path) as picture:
                picture.convert("RGB").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(content, "JPEG", quality=90)
            (out / folder / path.name).write_bytes(content.getvalue())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("images", type=Path, metavar="IMAGES", help="has the folders food, sandwich and taco")
    parser.add_argument("weights", type=Path, metavar="WEIGHTS", help="weights of EfficientNetV2B0 without its top")
    options = parser.parse_args()
    main(options.images, options.weights)
