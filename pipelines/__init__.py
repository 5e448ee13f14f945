"""The one pipeline definition and the runners that execute it."""

import os
import sys
from importlib.util import find_spec

if find_spec("retake") is None:
    sys.exit(
        f"Retake is not installed in {sys.executable}. In the project's folder, build its environment with `make "
        "setup` and activate it with `source .venv/bin/activate`. If the folder was moved or copied, do both again."
    )

# ML Metadata prints two lines for each connection to PostgreSQL, and reads this when it is imported.
os.environ.setdefault("GLOG_minloglevel", "2")
