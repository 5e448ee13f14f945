"""TFX's launcher of a node, which syncs what the node wrote before it says so in ML Metadata.

The one place that knows TFX's launcher from inside.
"""

from __future__ import annotations

from typing import Any

from tfx.orchestration.portable import launcher, outputs_utils

from pipelines import artifacts
from retake.errors import RetakeError


class Launcher(launcher.Launcher):
    """Runs the executor on whole inputs and into empty folders, and gives its outputs when they are on disk."""

    def _run_executor(self, execution_info: Any) -> Any:
        for key, given in execution_info.input_dict.items():
            for artifact in given:
                # The Evaluator goes on without a baseline.
                if key != "baseline_model" and (damage := artifacts.damage(artifact.mlmd_artifact)):
                    raise RetakeError(f"{damage}; start a new run: it makes this output again")
        # An attempt that was killed may have left something, or one that the metadata store has forgotten.
        outputs_utils.make_output_dirs(execution_info.output_dict)
        outputs_utils.remove_output_dirs(execution_info.output_dict)
        output = super()._run_executor(execution_info)
        try:
            artifacts.settle(artifact for of_key in output.output_artifacts.values() for artifact in of_key.artifacts)
        except RetakeError:
            outputs_utils.remove_output_dirs(execution_info.output_dict)  # As TFX does where the executor fails.
            raise
        return output
