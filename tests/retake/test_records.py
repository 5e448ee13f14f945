"""Class folders become records, and records of any origin are read and looked into."""

import gzip
import io
import os
import random
import struct
import tracemalloc
import unicodedata
import zlib
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from retake import inspection, packing, records
from retake.cli import main
from retake.errors import RetakeError, UsageError
from retake.sections import MAX_BYTES

CLASSES = ["food", "sandwich", "taco"]
SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "hotdog"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the shared hot dog pictures are not on this machine")


def save(path, seed=0, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three pictures for each of the three classes."""
    for label, name in enumerate(CLASSES):
        for number in range(3):
            save(tmp_path / "pictures" / name / f"{number}.jpg", seed=10 * label + number)
    return tmp_path / "pictures"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "records" / "packed.tfrecord"


def example(**features):
    def feature(value):
        if isinstance(value[0], bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
        if isinstance(value[0], float):
            return tf.train.Feature(float_list=tf.train.FloatList(value=value))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=value))

    return tf.train.Example(features=tf.train.Features(feature={k: feature(v) for k, v in features.items()}))


def write(path, examples):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for each in examples:
            writer.write(each.SerializeToString())


def checksum(content):
    crc = google_crc32c.value(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def header(length):
    """The 12 bytes before a record, whatever its length really is."""
    return struct.pack("<Q", length) + checksum(struct.pack("<Q", length))


def framed(payload):
    return header(len(payload)) + payload + checksum(payload)


def fields(number, *contents):
    """Serialized messages of protobuf's with a length, one after the other."""

    def varint(value):
        return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])

    return b"".join(bytes([number << 3 | 2]) + varint(len(content)) + content for content in contents)


def complaint(path):
    with pytest.raises(RetakeError) as error:
        list(records.read(path))
    return str(error.value)


def text(example, feature):
    return example.features.feature[feature].bytes_list.value[0].decode()


def test_every_picture_is_packed_with_its_bytes_its_class_and_its_name(folder, out):
    report = packing.pack(folder, out, CLASSES, {})
    packed = {text(each, "filename"): each for each in records.read(out)}
    assert sorted(packed) == sorted(f"{name}/{number}.jpg" for name in CLASSES for number in range(3))
    for name, each in packed.items():
        assert text(each, "label") == name.split("/")[0]
        assert each.features.feature["image"].bytes_list.value[0] == (folder / name).read_bytes()
        assert "conflict" not in each.features.feature
    assert "9 examples" in report


def test_the_classes_are_interleaved(folder, out):
    packing.pack(folder, out, CLASSES, {})
    labels = [text(each, "label") for each in records.read(out)]
    assert labels != sorted(labels)


@pytest.mark.parametrize("ending", [".tfrecord", ".tfrecord.gz"])
def test_the_same_pictures_give_the_same_bytes(folder, tmp_path, ending):
    first, second = tmp_path / f"one{ending}", tmp_path / f"two{ending}"
    packing.pack(folder, first, CLASSES, {})
    packing.pack(folder, second, list(CLASSES), {})
    assert first.read_bytes() == second.read_bytes()


def test_a_name_that_ends_in_gz_is_compressed_and_read_all_the_same(folder, tmp_path):
    packing.pack(folder, tmp_path / "packed.tfrecord.gz", CLASSES, {})
    assert gzip.decompress((tmp_path / "packed.tfrecord.gz").read_bytes())
    assert len(list(records.read(tmp_path / "packed.tfrecord.gz"))) == 9


def test_compression_is_known_by_the_first_bytes_and_not_by_the_name(folder, tmp_path):
    packing.pack(folder, tmp_path / "packed.tfrecord.gz", CLASSES, {})
    (tmp_path / "packed.tfrecord.gz").rename(tmp_path / "renamed.tfrecord")
    assert len(list(records.read(tmp_path / "renamed.tfrecord"))) == 9


def test_another_ending_is_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UsageError, match=r"must end in \.tfrecord, or in \.tfrecord\.gz"):
        packing.pack(tmp_path / "nowhere", tmp_path / "packed.tfrecords", CLASSES, {})


