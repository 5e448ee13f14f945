"""The embedded pictures: drawn, so that the default pipeline runs with no data and no network.

Tacos, sandwiches and other food to train on; hot dogs, which are none of the three, to ask about. Every picture
has its own seed, so each is the same on every run.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from retake import durable, packing
from retake.errors import RetakeError
from retake.sample.photo import picture

CLASSES = ["food", "sandwich", "taco"]
PER_CLASS = 110
HOT_DOGS = 40
HARD_TACO = "hard taco"
HARD_TACOS = 50


def draw(folder: Path) -> None:
    """Draws the embedded pictures and packs them, unless that was done before.

    The folder appears at the end, whole, and the same on every run: `images/{food,sandwich,taco}/*.jpg` to train
    on, `records/drawn.tfrecord` with the same pictures, and `hot dog/*.jpg` to ask about.

    Args:
      folder: Where to; made when missing.

    Raises:
      RetakeError: the folder holds something else, or cannot be written.

    Example:
        >>> draw(Path("data/sample"))  # doctest: +SKIP
    """
    if _complete(folder):
        return
    try:
        if folder.exists() and any(folder.iterdir()):
            raise RetakeError(f"{folder} holds something other than the drawn pictures; remove it or name another")
        with durable.unfinished(folder) as partial:
            for name in CLASSES:
                _draw_class(partial / "images" / name, name, PER_CLASS)
            _draw_class(partial / "hot dog", "hot dog", HOT_DOGS)
            packing.pack(partial / "images", partial / "records" / "drawn.tfrecord", CLASSES, {})
    except OSError as error:
        if not _complete(folder):  # Another process may have been faster; what it drew is the same.
            raise RetakeError(f"{folder} cannot be drawn into: {error.strerror}") from None


def draw_hard_tacos(file: Path) -> None:
    """Draws and packs what arrives after the embedded pictures: hard tacos seen from above, which look like hot dogs.

    Args:
      file: The TFRecord; one that is there is replaced.

    Example:
        >>> draw_hard_tacos(Path("taco_bias.tfrecord"))  # doctest: +SKIP
    """
    with tempfile.TemporaryDirectory() as folder:
        _draw_class(Path(folder) / HARD_TACO, HARD_TACO, HARD_TACOS)
        packing.pack(Path(folder), file, CLASSES, {HARD_TACO: "taco"}, force=True)


def _complete(folder: Path) -> bool:
    return (folder / "records" / "drawn.tfrecord").is_file()


def _draw_class(folder: Path, name: str, count: int) -> None:
    folder.mkdir(parents=True)
    with ThreadPoolExecutor() as pool:
        for number, encoded in enumerate(pool.map(lambda number: picture(name, number), range(count))):
            (folder / f"{name.replace(' ', '-')}-{number:03}.jpg").write_bytes(encoded)
