"""The sections of a configuration that every runner shares: their keys, defaults, bounds and meanings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from retake import backbones

MAX_PIXELS = 40_000_000
"""Default of `data.max_pixels`, and the limit where no configuration is read: width × height."""

MAX_BYTES = 20_000_000
"""The same of `data.max_bytes`: encoded bytes."""

PIPELINE_NAME = r"^[a-z][a-z0-9-]*$"

TEST = "test"
SPLITS = ("train", "eval", TEST)
"""The splits of the pictures, in the order of their hash buckets; the last one may be missing."""

Share = Annotated[float, Field(ge=0, le=1)]


def expanded(place: str) -> str:
    """A leading ~ or ~USER as the home folder, as a shell does where nothing stands before it."""
    try:
        return str(Path(place).expanduser()) if place.startswith("~") else place
    except RuntimeError:
        raise ValueError(f"there is no home folder {place.partition('/')[0]}") from None


Place = Annotated[str, Field(min_length=1), AfterValidator(expanded)]
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
    max_pixels: int = Field(MAX_PIXELS, gt=0, description="Larger pictures are dropped before they are decoded.")
    max_bytes: int = Field(MAX_BYTES, gt=0, description="Larger encoded pictures are dropped.")
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

    backbone: backbones.Name = Field("EfficientNetB0", description="Network that turns a picture into features.")
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
        name = others.data.get("backbone")
        if name and backbones.BACKBONES[name].from_scratch and weights not in ("auto", "none"):
            raise ValueError(f"{name} trains from scratch and takes no weights; set it to none")
        return weights

    @property
    def known(self) -> backbones.Backbone:
        """What is known of the network."""
        return backbones.BACKBONES[self.backbone]


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
