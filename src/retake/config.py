"""The one typed configuration of a pipeline, read from ``configs/NAME.yaml`` and overridden from the command line.

Example:
    >>> config = load("hotdog", ["trainer.epochs=3"])
    >>> config.data.classes, config.trainer.epochs
    (['food', 'sandwich', 'taco'], 3)
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_validator

from retake import yaml_file
from retake.errors import UsageError
from retake.sections import (
    BeamSection,
    DataSection,
    EvaluatorSection,
    MetadataSection,
    ModelSection,
    PipelineSection,
    PusherSection,
    Section,
    TrainerSection,
    expanded,
)
from retake.terminal import in_one_line
from retake.yaml_file import LONGEST_VALUE

CONFIGS = Path("configs")

MOST_PROBLEMS = 20
"""Lines of a refusal."""

UNION_PARTS = ("int", "constrained-float", "float", "literal['all']", "literal['auto']")
"""What pydantic calls the sides of a `number | word`; no part of a key."""


class Config(Section):
    """Everything that a run depends on besides the records themselves.

    The sections of runners are kept as they are in the file; `pipelines.settings.Settings` knows them.
    """

    model_config = ConfigDict(extra="allow")

    pipeline: PipelineSection
    data: DataSection
    model: ModelSection = ModelSection()
    trainer: TrainerSection = TrainerSection()
    evaluator: EvaluatorSection = EvaluatorSection()
    pusher: PusherSection = PusherSection()
    beam: BeamSection = BeamSection()
    metadata: MetadataSection = MetadataSection()

    @field_validator("trainer")
    @classmethod
    def _head_only(cls, trainer: TrainerSection, others: ValidationInfo) -> TrainerSection:
        model = others.data.get("model")
        if trainer.start == "warm" and (trainer.fine_tune_layers or (model and model.known.from_scratch)):
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
        names["root"] = expanded(root).replace("{name}", names["name"])
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


AnyConfig = TypeVar("AnyConfig", bound=Config)


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
    return validated(*read(name, overrides), Config)


def read(name: str, overrides: list[str] | None = None) -> tuple[dict[str, Any], str]:
    """A configuration's sections as the file and the overrides have them, and what a message calls their source.

    Raises:
      UsageError: no such file, not YAML, or an override that is not `section.key=value`.
    """
    path = path_of(name)
    try:
        raw = yaml_file.read(path)
    except OSError as error:
        known = ", ".join(available()) or "none here; run from the project's folder"
        raise UsageError(f"configuration {str(path)!r} cannot be read ({error.strerror}); there are: {known}") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UsageError(f"{path} must hold sections such as `pipeline:` and `data:`")
    for override in overrides or []:
        _override(raw, override)
    return raw, f"{path} with --set" if overrides else str(path)


def validated(raw: dict[str, Any], source: str, model: type[AnyConfig]) -> AnyConfig:
    """The configuration of sections as `read` gives them.

    Raises:
      UsageError: an unknown key or an impossible value; a line for each key.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        # A value that may be of two types has a problem with either.
        lines = {_key(problem): _explain(problem, source, model) for problem in reversed(error.errors())}
        problems = [*reversed(lines.values())]
        more = [f"and {len(problems) - MOST_PROBLEMS:,} more"] if len(problems) > MOST_PROBLEMS else []
        raise UsageError("\n".join(problems[:MOST_PROBLEMS] + more)) from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.partition(".")
    if not separator or not dot:
        raise UsageError(f"--set {override!r} must read section.key=value, for example --set trainer.epochs=3")
    try:
        value = yaml_file.parse(text)
    except ValueError as error:
        shown = [each if len(each) <= LONGEST_VALUE else f"{each[:LONGEST_VALUE]}…" for each in (override, text)]
        raise UsageError(f"--set {shown[0]!r}: {shown[1]!r} is not a YAML value ({error})") from None
    target = raw.setdefault(section, {})
    if not isinstance(target, dict):
        raise UsageError(f"--set {override!r}: {section!r} is not a section")
    target[name] = value


def _explain(problem: Any, origin: str, model: type[Config]) -> str:
    key = _key(problem)
    if problem["type"] == "extra_forbidden":
        return f"{origin}: unknown key {key}; allowed here: {', '.join(_allowed(model, problem['loc'][:-1]))}"
    if problem["type"] == "missing":
        return f"{origin}: {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] != "value_error":
        message = message[0].lower() + message[1:]
    # A password that stands where it should not is not to be printed, too.
    value = re.sub(r"(://[^@:]*:).*@", r"\1***@", repr(problem["input"]))
    value = value if len(value) <= LONGEST_VALUE else f"{value[:LONGEST_VALUE]}…"
    return f"{origin}: {key} = {value}: {message}"


def _allowed(model: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys of the section at `place`, which may be a value of a mapping."""
    for part in place:
        found = model.model_fields.get(str(part))
        if found is not None:
            annotation: Any = found.annotation
            model = get_args(annotation)[-1] if get_args(annotation) else annotation  # dict[str, Machine]
    return list(model.model_fields)


def _key(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"] if part not in UNION_PARTS)
    return in_one_line(key)[:LONGEST_VALUE] or "the file"


def as_yaml(config: Config) -> str:
    """The whole configuration as a YAML document that `load` reads."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def quote(value: str) -> str:
    """A text as a YAML value, so that `--set key=value` keeps it a text."""
    return json.dumps(value)
