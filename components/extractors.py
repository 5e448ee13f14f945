"""TFX's Evaluator calls `custom_extractors` of this module. It loads the module again for each evaluation."""

from __future__ import annotations

from typing import Any

import tensorflow_model_analysis as tfma

from components import outcomes


def custom_extractors(eval_shared_model: Any, eval_config: Any, tensor_adapter_config: Any) -> list[Any]:
    """TFMA's default extractors, and one that writes the models' answers."""
    usual = tfma.default_extractors(
        eval_shared_model=eval_shared_model, eval_config=eval_config, tensor_adapter_config=tensor_adapter_config
    )
    return [*usual, tfma.extractors.Extractor(stage_name="WriteOutcomes", ptransform=outcomes.Write())]
