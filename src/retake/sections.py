"""The sections of the configuration that all runners share: their keys, defaults, bounds and descriptions."""

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
"""The splits of the pictures, in the order of their hash buckets. `test` is optional."""

Share = Annotated[float, Field(ge=0, le=1)]


def expanded(place: str) -> str:
    """Replaces a leading ~ or ~USER by the home folder, as a shell does."""
    try:
        return str(Path(place).expanduser()) if place.startswith("~") else place
    except RuntimeError:
        raise ValueError(f"there is no home folder {place.partition('/')[0]}") from None


Place = Annotated[str, Field(min_length=1), AfterValidator(expanded)]
"""A folder or gs:// prefix."""

NO_FILES = ("auto", "imagenet", "none")
"""The values of `model.weights` that are not paths."""


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class PipelineSection(Section):
    """Name of the pipeline, and the place of its runs, artifacts and logs."""

    name: str = Field(pattern=PIPELINE_NAME, description="Name of the pipeline and of its models' folder.")
    root: Place = Field("runs/{name}", description="Folder or gs:// prefix for artifacts, metadata and logs.")
    caching: bool = Field(True, description="Reuse the outputs of a node whose inputs have not changed.")


class DataSection(Section):
    """The records, their classes, splits and limits."""

    location: Place = Field(
        description="Folder or gs:// prefix. Every record file below it is read: .tfrecord, .tfrecords and .tfrec in "
        "lower or upper case, with or without .gz, whole or in shards such as .tfrecord-00000-of-00002.",
    )
    window: int | None = Field(
        None,
        ge=1,
        description="Read only the newest record files, as many as this number; the shards of a file count as one "
        "file. Older pictures are neither trained on nor in the eval split, so the gate does not see what the model "
        "forgets. By default, all files are read.",
    )
    sample: bool = Field(False, description="Draw the embedded pictures into `location` if it does not exist.")
    classes: Annotated[list[str], Field(min_length=2)] | None = Field(
        None,
        description="Class names; the position is the label's index. By default, the sorted class names in the "
        "records' labels. Records with numbers as labels need this key.",
    )
    split: dict[str, Annotated[int, Field(gt=0)]] = Field(
        {"train": 80, "eval": 20},
        description="Hash buckets of the splits train, eval and, optionally, test. Test pictures are used neither for "
        "training nor by the gate. Each model that the gate blesses is measured on them once, and the summary shows "
        "the result. {train: 80, eval: 10, test: 10} takes them from the default's eval split; other sums of the "
        "buckets move pictures between the splits.",
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**32,
        description="Another seed splits the same pictures in another way, so that you can repeat a measurement over "
        "several splits. A model that was trained with another seed has seen pictures that are eval pictures now: "
        "use a different `pipeline.name` for each seed.",
    )
    min_eval_per_class: int = Field(
        0,
        ge=0,
        le=1000,
        description="Least number of different eval pictures of each class, for classes with few pictures. Train "
        "pictures of the class (those with the lowest hash) become eval pictures, as long as one train picture is "
        "left. The records are then read twice, and a picture of such a class may change its split when others arrive.",
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
        "imagenet if it can be downloaded, otherwise random, with a message. If the nodes run elsewhere (Airflow, "
        "Vertex, Kubeflow), `auto` is imagenet or an error, never random.",
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
    """The training: a head is fitted to frozen features; fine-tuning is optional; LeNet5 is trained as a whole."""

    seed: int = Field(7, ge=0, description="Seed of random weights and shuffling; a fitted head does not depend on it.")
    epochs: int = Field(200, ge=1, description="LeNet5: most epochs; early stopping ends the training sooner.")
    patience: int = Field(15, ge=1, description="LeNet5: stop after as many epochs without a lower held-out loss.")
    batch_size: int = Field(32, ge=1, description="Pictures in a training step of a network.")
    learning_rate: float = Field(2e-3, gt=0, description="LeNet5: Adam's rate.")
    l2: Annotated[float, Field(gt=0, allow_inf_nan=False)] | Literal["auto"] = Field(
        "auto",
        description="Penalty on the head's squared weights, on standardized features. The head minimizes the summed "
        "log loss of the pictures + l2 / 2 × the sum of its squared weights (l2 is 1 / C of scikit-learn), so that l2 "
        "means the same for any number of pictures. `auto` tries 11 penalties from 100,000 to 1, and takes the best on "
        "held-out pictures; for LeNet5, `auto` is no penalty.",
    )
    start: Literal["fresh", "warm"] = Field(
        "fresh",
        description="`fresh` fits a head to all records. `warm` continues from the head of the model in service, with "
        "new records only; `l2` then keeps the head near its old weights, and `auto` is the old head's own penalty. "
        "The start is fresh if there is no such model, or if its classes or network differ (docs/hotdog.md).",
    )
    replay: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Warm start: number of old pictures in the training for each new picture, against forgetting.",
    )
    new_share: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="Fresh start: the share of the training loss for pictures of new record files, whatever their "
        "number. A record file is new if the model in service was not trained on it. By default, a new picture counts "
        "as much as an old one.",
    )
    fine_tune_layers: int | Literal["all"] = Field(
        0,
        description="Number of the backbone's last layers that are trained after the head; `all` for the whole "
        "network. Only layers with weights count, without batch norm.",
    )
    fine_tune_epochs: int = Field(5, ge=1, description="Most epochs of fine-tuning.")
    fine_tune_learning_rate: float = Field(1e-5, gt=0, description="Adam's rate for fine-tuning.")
    class_weights: bool = Field(True, description="Weigh classes by the inverse of their share of the pictures.")
    record_weights: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="Weight of an example by its record file: the longest pattern that matches the file's path below "
        '`data.location` counts; without a match, the weight is 1. {"baseline*": 1, "*": 4} gives all records after '
        "the baseline four times the weight.",
    )

    @field_validator("fine_tune_layers")
    @classmethod
    def _not_negative(cls, layers: int | str) -> int | str:
        if isinstance(layers, int) and layers < 0:
            raise ValueError("must be 0, a positive number or `all`")
        return layers

    @property
    def asks_model_in_service(self) -> bool:
        """Whether the training needs the model in service and its list of record files."""
        return self.start == "warm" or self.new_share is not None


