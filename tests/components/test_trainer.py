"""The trained model: what it learns from, and what it answers when it is served."""

from __future__ import annotations

import resource
import shutil
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from colours import CLASSES, coloured, config, example, picture, write_records
from one_node import card, column, examples_from, saved_model, split, train, transform_graph_for

from components import backbones, head, start, trainer
from components import network as network_training
from components.training_split import Split, transform_of
from retake.errors import RetakeError

MOBILENET = Path(__file__).parents[2].parent / "shared" / "weights" / "mobilenetv2_0.35_224_notop.weights.h5"
needs_shared = pytest.mark.skipif(not MOBILENET.is_file(), reason="the shared ImageNet weights are not on this machine")


def loaded(model):
    return load(saved_model(model))


@cache
def load(folder):
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def served(trained):
    return loaded(trained)


def ask(served, images, signature="image_bytes"):
    if signature == "image_bytes":
        return served.signatures[signature](image_bytes=tf.constant(images, tf.string, [len(images)]))
    examples = [example(image, None) for image in images]
    return served.signatures[signature](examples=tf.constant(examples, tf.string, [len(examples)]))


def answers(model, images):
    labels = ask(loaded(model), images)["label"].numpy()
    return [label.decode() for label in labels]


def unseen(per_class=4):
    return [picture(colour, 10_000 + number) for colour in range(3) for number in range(per_class)]


def rest_of(examples, graph, **settings):
    to_pixels = transform_of(graph.uri)
    return Split([f"{examples.uri}/Split-train/*"], to_pixels, config(trainer=settings).trainer)


# What is served


def test_a_network_from_scratch_learns_the_colours(served):
    labels = ask(served, unseen())["label"].numpy()
    assert [label.decode() for label in labels] == [name for name in CLASSES for _ in range(4)]


def test_the_model_card_says_what_the_model_is(trained, colours):
    assert card(trained) == {
        "classes": CLASSES,
        "backbone": "LeNet5",
        "weights": "random",
        "image_size": 32,
        "pictures": len(split(colours, "train")),
        "sources": {"colours.tfrecord": len(split(colours, "train"))},
    }


@pytest.mark.parametrize("signature", ["serving_default", "image_bytes"])
def test_both_signatures_answer_with_probabilities_classes_and_the_label(served, signature):
    images = unseen()
    answer = {name: value.numpy() for name, value in ask(served, images, signature).items()}
    assert set(answer) == {"probabilities", "classes", "label"}
    assert answer["probabilities"].shape == (12, 3)
    np.testing.assert_allclose(answer["probabilities"].sum(1), 1, atol=1e-5)
    assert answer["classes"].tolist() == [[name.encode() for name in CLASSES]] * 12
    best = answer["probabilities"].argmax(1)
    assert answer["label"].tolist() == [CLASSES[index].encode() for index in best]


def test_both_signatures_give_the_same_answer(served):
    first, second = (ask(served, unseen(), name)["probabilities"] for name in ("serving_default", "image_bytes"))
    np.testing.assert_array_equal(first, second)


def test_an_example_may_carry_other_features_too(served, colours):
    rows = [each.SerializeToString() for each in split(colours, "eval")]
    answer = served.signatures["serving_default"](examples=tf.constant(rows))
    expected = [CLASSES[label].encode() for label in column(split(colours, "eval"), "label")]
    assert answer["label"].numpy().tolist() == expected


@pytest.mark.parametrize("signature", ["serving_default", "image_bytes"])
def test_no_rows_give_no_answers(served, signature):
    answer = ask(served, [], signature)
    assert answer["probabilities"].shape == (0, 3)
    assert answer["classes"].shape == (0, 3)
    assert answer["label"].shape == (0,)


def test_the_answer_to_a_picture_does_not_depend_on_the_others_in_the_batch(served):
    images = [picture(seed % 3, seed) for seed in range(70)]  # More than two chunks.
    together = ask(served, images)["probabilities"].numpy()
    alone = np.concatenate([ask(served, [image])["probabilities"].numpy() for image in images[::23]])
    np.testing.assert_allclose(together[::23], alone, atol=1e-5)


