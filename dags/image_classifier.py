"""The DAGs of compiled pipelines whose own DAG files Airflow does not see: those in another folder, RETAKE_DEFINITIONS.

It leaves a definition out that cannot be used; definition_errors.py says why.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # A DAG bundle may have this folder below its own.
from retake_dags.definitions import usable
from retake_dags.pipeline import add

for definition in usable():
    add(definition)