class EvaluatorSection(Section):
    """The gate, which decides whether a trained model is pushed."""

    min_accuracy: Share = Field(0.5, description="A candidate below this accuracy on the eval split is not blessed.")
    max_regression: Share = Field(
        0.0,
        description="How much lower the candidate's accuracy may be than that of the model in service. Both are "
        "measured on the eval pictures of record files that the model in service was trained on. The candidate is "
        "refused if the whole interval of the difference lies below this bound (docs/gate.md).",
    )
    max_regression_new: Share = Field(
        0.0, description="The same bound for eval pictures of record files that are new to the model in service."
    )
    min_new_ratio: Share = Field(
        0.5,
        description="Least ratio of the accuracy on a new record file to the accuracy on old pictures. A candidate "
        "that is clearly below is refused, as the file's labels are in doubt; 0 sets no bound.",
    )
    confidence: float = Field(
        0.95,
        gt=0,
        lt=1,
        description="Confidence of the interval. A candidate that is as good as the model in service is refused with "
        "half of the remaining probability: in 2.5% of cases.",
    )
    min_recall: dict[str, Share] = Field(
        {},
        description='Class → least share of its eval pictures that a candidate has to answer right: {"taco": 0.7}. '
        "Other classes have no bound.",
    )


class PusherSection(Section):
    """The place of pushed models."""

    destination: Place = Field("models/{name}", description="Folder or gs:// prefix of the numbered versions.")


class BeamSection(Section):
    """Execution of the Beam nodes (ExampleGen, StatisticsGen, Transform, Evaluator)."""

    arguments: list[str] = Field(
        ["--runner=DirectRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"],
        description="Pipeline options of the Beam nodes. On Vertex, the values of the job replace {project}, {region}, "
        "{root}, {image} and {service_account}.",
    )


class MetadataSection(Section):
    """The store that records runs, executions and artifacts."""

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
            _ = urlsplit(url).port  # Raises ValueError for a wrong port.
        return url
