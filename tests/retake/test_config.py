"""The configuration: what is given, what is filled in, and what is refused with the key, the file and the way out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from retake import config
from retake.errors import UsageError

PROJECT = Path(__file__).parents[2]
MINIMAL = {"pipeline": {"name": "tiny"}, "data": {"location": "data/tiny", "classes": ["a", "b"]}}


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


@pytest.fixture
def write(tmp_path):
    def written(content) -> str:
        path = tmp_path / "tiny.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return str(path)

    return written


def refusal(name, *overrides) -> str:
    with pytest.raises(UsageError) as error:
        config.load(name, list(overrides))
    return str(error.value)


@pytest.mark.parametrize("name", ["sample", "hotdog", "intel"])
def test_each_configuration_of_the_project_is_valid_and_named_for_its_file(name):
    loaded = config.load(name)
    assert loaded.pipeline.name == name
    assert loaded.pipeline.root == f"runs/{name}"
    assert loaded.pusher.destination == f"models/{name}"
    assert loaded.metadata.url == f"sqlite:///runs/{name}/metadata.sqlite"


def test_the_configurations_are_listed():
    assert config.available() == ["hotdog", "intel", "sample"]


def test_only_the_name_and_the_location_must_be_given(write):
    loaded = config.load(write(MINIMAL))
    assert loaded.model.backbone == "EfficientNetB0"
    assert loaded.model.image_size == 224
    assert loaded.trainer.fine_tune_layers == 0
    assert loaded.data.split == {"train": 80, "eval": 20}


def test_an_override_is_a_yaml_value(write):
    overrides = [
        "trainer.epochs=3",
        "trainer.fine_tune_layers=all",
        "data.classes=[x, y, z]",
        'trainer.record_weights={"new*": 4}',
        "model.weights=a=b.h5",
        "pipeline.caching=false",
    ]
    loaded = config.load(write(MINIMAL), overrides)
    assert loaded.trainer.epochs == 3
    assert loaded.trainer.fine_tune_layers == "all"
    assert loaded.data.classes == ["x", "y", "z"]
    assert loaded.trainer.record_weights == {"new*": 4}
    assert loaded.model.weights == "a=b.h5"
    assert loaded.pipeline.caching is False


def test_a_later_override_wins(write):
    assert config.load(write(MINIMAL), ["trainer.epochs=3", "trainer.epochs=4"]).trainer.epochs == 4


def test_name_and_root_can_be_used_in_places(write):
    overrides = ["pipeline.root=elsewhere/{name}/here", "pusher.destination='{root}/models'"]
    loaded = config.load(write(MINIMAL), overrides)
    assert loaded.pipeline.root == "elsewhere/tiny/here"
    assert loaded.pusher.destination == "elsewhere/tiny/here/models"
    assert loaded.metadata.url == "sqlite:///elsewhere/tiny/here/metadata.sqlite"


def test_what_is_shown_can_be_loaded_again(write):
    loaded = config.load(write(MINIMAL), ["trainer.fine_tune_layers=2"])
    assert config.load(write(config.as_yaml(loaded))) == loaded


def test_a_quoted_text_stays_a_text(write):
    for value in ("7", "null", "a: b", "[x", "ä'\""):
        assert config.load(write(MINIMAL), [f"pusher.destination={config.quote(value)}"]).pusher.destination == value


def test_an_unknown_configuration_is_refused_with_those_that_exist():
    message = refusal("hotdogs")
    assert "'configs/hotdogs.yaml' cannot be read (No such file or directory)" in message
    assert "there are: hotdog, intel, sample" in message


def test_elsewhere_the_way_to_the_configurations_is_told(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert "none here; run from the project's folder" in refusal("hotdog")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "must hold sections such as `pipeline:` and `data:`"),
        ("- a\n- b\n", "must hold sections"),
        ("data: [", "is not valid YAML: "),
        ({**MINIMAL, "data": 3}, "data = 3: input should be a valid dictionary"),
        ({"pipeline": {"name": "tiny"}}, "data is missing"),
        ({**MINIMAL, "data": {"classes": ["a", "b"]}}, "data.location is missing"),
        ({**MINIMAL, "trainer": {"epoch": 3}}, "unknown key trainer.epoch; allowed here: seed, epochs, patience"),
        ({**MINIMAL, "pipeline": {"name": "Hot Dog"}}, "pipeline.name = 'Hot Dog': string should match pattern"),
    ],
)
def test_a_file_that_says_something_else_is_refused_by_key_and_file(write, content, complaint):
    path = write(content)
    message = refusal(path)
    assert path in message and complaint in message
    assert "\n" not in message


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00picture")
    assert "x.yaml is not valid YAML" in refusal(str(tmp_path / "x.yaml"))


BILLION = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[" * 5000 + "]" * 5000, "nested more than 50 deep"),
        ("".join("\n" + " " * depth + "a:" for depth in range(1000)), "nested more than 50 deep"),
        (BILLION, "more than 100,000 values"),
        ("a: &a [*a]", "an alias stands within its own anchor"),
        ("#" * 1_000_001, "it has more than 1,000,000 bytes"),
        ("\x00\x01\x02" * 99, "special characters are not allowed"),
        ("data: {location: x}\ndata: {location: y}", "the key 'data' stands twice"),
        ("data: {location: x, 'location': y}", "the key 'location' stands twice"),
        ("trainer: {epochs: " + "9" * 5000 + "}", "is not valid YAML: "),
        ("trainer: {epochs: 2001-99-99}", "is not valid YAML: month must be in 1..12"),
        ("trainer: {epochs: !!int ''}", "is not valid YAML: "),
    ],
    ids=["flow", "block", "laughs", "itself", "huge", "binary", "twice", "twice quoted", "digits", "date", "tag"],
)
def test_yaml_that_takes_too_much_or_says_two_things_is_refused_in_one_line(write, content, complaint):
    message = refusal(write(content))
    assert "is not valid YAML: " in message and complaint in message
    assert "\n" not in message and len(message) < 500


def test_an_alias_may_repeat_what_is_small(write):
    text = "classes: &names [a, b]\n" + yaml.safe_dump(MINIMAL).replace("classes:\n  - a\n  - b\n", "classes: *names\n")
    assert config.load(write(text)).data.classes == ["a", "b"]


def test_an_override_is_bounded_as_a_file_is(write):
    assert "nested more than 50 deep" in refusal(write(MINIMAL), "data.classes=" + "[" * 5000)
    assert "the key 'train' stands twice" in refusal(write(MINIMAL), "data.split={train: 1, train: 2}")


def test_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.yaml")
    assert "x.yaml' cannot be read (not a regular file)" in refusal(str(tmp_path / "x.yaml"))


def test_a_key_cannot_forge_a_line_or_steer_a_terminal(write):
    message = refusal(write({**MINIMAL, "trainer": {"x\ny\x1b[2J": 1}}))
    assert r"unknown key trainer.x\ny\x1b[2J; allowed here" in message


def test_a_long_value_and_many_problems_are_cut_short(write):
    message = refusal(write({**MINIMAL, "data": "x" * 10_000, "trainer": {f"key{number}": 1 for number in range(99)}}))
    assert message.endswith("and 80 more") and len(message) < 10_000


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("data.classes=[one]", "data.classes = ['one']: list should have at least 2 items"),
        ("data.classes=[a, a]", "data.classes = ['a', 'a']: class names must be different from one another"),
        ("data.classes=[a, '']", "class names must be different from one another and not empty"),
        ("data.classes=[a, no]", "data.classes.1 = False: input should be a valid string"),
        ("data.location=''", "data.location = '': string should have at least 1 character"),
        ("data.split={train: 80}", "data.split = {'train': 80}: needs the splits train and eval, and may have test"),
        ("data.split={train: 8, eval: 1, tset: 1}", "needs the splits train and eval, and may have test"),
        ("data.seed=-1", "data.seed = -1: input should be greater than or equal to 0"),
        ("data.split={train: 80, eval: 0}", "data.split.eval = 0: input should be greater than 0"),
        ("data.max_dropped=2", "data.max_dropped = 2: input should be less than or equal to 1"),
        ("model.backbone=VGG", "'EfficientNetB0', 'EfficientNetV2B0', 'MobileNetV2', 'ResNet50' or 'LeNet5'"),
        ("model.image_size=16", "model.image_size = 16: input should be greater than or equal to 32"),
        ("trainer.epochs=many", "trainer.epochs = 'many': input should be a valid integer"),
        ("trainer.learning_rate=.inf", "trainer.learning_rate = inf: input should be a finite number"),
        ("trainer.learning_rate=.nan", "trainer.learning_rate = nan: input should be a finite number"),
        ("trainer.l2=0", "trainer.l2 = 0: input should be greater than 0"),
        ("trainer.fine_tune_layers=-1", "trainer.fine_tune_layers = -1: must be 0, a positive number or `all`"),
        ("trainer.fine_tune_layers=most", "trainer.fine_tune_layers = 'most': input should be a valid integer"),
        ("trainer.record_weights={a: -1}", "trainer.record_weights.a = -1: input should be greater than or equal to 0"),
        ("evaluator.min_accuracy=70", "evaluator.min_accuracy = 70: input should be less than or equal to 1"),
        ("evaluator.confidence=1", "evaluator.confidence = 1: input should be less than 1"),
        ("evaluator.min_recall={a: 70}", "evaluator.min_recall.a = 70: input should be less than or equal to 1"),
        ("data.classes=[]", "data.classes = []: list should have at least 2 items"),
        ("evaluator.min_recall={a: 0.7, c: 0.5}", "min_recall names c; data.classes are a, b"),
        ("pusher.destination=", "pusher.destination = None: input should be a valid string"),
        ("pipeline.root=", "pipeline.root = None: input should be a valid string"),
        ("data.location=~nobody-here/x", "there is no home folder ~nobody-here"),
        ("pusher.destination=''", "pusher.destination = '': string should have at least 1 character"),
        ("metadata.url=oracle://x", "must begin with sqlite:///, mysql:// or postgresql://"),
        ("beam.arguments=fast", "beam.arguments = 'fast': input should be a valid list"),
    ],
)
def test_an_impossible_value_is_refused_by_key_and_value(write, override, complaint):
    path = write(MINIMAL)
    message = refusal(path, override)
    assert message.startswith(f"{path} with --set: ") and complaint in message
    assert "\n" not in message


def test_lenet5_is_refused_with_weights_before_anything_starts(write):
    message = refusal(write(MINIMAL), "model.backbone=LeNet5", "model.weights=imagenet")
    assert "model.weights = 'imagenet': LeNet5 trains from scratch and takes no weights; set it to none" in message


def test_a_warm_start_is_refused_where_no_head_on_a_frozen_network_is_trained(write):
    for other in ("trainer.fine_tune_layers=3", "model.backbone=LeNet5"):
        message = refusal(write(MINIMAL), "trainer.start=warm", other)
        assert "start: warm goes on from a head on a frozen network; set fine_tune_layers to 0" in message


def test_what_is_for_the_other_start_is_refused(write):
    told = refusal(write(MINIMAL), "trainer.start=warm", "trainer.new_share=0.3")
    assert "new_share is for a fresh start" in told
    assert "replay is for start: warm" in refusal(write(MINIMAL), "trainer.replay=1")
    assert "trainer.new_share = 0.6: input should be less than or equal to 0.5" in refusal(
        write(MINIMAL), "trainer.new_share=0.6"
    )


def test_each_wrong_key_has_its_line(write):
    message = refusal(write(MINIMAL), "trainer.epochs=0", "model.image_size=0")
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("trainer.epochs", "must read section.key=value, for example --set trainer.epochs=3"),
        ("epochs=3", "must read section.key=value"),
        ("trainer.epochs=[3", "'[3' is not a YAML value"),
        ("trainer.epochs.first=3", "unknown key trainer.epochs.first"),
    ],
)
def test_an_override_of_another_form_is_refused_with_an_example(write, override, complaint):
    assert complaint in refusal(write(MINIMAL), override)


def test_the_sections_of_runners_are_left_to_them(write):
    loaded = config.load(write({**MINIMAL, "vertex": {"region": "europe-west4"}}))
    assert loaded.model_extra == {"vertex": {"region": "europe-west4"}}


def test_every_configuration_of_the_project_loads():
    assert config.available() == ["hotdog", "intel", "sample"]
    for name in config.available():
        assert config.load(name).pipeline.name == name


def test_a_leading_tilde_is_the_home_folder(write, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    overrides = [
        "pipeline.root=~/runs",
        "data.location=~/records",
        "model.weights=~/w.h5",
        "pusher.destination=~/models",
    ]
    loaded = config.load(write(MINIMAL), overrides)
    assert (loaded.pipeline.root, loaded.data.location) == ("/home/me/runs", "/home/me/records")
    assert (loaded.model.weights, loaded.pusher.destination) == ("/home/me/w.h5", "/home/me/models")
    assert loaded.metadata.url == "sqlite:////home/me/runs/metadata.sqlite"
