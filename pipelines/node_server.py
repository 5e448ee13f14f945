"""Imports once what nodes import, and forks for each node: `python -m pipelines.node_server`.

It says where it listens, and ends when its standard input does.
Importing TFX, TensorFlow and Beam takes a node's process 4 to 10 seconds. `python -m pipelines.run_node` and
`python -m components.vertex` hand their work over to a server that RETAKE_NODE_SERVER names (see retake/handover.py).
Nothing here may begin a thread or run an operation of TensorFlow: a fork has neither threads nor what they hold.
"""

from __future__ import annotations

import socket
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
"""Seconds without a node after which a server ends, and gives its memory back."""


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="retake-")) / "nodes"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(64)  # A node waits for the imports rather than do them, too.
        print(place, flush=True)
        handover.serve(listener, IMPORTS, IDLE)
