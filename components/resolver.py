"""Resolvers: which model the gate compares a candidate with, and which one a training goes on from."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from tfx import types
from tfx.dsl.components.common import resolver

EXAMPLES_PROPERTY = "examples"
"""Custom property of a ModelBlessing: the address of the examples that its model was trained and judged on."""


class BaselineStrategy(resolver.ResolverStrategy):
    """The model that was blessed last, which is the one in service.

    TFX's LatestBlessedModelStrategy takes the newest model among the blessed ones, with two consequences. A run with
    nothing new would compare the candidate with itself, and evaluate and push again; here it gets the baseline that
    it was blessed against, so that all is cached. And after a return to older records the newest model would not be
    the one in service; here the newest blessing counts.
    """

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Takes `candidate` (this run's model), `model` and `model_blessing` (all of the pipeline's)."""
        candidates = {model.id for model in input_dict["candidate"]}
        latest = _last_blessing(input_dict)
        baseline = latest.get_int_custom_property("current_model_id") if latest else None
        if latest and baseline in candidates:
            baseline = latest.get_int_custom_property("baseline_model_id")
        return _model(input_dict, baseline)


class StartStrategy(resolver.ResolverStrategy):
    """The model that was blessed last on other examples than this run's.

    So a run with nothing new goes on from where the model in service did, and all is cached; and so does a run with
    the same examples and other settings.
    """

    def resolve_artifacts(
        self, store: Any, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        """Takes `examples` (this run's), `model` and `model_blessing` (all of the pipeline's)."""
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
    """What a resolver gives: the model with this id, if it is there."""
    return {key: [each for each in input_dict["model"] if key == "model" and each.id == model_id] for key in input_dict}
