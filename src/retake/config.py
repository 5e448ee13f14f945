"""The one typed configuration of a pipeline, read from ``configs/NAME.yaml`` and overridden from the command line.

Example:
    >>> config = load("hotdog", ["trainer.epochs=3"])
    >>> config.data.classes, config.trainer.epochs
    (['food', 'sandwich', 'taco'], 3)
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from retake.errors import UsageError
from retake.files import open_regular
from retake.terminal import in_one_line

CONFIGS = Path("configs")

LOOPBACK = ("127.0.0.1", "localhost", "::1")

PIPELINE_NAME = r"^[a-z][a-z0-9-]*$"

GOOGLE_NAMES = {
    "project": (r"[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project's id"),
    "region": (r"[a-z]+-[a-z]+\d{1,2}", "a region such as europe-west4"),
    "bucket": (r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]", "a bucket's name"),
}
"""What Google Cloud calls its things: a pattern, and what matches it."""

MAX_YAML_BYTES = 1_000_000
MOST_YAML_VALUES = 100_000
DEEPEST_YAML = 50
"""Bounds of a YAML file. Values count as often as an alias repeats them: a kilobyte can stand for a billion."""

MOST_PROBLEMS = 20
LONGEST_VALUE = 200
"""Lines of a refusal, and characters of a value that it quotes."""

UNION_PARTS = ("int", "constrained-float", "float", "literal['all']", "literal['auto']")
"""What pydantic calls the sides of a `number | word`; no part of a key."""

TEST = "test"
SPLITS = ("train", "eval", TEST)
"""The splits of the pictures, in the order of their hash buckets; the last one may be missing."""

Backbone = Literal["EfficientNetB0", "EfficientNetV2B0", "MobileNetV2", "ResNet50", "LeNet5"]
Share = Annotated[float, Field(ge=0, le=1)]


def _expanded(place: str) -> str:
    """A leading ~ or ~USER as the home folder, as a shell does where nothing stands before it."""
    try:
        return str(Path(place).expanduser()) if place.startswith("~") else place
    except RuntimeError:
        raise ValueError(f"there is no home folder {place.partition('/')[0]}") from None


Place = Annotated[str, Field(min_length=1), AfterValidator(_expanded)]
"""A folder or gs:// prefix."""

