"""Packs class folders of pictures into record files."""

from __future__ import annotations

import hashlib
import os
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

from retake import durable, quiet
from retake import images as pictures
from retake.errors import RetakeError, UsageError
from retake.files import visible
from retake.inspection import Packed, columns, explain_identical, listed, quoted, size
from retake.records import same_name
from retake.sections import MAX_BYTES, MAX_PIXELS
from retake.terminal import printable

_SHUFFLE_SEED = 7


def pack(
    images: Path,
    out: Path,
    classes: list[str] | None,
    mapping: dict[str, str],
    max_pixels: int = MAX_PIXELS,
    max_bytes: int = MAX_BYTES,
    force: bool = False,
) -> str:
    """Packs class folders of pictures into one shuffled TFRecord; the same input gives the same bytes.

    A folder's name is its class unless `mapping` says otherwise; a name in decomposed Unicode, as macOS writes it, is
    the same name. Pictures that the graph does not decode are converted, unreadable and oversized files are skipped.
    The TFRecord appears at the end, whole.

    Args:
      images: Folder with one folder of pictures per class. It is only read.
      out: Ends in .tfrecord, or in .tfrecord.gz to be compressed. Its folder is made when missing.
      classes: Names that labels may have; without them, the folders' names and those that they are mapped to.
      mapping: Folder → class, for folders of other names.
      max_pixels: Pictures of more width × height are skipped.
      max_bytes: Larger files are skipped.
      force: Replace `out`. Without it, a file that is there stays, also one that comes while this one is packed.

    Returns:
      The report, for people.

    Raises:
      UsageError: another ending, `out` exists, a mapping from a folder or to a class that is not there.
      RetakeError: nothing to pack, a class folder that gives no picture, or a file that cannot be read or written.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from retake.records import label_index, read
        >>> folder = Path(tempfile.mkdtemp())
        >>> (folder / "pictures/taco").mkdir(parents=True)
        >>> Image.new("RGB", (40, 30)).save(folder / "pictures/taco/one.jpg")
        >>> report = pack(folder / "pictures", folder / "one.tfrecord", ["taco", "sandwich"], {})
        >>> [label_index(example, ["taco", "sandwich"]) for example in read(folder / "one.tfrecord")]
        [0]
    """
    if not out.name.endswith((".tfrecord", ".tfrecord.gz")):
        raise UsageError(f"{out} must end in .tfrecord, or in .tfrecord.gz to be compressed")
    if not force and os.path.lexists(out):
        raise UsageError(_exists(out))
    folders = class_folders(images)
    mapping = {same_name(folder): label for folder, label in mapping.items()}
    if classes is None:
        classes = sorted({same_name(mapping.get(same_name(folder), folder)) for folder in folders})
    class_of = {same_name(name): name for name in classes}
    _check_mapping(mapping, folders, class_of, images)
    label_of = {folder: class_of.get(same_name(mapping.get(same_name(folder), folder)), "") for folder in folders}
    left_out = [folder for folder in folders if not label_of[folder]]

    packed: list[Packed] = []
    converted: list[str] = []
    skipped: dict[str, list[str]] = defaultdict(list)
    for folder in folders:
        for path in _files(images / folder) if folder not in left_out else []:
            name = path.relative_to(images).as_posix()
            try:
                encoded, changed = _load(path, max_pixels, max_bytes)
            except ValueError as problem:
                skipped[str(problem)].append(name)
                continue
            packed.append(Packed(name, label_of[folder], hashlib.sha256(encoded).digest()))
            if changed:
                converted.append(name)
    if not packed:
        found = "; ".join(listed(reason, names) for reason, names in skipped.items())
        raise RetakeError(
            f"{images} holds no picture to pack; needed are folders named {quoted(classes)}, "
            f"or --map FOLDER=CLASS; folders here: {quoted(folders) or 'none'}" + (f"; skipped: {found}" * bool(found))
        )

    giving = {file.name.partition("/")[0] for file in packed}
    for folder in folders:
        if folder not in giving and folder not in left_out:
            refused = [listed(why, here) for why, names in skipped.items() if (here := _within(folder, names))]
            raise RetakeError(
                f"{images / folder} gives no picture of {label_of[folder]!r} ({'; '.join(refused) or 'it is empty'}); "
                "add pictures or remove the folder"
            )
    missing = [name for name in classes if name not in label_of.values()]
    if missing:
        print(printable(f"retake: warning: {images} has no folder for {quoted(missing)}"), file=sys.stderr)

    groups: dict[bytes, list[Packed]] = defaultdict(list)
    for file in packed:
        groups[file.digest].append(file)
    identical = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in identical if len({file.label for file in group}) > 1]
    marked = {group[0].digest for group in conflicts}

    random.Random(_SHUFFLE_SEED).shuffle(packed)  # noqa: S311
    _write(out, (_example(images, file, file.digest in marked, max_pixels, max_bytes) for file in packed), force)

    counts = Counter(file.label for file in packed)
    lines = [f"{out}: {len(packed):,} examples, {size(out.stat().st_size)}", ""]
    rows = [("class", "pictures", "folders")]
    for name in classes:
        sources = [folder for folder in folders if label_of[folder] == name]
        rows.append((name, f"{counts[name]:,}", quoted(sources) or f"none: no folder is named or mapped to {name!r}"))
    lines += [*columns(rows), ""]
    if left_out:
        lines.append(f"left out, neither a class nor mapped: {quoted(left_out)}")
    if converted:
        lines.append(listed("converted, the graph does not decode them as they are", converted))
    lines += [listed(f"skipped, {reason}", names) for reason, names in sorted(skipped.items())]
    lines += explain_identical(identical, conflicts, len(groups))
    if conflicts:
        lines.append("(they are marked with the feature `conflict`; remove the wrong ones and pack again)")
    return "\n".join(lines).rstrip()


