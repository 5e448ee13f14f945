"""Records of any origin become checked examples in two splits, and what cannot train is counted or stops the run."""

from __future__ import annotations

import gzip
import json
import os
import re
import unicodedata
from collections import Counter

import pytest
import tensorflow as tf
from colours import CLASSES, coloured, config, encoded, example, picture, png_of, write_records
from one_node import column, examples_from, split
from PIL import Image
from tfx.components.example_gen import base_example_gen_executor
from tfx.proto import example_gen_pb2

from components.example_gen import COUNTS_PROPERTY, RecordsDriver, classes_of, names_in
from components.record_files import record_files
from components.splits import Smallest, moved_to_eval, split_of
from retake.errors import RetakeError


@pytest.fixture
def data(tmp_path):
    """A folder with 12 pictures of each colour in one file; more files can be put beside it."""
    write_records(tmp_path / "data" / "some.tfrecord", coloured(12))
    return tmp_path / "data"


def generate(data, **settings):
    return examples_from(data.parent, config(data={"location": str(data), **settings}))


def everything(made):
    return [*split(made, "train"), *split(made, "eval")]


def counts(made):
    return json.loads(made.get_string_custom_property(COUNTS_PROPERTY))


def sources(examples):
    return Counter(source.decode() for source in column(examples, "source"))


def images_of(made, name):
    return set(column(split(made, name), "image"))


def test_every_example_has_its_bytes_its_class_index_and_its_file(data):
    (data / "empty.tfrecord").write_bytes(b"")
    made = everything(generate(data))
    found = {(column([each], "image")[0], column([each], "label")[0]) for each in made}
    assert found == {(picture(colour, number), colour) for colour in range(3) for number in range(12)}
    assert sources(made) == {"some.tfrecord": 36}


def test_the_pictures_are_counted_by_split_and_class(data):
    made = generate(data)
    for name in ("train", "eval"):
        labels = Counter(CLASSES[label] for label in column(split(made, name), "label"))
        assert counts(made)["examples"][name] == labels
    assert counts(made)["dropped"] == {}


def test_labels_may_be_names_indices_or_one_hot(data):
    write_records(data / "some.tfrecord", [])
    forms = {"name": lambda c: CLASSES[c], "index": lambda c: c, "hot": lambda c: [int(c == i) for i in range(3)]}
    for form, label in forms.items():
        seeds = range(20)
        write_records(
            data / f"{form}.tfrecord",
            [example(picture(colour, seed), label(colour)) for colour in range(3) for seed in seeds],
        )
    made = everything(generate(data))
    for form in forms:
        of_form = [each for each in made if f"{form}.tfrecord" in sources([each])]
        assert Counter(column(of_form, "label")) == {0: 20, 1: 20, 2: 20}


def test_gzip_and_nested_folders_are_read_and_other_files_are_not(data):
    write_records(data / "2026" / "11" / "more.tfrecord.gz", coloured(1, seed=1))
    write_records(data / "2026" / "packed under a plain name.tfrecord", [])
    (data / "2026" / "packed under a plain name.tfrecord").write_bytes(
        gzip.compress(write_records(data / "scratch", coloured(1, seed=2)).read_bytes())
    )
    for hidden in (".half.tfrecord", "_temporary/0/x.tfrecord", "2026/.tmp/x.tfrecord", "beam-temp-x-1/2.x.tfrecord"):
        (data / hidden).parent.mkdir(exist_ok=True, parents=True)
        (data / hidden).write_bytes(b"half of a file")
    (data / "readme.txt").write_text("not a record")
    assert sources(everything(generate(data))) == {
        "some.tfrecord": 36,
        "2026/11/more.tfrecord.gz": 3,
        "2026/packed under a plain name.tfrecord": 3,
    }


