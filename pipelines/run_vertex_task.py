"""The command of a task of Vertex AI Pipelines: TFX's own entry points with two additions.

`python -m pipelines.run_vertex_task hook|executor ARGUMENTS` takes the arguments of
`tfx.orchestration.kubeflow.v2.file_based_example_gen.driver` or of
`tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor`. The hook finds records in subfolders, too; TFX's
glob does not support `**`. A task that fails writes the reason beside its output, since the service only reports that
its process ended with 1.
"""

from __future__ import annotations

from retake import handover, quiet

if __name__ == "__main__":
    quiet.environment()
    handover.hand_over()  # Before the imports below, which take seconds.

import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from absl import app

from retake import durable, places
from retake.errors import RetakeError, in_words
from retake.terminal import printable

with quiet.imports():
    import tensorflow as tf

    from pipelines import tfx_internals

FAILURE = "failure.txt"
"""Beside the task's `executor_output.json`: one line."""


def main(arguments: list[str]) -> None:
    """Runs the entry point, and ends the process with its exit code."""
    role, *arguments = arguments
    entry = tfx_internals.Entry(role)

    def run(parsed: Any) -> None:
        try:
            with suppress(tf.errors.NotFoundError):  # The file may be an earlier attempt's.
                tf.io.gfile.remove(_failure_file(parsed if role == "hook" else parsed[0]))
            entry.main(parsed)
            _settle(parsed if role == "hook" else parsed[0])
        except Exception as error:
            reason = in_words(error)
            with suppress(Exception):  # The user has to see the first error.
                _write_failure(reason, parsed if role == "hook" else parsed[0])
            if not isinstance(error, RetakeError):
                logging.exception("the task failed")
            print(printable(reason), file=sys.stderr)
            sys.exit(1)

    app.run(run, argv=[sys.argv[0], *arguments], flags_parser=lambda argv: entry.parse(argv[1:]))


def _settle(parsed: Any) -> None:
    """Syncs the task's outputs to disk, if they are in local folders, as on the local Vertex."""
    outputs = json.loads(parsed.json_serialized_invocation_args)["outputs"]
    written = [
        artifact["uri"] for of_key in outputs.get("artifacts", {}).values() for artifact in of_key.get("artifacts", [])
    ]
    for place in [*written, outputs["outputFile"]]:
        if not places.is_remote(place) and Path(place).exists():
            durable.sync(Path(place))


def _write_failure(reason: str, parsed: Any) -> None:
    place = _failure_file(parsed)
    tf.io.gfile.makedirs(place.rpartition("/")[0])
    with tf.io.gfile.GFile(place, "w") as file:
        file.write(reason)


def _failure_file(parsed: Any) -> str:
    folder = json.loads(parsed.json_serialized_invocation_args)["outputs"]["outputFile"].rpartition("/")[0]
    return f"{folder}/{FAILURE}"


if __name__ == "__main__":
    main(sys.argv[1:])
