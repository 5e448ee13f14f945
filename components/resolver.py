"""Resolver: which model the gate compares a candidate with."""

from __future__ import annotations

from typing import Any

from tfx import types
from tfx.dsl.components.common import resolver


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
        models = {model.id: model for model in input_dict["model"]}
        candidates = {model.id for model in input_dict["candidate"]}
        blessings = [b for b in input_dict["model_blessing"] if b.get_int_custom_property("blessed") == 1]
        latest = max(blessings, key=lambda blessing: blessing.id, default=None)
        if latest is None:
            return {key: [] for key in input_dict}
        baseline = latest.get_int_custom_property("current_model_id")
        if baseline in candidates:
            baseline = latest.get_int_custom_property("baseline_model_id")
        found = [models[baseline]] if baseline in models else []
        return {**{key: [] for key in input_dict}, "model": found}