NO_FILES = ("auto", "imagenet", "none")
"""What `model.weights` says besides the path of a file."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PipelineSection(Section):
    """Identity of the pipeline and where its runs, artifacts and logs lie."""

    name: str = Field(pattern=PIPELINE_NAME, description="Name of the pipeline and of its models' folder.")
    root: Place = Field("runs/{name}", description="Folder or gs:// prefix for artifacts, metadata and logs.")
    caching: bool = Field(True, description="Reuse the outputs of a node whose inputs have not changed.")


class DataSection(Section):
    """The records, their classes and what is accepted of them."""

    location: Place = Field(
        description="Folder or gs:// prefix; every record file below it is read: .tfrecord, .tfrecords and .tfrec in "
        "lower or upper case, with or without .gz, whole or in shards such as .tfrecord-00000-of-00002.",
    )
    window: int | None = Field(
        None,
        ge=1,
        description="Read only as many record files, those that were written last; the shards of one count as one. "
        "Older pictures are then neither trained on nor in the eval split, so that the gate does not see what is "
        "forgotten. Without it, all are read.",
    )
    sample: bool = Field(False, description="Draw the embedded pictures into `location` when it does not exist.")
    classes: Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        description="Class names; the position is the label's index. Without them, they are the names that the records "
        "hold as labels, sorted; records with numbers as labels need this key.",
    )
    split: dict[str, Annotated[int, Field(gt=0)]] = Field(
        {"train": 80, "eval": 20},
        description="Hash buckets of the splits train, eval and, if it is given, test: pictures that are never trained "
        "on nor gated on. Each model that the gate blesses is measured on them once, and the summary says it. "
        "{train: 80, eval: 10, test: 10} takes them from the default's eval split; other sums of the buckets move "
        "pictures between the splits.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Another number splits the same pictures in another way, so that a figure can be repeated over "
        "several splits. A model that was trained under another seed has seen pictures that are eval pictures now: "
        "give each seed a `pipeline.name` of its own.",
    )
    min_eval_per_class: int = Field(
        0,
        ge=0,
        le=1000,
        description="For classes with few pictures: so many different eval pictures of each class at least, taken from "
        "its train pictures (those of the lowest hash) as long as one is left. The records are then read twice, and "
        "a picture of such a class may change its split when others arrive.",
    )
    max_pixels: int = Field(40_000_000, gt=0, description="Larger pictures are dropped before they are decoded.")
    max_bytes: int = Field(20_000_000, gt=0, description="Larger encoded pictures are dropped.")
    max_dropped: Share = Field(0.1, description="The run stops when more than this share of examples is dropped.")

    @field_validator("classes")
    @classmethod
    def _unique(cls, classes: list[str] | None) -> list[str] | None:
        if classes is None:
            return None
        if len(set(classes)) != len(classes) or not all(name.strip() for name in classes):
            raise ValueError("class names must be different from one another and not empty")
        return classes

    @field_validator("split")
    @classmethod
    def _train_and_eval(cls, split: dict[str, int]) -> dict[str, int]:
        if not {"train", "eval"} <= set(split) <= set(SPLITS):
            raise ValueError("needs the splits train and eval, and may have test")
        return split


class ModelSection(Section):
    """The network in front of the softmax head."""

    backbone: Backbone = Field("EfficientNetB0", description="Network that turns a picture into features.")
    weights: Place = Field(
        "auto",
        description="`imagenet` (Keras downloads them), the path of a weights file, `none` (random), or `auto`: "
        "imagenet where it can be reached, else random with a message. Where the nodes run elsewhere (Airflow, Vertex, "
        "Kubeflow), `auto` is imagenet or an error, never random.",
    )
    image_size: int = Field(224, ge=32, le=1024, description="Pictures become image_size × image_size pixels.")

    @field_validator("weights")
    @classmethod
    def _fitting(cls, weights: str, others: ValidationInfo) -> str:
        if others.data.get("backbone") == "LeNet5" and weights not in ("auto", "none"):
            raise ValueError("LeNet5 trains from scratch and takes no weights; set it to none")
        return weights


class TrainerSection(Section):
    """The schedule: a head fitted to frozen features, then optionally more of the backbone; LeNet5 trains whole."""

    seed: int = Field(7, ge=0, description="Seeds random initial weights and shuffling; a fitted head needs none.")
    epochs: int = Field(200, ge=1, description="LeNet5: most epochs; early stopping ends the training sooner.")
    patience: int = Field(15, ge=1, description="LeNet5: epochs without a better held-out loss before it stops.")
    batch_size: int = Field(32, ge=1, description="Pictures in a step, where a network trains.")
    learning_rate: float = Field(2e-3, gt=0, description="LeNet5: Adam's rate.")
    l2: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto",
        description="Penalty on the head's squared weights, on standardized features: the head minimizes the summed "
        "log loss of the pictures + l2 / 2 × the sum of its squared weights (l2 is 1 / C of scikit-learn), so that it "
        "means the same for any number of pictures. `auto` takes the one of 11 from 100,000 to 1 that is "
        "best on held-out pictures; for LeNet5 it is none.",
    )
    start: Literal["fresh", "warm"] = Field(
        "fresh",
        description="`fresh` fits a head to all records. `warm` goes on from the head of the model in service with the "
        "records that are new to it; `l2` then holds the head near its old weights, and `auto` is the old head's own. "
        "Where there is no such model, or its classes or network are others, the start is fresh (docs/hotdog.md).",
    )
    replay: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Warm start: how many old pictures are learnt again for each new one, against forgetting.",
    )
    new_share: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Fresh start: the share of the training loss that pictures of new record files make, whatever "
        "their number: those that the model in service was not trained on. Without it, a new picture counts as an "
        "old one.",
    )
    fine_tune_layers: int | Literal["all"] = Field(
        0,
        description="Last layers with weights of the backbone that are trained after the head, batch norm not counted; "
        "`all` for the whole network.",
    )
    fine_tune_epochs: int = Field(5, ge=1, description="Most epochs of fine-tuning.")
    fine_tune_learning_rate: float = Field(1e-5, gt=0, description="Adam's rate for fine-tuning.")
    class_weights: bool = Field(True, description="Weigh classes by the inverse of their share of the pictures.")
    record_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="Weight of an example by the record file it came from: the longest pattern that matches the path "
        'below `data.location` counts, others weigh 1. {"baseline*": 1, "*": 4} makes all that arrives after the '
        "baseline weigh four times.",
    )

    @field_validator("fine_tune_layers")
    @classmethod
    def _not_negative(cls, layers: int | str) -> int | str:
        if isinstance(layers, int) and layers < 0:
            raise ValueError("must be 0, a positive number or `all`")
        return layers

    @property
    def asks_model_in_service(self) -> bool:
        """Whether a training has to know what the model in service was trained on."""
        return self.start == "warm" or self.new_share is not None


class EvaluatorSection(Section):
    """The gate between a trained model and the models' folder."""

    min_accuracy: Share = Field(0.5, description="A candidate below this accuracy on the eval split is not blessed.")
    max_regression: Share = Field(
        0.0,
        description="How much worse than the model in service a candidate may be on the same eval pictures, of the "
        "record files that this model was trained on. It is refused where the whole interval of the difference lies "
        "below that (docs/gate.md).",
    )
    max_regression_new: Share = Field(
        0.0, description="The same on eval pictures of record files that are new to the model in service."
    )
    min_new_ratio: Share = Field(
        0.5,
        description="Least accuracy on the pictures of a new record file, as a share of that on old pictures. A "
        "candidate that is clearly below is refused, as the file's labels are in doubt; 0 for no such bound.",
    )
    confidence: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="Of the interval: a candidate that is as good as the model in service is refused in half of the "
        "rest, 2.5% of cases.",
    )
    min_recall: dict[str, Share] = Field(
        {},
        description='Class → the share of its eval pictures that a candidate has to answer right: {"taco": 0.7}. '
        "Classes that are not named have no bound of their own.",
    )


