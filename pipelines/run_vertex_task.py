"""What a task of Vertex AI Pipelines runs: TFX's own entry points, with two things that they lack.

`python -m pipelines.run_vertex_task hook|executor ARGUMENTS`, with the arguments of
`tfx.orchestration.kubeflow.v2.file_based_example_gen.driver` and of
`tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor`. The hook sees the records at any depth, where TFX's
glob knows no `**`. And a task that fails writes why beside its output, since the service says of it only that its
process ended with 1.
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
            with suppress(tf.errors.NotFoundError):  # An earlier attempt's reason is not this one's.
                tf.io.gfile.remove(_failure_file(parsed if role == "hook" else parsed[0]))
            entry.main(parsed)
            _settle(parsed if role == "hook" else parsed[0])
        except Exception as error:
            told = in_words(error)
            with suppress(Exception):  # What has gone wrong first is what a person has to know.
                _write_failure(told, parsed if role == "hook" else parsed[0])
            if not isinstance(error, RetakeError):
                logging.exception("the task failed")
            print(printable(told), file=sys.stderr)
            sys.exit(1)

    app.run(run, argv=[sys.argv[0], *arguments], flags_parser=lambda argv: entry.parse(argv[1:]))


def _settle(parsed: Any) -> None:
    """Puts what the task wrote to local folders on disk, as the local Vertex has them: a bucket does so itself."""
    outputs = json.loads(parsed.json_serialized_invocation_args)["outputs"]
    written = [
        artifact["uri"] for of_key in outputs.get("artifacts", {}).values() for artifact in of_key.get("artifacts", [])
    ]
    for place in [*written, outputs["outputFile"]]:
        if not places.is_remote(place) and Path(place).exists():
            durable.sync(Path(place))


def _write_failure(told: str, parsed: Any) -> None:
    place = _failure_file(parsed)
    tf.io.gfile.makedirs(place.rpartition("/")[0])
    with tf.io.gfile.GFile(place, "w") as file:
        file.write(told)


def _failure_file(parsed: Any) -> str:
    folder = json.loads(parsed.json_serialized_invocation_args)["outputs"]["outputFile"].rpartition("/")[0]
    return f"{folder}/{FAILURE}"


if __name__ == "__main__":
    main(sys.argv[1:])
