"""Begins a data set of one's own: a configuration from folders of pictures."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import yaml

from retake import config as configuration
from retake import durable, packing
from retake.errors import RetakeError, UsageError
from retake.sections import PIPELINE_NAME


def begin(name: str, photos: Path) -> str:
    """Writes `configs/NAME.yaml` for a folder with one folder of pictures for each class.

    Args:
      name: of the pipeline: a-z, 0-9 and -, a letter first.
      photos: the folder.

    Returns:
      What was written, and the commands that come next.

    Raises:
      UsageError: the name is impossible, or taken.
      RetakeError: the folder has fewer than two folders of pictures, or the file cannot be written.
    """
    if not re.fullmatch(PIPELINE_NAME, name):
        raise UsageError(f"{name!r} is no name for a pipeline: use a-z, 0-9 and -, a letter first")
    if not configuration.CONFIGS.is_dir():
        raise UsageError(f"there is no folder {configuration.CONFIGS} here; run this in the project's folder")
    classes = packing.class_folders(photos)
    if len(classes) < 2:
        raise RetakeError(f"{photos} needs a folder of pictures for each of two classes or more; it has {len(classes)}")
    file = configuration.path_of(name)
    if file.exists():
        raise UsageError(f"{file} exists; choose another name, or edit the file")
    content = {"pipeline": {"name": name}, "data": {"location": f"data/{name}/records", "classes": classes}}
    head = f"# Pictures of {photos}. docs/configuration.md lists every key.\n"
    try:
        durable.write(file, (head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)).encode())
    except OSError as error:
        raise RetakeError(f"{file} cannot be written ({error.strerror})") from None
    pack = shlex.join(
        ["retake", "records", "pack", str(photos), f"data/{name}/records/first.tfrecord", "--config", name]
    )
    return (
        f"{file}: {len(classes)} classes ({', '.join(classes)})\n"
        f"Now pack the pictures, and train:\n  {pack}\n  retake run --config {name}"
    )
