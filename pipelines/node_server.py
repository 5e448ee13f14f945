"""Imports once what nodes import, and forks for each node: `python -m pipelines.node_server [SOCKET]`.

It says where it listens, and ends when its standard input does, and when code that it has imported has changed. Without
SOCKET it also ends after a while without a node.
Importing TFX, TensorFlow and Beam takes a process 4 to 10 seconds. `python -m pipelines.run`, `pipelines.run_node` and
`pipelines.run_vertex_task` hand their work over to a server that RETAKE_NODE_SERVER names (see retake/handover.py);
`pipelines.run` only where TF_CPP_MIN_LOG_LEVEL is 3, as it is here.
Nothing here may begin a thread or run an operation of TensorFlow: a fork has neither threads nor what they hold.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from retake import handover, quiet

IMPORTS = (
    "pipelines.metadata",
    "pipelines.progress",
    "pipelines.tfx_internals",
    "components.evaluator",
    "components.example_gen",
    "components.node_errors",
    "components.pusher",
    "components.resolver",
    "components.trainer",
    "components.transform",
    "scipy.stats",
    "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor",
    "tfx.orchestration.kubeflow.v2.file_based_example_gen.driver",
)
IDLE = 900.0
"""Seconds without a node after which a server without SOCKET ends, and gives its memory back."""


if __name__ == "__main__":
    quiet.environment()  # As its clients do, whose environment has to be the same.
    named = sys.argv[1:]
    place = Path(named[0] if named else f"{tempfile.mkdtemp(prefix='retake-')}/nodes")
    try:
        listener = handover.listen(place)
    except OSError as error:
        sys.exit(f"pipelines.node_server: cannot listen at {place}: {error.strerror or error}")
    print(place, flush=True)
    code = handover.serve(listener, IMPORTS, None if named else IDLE)
    if code is not None:
        if not named:
            place.parent.rmdir()
        sys.stderr.flush()
        os._exit(code)
