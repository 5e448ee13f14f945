"""Resolvers: choose the model that the gate compares a candidate with, and the model that a training starts from."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from tfx import types
from tfx.dsl.components.common import resolver

EXAMPLES_PROPERTY = "examples"
"""Custom property of a ModelBlessing: the address of the examples for the model's training and evaluation."""


class BaselineStrategy(resolver.ResolverStrategy):
    """Chooses the model that was blessed last: the model in service.

    TFX's LatestBlessedModelStrategy takes the newest blessed model instead. That fails in two cases:

    - In a run without new records, it would choose the candidate itself, so the run would evaluate and push again. This
      class chooses the baseline that the candidate was blessed against, so that every node is cached.
    - After a return to older records, the newest model is not in service. This class takes the newest blessing.
    """

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Inputs: `candidate` (this run's model), `model` and `model_blessing` (all of the pipeline)."""
        candidates = {model.id for model in input_dict["candidate"]}
        latest = _last_blessing(input_dict)
        baseline = latest.get_int_custom_property("current_model_id") if latest else None
        if latest and baseline in candidates:
            baseline = latest.get_int_custom_property("baseline_model_id")
        return _model(input_dict, baseline)


class StartStrategy(resolver.ResolverStrategy):
    """Chooses the last blessed model that was trained on other examples than this run's.

    So a run without new records starts from the same model as the model in service did, and every node is cached. A run
    with the same examples and other settings starts from that model, too.
    """

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Inputs: `examples` (this run's), `model` and `model_blessing` (all of the pipeline)."""
        latest = _last_blessing(input_dict, {examples.uri for examples in input_dict["examples"]})
        return _model(input_dict, latest.get_int_custom_property("current_model_id") if latest else None)


def _last_blessing(
    input_dict: dict[str, list[types.Artifact]], examples: Set[str] = frozenset()
) -> types.Artifact | None:
    """The latest blessing of a model that was not trained on `examples`, which are addresses."""
    blessings = (
        blessing
        for blessing in input_dict["model_blessing"]
        if blessing.get_int_custom_property("blessed") == 1
        and blessing.get_string_custom_property(EXAMPLES_PROPERTY) not in examples
    )
    return max(blessings, key=lambda blessing: blessing.id, default=None)


def _model(input_dict: dict[str, list[types.Artifact]], model_id: int | None) -> dict[str, list[types.Artifact]]:
    """A resolver's result: the model with this id as `model`, if it exists, and empty lists for the other keys."""
    found = [model for model in input_dict["model"] if model.id == model_id]
    return {key: found if key == "model" else [] for key in input_dict}
