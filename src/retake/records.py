"""TFRecords of pictures: packing class folders, reading any such file, looking into one.

An example has three features: `image`, the encoded picture; `label`, the class name, so that the file
explains itself; `filename`, the path below the packed folder. Identical pictures with different labels have a
fourth, `conflict` = 1.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import statistics
import struct
import sys
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import google.protobuf.message
import google_crc32c

from retake import durable, places, quiet
from retake import images as pictures
from retake.errors import RetakeError, UsageError
from retake.files import open_regular, visible
from retake.sections import MAX_BYTES, MAX_PIXELS
from retake.terminal import in_one_line, printable

MISSING_LABEL = "missing label"
LABEL_OUT_OF_RANGE = "label out of range"
UNKNOWN_CLASS = "unknown class name"
MALFORMED_LABEL = "label neither an index, nor one-hot, nor a class name"

MAX_RECORD_BYTES = 64 << 20
"""A longer record ends the reading, before it takes memory. A picture over `data.max_bytes` fits, and is dropped."""

MAX_VALUES = 250_000
"""Most values of an example, a picture counting as one: protobuf takes up to twenty times the bytes of small ones."""

_PACKED_BYTES = 64
"""So many bytes of packed numbers count as one value: they take eight times their bytes at most."""

_NESTED: tuple[tuple[int, ...], ...] = ((1,), (1,), (2,), (1, 2, 3), (), ())
"""Which fields are messages: of an Example, its Features, an entry of them, a Feature, a list of bytes, of numbers."""

_HEADER = struct.Struct("<QI")  # a record's length, and a checksum of it
_GZIP = b"\x1f\x8b"
_ZLIB = 0x78

_SHUFFLE_SEED = 7
_NAMED = 5  # names listed per finding, before "…"
_LONGEST = 200  # characters of a name or label in a report
_ONE_HOT_SHOWN = 20  # numbers of a label


class _File(NamedTuple):
    name: str
    label: str
    digest: bytes


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
    mapping = {_same(folder): label for folder, label in mapping.items()}
    if classes is None:
        classes = sorted({_same(mapping.get(_same(folder), folder)) for folder in folders})
    class_of = {_same(name): name for name in classes}
    _check_mapping(mapping, folders, class_of, images)
    label_of = {folder: class_of.get(_same(mapping.get(_same(folder), folder)), "") for folder in folders}
    left_out = [folder for folder in folders if not label_of[folder]]

    packed: list[_File] = []
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
            packed.append(_File(name, label_of[folder], hashlib.sha256(encoded).digest()))
            if changed:
                converted.append(name)
    if not packed:
        found = "; ".join(_listed(reason, names) for reason, names in skipped.items())
        raise RetakeError(
            f"{images} holds no picture to pack; needed are folders named {_names(classes)}, "
            f"or --map FOLDER=CLASS; folders here: {_names(folders) or 'none'}" + (f"; skipped: {found}" * bool(found))
        )

    giving = {file.name.partition("/")[0] for file in packed}
    for folder in folders:
        if folder not in giving and folder not in left_out:
            refused = [_listed(why, here) for why, names in skipped.items() if (here := _within(folder, names))]
            raise RetakeError(
                f"{images / folder} gives no picture of {label_of[folder]!r} ({'; '.join(refused) or 'it is empty'}); "
                "add pictures or remove the folder"
            )
    missing = [name for name in classes if name not in label_of.values()]
    if missing:
        print(printable(f"retake: warning: {images} has no folder for {_names(missing)}"), file=sys.stderr)

    groups: dict[bytes, list[_File]] = defaultdict(list)
    for file in packed:
        groups[file.digest].append(file)
    identical = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in identical if len({file.label for file in group}) > 1]
    marked = {group[0].digest for group in conflicts}

    random.Random(_SHUFFLE_SEED).shuffle(packed)  # noqa: S311
    _write(out, (_example(images, file, file.digest in marked, max_pixels, max_bytes) for file in packed), force)

    counts = Counter(file.label for file in packed)
    lines = [f"{out}: {len(packed):,} examples, {_size(out.stat().st_size)}", ""]
    rows = [("class", "pictures", "folders")]
    for name in classes:
        sources = [folder for folder in folders if label_of[folder] == name]
        rows.append((name, f"{counts[name]:,}", _names(sources) or f"none: no folder is named or mapped to {name!r}"))
    lines += [*_table(rows), ""]
    if left_out:
        lines.append(f"left out, neither a class nor mapped: {_names(left_out)}")
    if converted:
        lines.append(_listed("converted, the graph does not decode them as they are", converted))
    lines += [_listed(f"skipped, {reason}", names) for reason, names in sorted(skipped.items())]
    lines += _explain_identical(identical, conflicts, len(groups))
    if conflicts:
        lines.append("(they are marked with the feature `conflict`; remove the wrong ones and pack again)")
    return "\n".join(lines).rstrip()


def read(file: Path | str) -> Iterator[Any]:
    """Reads a TFRecord of examples, plain or gzip: its first bytes tell, not its name.

    Memory is bounded whatever the file says: no record is longer than `MAX_RECORD_BYTES`, or has more than
    `MAX_VALUES` values.

    Args:
      file: The path of a regular file, or a gs:// address.

    Yields:
      `tf.train.Example`, one at a time.

    Raises:
      RetakeError: the file cannot be opened, is damaged, cut off or not a TFRecord; it says how many records are fine,
        and how a run leaves the file out.

    Example:
        >>> for example in read(Path("data/sample/records/drawn.tfrecord")):  # doctest: +SKIP
        ...     print(example.features.feature["label"].bytes_list.value[0])
    """
    tf = quiet.tensorflow()
    count = 0
    try:
        with _opened(file) as stream:
            while header := stream.read(_HEADER.size):
                record = _record(header, stream, count + 1)
                try:
                    values = _values(record, 0, len(record))
                    example = tf.train.Example.FromString(record) if values <= MAX_VALUES else None
                except (IndexError, google.protobuf.message.DecodeError):
                    raise ValueError(f"holds no tf.train.Example in record {count + 1:,}") from None
                if example is None:
                    raise ValueError(f"holds too many values in record {count + 1:,}, more than {MAX_VALUES:,}")
                yield example
                count += 1
        return
    except (EOFError, zlib.error, gzip.BadGzipFile):
        what = f"is damaged or cut off after {count:,} records" if count else "is not a TFRecord file"
    except ValueError as problem:
        what = str(problem)
    except (OSError, tf.errors.OpError) as error:
        why = error.strerror if isinstance(error, OSError) else error.message.rpartition("; ")[2]
        raise RetakeError(f"{in_one_line(file)} cannot be read: {why}") from None
    # A run does not read files whose names begin so.
    hidden = in_one_line(f"_{Path(file).name}")
    raise RetakeError(f"{in_one_line(file)} {what}; pack it again, remove it, or rename it to {hidden} to leave it out")


@contextmanager
def _opened(file: Path | str) -> Iterator[Any]:
    """A stream of the file's records, unpacked."""
    remote = places.is_remote(str(file))
    with quiet.tensorflow().io.gfile.GFile(str(file), "rb") if remote else open_regular(file) as stream:
        packed = stream.read(len(_GZIP)) == _GZIP
        stream.seek(0)
        yield gzip.GzipFile(fileobj=stream) if packed else stream