def test_a_mapped_folder_counts_for_its_class_and_others_are_reported_as_left_out(folder, out):
    save(folder / "hard taco" / "a.jpg", seed=50)
    save(folder / "hot dog" / "b.jpg", seed=51)
    report = packing.pack(folder, out, CLASSES, {"hard taco": "taco"})
    labels = [text(each, "label") for each in records.read(out)]
    assert labels.count("taco") == 4 and len(labels) == 10
    assert "left out, neither a class nor mapped: 'hot dog'" in report


def test_without_classes_they_are_the_folders_and_what_they_are_mapped_to(folder, out):
    save(folder / "hard taco" / "a.jpg", seed=50)
    save(folder / "hot dog" / "b.jpg", seed=51)
    packing.pack(folder, out, None, {"hard taco": "taco"})
    labels = [records.class_name(each) for each in records.read(out)]
    assert sorted(set(labels)) == ["food", "hot dog", "sandwich", "taco"] and labels.count("taco") == 4


def test_a_mapping_to_an_unknown_class_names_the_classes(folder, out):
    with pytest.raises(UsageError, match="'tacco', which is no class; classes are 'food', 'sandwich', 'taco'"):
        packing.pack(folder, out, CLASSES, {"food": "tacco"})
    assert not out.exists()


def test_a_mapping_from_a_missing_folder_names_the_folders(folder, out):
    with pytest.raises(UsageError, match="has only 'food', 'sandwich', 'taco'"):
        packing.pack(folder, out, CLASSES, {"hard taco": "taco"})


def test_a_class_without_a_folder_is_told_and_warned_about(folder, out, capsys):
    assert "none: no folder is named or mapped to 'pizza'" in packing.pack(folder, out, [*CLASSES, "pizza"], {})
    assert capsys.readouterr().err == f"retake: warning: {folder} has no folder for 'pizza'\n"


@pytest.mark.parametrize(
    ("files", "why"),
    [({}, "it is empty"), ({"a.heic": b"\0\0\0\x18ftypheic"}, r"HEIC is not supported; .*: 1 \(pizza/a.heic\)")],
    ids=["empty", "refused"],
)
def test_a_class_folder_that_gives_no_picture_ends_the_packing(folder, out, files, why):
    (folder / "pizza").mkdir()
    for name, content in files.items():
        (folder / "pizza" / name).write_bytes(content)
    with pytest.raises(RetakeError, match=rf"pizza gives no picture of 'pizza' \({why}\); add pictures or remove"):
        packing.pack(folder, out, [*CLASSES, "pizza"], {})
    assert not out.exists()


@pytest.mark.parametrize(("on_disk", "configured"), [("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")])
def test_a_folder_in_decomposed_unicode_is_the_class_of_the_same_name(folder, out, on_disk, configured):
    save(folder / unicodedata.normalize(on_disk, "jalapeño") / "a.jpg", seed=70)
    save(folder / unicodedata.normalize(on_disk, "crème brûlée") / "b.jpg", seed=71)
    name = unicodedata.normalize(configured, "jalapeño")
    mapping = {unicodedata.normalize(configured, "crème brûlée"): unicodedata.normalize("NFC", "jalapeño")}
    packing.pack(folder, out, [*CLASSES, name], mapping)
    assert [text(each, "label") for each in records.read(out)].count(name) == 2


def test_webp_becomes_png_and_is_reported(folder, out):
    save(folder / "taco" / "new.webp", seed=60)
    report = packing.pack(folder, out, CLASSES, {})
    image = {text(each, "filename"): each for each in records.read(out)}["taco/new.webp"]
    assert tf.io.decode_png(image.features.feature["image"].bytes_list.value[0]).shape == (30, 40, 3)
    assert "1 (taco/new.webp)" in report


