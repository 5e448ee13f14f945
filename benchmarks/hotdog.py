"""Measure how far a new record file changes a model's answer to pictures of no class: the hot dogs of docs/hotdog.md.

For each of several splits of the same pictures, and each of two record files, the pipeline of configs/hotdog.yaml
trains a baseline, and then a candidate for each of several settings. The benchmark prints a line of JSON for each model
with the mean prediction for the hot dogs, and the number of eval pictures of the old and of the new file that the model
answers right. At the end it prints a Markdown table. The results stay below WORK; a second call continues from there.

    python -m benchmarks.hotdog IMAGES RECORDS WEIGHTS WORK

IMAGES holds the folders food, sandwich, taco and `hot dog`. RECORDS holds the files taco_bias.tfrecord and
sandwich_bias.tfrecord. WEIGHTS is a weights file of EfficientNetV2B0. A split takes about three quarters of an hour on
2 cores, most of it for fine-tuning.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2

from pipelines import metadata
from retake import images, models, quiet
from retake.config import load
from retake.summary import RESOLVERS

with quiet.imports():
    import tensorflow as tf

DATA = load("hotdog").data
CLASSES = ["food", "sandwich", "taco"]
BACKBONE = "EfficientNetV2B0"
HOT_DOG, FIRST, ARRIVED = "hot dog", "baseline.tfrecord", "arrived.tfrecord"
FILES = {"taco": "taco_bias.tfrecord", "sandwich": "sandwich_bias.tfrecord"}
BASELINE, SHIPPED = "baseline", "as shipped"
FRESH = "trainer.start=fresh"
FINE_TUNED = ("trainer.fine_tune_layers=20", "trainer.fine_tune_learning_rate=1e-4")
SETTINGS: dict[str, tuple[str, ...]] = {
    f"{BASELINE}, fine-tuned": (FRESH, *FINE_TUNED),
    "fresh, new_share 0.1": (FRESH, "trainer.new_share=0.1"),
    "fresh, new_share 0.3": (FRESH, "trainer.new_share=0.3"),
    "fresh, new_share 0.5": (FRESH, "trainer.new_share=0.5"),
    SHIPPED: (),
    "window 1": (FRESH, "data.window=1"),
    "fresh, new_share 0.5, fine-tuned": (FRESH, "trainer.new_share=0.5", *FINE_TUNED),
    "window 1, fine-tuned": (FRESH, "data.window=1", *FINE_TUNED),
}
NEVER_BLESSED = "evaluator.min_accuracy=1"
"""For all settings except the shipped ones, so that every candidate is compared with the same model in service."""


def main(pictures: Path, records: Path, weights: Path, work: Path, splits: int) -> None:
    """Runs the missing measurements, and prints the table."""
    work.mkdir(parents=True, exist_ok=True)
    measured = work / "measured.jsonl"
    measured.touch()
    rows = [json.loads(line) for line in measured.read_text().splitlines()]
    if not (work / FIRST).exists():
        command = ["retake", "records", "pack", str(pictures), str(work / FIRST), "--config", "hotdog"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    limits = DATA.max_pixels, DATA.max_bytes
    hot_dogs = [images.to_graph_format(path.read_bytes(), *limits) for path in sorted((pictures / HOT_DOG).iterdir())]
    for split in range(splits):
        for file, name in FILES.items():
            place = Place(work / f"{split}-{file}", weights, split)
            place.put(work / FIRST, FIRST)
            done = {row["settings"] for row in rows if (row["split"], row["file"]) == (split, file)}
            for settings, overrides in {BASELINE: (), **SETTINGS}.items():
                if settings in done:
                    continue
                if not settings.startswith(BASELINE):
                    place.put(records / name, ARRIVED)
                elif (place.folder / "data" / ARRIVED).exists():
                    sys.exit(f"{place.folder} is of another order of settings; give another WORK")
                gate = () if settings in (BASELINE, SHIPPED) else (NEVER_BLESSED,)
                result = place.measure(place.run(*overrides, *gate), hot_dogs)
                rows.append({"split": split, "file": file, "settings": settings, **result})
                with measured.open("a") as lines:
                    print(json.dumps(rows[-1]), file=lines)
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))


class Place:
    """A folder with the records, artifacts and models of a pipeline."""

    def __init__(self, folder: Path, weights: Path, split: int):
        self.folder, self._weights, self._split = folder, weights, split

    def put(self, record: Path, name: str) -> None:
        """Copies a record file into the data folder, with a later time than the previous file on any file system."""
        target = self.folder / "data" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            time.sleep(1.1)
            shutil.copy(record, target)

    def run(self, *overrides: str) -> dict[str, Any]:
        """Runs the pipeline, and returns its summary."""
        settings = [f"model.backbone={BACKBONE}", f"data.seed={self._split}", *overrides]
        command = [sys.executable, "-m", "pipelines.run", "--config", "hotdog", "--weights", str(self._weights)]
        command += [part for setting in settings for part in ("--set", setting)]
        for option in ("data", "root", "models"):
            command += [f"--{option}", str(self.folder / option)]
        summary = self.folder / "summary.json"
        # All places share the frozen network's features.
        features, shared = self.folder / "root" / "features", self.folder.parent / "features"
        if shared.exists() and not features.exists():
            shutil.copytree(shared, features)
        ended = subprocess.run([*command, "--summary", str(summary)], capture_output=True, text=True)
        if ended.returncode:
            sys.exit(ended.stdout + ended.stderr)
        shutil.copytree(features, shared, dirs_exist_ok=True)
        return dict(json.loads(summary.read_text()))

    def measure(self, summary: dict[str, Any], hot_dogs: list[bytes]) -> dict[str, Any]:
        """Measures the model of a run.

        Returns:
          {"shares": {class: mean probability of the hot dogs}, "old" and "new": [right answers, pictures] for the eval
          pictures of each file, "accuracy": the pipeline's own metric on the eval split, "blessed": bool}.
        """
        model = models.load(
            Path(outputs(self.folder / "root", summary["run_id"])["model"]) / "Format-Serving", trust=True
        )
        shares = probabilities(model, hot_dogs).mean(0).tolist()
        result: dict[str, Any] = {"shares": dict(zip(model.classes, shares, strict=True))}
        pictures = eval_pictures(self.folder / "root")
        for name, source in (("old", FIRST), ("new", ARRIVED)):
            if chosen := pictures.get(source):
                answers = probabilities(model, [image for image, _ in chosen]).argmax(1)
                result[name] = [int(np.sum(answers == [label for _, label in chosen])), len(chosen)]
        return {**result, "accuracy": summary["metrics"]["accuracy"], "blessed": summary["blessed"]}


def probabilities(model: models.Model, encoded: Sequence[bytes]) -> np.ndarray:
    """float32[n, classes] of pictures in the formats of the model."""
    return np.concatenate(
        [model(encoded[start : start + models.BATCH]) for start in range(0, len(encoded), models.BATCH)]
    )


def outputs(root: Path, run_id: str) -> dict[str, str]:
    """Output key → address of the artifact, for all nodes of a run."""
    connection = metadata.connection_config(f"sqlite:///{root}/metadata.sqlite")
    store = MetadataStore(connection)
    addresses = {}
    for node, execution in metadata.executions(connection, "hotdog", run_id).items():
        for event in store.get_events_by_execution_ids([execution.id]):
            if event.type == metadata_store_pb2.Event.OUTPUT and node not in RESOLVERS:
                [artifact] = store.get_artifacts_by_id([event.artifact_id])
                addresses[event.path.steps[0].key] = artifact.uri
    return addresses


def eval_pictures(root: Path) -> dict[str, list[tuple[bytes, int]]]:
    """Record file → image and label of its eval pictures, which are the same in all runs."""
    shards = sorted(str(file) for file in root.glob("ExampleGen/examples/*/Split-eval/*"))
    by_source: dict[str, dict[tuple[bytes, int], None]] = {}
    for record in tf.data.TFRecordDataset(shards, "GZIP").as_numpy_iterator():
        feature = tf.train.Example.FromString(record).features.feature
        picture = feature["image"].bytes_list.value[0], feature["label"].int64_list.value[0]
        by_source.setdefault(feature["source"].bytes_list.value[0].decode(), {})[picture] = None
    return {source: list(pictures) for source, pictures in by_source.items()}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over the splits, of the shares in percent and of the accuracies in points."""
    lines = [
        "| file | settings | splits | food | sandwich | taco | accuracy on old pictures | on new pictures | blessed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for file, settings in dict.fromkeys((row["file"], row["settings"]) for row in rows):
        chosen = [row for row in rows if (row["file"], row["settings"]) == (file, settings)]
        cells = [_in_words([row["shares"][name] for row in chosen]) for name in CLASSES]
        cells += [_in_words([row[name][0] / row[name][1] for row in chosen if name in row]) for name in ("old", "new")]
        blessed = f"{sum(row['blessed'] for row in chosen)} of {len(chosen)}" if settings in (BASELINE, SHIPPED) else ""
        lines.append(f"| {file} | {settings} | {len(chosen)} | {' | '.join(cells)} | {blessed} |")
    return "\n".join(lines)


def _in_words(shares: Sequence[float]) -> str:
    return f"{100 * np.mean(shares):.1f} ± {100 * np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("images", "records", "weights", "work"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--splits", type=int, default=5)
    options = parser.parse_args()
    main(options.images, options.records, options.weights.resolve(), options.work.resolve(), options.splits)