def _record(header: bytes, stream: Any, number: int) -> bytes:
    """The payload that follows a header; EOFError or ValueError where there is none."""
    if len(header) < _HEADER.size:
        raise EOFError
    length, check = _HEADER.unpack(header)
    if _masked_crc(header[:8]) != check:
        if number == 1 and header[0] == _ZLIB and not int.from_bytes(header[:2], "big") % 31:
            raise ValueError("is compressed with zlib, and only gzip is read")
        raise EOFError
    if length > MAX_RECORD_BYTES:
        raise ValueError(f"says that record {number:,} has {length:,} bytes, and at most {MAX_RECORD_BYTES:,} are read")
    payload = stream.read(length)
    if len(payload) < length or stream.read(4) != _masked_crc(payload).to_bytes(4, "little"):
        raise EOFError
    return payload


def _values(message: bytes, at: int, end: int, level: int = 0) -> int:
    """Counts the fields of a serialized Example before anything is made of them; IndexError when it is none."""
    count = 0
    while at < end and count <= MAX_VALUES:
        tag, at = _varint(message, at)
        count += 1
        if tag & 7 == 2:
            size, at = _varint(message, at)
            if tag >> 3 in _NESTED[level]:
                deeper = level + 1 + (level == 3 and tag >> 3 != 1)
                count += _values(message, at, min(at + size, end), deeper)
            elif level == 5:
                count += size // _PACKED_BYTES
            at += size
        elif tag & 7 == 0:
            _, at = _varint(message, at)
        else:
            at += {1: 8, 5: 4}.get(tag & 7, end)
    if at > end:
        raise IndexError
    return count


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """An integer of protobuf's and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise IndexError


def _masked_crc(content: bytes) -> int:
    crc = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def label_index(example: Any, classes: list[str]) -> int:
    """Reads an example's `label` in any of its forms.

    Args:
      example: A `tf.train.Example` whose `label` is a class name (bytes), one index (int64[1]) or one-hot
        (int64[len(classes)]).
      classes: The names, in the order of the index.

    Returns:
      The index in `classes`.

    Raises:
      ValueError: with one of the reasons above as its message: `MISSING_LABEL`, `LABEL_OUT_OF_RANGE`,
        `UNKNOWN_CLASS` or `MALFORMED_LABEL`.

    Example:
        >>> import tensorflow as tf
        >>> one_hot = tf.train.Feature(int64_list=tf.train.Int64List(value=[0, 1]))
        >>> label_index(tf.train.Example(features=tf.train.Features(feature={"label": one_hot})), ["a", "b"])
        1
    """
    label = _label(example)
    if label is None:
        raise ValueError(MISSING_LABEL)
    if isinstance(label, str):
        names = [_same(name) for name in classes]
        if _same(label) not in names:
            raise ValueError(UNKNOWN_CLASS)
        return names.index(_same(label))
    if len(label) == 1:
        if not 0 <= label[0] < len(classes):
            raise ValueError(LABEL_OUT_OF_RANGE)
        return label[0]
    if sorted(label) != [0] * (len(label) - 1) + [1]:
        raise ValueError(MALFORMED_LABEL)
    if len(label) != len(classes):
        raise ValueError(LABEL_OUT_OF_RANGE)
    return label.index(1)


def class_name(example: Any) -> str | None:
    """The class name that an example's `label` says; None where it is a number or one-hot.

    Raises:
      ValueError: `MISSING_LABEL` or `MALFORMED_LABEL`, also for an empty name.
    """
    label = _label(example)
    if label is None:
        raise ValueError(MISSING_LABEL)
    if not isinstance(label, str):
        return None
    if not label.strip():
        raise ValueError(MALFORMED_LABEL)
    return _same(label)


def inspect(file: Path) -> str:
    """Looks into a TFRecord of pictures, whoever wrote it.

    Args:
      file: A TFRecord, plain or gzip, whose examples have the features `image` and `label`.

    Returns:
      Counts per label, formats, sizes, identical pictures and unreadable ones, for people.

    Raises:
      RetakeError: as `read`.

    Example:
        >>> print(inspect(Path("data/sample/records/drawn.tfrecord")))  # doctest: +SKIP
    """
    labels: Counter[str] = Counter()
    formats: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    groups: dict[bytes, list[_File]] = defaultdict(list)
    refused: dict[str, list[str]] = defaultdict(list)
    lengths: list[int] = []
    for number, example in enumerate(read(file), start=1):
        features = example.features.feature
        encoded = b"".join(features["image"].bytes_list.value[:1])
        name = _shown(_text(b"".join(features["filename"].bytes_list.value[:1])[:_LONGEST])) or f"record {number:,}"
        try:
            text = _shown(_label(example))
        except ValueError as problem:
            text = str(problem)
        labels[text] += 1
        lengths.append(len(encoded))
        groups[hashlib.sha256(encoded).digest()].append(_File(name, text, b""))
        reason = pictures.acceptable(encoded, MAX_PIXELS, MAX_BYTES)
        if reason:
            refused[reason].append(name)
        try:
            kind, width, height = pictures.probe(encoded)
        except ValueError:
            continue
        formats[kind] += 1
        sizes[width, height] += 1
    if not lengths:
        return f"{file}: no examples, {_size(file.stat().st_size)}"

    lines = [f"{file}: {len(lengths):,} examples, {_size(file.stat().st_size)}", ""]
    lines += _table([("label", "examples"), *((name, f"{count:,}") for name, count in sorted(labels.items()))])
    lines += [
        "",
        "formats: " + (", ".join(f"{name} {count:,}" for name, count in formats.most_common()) or "none"),
    ]
    if sizes:
        widths, heights = (sorted(size[axis] for size in sizes.elements()) for axis in (0, 1))
        common = ", ".join(f"{w}×{h} ({count:,})" for (w, h), count in sizes.most_common(3))
        lines.append(f"width × height: {_spread(widths)} × {_spread(heights)}; most frequent: {common}")
    lines.append(f"bytes a picture: {_spread(sorted(lengths))}")
    identical = [group for group in groups.values() if len(group) > 1]
    conflicts = [group for group in identical if len({file.label for file in group}) > 1]
    lines += _explain_identical(identical, conflicts, len(groups)) or ["identical pictures: none"]
    lines += [_listed(f"refused, {reason}", names) for reason, names in sorted(refused.items())]
    return "\n".join(lines)


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
        if _same(label) not in class_of:
            classes = _names(list(class_of.values()))
            raise UsageError(f"{folder!r} is mapped to {label!r}, which is no class; classes are {classes}")
        if folder not in map(_same, folders):
            raise UsageError(f"{folder!r} is mapped to {label!r}, but {images} has only {_names(folders)}")


def _same(name: str) -> str:
    """Equal for names that look the same: macOS decomposes letters with accents in the names of files."""
    return unicodedata.normalize("NFC", name)


def _within(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(f"{folder}/")]


def _load(path: Path, max_pixels: int, max_bytes: int) -> tuple[bytes, bool]:
    """A picture that the graph decodes, and whether it had to be converted; ValueError says why not."""
    try:
        return pictures.of_file(path, max_pixels, max_bytes)
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None


def _example(images: Path, file: _File, conflict: bool, max_pixels: int, max_bytes: int) -> bytes:
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


def _label(example: Any) -> str | list[int] | None:
    """The label as it is written: a name, integers, or None."""
    feature = example.features.feature
    if "label" not in feature:
        return None
    kind = feature["label"].WhichOneof("kind")
    values = list(getattr(feature["label"], kind).value) if kind else []
    if not values:
        return None
    if kind == "int64_list":
        return values
    if kind == "bytes_list" and len(values) == 1:
        return _text(values[0])
    raise ValueError(MALFORMED_LABEL)


def _shown(label: str | list[int] | None) -> str:
    """A label or a name for a line of the report."""
    if label is None:
        return MISSING_LABEL
    if isinstance(label, list) and len(label) > _ONE_HOT_SHOWN:
        return f"{len(label):,} numbers, {max(label)} at {label.index(max(label)):,}"
    text = in_one_line(str(label)[: _LONGEST + 1])
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _explain_identical(identical: list[list[_File]], conflicts: list[list[_File]], different: int) -> list[str]:
    if not identical:
        return []
    total = sum(len(group) for group in identical)
    lines = [f"identical pictures: {total:,} in {_groups(identical)}; {different:,} different pictures in all"]
    if conflicts:
        lines.append(f"identical pictures with different labels: {_groups(conflicts)}")
        lines += [
            "  " + " = ".join(f"{_shown(file.name)} [{file.label}]" for file in group) for group in conflicts[:_NAMED]
        ]
        lines += [f"  and {len(conflicts) - _NAMED:,} more"] * (len(conflicts) > _NAMED)
    return lines


def _groups(found: list[list[_File]]) -> str:
    return f"{len(found):,} group{'s' * (len(found) != 1)}"


def _listed(what: str, names: list[str]) -> str:
    named = ", ".join(map(in_one_line, names[:_NAMED]))
    return f"{what}: {len(names):,} ({named}{', …' * (len(names) > _NAMED)})"


def _names(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned lines; the second column holds numbers."""
    rows = [tuple(map(in_one_line, row)) for row in rows]
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    return ["  ".join((row[0].ljust(first), row[1].rjust(second), *row[2:])) for row in rows]


def _spread(ordered: list[int]) -> str:
    median = round(statistics.median(ordered))
    return f"{ordered[0]:,}" if ordered[0] == ordered[-1] else f"{ordered[0]:,}–{ordered[-1]:,} (median {median:,})"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