def test_unreadable_and_oversized_files_are_skipped_by_reason_and_name(folder, out):
    (folder / "taco" / "empty.jpg").write_bytes(b"")
    (folder / "taco" / "text.jpg").write_text("not a picture at all")
    (folder / "food" / "cut.jpg").write_bytes((folder / "food" / "0.jpg").read_bytes()[:-300])
    save(folder / "food" / "wide.png", size=(2000, 30))
    (folder / "food" / ".DS_Store").write_bytes(b"not worth a word")
    report = packing.pack(folder, out, CLASSES, {}, max_pixels=50_000)
    assert len(list(records.read(out))) == 9
    assert "skipped, empty: 1 (taco/empty.jpg)" in report
    assert "skipped, not a picture: 1 (taco/text.jpg)" in report
    assert "skipped, damaged or cut off: 1 (food/cut.jpg)" in report
    assert "skipped, over the pixel limit: 1 (food/wide.png)" in report
    assert "DS_Store" not in report


def test_identical_pictures_with_different_labels_are_listed_and_marked(folder, out):
    (folder / "taco" / "same.jpg").write_bytes((folder / "food" / "0.jpg").read_bytes())
    (folder / "taco" / "twice.jpg").write_bytes((folder / "taco" / "1.jpg").read_bytes())
    report = packing.pack(folder, out, CLASSES, {})
    marked = {
        text(each, "filename")
        for each in records.read(out)
        if each.features.feature["conflict"].int64_list.value == [1]
    }
    assert marked == {"food/0.jpg", "taco/same.jpg"}
    assert "identical pictures: 4 in 2 groups; 9 different pictures in all" in report
    assert "food/0.jpg [food] = taco/same.jpg [taco]" in report


@pytest.mark.parametrize("pictures", ["missing", "empty"])
def test_nothing_to_pack_is_one_clear_error(tmp_path, out, pictures):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RetakeError, match=pictures) as error:
        packing.pack(tmp_path / pictures, out, CLASSES, {})
    assert "\n" not in str(error.value)


def test_a_packing_that_fails_leaves_the_older_file_and_no_half_of_a_new_one(folder, out, monkeypatch):
    packing.pack(folder, out, CLASSES, {})
    before = out.read_bytes()

    def disappear(packed):
        (folder / "taco" / "1.jpg").unlink()

    monkeypatch.setattr(random.Random, "shuffle", lambda self, packed: disappear(packed))
    with pytest.raises(RetakeError, match=r"taco/1\.jpg changed while it was packed"):
        packing.pack(folder, out, CLASSES, {}, force=True)
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_record_file_that_exists_is_replaced_by_force_only(folder, out, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(f"pipeline: {{name: c}}\ndata: {{location: x, classes: {CLASSES}}}\n")
    pack = ["records", "pack", str(folder), str(out), "--config", str(tmp_path / "c.yaml")]
    out.parent.mkdir()
    out.write_bytes(b"an older batch")
    assert main(pack) == 2
    assert f"{out} exists; choose another name, or replace it with --force" in capsys.readouterr().err
    assert out.read_bytes() == b"an older batch"
    assert main([*pack, "--force"]) == 0
    assert len(list(records.read(out))) == 9


def test_a_record_file_that_comes_while_another_is_packed_stays(folder, out, monkeypatch):
    shuffle = random.Random.shuffle

    def come(self, packed):
        out.parent.mkdir()
        out.write_bytes(b"another batch")
        shuffle(self, packed)

    monkeypatch.setattr(random.Random, "shuffle", come)
    with pytest.raises(UsageError, match="exists; choose another name"):
        packing.pack(folder, out, CLASSES, {})
    assert out.read_bytes() == b"another batch"
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_a_fifo_among_the_pictures_is_not_waited_for(folder, out):
    os.mkfifo(folder / "taco" / "x.jpg")
    packing.pack(folder, out, CLASSES, {})
    assert len(list(records.read(out))) == 9


def test_a_folder_that_cannot_be_made_is_one_clear_error(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RetakeError, match="cannot be written"):
        packing.pack(folder, tmp_path / "file" / "packed.tfrecord", CLASSES, {})


@pytest.mark.parametrize("ending", [".tfrecord", ".tfrecord.gz"])
def test_a_file_that_is_cut_off_says_how_many_records_are_fine(folder, tmp_path, ending):
    whole = tmp_path / f"packed{ending}"
    packing.pack(folder, whole, CLASSES, {})
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(RetakeError, match=rf"packed\{ending} is damaged or cut off after 8 records"):
        list(records.read(whole))


@pytest.mark.parametrize("content", [b"plain text, and no record", b"\x1f\x8b no gzip either"])
def test_a_file_that_is_no_tfrecord_says_so(tmp_path, content):
    (tmp_path / "x.tfrecord").write_bytes(content)
    with pytest.raises(RetakeError, match=r"x\.tfrecord is not a TFRecord file"):
        list(records.read(tmp_path / "x.tfrecord"))


def test_records_that_are_no_examples_say_so(tmp_path):
    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord")) as writer:
        writer.write(b"\xff\xff\xff")
    with pytest.raises(RetakeError, match=r"no tf\.train\.Example in record 1"):
        list(records.read(tmp_path / "x.tfrecord"))


@pytest.mark.parametrize("name", ["missing.tfrecord", "."])
def test_a_file_that_cannot_be_opened_is_one_clear_error(tmp_path, name):
    with pytest.raises(RetakeError, match="cannot be read"):
        list(records.read(tmp_path / name))


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["FIFO", "device"])
def test_what_is_not_a_regular_file_is_not_read(tmp_path, make):
    make(tmp_path / "x.tfrecord")
    assert complaint(tmp_path / "x.tfrecord").endswith("x.tfrecord cannot be read: not a regular file")