def test_a_location_may_lie_in_a_folder_whose_name_would_hide_records_below_it(tmp_path):
    location = tmp_path / "_runs" / ".new"
    kept = write_records(location / "a" / "b.tfrecord", [])
    write_records(location / "_a" / "b.tfrecord", [])
    for given in (location, f"{location}/"):
        assert record_files(str(given)) == [str(kept)]


def test_identical_pictures_never_straddle_the_splits(data):
    for copy in range(3):
        write_records(data / f"copy{copy}.tfrecord", coloured(12))
    made = generate(data)
    train, held_out = images_of(made, "train"), images_of(made, "eval")
    assert train and held_out and not train & held_out


def test_a_picture_does_not_change_its_split_when_files_are_added_or_renamed(data):
    before = generate(data)
    (data / "some.tfrecord").rename(data / "renamed.tfrecord")
    write_records(data / "added.tfrecord", coloured(20, seed=1))
    after = generate(data)
    for name in ("train", "eval"):
        assert images_of(before, name) < images_of(after, name)


def test_a_test_split_is_set_apart_and_counted_and_may_lack_a_class_but_not_be_empty(data):
    made = generate(data, split={"test": 1, "train": 2, "eval": 1})
    parts = {name: images_of(made, name) for name in ("train", "eval", "test")}
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 36
    assert list(counts(made)["examples"]) == ["train", "eval", "test"]
    assert sum(counts(made)["examples"]["test"].values()) == len(parts["test"])
    with pytest.raises(RetakeError, match=r"none of the 36 pictures below .* is in the test split: add pictures, give"):
        generate(data, split={"train": 50_000, "eval": 50_000, "test": 1})


def test_with_seed_0_each_picture_is_in_the_split_that_tfx_gives_it(data):
    """TFX's executor, asked as before there was a seed: no picture may move when Retake is renewed."""
    buckets = {"train": 5, "eval": 4, "test": 1}
    theirs = example_gen_pb2.SplitConfig(partition_feature_name="image")
    known = [1, 0, 0, 2, 1, 0, 1, 0, 0, 0, 1, 1]
    for number in range(300):
        made = tf.train.Example.FromString(example(f"picture {number}".encode(), number))
        found = split_of(made, 3, buckets, seed=0)
        assert found == base_example_gen_executor._PartitionFn(made, 3, [5, 9, 10], theirs)
        assert found == (known[number] if number < len(known) else found)


def test_another_seed_is_another_split_of_the_same_pictures(data):
    write_records(data / "copies.tfrecord", coloured(12))
    made = {seed: generate(data, seed=seed, split={"train": 1, "eval": 1}) for seed in (0, 1, 2)}
    parts = {seed: images_of(each, "eval") for seed, each in made.items()}
    assert parts[0] != parts[1] != parts[2] != parts[0]
    for each in made.values():
        assert len(images_of(each, "train") | images_of(each, "eval")) == 36
        assert not images_of(each, "train") & images_of(each, "eval")