class PusherSection(Section):
    """Where blessed models go."""

    destination: Place = Field("models/{name}", description="Folder or gs:// prefix of the numbered versions.")


class BeamSection(Section):
    """How the Beam nodes (ExampleGen, StatisticsGen, Transform, Evaluator) run."""

    arguments: list[str] = Field(
        ["--runner=DirectRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"],
        description="Pipeline options of the Beam nodes. On Vertex, {project}, {region}, {root}, {image} and "
        "{service_account} stand for what they are there.",
    )


class MetadataSection(Section):
    """Where runs, executions and artifacts are recorded."""

    url: str = Field(
        "sqlite:///{root}/metadata.sqlite",
        description="ML Metadata store: sqlite:///PATH, mysql://USER@HOST/DATABASE or postgresql://USER@HOST/DATABASE. "
        "The password comes from RETAKE_METADATA_PASSWORD.",
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if not url.startswith(("sqlite:///", "mysql://", "postgresql://")):
            raise ValueError("must begin with sqlite:///, mysql:// or postgresql://")
        if not url.startswith("sqlite:///"):
            if re.search(r"://[^@]*:.*@", url):
                raise ValueError("must not hold a password: put it into the environment as RETAKE_METADATA_PASSWORD")
            _ = urlsplit(url).port  # Raises what is wrong with it.
        return url


class AirflowSection(Section):
    """How the pipeline runs under Airflow."""

    retries: int = Field(2, ge=0, description="How often a task that failed is tried again.")
    retry_seconds: float = Field(30.0, gt=0, description="Wait before the first retry; it doubles with each one.")
    watch_seconds: float = Field(
        60.0,
        ge=1,
        description="How often the data location is looked at; new records must rest for as long to be taken.",
    )
    places: list[Place] = Field(
        [],
        description="Folders and gs:// prefixes: whoever triggers a run may name them, or what lies below them, as its "
        "`data` or `models`. Without any, `data` must be data.location or lie below it, and `models` likewise "
        "pusher.destination.",
    )
    pods: dict[str, str] = Field(
        {},
        description="Node → file with a Kubernetes pod template that it runs in, `*` for all others; without one a "
        "node runs on Airflow's worker.",
    )


class Machine(Section):
    """What a node gets on Vertex, which looks for the smallest machine that has it."""

    cpus: float = Field(gt=0)
    memory_gb: float = Field(gt=0)
    accelerator: str | None = None
    accelerators: int = Field(1, gt=0)
    image: str | None = None


Label = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


class VertexSection(Section):
    """How the pipeline runs on Vertex AI Pipelines."""

    project: str = Field("", description="Google Cloud project that the job runs in.")
    region: str = Field("", description="Region that it runs in, such as europe-west4.")
    bucket: str = Field(
        "",
        description="Bucket in that region. Places of the configuration that are neither absolute nor gs:// lie in it.",
    )
    image: str = Field("", description="Container image with this project's code, which every node runs.")
    service_account: str = Field("", description="Whom the nodes run as; empty for the project's default.")
    endpoint: str = Field(
        "",
        description="Another address of the service. With http://127.0.0.1:8480 of a local Vertex, relative places are "
        "folders of this machine, and project, region, bucket and image are not needed.",
    )
    labels: dict[Label, Label] = Field({}, description="Labels of the job, for bills and searches.")
    machines: dict[str, Machine] = Field(
        {},
        description='Node → what its machine has, `*` for all others: {"Trainer": {"cpus": 8, "memory_gb": 30, '
        '"accelerator": "NVIDIA_TESLA_T4", "accelerators": 1, "image": "IMAGE-gpu"}}. Without one, Vertex takes what '
        "it takes by default; without an image of its own, a node runs in `vertex.image`.",
    )
    retries: int = Field(0, ge=0, description="How often a node that failed is tried again.")

    @property
    def is_local(self) -> bool:
        """Whether `endpoint` is a Vertex on this machine, whose nodes see this machine's folders."""
        return self.endpoint.startswith("http://")

    @field_validator("bucket")
    @classmethod
    def _name_only(cls, bucket: str) -> str:
        return bucket.removeprefix("gs://").rstrip("/")

    @field_validator(*GOOGLE_NAMES)
    @classmethod
    def _possible(cls, name: str, field: ValidationInfo) -> str:
        pattern, says = GOOGLE_NAMES[str(field.field_name)]
        if name and not re.fullmatch(pattern, name):
            raise ValueError(f"is not {says}")
        return name

    @field_validator("endpoint")
    @classmethod
    def _safe(cls, endpoint: str) -> str:
        parts = urlsplit(endpoint)
        if endpoint and not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
            raise ValueError("must begin with https://, or with http:// and be on this machine")
        return endpoint.rstrip("/")


class KubeflowSection(Section):
    """How the pipeline runs on open-source Kubeflow Pipelines."""

    host: str = Field("", description="Address of Kubeflow Pipelines' API.")
    image: str = Field("", description="Container image with this project's code, which every node runs.")
    secret: str = Field("", description="Kubernetes secret whose key `password` is that of the metadata store.")
    claims: dict[str, str] = Field(
        {}, description="Persistent volume claim → where every task mounts it; not needed where all places are gs://."
    )
    retries: int = Field(2, ge=0, description="How often a node that failed is tried again.")


class Config(Section):
    """Everything that a run depends on besides the records themselves."""

    pipeline: PipelineSection
    data: DataSection
    model: ModelSection = ModelSection()
    trainer: TrainerSection = TrainerSection()
    evaluator: EvaluatorSection = EvaluatorSection()
    pusher: PusherSection = PusherSection()
    beam: BeamSection = BeamSection()
    metadata: MetadataSection = MetadataSection()
    airflow: AirflowSection = AirflowSection()
    vertex: VertexSection = VertexSection()
    kubeflow: KubeflowSection = KubeflowSection()

    @field_validator("trainer")
    @classmethod
    def _head_only(cls, trainer: TrainerSection, others: ValidationInfo) -> TrainerSection:
        model = others.data.get("model")
        if trainer.start == "warm" and (trainer.fine_tune_layers or (model and model.backbone == "LeNet5")):
            raise ValueError(
                "start: warm goes on from a head on a frozen network; set fine_tune_layers to 0 and take another "
                "backbone than LeNet5"
            )
        if trainer.start == "warm" and trainer.new_share is not None:
            raise ValueError("new_share is for a fresh start; a warm one weighs old pictures by replay and l2")
        if trainer.start == "fresh" and trainer.replay:
            raise ValueError("replay is for start: warm; a fresh start learns all pictures")
        return trainer

    @field_validator("evaluator")
    @classmethod
    def _known_classes(cls, evaluator: EvaluatorSection, others: ValidationInfo) -> EvaluatorSection:
        data = others.data.get("data")
        if data and data.classes and (unknown := [name for name in evaluator.min_recall if name not in data.classes]):
            raise ValueError(f"min_recall names {', '.join(unknown)}; data.classes are {', '.join(data.classes)}")
        return evaluator

    @model_validator(mode="before")
    @classmethod
    def _fill_in_names(cls, raw: Any) -> Any:
        """Puts the pipeline's name and root where a default or a value says {name} or {root}."""
        if not isinstance(raw, dict) or not isinstance(raw.get("pipeline"), dict):
            return raw
        pipeline = dict(raw["pipeline"])
        names = {"name": str(pipeline.get("name", ""))}
        root = pipeline.get("root", PipelineSection.model_fields["root"].default)
        if not isinstance(root, str):
            return raw  # It is refused.
        names["root"] = _expanded(root).replace("{name}", names["name"])
        filled = {**raw, "pipeline": {**pipeline, "root": names["root"]}}
        for section, key, model in (
            ("pusher", "destination", PusherSection),
            ("metadata", "url", MetadataSection),
        ):
            given = filled.get(section) or {}
            if isinstance(given, dict):
                value = given.get(key, model.model_fields[key].default)
                if not isinstance(value, str):
                    continue  # It is refused.
                for name, text in names.items():
                    value = value.replace(f"{{{name}}}", text)
                filled[section] = {**given, key: value}
        return filled


def available() -> list[str]:
    """Names of the configurations in ``configs/``."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def path_of(name: str) -> Path:
    """The file of a configuration that is given as `load` takes it."""
    return Path(name) if name.endswith((".yaml", ".yml")) else CONFIGS / f"{name}.yaml"


def load(name: str, overrides: list[str] | None = None) -> Config:
    """Reads a configuration.

    Args:
      name: A file's name in ``configs/`` without its ending, or the path of a YAML file.
      overrides: ``section.key=value``, the value in YAML.

    Returns:
      The whole configuration, defaults filled in.

    Raises:
      UsageError: no such file, not YAML, an unknown key or an impossible value; it names the key and the file.
    """
    path = path_of(name)
    try:
        raw = read_yaml(path)
    except OSError as error:
        known = ", ".join(available()) or "none here; run from the project's folder"
        raise UsageError(f"configuration {str(path)!r} cannot be read ({error.strerror}); there are: {known}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{path} must hold sections such as `pipeline:` and `data:`")
    for override in overrides or []:
        _override(raw, override)
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        origin = f"{path} with --set" if overrides else str(path)
        # One line for each key: a value that may be of two types has a problem with either.
        lines = {_key(problem): _explain(problem, origin) for problem in reversed(error.errors())}
        told = [*reversed(lines.values())]
        more = [f"and {len(told) - MOST_PROBLEMS:,} more"] if len(told) > MOST_PROBLEMS else []
        raise UsageError("\n".join(told[:MOST_PROBLEMS] + more)) from None


def read_yaml(file: Path) -> Any:
    """The one document of a YAML file.

    Raises:
      OSError: it cannot be read, or is not a regular file.
      ValueError: it is not YAML, names a key twice, or is larger or deeper than a configuration needs.
    """
    with open_regular(file) as stream:
        content = stream.read(MAX_YAML_BYTES + 1)
    if len(content) > MAX_YAML_BYTES:
        raise ValueError(f"it has more than {MAX_YAML_BYTES:,} bytes")
    return _parse(content.decode())


def _parse(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506
    except Exception as error:  # A tag on a value of another kind raises almost anything.
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


class _Loader(yaml.SafeLoader):
    """Refuses what takes memory without end, and keys that stand twice, of which the last one would count."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            node: Any = super().compose_node(parent, index)
            self._require(hasattr(node, "values"), node, "an alias stands within its own anchor")
            return node
        self.depth += 1
        self._require(self.depth <= DEEPEST_YAML, self.peek_event(), f"nested more than {DEEPEST_YAML} deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            keys = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode):
                    name = f"the key {key.value[:LONGEST_VALUE]!r} stands twice"
                    self._require((key.tag, key.value) not in keys, key, name)
                    keys.add((key.tag, key.value))
            children = [each for pair in node.value for each in pair]
        node.values = 1 + sum(each.values for each in children)
        self._require(node.values <= MOST_YAML_VALUES, node, f"more than {MOST_YAML_VALUES:,} values")
        return node

    def _require(self, fine: bool, where: Any, otherwise: str) -> None:
        if not fine:
            raise yaml.constructor.ConstructorError(None, None, otherwise, where.start_mark)


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not separator or not dot:
        raise UsageError(f"--set {override!r} must read section.key=value, for example --set trainer.epochs=3")
    try:
        value = _parse(text)
    except ValueError as error:
        shown = [each if len(each) <= LONGEST_VALUE else f"{each[:LONGEST_VALUE]}…" for each in (override, text)]
        raise UsageError(f"--set {shown[0]!r}: {shown[1]!r} is not a YAML value ({error})") from None
    target = raw.setdefault(section, {})
    if not isinstance(target, dict):
        raise UsageError(f"--set {override!r}: {section!r} is not a section")
    target[name] = value


def _explain(problem: Any, origin: str) -> str:
    key = _key(problem)
    if problem["type"] == "extra_forbidden":
        section = Config.model_fields.get(key.partition(".")[0])
        model = section.annotation if section is not None and "." in key else Config
        model = Machine if key.startswith("vertex.machines.") else model
        allowed = ", ".join(model.model_fields)  # type: ignore[union-attr]
        return f"{origin}: unknown key {key}; allowed here: {allowed}"
    if problem["type"] == "missing":
        return f"{origin}: {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "value_error":
        message = message[0].lower() + message[1:]
    # A password that stands where it should not is not to be printed, too.
    value = re.sub(r"(://[^@:]*:).*@", r"\1***@", repr(problem["input"]))
    value = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"
    return f"{origin}: {key} = {value}: {message}"


def _key(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"] if part not in UNION_PARTS)
    return in_one_line(key)[:LONGEST_VALUE] or "the file"


def located(config: Config) -> Config:
    """The configuration with every local place as an absolute path, for processes that start elsewhere."""
    url = config.metadata.url
    if url.startswith("sqlite:///"):
        url = f"sqlite:///{_absolute(url.removeprefix('sqlite:///'))}"
    return config.model_copy(
        update={
            "pipeline": config.pipeline.model_copy(update={"root": _absolute(config.pipeline.root)}),
            "data": config.data.model_copy(update={"location": _absolute(config.data.location)}),
            "pusher": config.pusher.model_copy(update={"destination": _absolute(config.pusher.destination)}),
            "metadata": config.metadata.model_copy(update={"url": url}),
            "airflow": config.airflow.model_copy(
                update={"places": [_absolute(place) for place in config.airflow.places]}
            ),
        }
    )


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).resolve())


def as_yaml(config: Config) -> str:
    """The whole configuration as a YAML document that `load` reads."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def quote(value: str) -> str:
    """A text as a YAML value, so that `--set key=value` keeps it a text."""
    return json.dumps(value)


def reference() -> str:
    """Every key with its default and meaning as Markdown, which is docs/configuration.md."""
    lines = ["# Configuration", "", "Written by `python -m retake.config`; a test keeps it true."]
    for name, section in Config.model_fields.items():
        model: Any = section.annotation
        lines += [
            "",
            f"## {name}",
            "",
            inspect.cleandoc(model.__doc__),
            "",
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        for key, field in model.model_fields.items():
            default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
            lines.append(f"| `{key}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