def test_a_batch_of_a_thousand_large_pictures_takes_memory_for_a_few(served):
    large = picture(0, seed=1, size=(800, 800))
    ask(served, [large] * 32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = ask(served, [large] * 1000)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert answer["label"].shape == (1000,)
    assert grown < 1000 * 800 * 800 * 3 / 5


# What it learns from


def test_the_same_seed_gives_the_same_model(colours, graph, trained, tmp_path):
    again = train(tmp_path, config(), colours, graph)
    first, second = (ask(loaded(model), unseen())["probabilities"] for model in (trained, again))
    np.testing.assert_allclose(first, second, atol=1e-4)


@pytest.mark.parametrize("class_weights", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_new_record_files_make_their_share_of_the_loss_whatever_their_number(
    tmp_path, graph, said, share, class_weights
):
    for name, number in (("first", 30), ("second", 9), ("third", 3)):
        write_records(tmp_path / "data" / f"{name}.tfrecord", coloured(number, seed=number))
    made = examples_from(tmp_path, config(data={"location": str(tmp_path / "data")}))
    rows = rest_of(made, graph)
    settings = config(trainer={"new_share": share, "class_weights": class_weights}).trainer
    new = np.array([source != "first.tfrecord" for source in rows.sources])

    weights = rows.weights(settings, 3, {"first.tfrecord": 70, "gone.tfrecord": 1})
    assert weights.mean() == pytest.approx(1) and weights[new].sum() == pytest.approx(share * len(weights), rel=1e-4)
    assert said[-1] == f"{new.sum()} pictures of new record files are {share:g} of the training loss"
    for known in ((), set(rows.sources)):  # All are new, as in the first run; or none is.
        plain = rows.weights(settings.model_copy(update={"new_share": None}), 3, known)
        np.testing.assert_array_equal(rows.weights(settings, 3, known), plain)


def test_what_the_model_in_service_was_trained_on_is_on_its_card(trained, tmp_path):
    assert set(start.known(str(saved_model(trained)))) == {"colours.tfrecord"}
    assert start.known(None) == start.known(str(tmp_path)) == {}


def test_classes_weigh_the_same_whatever_their_share(tmp_path):
    pictures = [example(picture(0, seed), 0) for seed in range(80)]
    pictures += [example(picture(colour, seed), colour) for colour in (1, 2) for seed in range(20)]
    write_records(tmp_path / "data" / "unbalanced.tfrecord", pictures)
    examples = examples_from(tmp_path, config(data={"location": str(tmp_path / "data")}))
    rows = rest_of(examples, transform_graph_for(tmp_path, config(), examples))

    weights = rows.weights(config().trainer, 3)
    shares = np.bincount(rows.labels, weights) / weights.sum()
    np.testing.assert_allclose(shares, 1 / 3, atol=1e-5)
    assert weights.mean() == pytest.approx(1)
    assert (rows.weights(config(trainer={"class_weights": False}).trainer, 3) == 1).all()


@pytest.fixture(scope="module")
def of_three_files(tmp_path_factory, graph):
    folder = tmp_path_factory.mktemp("files")
    for seed, name in enumerate(("baseline.tfrecord", "baseline/old.tfrecord.gz", "new/taco.tfrecord")):
        write_records(folder / "data" / name, coloured(10, seed=seed))
    return rest_of(examples_from(folder, config(data={"location": str(folder / "data")})), graph)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ({}, {"baseline.tfrecord": 1, "baseline/old.tfrecord.gz": 1, "new/taco.tfrecord": 1}),
        ({"baseline*": 1, "*": 4}, {"baseline.tfrecord": 1, "baseline/old.tfrecord.gz": 1, "new/taco.tfrecord": 4}),
        ({"new/*": 3}, {"baseline.tfrecord": 1, "baseline/old.tfrecord.gz": 1, "new/taco.tfrecord": 3}),
        ({"*.gz": 0, "*": 2}, {"baseline.tfrecord": 2, "baseline/old.tfrecord.gz": 0, "new/taco.tfrecord": 2}),
        ({"*": 2, "new/*": 9}, {"baseline.tfrecord": 2, "baseline/old.tfrecord.gz": 2, "new/taco.tfrecord": 9}),
    ],
    ids=str,
)
def test_a_record_file_weighs_what_the_longest_pattern_says_that_matches_it(of_three_files, patterns, expected):
    settings = config(trainer={"record_weights": patterns, "class_weights": False}).trainer
    weights = of_three_files.weights(settings, 3)
    relative = np.array([expected[source] for source in of_three_files.sources])
    np.testing.assert_allclose(weights, relative / relative.mean(), rtol=1e-5)