def test_what_cannot_train_is_dropped_and_counted_by_reason(data, said):
    cmyk = encoded(Image.new("CMYK", (20, 20), (0, 99, 99, 0)), "JPEG")
    good = picture(0, 99, size=(90, 60))
    write_records(
        data / "mixed.tfrecord",
        [
            example(cmyk, "red"),
            example(picture(1, 99, size=(1, 2000), kind="PNG"), "green"),
            example(picture(2, 99, size=(2000, 1), kind="PNG"), "blue"),
            example(b"not a picture at all", "red"),
            example(b"", "red"),
            example(good[: len(good) // 2], "red"),
            example(png_of(20_000, 20_000), "red"),
            example(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "red"),
            example(good, 7),
            example(good, [0, 0, 0, 0, 0, 0, 0, 1]),
            example(good, "mauve"),
            example(good, [1, 1, 0]),
            example(good, None),
            example(None, "red"),
        ],
    )
    made = generate(data, max_dropped=0.5)
    assert sources(everything(made))["mixed.tfrecord"] == 3
    assert counts(made)["dropped"] == {
        "not a picture": 1,
        "empty": 1,
        "damaged or cut off": 1,
        "over the pixel limit": 1,
        "HEIC is not supported; convert it to JPEG or PNG": 1,
        "label out of range": 2,
        "unknown class name": 1,
        "label neither an index, nor one-hot, nor a class name": 1,
        "missing label": 1,
        "missing image": 1,
    }
    [message] = said
    assert message.startswith("dropped 11 of 50 examples: ")


def test_a_picture_that_the_graph_does_not_decode_becomes_a_png_and_copies_of_it_share_a_split(data):
    gifs = [picture(number % 3, 200 + number, kind="GIF") for number in range(9)]
    for copy in range(3):
        write_records(data / f"copy{copy}.tfrecord", [example(gif, i % 3) for i, gif in enumerate(gifs)])
    made = generate(data)
    found = [image for image in column(everything(made), "image") if image.startswith(b"\x89PNG")]
    assert Counter(Counter(found).values()) == {3: 9}
    assert not images_of(made, "train") & images_of(made, "eval")


def test_a_class_name_may_be_written_in_decomposed_unicode(data):
    names = ["crème", "jalapeño", "blue"]
    written = [unicodedata.normalize("NFD", name) for name in names]
    write_records(
        data / "some.tfrecord", [example(picture(i, seed), written[i]) for i in range(3) for seed in range(20)]
    )
    made = generate(data, classes=names)
    assert Counter(column(everything(made), "label")) == {0: 20, 1: 20, 2: 20}


def test_more_dropped_than_allowed_stops_with_the_counts(data):
    write_records(data / "bad.tfrecord", [example(b"no picture", "red")] * 5 + [example(picture(0, 1), 7)] * 2)
    with pytest.raises(RetakeError) as error:
        generate(data, max_dropped=0.1)
    message = str(error.value)
    assert "7 of 43 examples" in message and "5 not a picture" in message and "2 label out of range" in message
    assert str(data) in message and "data.max_dropped = 0.1" in message and "retake records inspect" in message
    assert "\n" not in message


def test_pictures_of_classes_that_the_configuration_lacks_stop_with_those_that_it_has(data):
    with pytest.raises(RetakeError) as error:
        generate(data, classes=["red", "green", "bleu"])
    assert "(12 unknown class name)" in str(error.value)
    assert "data.classes are 'red', 'green', 'bleu'; look with: retake records inspect FILE" in str(error.value)


def test_a_class_without_pictures_is_named_beside_those_that_have_some(data):
    with pytest.raises(RetakeError, match=r"data.classes names 'mauve'.*classes that they hold: red, green, blue"):
        generate(data, classes=[*CLASSES, "mauve"])


def test_many_classes_with_few_pictures_are_named_or_counted_and_min_eval_per_class_splits_them(data):
    names = [f"class {number:03}" for number in range(40)]
    few = [example(picture(n % 3, 100 * n + k, (8, 8)), names[n]) for n in range(40) for k in range(5)]
    write_records(data / "some.tfrecord", few)
    with pytest.raises(RetakeError) as error:
        generate(data, classes=names)
    message = str(error.value)
    assert re.search(r"\d+ of 40 classes below .* have no picture in the eval split: 'class \d+' \(has 5\), ", message)
    assert re.search(
        r" and \d+ more; set data.min_eval_per_class to 1 or more, or give eval more of data.split", message
    )
    assert message.count("'class ") == 6

    write_records(data / "copies.tfrecord", few[::7])
    made = generate(data, classes=names, min_eval_per_class=2)
    different = {
        name: Counter(
            label for label, _ in {(column([e], "label")[0], column([e], "image")[0]) for e in split(made, name)}
        )
        for name in ("train", "eval")
    }
    assert len(different["train"]) == len(different["eval"]) == 40
    assert min(different["eval"].values()) == 2
    assert not images_of(made, "train") & images_of(made, "eval")
    again = generate(data, classes=names, min_eval_per_class=2)
    assert images_of(again, "eval") == images_of(made, "eval")


def test_moved_pictures_leave_one_to_train_on_and_count_for_all_their_labels():
    a, b, c, d = (bytes([number]) for number in range(4))
    assert moved_to_eval([((0, 0), [a, b, c]), ((0, 1), [d])], 2) == {a}
    assert moved_to_eval([((0, 0), [a, b]), ((1, 0), [c])], 5) == {a}
    assert moved_to_eval([((0, 0), [a, b]), ((1, 0), [a])], 1) == {b}
    assert moved_to_eval([((0, 0), [a, b]), ((1, 0), [a, c])], 1) == {a}


def test_without_configured_classes_they_are_the_names_in_the_records(data):
    write_records(data / "more.tfrecord", [example(b"no picture", None), example(picture(0, 99), " ")])
    made = generate(data, classes=None)
    assert classes_of(made.uri) == ["blue", "green", "red"]
    assert list(counts(made)["examples"]["train"]) == ["blue", "green", "red"]
    assert Counter(column(everything(made), "label")) == {0: 12, 1: 12, 2: 12}


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (1, "record 2 has a number as its label, which needs names; give the names as data.classes"),
        ([0, 1], "record 2 has a number as its label"),
        ("x" * 201, "the label of record 2 has 201 characters; a class name has 200 at most"),
    ],
)
def test_labels_that_are_no_class_names_need_data_classes(tmp_path, label, words):
    file = write_records(tmp_path / "some.tfrecord", [example(b"", "red"), example(b"", label)])
    with pytest.raises(RetakeError, match=words):
        names_in(str(file))


