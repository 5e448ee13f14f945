"""What Airflow's own parser makes of DAG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow_python import AirflowPython

PROJECT = Path(__file__).parents[2]
PARSE = """
import sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
heavy = sorted({name.partition(".")[0] for name in sys.modules} & {"retake", "pipelines", "tfx", "tensorflow"})
said = {"errors": list(bag.import_errors.values()), "heavy": heavy, "dags": {}}
said["files"] = {name: dag.fileloc for name, dag in bag.dags.items()}
said["broken_files"] = sorted(name.rpartition("/")[2] for name in bag.import_errors)
for name, dag in bag.dags.items():
    said["dags"][name] = {
        "tasks": {task.task_id: sorted(task.upstream_task_ids) for task in dag.tasks},
        "kinds": {task.task_id: task.task_type for task in dag.tasks},
        "retries": {task.task_id: [task.retries, task.retry_delay.total_seconds(), task.retry_exponential_backoff]
                    for task in dag.tasks},
        "params": {key: [param.value, param.schema, param.description]
                   for key, param in ((key, dag.params.get_param(key)) for key in dag.params)},
        "doc": dag.doc_md, "schedule": str(dag.schedule), "catchup": dag.catchup, "paused": dag.is_paused_upon_creation,
        "runs_at_once": dag.max_active_runs,
    }
"""


def parsed(python: AirflowPython, definitions: Path, script: str = PARSE, file: str = "", **variables: str) -> Any:
    """What Airflow's parser makes of the folder of DAG files, or of one of them, with definitions elsewhere."""
    where = PROJECT / "dags" / file
    return python.ask(f"{script}\nanswer = said", where, RETAKE_DEFINITIONS=str(definitions), **variables)