@pytest.mark.parametrize("length", [1 << 40, 1 << 62, (1 << 64) - 1, 3_000_000_000])
@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_record_that_claims_too_much_is_refused_before_it_is_read(tmp_path, length, packed):
    (tmp_path / "x.tfrecord").write_bytes(packed(framed(b"") + header(length) + bytes(99)))
    message = complaint(tmp_path / "x.tfrecord")
    assert f"x.tfrecord says that record 2 has {length:,} bytes, and at most 67,108,864 are read" in message
    assert message.endswith("pack it again, remove it, or rename it to _x.tfrecord to leave it out")


def test_a_picture_over_the_byte_limit_does_not_end_the_reading(tmp_path):
    write(tmp_path / "x.tfrecord", [example(image=[bytes(MAX_BYTES + 1)], label=[1]), example(label=[2])])
    assert [records.label_index(each, CLASSES) for each in records.read(tmp_path / "x.tfrecord")] == [1, 2]
    assert "refused, over the byte limit: 1 (record 1)" in inspection.inspect(tmp_path / "x.tfrecord")


@pytest.mark.parametrize("at", [0, 9, 12, 20, -1], ids=["length", "its checksum", "start", "payload", "checksum"])
def test_a_byte_that_changed_is_found(tmp_path, at):
    first, second = (bytearray(framed(example(label=[number]).SerializeToString())) for number in (1, 2))
    second[at] ^= 1
    (tmp_path / "x.tfrecord").write_bytes(first + second)
    assert "x.tfrecord is damaged or cut off after 1 records" in complaint(tmp_path / "x.tfrecord")


def test_a_file_that_zlib_compressed_is_told_from_damage(tmp_path):
    (tmp_path / "x.tfrecord").write_bytes(zlib.compress(framed(b"") * 99))
    assert "x.tfrecord is compressed with zlib, and only gzip is read" in complaint(tmp_path / "x.tfrecord")


@pytest.mark.parametrize(
    "label",
    [
        fields(3, fields(1, b"\1" * 16_000_064)),
        fields(2, fields(1, bytes(16_000_064))),
        fields(1, b"\x0a\x00" * 250_001),
        b"\x0a\x00" * 250_001,
    ],
    ids=["integers", "floats", "empty texts", "lists"],
)
def test_an_example_of_too_many_values_is_refused_before_it_is_parsed(tmp_path, label):
    (tmp_path / "x.tfrecord").write_bytes(framed(fields(1, fields(1, fields(1, b"label") + fields(2, label)))))
    assert "x.tfrecord holds too many values in record 1, more than 250,000" in complaint(tmp_path / "x.tfrecord")