def test_weights_that_leave_nothing_to_learn_from_are_refused(of_three_files):
    with pytest.raises(RetakeError, match=r"trainer.record_weights .* every record file the weight 0"):
        of_three_files.weights(config(trainer={"record_weights": {"*": 0}}).trainer, 3)


def test_a_weight_of_four_is_the_same_as_the_records_four_times(of_three_files):
    by_four = config(trainer={"record_weights": {"new/*": 4}}).trainer
    weights = of_three_files.weights(by_four, 3)
    new = np.array([source.startswith("new/") for source in of_three_files.sources])
    assert weights[new].mean() / weights[~new].mean() == pytest.approx(4, rel=0.2)
    shares = np.bincount(of_three_files.labels, weights) / weights.sum()
    np.testing.assert_allclose(shares, 1 / 3, atol=1e-5)


def test_identical_pictures_are_on_one_side_of_what_is_held_out(tmp_path, graph):
    for copy in range(3):
        write_records(tmp_path / "data" / f"{copy}.tfrecord", coloured(20))
    rows = rest_of(examples_from(tmp_path, config(data={"location": str(tmp_path / "data")})), graph)
    sides = {}
    for digest, side in zip(rows.digests, rows.held_out, strict=True):
        sides.setdefault(digest, set()).add(bool(side))
    assert 0 < rows.held_out.sum() < len(rows.held_out)
    assert all(len(side) == 1 for side in sides.values())


# Other schedules


def test_lenet5_trains_from_scratch_at_another_size(colours, tmp_path):
    settings = config(model={"image_size": 64})
    model = train(tmp_path, settings, colours, transform_graph_for(tmp_path, settings, colours))
    assert card(model)["image_size"] == 64
    assert answers(model, unseen()) == [name for name in CLASSES for _ in range(4)]


@needs_shared
def test_a_head_and_then_the_whole_of_a_pretrained_network_learn_the_colours(colours, graph, tmp_path):
    settings = config(
        model={"backbone": "MobileNetV2", "weights": str(MOBILENET)},
        trainer={"fine_tune_layers": "all", "fine_tune_epochs": 1},
    )
    model = train(tmp_path, settings, colours, graph)
    assert card(model)["weights"] == "file"
    assert answers(model, unseen()) == [name for name in CLASSES for _ in range(4)]


@pytest.fixture(scope="module")
def in_service(tmp_path_factory, graph):
    """A fitted head, its settings for a warm start, and examples of its record file and of one where red is blue."""
    folder = tmp_path_factory.mktemp("warm")
    settings = config(
        data={"location": str(folder / "data")},
        model={"backbone": "MobileNetV2", "weights": str(MOBILENET)},
        trainer={"start": "warm"},
    )
    write_records(folder / "data" / "first.tfrecord", coloured(30))
    first = examples_from(folder, settings)
    model = train(folder, settings, first, graph)
    otherwise = [example(picture(0, 10_000 + number), "blue") for number in range(40)]
    write_records(folder / "data" / "later.tfrecord", otherwise + coloured(2, seed=8))
    return model, settings, first, examples_from(folder, settings)


