"""Imports once what nodes import, and forks for each node: `python -m pipelines.node_server [SOCKET]`.

It says where it listens, and ends when its standard input does. Without SOCKET, which lies in a folder of its own, it
also ends after a while without a node.
Importing TFX, TensorFlow and Beam takes a process 4 to 10 seconds. `python -m pipelines.run`, `pipelines.run_node` and
`components.vertex` hand their work over to a server that RETAKE_NODE_SERVER names (see retake/handover.py).
Nothing here may begin a thread or run an operation of TensorFlow: a fork has neither threads nor what they hold.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

from retake import handover

IMPORTS = (
    "pipelines.launcher",
    "pipelines.metadata",
    "pipelines.places",
    "pipelines.progress",
    "components.evaluator",
    "components.example_gen",
    "components.node_errors",
    "components.pusher",
    "components.resolver",
    "components.trainer",
    "components.transform",
    "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor",
    "tfx.orchestration.kubeflow.v2.file_based_example_gen.driver",
)
IDLE = 900.0
"""Seconds without a node after which a server without SOCKET ends, and gives its memory back."""


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # As its clients do, whose environment has to be the same.
    named = sys.argv[1:]
    place = Path(named[0] if named else f"{tempfile.mkdtemp(prefix='retake-')}/nodes")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(64)  # A node waits for the imports rather than do them, too.
        print(place, flush=True)
        handover.serve(listener, IMPORTS, None if named else IDLE)