def test_an_example_of_too_many_features_is_refused_before_it_is_parsed(tmp_path):
    (tmp_path / "x.tfrecord").write_bytes(framed(fields(1, b"\x0a\x00" * 250_001)))
    assert "x.tfrecord holds too many values in record 1, more than 250,000" in complaint(tmp_path / "x.tfrecord")


def test_other_features_of_many_values_do_no_harm(tmp_path):
    features = tf.train.Example(
        features=tf.train.Features(
            feature={
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[2])),
                "pixels": tf.train.Feature(float_list=tf.train.FloatList(value=np.zeros(500_000))),
                "big": tf.train.Feature(int64_list=tf.train.Int64List(value=[-1, 1 << 62] * 100)),
                "texts": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"", b"x"] * 100)),
            }
        )
    )
    write(tmp_path / "x.tfrecord", [features])
    assert list(records.read(tmp_path / "x.tfrecord")) == [features]


@pytest.mark.parametrize(
    "payload", [b"\xff\xff\xff", b"\x0a\x7f", b"\x0b", b"\xff" * 20, fields(1, b"\x0a\x05\x0a\x7f")]
)
def test_a_record_that_is_no_message_is_refused(tmp_path, payload):
    (tmp_path / "x.tfrecord").write_bytes(framed(payload))
    assert "holds no tf.train.Example in record 1" in complaint(tmp_path / "x.tfrecord")


def test_labels_and_names_cannot_forge_lines_of_a_report_or_steer_a_terminal(tmp_path, capsys):
    evil = b"taco\x1b[2J\n9 examples\xe2\x80\xae"
    write(tmp_path / "x\x1b[31m.tfrecord", [example(image=[b"text"], label=[evil], filename=[evil])] * 2)
    assert main(["records", "inspect", str(tmp_path / "x\x1b[31m.tfrecord")]) == 0
    report = capsys.readouterr().out
    name = r"taco\x1b[2J\n9 examples\u202e"
    assert f"{name}         2\n" in report and f"refused, not a picture: 2 ({name}, {name})" in report
    assert r"x\x1b[31m.tfrecord: 2 examples" in report and "\x1b" not in report
    assert main(["records", "inspect", str(tmp_path / "\x1b[2J")]) == 1
    assert r"\x1b[2J cannot be read" in capsys.readouterr().err


def test_a_long_label_is_cut_before_it_is_escaped(tmp_path):
    write(tmp_path / "x.tfrecord", [example(image=[b"text"], label=[b"\0" * 20_000_000])])
    tracemalloc.start()
    report = inspection.inspect(tmp_path / "x.tfrecord")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert max(map(len, report.splitlines())) < 500
    assert peak < 200_000_000


def test_a_long_one_hot_label_is_told_in_short(tmp_path):
    write(tmp_path / "x.tfrecord", [example(image=[b"text"], label=[0] * 70 + [1] + [0] * 929)])
    assert "1,000 numbers, 1 at 70" in inspection.inspect(tmp_path / "x.tfrecord")


@pytest.mark.parametrize("label", [[2], [0, 0, 1], [b"taco"]], ids=["index", "one-hot", "class name"])
def test_a_label_may_be_an_index_or_one_hot_or_a_class_name(label):
    assert records.label_index(example(label=label), CLASSES) == 2


