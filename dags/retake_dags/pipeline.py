"""The two DAGs of a compiled pipeline: NAME trains, gates and pushes; NAME-watch starts it when records arrive.

This needs Airflow and nothing of the project: a task runs `python -m pipelines.run_node` in the project's own
environment, or in a pod of its image.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import DAG, Asset, BaseOperator, Param
from airflow.sdk.exceptions import AirflowSkipException

from retake_dags.node_operator import NodeOperator
from retake_dags.records_sensor import RecordsSensor, listing

POD_SUMMARY = "/airflow/xcom/return.json"
"""The file from which the Kubernetes provider's sidecar reads a pod's XCom."""


def add(definition: dict[str, Any]) -> None:
    """Makes the DAGs of a definition, in the DAG file that calls this."""
    assets = Asset(f"{definition['pipeline']}-records"), Asset(f"{definition['pipeline']}-examples")
    training(definition, *assets)
    watching(definition, *assets)


def training(definition: dict[str, Any], records: Asset, examples: Asset) -> DAG:
    """The DAG that runs the pipeline, with one task per node. New records start it."""
    name, config = definition["pipeline"], definition["config"]
    hooks = {
        "Examples": {"outlets": [examples], "pre_execute": tell_records},
        "ModelBlessing": {"outlets": [Asset(f"{name}-blessing")], "post_execute": tell_verdict},
        "PushedModel": {"outlets": [Asset(f"{name}-model")], "post_execute": tell_model},
    }
    with DAG(
        dag_id=name,
        description=f"Trains, gates and pushes a classifier of {classes(config)}"[:500],
        doc_md=page(definition),
        schedule=[records],
        start_date=datetime(2024, 1, 1),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        params={
            key: place(parameter, [parameter["default"], *config["airflow"].get("places", [])])
            for key, parameter in definition["parameters"].items()
        },
        default_args={
            "retries": config["airflow"]["retries"],
            "retry_delay": timedelta(seconds=config["airflow"]["retry_seconds"]),
            "retry_exponential_backoff": 2.0,
        },
        tags=["retake"],
    ) as dag:
        tasks: dict[str, BaseOperator] = {}
        for node in definition["nodes"]:
            [settings] = [hooks[output] for output in node["outputs"] if output in hooks] or [{}]
            tasks[node["id"]] = task(definition, node["id"], settings)
            tasks[node["id"]].set_upstream([tasks[before] for before in node["upstream"]])
    return dag


def classes(config: dict[str, Any]) -> str:
    """The classes' names, which a configuration may leave to the records."""
    return ", ".join(config["data"]["classes"] or ["the classes that its records name"])


def place(parameter: dict[str, str], allowed: list[str]) -> Param:
    """A parameter of a run: one of the allowed places, or one below. The task checks it again, and follows links."""
    either = "|".join(re.escape(each.rstrip("/")) for each in allowed)
    return Param(
        parameter["default"],
        type="string",
        pattern=rf"^(?!.*/\.\.(/|$))({either})(/.*)?$",
        description=f"{parameter['description']} Allowed: {', '.join(allowed)}, and what lies below.",
    )


def page(definition: dict[str, Any]) -> str:
    """The description of the pipeline on the DAG's page."""
    config = definition["config"]
    rows = {
        "classes": classes(config),
        "backbone": config["model"]["backbone"],
        "records": f"`{config['data']['location']}`, looked at by `{definition['pipeline']}-watch`",
        "pushed models": f"`{config['pusher']['destination']}`",
        "artifacts": f"`{config['pipeline']['root']}`",
        "metadata": f"`{config['metadata']['url']}`",
        "compiled by": f"`{definition['command']}`",
    }
    return "\n".join(
        [
            "Trains a classifier, gates it against the model in service and pushes it; the last task is skipped where "
            "the model is not blessed. Its XCom `return_value` is the run's summary. The asset events of the tasks say "
            "which records the run trained on, how the model was judged and where it went.",
            "",
            "| | |",
            "|---|---|",
            *(f"| {key} | {value} |" for key, value in rows.items()),
        ]
    )


