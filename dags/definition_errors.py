"""No DAG: an import error that names the definitions that image_classifier.py leaves out, each with the command that
makes it anew. In a file of its own it stops no other pipeline."""

import sys
from pathlib import Path

from airflow.sdk.exceptions import AirflowException

sys.path.append(str(Path(__file__).parent))  # A DAG bundle may have this folder below its own.
from retake_dags.definitions import problems

if found := problems():
    raise AirflowException("\n".join(found))