def test_a_single_integer_is_an_index_and_never_one_hot():
    assert records.label_index(example(label=[1]), CLASSES) == 1
    assert records.label_index(example(label=[0]), CLASSES) == 0


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        ({}, records.MISSING_LABEL),
        ({"label": [3]}, records.LABEL_OUT_OF_RANGE),
        ({"label": [-1]}, records.LABEL_OUT_OF_RANGE),
        ({"label": [0, 0, 0, 1]}, records.LABEL_OUT_OF_RANGE),
        ({"label": [0, 0, 0]}, records.MALFORMED_LABEL),
        ({"label": [1, 0, 1]}, records.MALFORMED_LABEL),
        ({"label": [0, 2, 0]}, records.MALFORMED_LABEL),
        ({"label": [0.0, 1.0, 0.0]}, records.MALFORMED_LABEL),
        ({"label": [b"taco", b"food"]}, records.MALFORMED_LABEL),
        ({"label": [b"Taco"]}, records.UNKNOWN_CLASS),
        ({"label": [b"\xff"]}, records.UNKNOWN_CLASS),
    ],
    ids=str,
)
def test_a_label_that_cannot_be_read_gives_one_of_the_fixed_reasons(features, reason):
    with pytest.raises(ValueError) as error:
        records.label_index(example(**features), CLASSES)
    assert str(error.value) == reason


@pytest.mark.parametrize("ending", [1, 11, 12, 40])
def test_a_file_that_is_cut_off_anywhere_within_a_record_is_refused(tmp_path, ending):
    write(tmp_path / "x.tfrecord", [example(label=[1]), example(label=[2])])
    whole = (tmp_path / "x.tfrecord").read_bytes()
    (tmp_path / "x.tfrecord").write_bytes(whole[: len(whole) // 2 + min(ending, len(whole) // 2 - 1)])
    with pytest.raises(RetakeError, match="cut off after 1 records"):
        list(records.read(tmp_path / "x.tfrecord"))


def test_a_gzip_file_that_is_cut_off_anywhere_is_refused(tmp_path):
    write(tmp_path / "x", [example(label=[number]) for number in range(3)])
    packed = gzip.compress((tmp_path / "x").read_bytes())
    (tmp_path / "two.tfrecord.gz").write_bytes(packed + packed)
    assert len(list(records.read(tmp_path / "two.tfrecord.gz"))) == 6
    for end in range(20, len(packed), 3):
        (tmp_path / "cut.tfrecord.gz").write_bytes(packed[:end])
        with pytest.raises(RetakeError, match=r"cut off after|is not a TFRecord file"):
            list(records.read(tmp_path / "cut.tfrecord.gz"))


def test_inspect_tells_labels_formats_sizes_and_what_is_wrong(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stream, "PNG")
    png = stream.getvalue()
    examples = [
        example(image=[png], label=[0, 1, 0]),
        example(image=[png], label=[b"taco"]),
        example(image=[png], label=[1]),
        example(image=[b"text"], label=[1]),
        example(label=[1]),
        example(image=[png[:-30]]),
    ]
    write(tmp_path / "x.tfrecord", examples)
    report = inspection.inspect(tmp_path / "x.tfrecord")
    for part in (
        *("6 examples", "[0, 1, 0]", "taco", "missing label", "PNG 4", "40 × 30"),
        *("identical pictures: 3 in 1 group;", "record 1 [[0, 1, 0]] = record 2 [taco] = record 3 [[1]]"),
        *("refused, not a picture: 1 (record 4)", "refused, empty: 1 (record 5)"),
    ):
        assert part in report, report


def test_inspect_says_that_a_file_is_empty(tmp_path):
    write(tmp_path / "x.tfrecord", [])
    assert "no examples" in inspection.inspect(tmp_path / "x.tfrecord")


@needs_shared
def test_records_of_another_program_are_read_with_their_one_hot_labels():
    found = [records.label_index(each, CLASSES) for each in records.read(SHARED / "records" / "taco_bias.tfrecord")]
    assert [found.count(index) for index in range(3)] == [50, 50, 50]


@needs_shared
def test_real_web_pictures_are_packed_under_the_classes_of_their_maps(out):
    folders = {"hard taco": "taco", "flat taco": "taco", "submarine sandwich": "sandwich"}
    report = packing.pack(SHARED / "images", out, CLASSES, folders)
    assert "1,350 examples" in report
    assert "left out, neither a class nor mapped: 'hot dog', 'open face sandwich'" in report