def test_one_class_is_too_few_and_thousands_too_many(data, monkeypatch):
    write_records(data / "some.tfrecord", [example(b"", "red")])
    with pytest.raises(RetakeError, match=r"hold only 'red'; a classifier needs 2 classes; give the names as"):
        generate(data, classes=None)
    file = write_records(data / "some.tfrecord", [example(b"", str(n)) for n in range(10_001)])
    with pytest.raises(RetakeError, match=r"more than 10,000 different names; are they classes\?"):
        names_in(str(file))


def test_only_the_smallest_different_hashes_are_kept():
    keep = Smallest(2)
    halves = [keep.add_input(keep.add_input([], bytes([n])), b"\1") for n in (5, 3)]
    assert keep.extract_output(keep.merge_accumulators(halves)) == [b"\1", b"\3"]


def test_a_class_of_one_picture_asks_for_more_pictures(data):
    write_records(data / "one.tfrecord", [example(picture(0, 77), "mauve")])
    with pytest.raises(
        RetakeError,
        match=r"^1 of 4 classes below .* has no picture in the (eval|train) split: 'mauve' "
        r"\(has 1\); .*add pictures of the 1 with a single one$",
    ):
        generate(data, classes=[*CLASSES, "mauve"], min_eval_per_class=1)


def test_record_files_without_examples_are_refused(data):
    (data / "some.tfrecord").write_bytes(b"")
    with pytest.raises(RetakeError, match="hold no examples; look with: retake records inspect"):
        generate(data)


def test_a_folder_without_record_files_is_refused_and_packing_is_suggested(tmp_path):
    with pytest.raises(RetakeError, match=r"holds no record file \(x.tfrecord, .*\); .* retake records pack"):
        record_files(str(tmp_path))
    for number in range(5):
        (tmp_path / f"{number}.csv").touch()
    with pytest.raises(RetakeError, match=r"holds no record file .*, only 0.csv, 1.csv, 2.csv and 2 more; make one"):
        record_files(str(tmp_path))