@needs_shared
def test_a_fitted_head_does_not_depend_on_the_seed(in_service, graph, tmp_path):
    model, settings, first, _ = in_service
    reseeded = settings.trainer.model_copy(update={"seed": settings.trainer.seed + 1})
    other = train(tmp_path, settings.model_copy(update={"trainer": reseeded}), first, graph)
    one, another = (ask(loaded(each), unseen())["probabilities"] for each in (model, other))
    np.testing.assert_allclose(one, another, atol=1e-5)


def kept(model):
    return np.load(saved_model(model) / "assets.extra" / "head.npz")


@needs_shared
def test_a_warm_start_goes_on_from_the_head_in_service_with_the_new_records_only(in_service, graph, said, tmp_path):
    model, settings, _, both = in_service
    moved = train(tmp_path, settings, both, graph, base_model=model)
    assert any("goes on from the model in service with" in message for message in said)
    assert set(card(moved)["sources"]) == {"first.tfrecord", "later.tfrecord"}
    old, new = kept(model), kept(moved)
    assert old["l2"] == new["l2"] and (old["mean"] == new["mean"]).all()
    assert not np.allclose(old["kernel"], new["kernel"])
    reds = [picture(0, 20_000 + number) for number in range(8)]
    blue = CLASSES.index("blue")
    before, after = (np.mean(ask(loaded(each), reds)["probabilities"][:, blue]) for each in (model, moved))
    assert after > before + 0.05


@needs_shared
def test_a_warm_start_takes_no_old_picture_but_those_that_it_replays(in_service, graph, said, tmp_path):
    model, settings, _, both = in_service
    for replay in (0.5, 1000):
        chosen = settings.trainer.model_copy(update={"replay": replay})
        train(tmp_path, settings.model_copy(update={"trainer": chosen}), both, graph, base_model=model)
    rows = rest_of(both, graph)
    new = rows.sources.count("later.tfrecord")
    half, old = round(new / 2), len(rows.sources) - new
    assert [message.partition(", with")[0] for message in said] == [
        f"head: goes on from the model in service with {new} new pictures and {half} old ones",
        f"features: {new + half} pictures are known, {old - half} are new",
        f"head: goes on from the model in service with {new} new pictures and {old} old ones",
    ]


@needs_shared
def test_a_warm_start_without_new_records_keeps_the_head(in_service, graph, said, tmp_path):
    model, settings, first, _ = in_service
    again = train(tmp_path, settings, first, graph, base_model=model)
    assert "no record file is new" in said[-1]
    assert all((kept(model)[name] == kept(again)[name]).all() for name in ("kernel", "bias", "mean", "variance"))


@needs_shared
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "head.npz").unlink(), "has no head on a frozen network"),
        (lambda folder: (folder / "head.npz").write_bytes(b""), "cannot be read"),
        (
            lambda folder: (folder / "retake.json").write_text('{"classes": ["cat", "dog"], "sources": {}}'),
            "knows other classes (cat, dog)",
        ),
        (
            lambda folder: np.savez(folder / "head.npz", **{**np.load(folder / "head.npz"), "network": "another"}),
            "has another network",
        ),
    ],
)
def test_what_cannot_be_gone_on_from_makes_the_start_fresh_and_is_told(in_service, said, change, reason, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(saved_model(in_service[0]), model)
    network = str(np.load(model / "assets.extra" / "head.npz")["network"])
    assert start.find(str(model), CLASSES, network) is not None
    change(model / "assets.extra")
    assert start.find(str(model), CLASSES, network) is None
    assert said[-1].startswith("the start is fresh, not warm: ") and reason in said[-1]


def test_features_are_kept_for_a_network_whatever_else_of_the_trainer_changes():
    custom_config = {
        "model": {"backbone": "MobileNetV2", "image_size": 224, "weights": "imagenet"},
        "weights_fingerprint": "",
        "features": "features",
        "code": "one",
        "network_code": "one",
    }
    store = trainer._feature_store(custom_config)
    assert store == trainer._feature_store(custom_config | {"code": "another"})
    assert store != trainer._feature_store(custom_config | {"network_code": "another"})


def test_without_a_model_or_with_random_weights_the_start_is_fresh(said):
    assert start.find(None, CLASSES, "network") is None
    assert "there is no blessed model" in said[-1]
    assert start.find("model", CLASSES, "") is None
    assert "random weights" in said[-1]


@pytest.fixture
def unlearnable(colours, graph):
    """Pictures with labels at random, a network whose features tell each picture from all others, and the rows."""
    split = rest_of(colours, graph)
    split.labels = np.random.default_rng(5).integers(0, 3, len(split.labels))
    inner = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten()])
    inner.add(keras.layers.Dense(300, kernel_initializer=keras.initializers.GlorotUniform(seed=5)))
    pixels = keras.Input((32, 32, 3), dtype="uint8")
    network = keras.Model(pixels, inner(keras.layers.Lambda(lambda p: keras.ops.cast(p, "float32"))(pixels)))
    rows = head.Rows(trainer._features(network, split, None), split.labels, np.ones(len(split.labels), "float32"))
    return split, network, rows


