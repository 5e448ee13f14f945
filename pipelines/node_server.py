"""Imports the libraries of nodes once, and forks for each node: `python -m pipelines.node_server [SOCKET]`.

A process needs 4 to 10 seconds to import TFX, TensorFlow and Beam. If RETAKE_NODE_SERVER names a server,
`python -m pipelines.run`, `pipelines.run_node` and `pipelines.run_vertex_task` hand their work over to it (see
retake/handover.py); `pipelines.run` does so only if TF_CPP_MIN_LOG_LEVEL is 3, as in this server.

The server prints the socket on which it listens. It ends when its standard input ends, or when code that it has
imported has changed. Without SOCKET, it also ends after IDLE seconds without a node.

The server must not start a thread or run an operation of TensorFlow: a fork would miss its threads and their locks.
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
"""A server without SOCKET ends after as many seconds without a node, and frees its memory."""


if __name__ == "__main__":
    quiet.environment()  # Clients call it, too: their environment has to be the same.
    sockets = sys.argv[1:]
    place = Path(sockets[0] if sockets else f"{tempfile.mkdtemp(prefix='retake-')}/nodes")
    try:
        listener = handover.listen(place)
    except OSError as error:
        sys.exit(f"pipelines.node_server: cannot listen at {place}: {error.strerror or error}")
    print(place, flush=True)
    code = handover.serve(listener, IMPORTS, None if sockets else IDLE)
    if code is not None:
        if not sockets:
            place.parent.rmdir()
        sys.stderr.flush()
        os._exit(code)