SPELLINGS = [
    "a.tfrecords",
    "b.tfrec",
    "c.TFRECORD",
    "d.TFRecords.GZ",
    "e.tfrecord-00000-of-00001",
    "f.tfrecords.gz-00000-of-00001",
    "g.tfrec-00000-of-00001.gz",
    "h-00000-of-00001.tfrecord.gz",
]


def test_record_files_are_read_however_their_ending_is_spelt(data):
    for number, name in enumerate(SPELLINGS):
        write_records(data / "more" / name, coloured(1, seed=number + 1))
    assert sources(everything(generate(data))) == {
        "some.tfrecord": 36,
        **{f"more/{name}": 3 for name in SPELLINGS},
    }


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (["x.tfrecord-00000-of-00003", "x.tfrecord-00002-of-00003"], "x.tfrecord-00001-of-00003"),
        (["x-00001-of-00002.tfrecord.gz"], "x-00000-of-00002.tfrecord.gz"),
        (["x.tfrecord-00000-of-00002", "y.tfrecord-00001-of-00002"], "x.tfrecord-00001-of-00002"),
        (["x.tfrecord-00000-of-99999999999"], "x.tfrecord-00000000001-of-99999999999"),
    ],
)
def test_a_shard_that_is_missing_is_named(tmp_path, there, missing):
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(RetakeError) as error:
        record_files(str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}/{missing} is missing: ")


def test_what_is_neither_a_record_file_nor_hidden_is_said_once_a_run(data, said):
    for name in ("notes.txt", "a/x.csv", "a/y.tfrecord.tmp", "z.tfrecord-0-of-1", "escape\x1b[31m.txt", ".hidden"):
        write_records(data / name, [])
    fingerprint(data)
    assert said == [
        f"left out below {data}: a/x.csv, a/y.tfrecord.tmp, escape\\x1b[31m.txt and 2 more (not record files)"
    ]
    generate(data)
    assert len(said) == 1


def test_a_window_reads_the_record_files_that_were_written_last(data, said):
    for minute, name in enumerate(["z", "d-00000-of-00002", "b", "a", "d-00001-of-00002"]):
        path = data / f"{name}.tfrecord"
        write_records(path, coloured(12, seed=minute + 1))
        os.utime(path, (minute, minute))
    os.utime(data / "a.tfrecord", (2, 2))  # Of one time with b.
    shards = ["d-00000-of-00002.tfrecord", "d-00001-of-00002.tfrecord"]
    expected = {1: ["some"], 2: ["some", *shards], 3: ["some", *shards, "b"], 4: ["some", *shards, "a", "b"]}
    for window, names in expected.items():
        found = sources(everything(generate(data, window=window)))
        assert set(found) == {name if "." in name else f"{name}.tfrecord" for name in names}, window
    assert said[0] == "data.window takes the newest record files: some.tfrecord"
    assert len(sources(everything(generate(data, window=5)))) == 6


@pytest.mark.parametrize("name", ["missing", "file"])
def test_a_location_that_is_no_folder_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(RetakeError, match=f"data location .*/{name} is not a folder; give one with --data"):
        record_files(str(tmp_path / name))


def test_the_splits_can_be_sized(data):
    write_records(data / "some.tfrecord", coloured(60))
    made = generate(data, split={"train": 1, "eval": 1})
    assert 60 < len(split(made, "train")) < 120


def fingerprint(data):
    properties = {"input_base": str(data)}
    RecordsDriver(None).resolve_exec_properties(properties, None, None)
    return properties["input_fingerprint"]


def test_the_cache_knows_when_records_changed(data):
    seen = [fingerprint(data), fingerprint(data)]
    assert seen[0] == seen[1]
    write_records(data / "deep" / "below" / "new.tfrecord", coloured(1))
    seen.append(fingerprint(data))
    write_records(data / "some.tfrecord", coloured(11))
    seen.append(fingerprint(data))
    (data / "deep" / "below" / "new.tfrecord").unlink()
    seen.append(fingerprint(data))
    assert len(set(seen)) == 4
