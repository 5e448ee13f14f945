"""Record files: TFRecords of pictures, read one example at a time, and the labels in them.

An example has three features: `image`, the encoded picture; `label`, the class name, so that the file
explains itself; `filename`, the path below the packed folder. Identical pictures with different labels have a
fourth, `conflict` = 1.
"""

from __future__ import annotations

import gzip
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google.protobuf.message
import google_crc32c

from retake import places, quiet
from retake.errors import RetakeError
from retake.files import open_regular
from retake.terminal import in_one_line

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
    label = raw_label(example)
    if label is None:
        raise ValueError(MISSING_LABEL)
    if isinstance(label, str):
        names = [same_name(name) for name in classes]
        if same_name(label) not in names:
            raise ValueError(UNKNOWN_CLASS)
        return names.index(same_name(label))
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
    label = raw_label(example)
    if label is None:
        raise ValueError(MISSING_LABEL)
    if not isinstance(label, str):
        return None
    if not label.strip():
        raise ValueError(MALFORMED_LABEL)
    return same_name(label)


def raw_label(example: Any) -> str | list[int] | None:
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
        return as_text(values[0])
    raise ValueError(MALFORMED_LABEL)


def same_name(name: str) -> str:
    """Equal for names that look the same: macOS decomposes letters with accents in the names of files."""
    return unicodedata.normalize("NFC", name)


def as_text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