def class_folders(images: Path) -> list[str]:
    try:
        return sorted(path.name for path in images.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise RetakeError(f"pictures' folder {images} cannot be read: {error.strerror}") from None


def _files(folder: Path) -> list[Path]:
    try:
        return visible(folder)
    except OSError as error:
        raise RetakeError(f"pictures' folder {folder} cannot be read: {error.strerror}") from None


def _check_mapping(mapping: dict[str, str], folders: list[str], class_of: dict[str, str], images: Path) -> None:
    for folder, label in mapping.items():
        if same_name(label) not in class_of:
            classes = quoted(list(class_of.values()))
            raise UsageError(f"{folder!r} is mapped to {label!r}, which is no class; classes are {classes}")
        if folder not in map(same_name, folders):
            raise UsageError(f"{folder!r} is mapped to {label!r}, but {images} has only {quoted(folders)}")


def _within(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{folder}/")]


def _load(path: Path, max_pixels: int, max_bytes: int) -> tuple[bytes, bool]:
    """A picture that the graph decodes, and whether it had to be converted; ValueError says why not."""
    try:
        return pictures.of_file(path, max_pixels, max_bytes)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def _example(images: Path, file: Packed, conflict: bool, max_pixels: int, max_bytes: int) -> bytes:
    """A serialized example: the picture is loaded again, for memory has no room for all of them at once."""
    tf = quiet.tensorflow()
    try:
        encoded, _ = _load(images / file.name, max_pixels, max_bytes)
    except ValueError as problem:
        raise RetakeError(f"{images / file.name} changed while it was packed ({problem}); pack again") from None
    if hashlib.sha256(encoded).digest() != file.digest:
        raise RetakeError(f"{images / file.name} changed while it was packed; pack again")
    texts = {"image": encoded, "label": file.label.encode(), "filename": os.fsencode(file.name)}
    feature = {key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for key, value in texts.items()}
    if conflict:
        feature["conflict"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)


def _exists(out: Path) -> str:
    return f"{out} exists; choose another name, or replace it with --force"


def _write(out: Path, records: Iterable[bytes], replace: bool) -> None:
    tf = quiet.tensorflow()
    try:
        with (
            durable.unfinished(out, replace) as partial,
            tf.io.TFRecordWriter(str(partial), "GZIP" if out.name.endswith(".gz") else "") as writer,
        ):
            for record in records:
                writer.write(record)
    except FileExistsError:
        raise UsageError(_exists(out)) from None
    except (OSError, tf.errors.OpError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message
        raise RetakeError(f"{out} cannot be written: {why}") from None
