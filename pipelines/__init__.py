"""The one pipeline definition and the runners that execute it."""

import os

# ML Metadata says two lines for each connection to PostgreSQL, and reads this when it is imported.
os.environ.setdefault("GLOG_minloglevel", "2")