def task(definition: dict[str, Any], node: str, hooks: dict[str, Any]) -> BaseOperator:
    """The task of a node: on the worker, or in a pod where the configuration has a template for it.

    A task with the hook `post_execute` hands it the run's summary, which is the task's XCom, too.
    """
    summarizes = "post_execute" in hooks
    arguments = ["--node", node, "--run-id", "{{ dag.dag_id }}.{{ run_id }}", "--runner", "airflow"]
    for parameter in definition["parameters"]:
        arguments += ["--parameter", f"{parameter}={{{{ params.{parameter} }}}}"]
    pods = definition["pods"]
    template = pods.get(node, pods.get("*"))
    if template is None:
        return NodeOperator(
            task_id=node,
            arguments=[definition["file"], *arguments],
            environment=f"{definition['project']}/.venv",
            summarizes=summarizes,
            **hooks,
        )
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    packed = {key: value for key, value in definition.items() if key != "file"}
    return KubernetesPodOperator(
        task_id=node,
        name=f"{definition['pipeline']}-{node}".lower(),
        pod_template_dict=template,
        cmds=["python", "-m", "pipelines.run_node"],
        arguments=["env:RETAKE_DEFINITION", *arguments, *(["--summary", POD_SUMMARY] if summarizes else [])],
        env_vars={"RETAKE_DEFINITION": base64.b64encode(gzip.compress(json.dumps(packed).encode(), mtime=0)).decode()},
        do_xcom_push=summarizes,
        **hooks,
    )


def tell_records(context: Any) -> None:
    """Notes in an asset event which records the run reads, so that they do not start another run.

    Not when the task is tried again or was cleared: an earlier try may have read them, when there were fewer.
    """
    [examples] = context["task"].outlets
    if context["ti"].try_number == 1:
        context["outlet_events"][examples].extra = {"records": listing(context["params"]["data"])}


def tell_verdict(context: Any, summary: dict[str, Any]) -> None:
    """Notes in an asset event whether the model was blessed, and why."""
    [blessing] = context["task"].outlets
    accuracies = {key: (summary[key] or {}).get("accuracy") for key in ("metrics", "baseline_metrics")}
    context["outlet_events"][blessing].extra = {
        "blessed": summary["blessed"],
        "reason": summary["reason"],
        "accuracy": accuracies["metrics"],
        "baseline_accuracy": accuracies["baseline_metrics"],
    }


def tell_model(context: Any, summary: dict[str, Any]) -> None:
    """Notes in an asset event where the model was pushed. A model that is not blessed leads to no event.

    Raises:
      AirflowSkipException: there is no model to tell of.
    """
    if summary["pushed_model"] is None:
        context["ti"].xcom_push("return_value", summary)
        raise AirflowSkipException(f"no model was pushed: {summary['reason']}")
    [model] = context["task"].outlets
    context["outlet_events"][model].extra = {"pushed_model": summary["pushed_model"]}


def watching(definition: dict[str, Any], records: Asset, examples: Asset) -> DAG:
    """The DAG that waits for new records, reports them in an asset event, and waits again."""
    name, config = definition["pipeline"], definition["config"]
    with DAG(
        dag_id=f"{name}-watch",
        description=f"Starts {name} when records arrive",
        doc_md=f"Waits, without a worker, for record files in `{config['data']['location']}` that `{name}` has not "
        f"trained on, and starts it once for each set of them. A file is taken when it has not changed for "
        f"{config['airflow']['watch_seconds']:g} seconds. While `{name}` is paused or running, files wait for it.",
        schedule="@continuous",
        start_date=datetime(2024, 1, 1),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=True,
        default_args={"retries": 3, "retry_delay": timedelta(seconds=30), "retry_exponential_backoff": 2.0},
        tags=["retake"],
    ) as dag:
        RecordsSensor(
            task_id="wait_for_records",
            location=config["data"]["location"],
            seconds=config["airflow"]["watch_seconds"],
            training=name,
            inlets=[records, examples],
            outlets=[records],
        )
    return dag