def test_fine_tuning_starts_from_a_head_that_has_not_seen_the_held_out_pictures(unlearnable, said, tmp_path):
    split, network, rows = unlearnable
    settings = config(trainer={"l2": 1, "fine_tune_layers": 1, "fine_tune_epochs": 1}).trainer
    trainer._with_head(network, split, rows, 3, settings, str(tmp_path))

    everything = head.quality(head.fit(rows, 3, 1), rows.only(split.held_out)).accuracy
    honest = head.quality(head.fit(rows.only(~split.held_out), 3, 1), rows.only(split.held_out)).accuracy
    assert everything == 1 and honest < 0.7
    number = split.held_out.sum()
    assert said[:1] == [f"head: {honest:.3f} accuracy on {number} held-out pictures, with l2 1"]
    assert said[1].startswith(f"network: {honest:.3f} accuracy on {number} held-out pictures before training, ")


def test_a_network_that_fine_tuning_makes_worse_stays_as_it_was(unlearnable, said, tmp_path):
    split, network, rows = unlearnable
    before = network.get_weights()
    settings = {"l2": 1e5, "fine_tune_layers": "all", "fine_tune_epochs": 2, "fine_tune_learning_rate": 1.0}
    model, _ = trainer._with_head(network, split, rows, 3, config(trainer=settings).trainer, str(tmp_path))

    assert (
        said[-1] == "network: no epoch of fine-tuning helped; the network stays frozen, with the head on all pictures"
    )
    for now, then in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)
    np.testing.assert_array_equal(model.layers[-1].get_layer("probabilities").kernel, head.fit(rows, 3, 1e5).kernel)


@needs_shared
def test_fine_tuning_changes_the_layers_that_it_is_asked_to_and_no_batch_norm(colours, graph, tmp_path):
    settings = config().trainer
    rows = rest_of(colours, graph)
    network = backbones.build("MobileNetV2", str(MOBILENET), 32, False, lambda: rows.sample(8)).network
    model = keras.Sequential([network, keras.layers.Dense(3, activation="softmax", kernel_initializer="zeros")])

    def changed_by(layers):
        before = {weight.path: weight.numpy() for weight in network.weights}
        network_training.unfreeze(network, layers)
        schedule = network_training.Schedule(epochs=1, learning_rate=1e-4, patience=2)
        assert network_training.train(model, rows, rows.weights(settings, 3), schedule, str(tmp_path)) == 1
        return {weight.path for weight in network.weights if not np.array_equal(weight.numpy(), before[weight.path])}

    assert changed_by(2) == {"block_16_project/kernel", "Conv_1/kernel"}
    everything = changed_by("all")
    assert len(everything) > 50
    assert not [path for path in everything if "bn" in path.lower()]
