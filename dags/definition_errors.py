"""No DAG: an import error that names each compiled pipeline that cannot be used, and the command that makes it anew.

A file of its own, so that one broken definition stops no other pipeline of image_classifier.py.
"""

import sys
from pathlib import Path

from airflow.sdk.exceptions import AirflowException

sys.path.append(str(Path(__file__).parent))  # A DAG bundle may have this folder below its own.
from retake_dags.definitions import problems

if found := problems():
    raise AirflowException("\n".join(found))
