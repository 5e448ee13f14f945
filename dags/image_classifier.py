"""Two DAGs for each compiled pipeline in `definitions/`: NAME trains, gates and pushes; NAME-watch starts it when
records arrive.

`python -m pipelines.run --runner airflow --config NAME` puts a definition there. This file needs Airflow and nothing of
the project: a task runs `python -m pipelines.run_node` in the project's own environment, or in a pod of its image.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow.providers.standard.hooks.subprocess import SubprocessHook
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import DAG, Asset, BaseOperator, ObjectStoragePath, Param, Variable, get_parsing_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

FORMAT = 1
DEFINITIONS = Path(os.environ.get("RETAKE_DEFINITIONS") or Path(__file__).parent / "definitions")
"""Where the compiled pipelines are: RETAKE_DEFINITIONS, or beside this file."""

ENVIRONMENT = "retake_environment"
"""Airflow variable, or in capitals environment variable, with the folder of the project's Python environment."""

CANNOT_RUN = 2
"""What run_node exits with when trying again would not help."""

MOST_LOOKS = 10
"""Records that rest are taken after so many looks, though others are still arriving."""

LONGEST_WAIT = timedelta(days=1)
"""A run of the watching DAG that has waited so long makes way for the next: each look makes its log longer."""

MOST_EVENTS = 10
"""Each event holds all records there were; more than the last one counts as runs may have been given other folders."""

HIDDEN = (".", "_", "beam-temp-")
"""How names of files and folders begin that the pipeline does not read: see components/example_gen.py."""

RECORDS = re.compile(r"\.(tfrecords?|tfrec)(\.gz)?(-\d{5,}-of-\d{5,})?(\.gz)?$", re.IGNORECASE)
SHARD = re.compile(r"-(\d{5,})-of-(\d{5,})")
MAX_RECORD_BYTES = 64 * 2**20
"""How names of record files end, and what is in that of a shard: see components/example_gen.py."""

POD_SUMMARY = "/airflow/xcom/return.json"
"""What the Kubernetes provider's sidecar reads a pod's XCom from."""


def pipelines() -> list[dict[str, Any]]:
    """The definitions; for a task, only the one that its DAG is made of, as it is.

    Raises:
      AirflowException: there is none, or one that this file cannot go by; it names the command that makes it anew.
    """
    if dag := get_parsing_context().dag_id:
        own = DEFINITIONS / f"{dag}.json"
        return [read(own if own.is_file() else DEFINITIONS / f"{dag.removesuffix('-watch')}.json")]
    files = sorted(DEFINITIONS.glob("[!.]*.json"))
    if not files:
        raise AirflowException(
            f"{DEFINITIONS} holds no compiled pipeline. In the project's folder, run: "
            "python -m pipelines.run --runner airflow --config NAME"
        )
    definitions: list[dict[str, Any]] = []
    problems: list[str] = []
    for file in files:
        try:
            definition = read(file)
            definitions.append(definition)
            problems += filter(None, [outdated(definition)])
        except AirflowException as error:
            problems.append(str(error))
    if problems:
        raise AirflowException("\n".join(problems))
    return definitions


def read(file: Path) -> dict[str, Any]:
    """A definition, and the file that holds it.

    Raises:
      AirflowException: another version of the project has made it, or something else.
    """
    definition: Any = {}
    with suppress(OSError, ValueError):
        definition = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(definition, dict) or definition.get("format") != FORMAT:
        command = f"python -m pipelines.run --runner airflow --config {file.stem}"
        raise AirflowException(
            f"{file} is not whole, or was made by another version of the project. In the project's folder, run: "
            f"{definition.get('command', command) if isinstance(definition, dict) else command}"
        )
    return definition | {"file": str(file)}


def outdated(definition: dict[str, Any]) -> str | None:
    """What has changed since a definition was compiled, as far as this machine can see the project."""
    project = Path(definition["project"])
    changed = [file for file, digest in definition["sources"].items() if digest_of(project / file) != digest]
    if project.is_dir() and changed:
        why = f"is older than {', '.join(changed)}"
        return f"{definition['file']} {why}. In {project}, run: {definition['command']}"
    return None


def digest_of(file: Path) -> str | None:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None


def training(definition: dict[str, Any], records: Asset, examples: Asset) -> DAG:
    """The DAG that runs the pipeline, a task for each node; records that have arrived start it."""
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
            [told] = [hooks[output] for output in node["outputs"] if output in hooks] or [{}]
            tasks[node["id"]] = task(definition, node["id"], told)
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
    """What the DAG's page says of the pipeline."""
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


class NodeOperator(BaseOperator):
    """Runs a node in the project's environment on this worker.

    Args:
      arguments: of `pipelines.run_node`.
      environment: folder of the project's Python environment, where neither variable names one.
      summarizes: the run's summary is this task's XCom.
    """

    template_fields = ("arguments",)
    ui_color = "#e8f7e4"

    def __init__(self, *, arguments: list[str], environment: str, summarizes: bool = False, **others: Any):
        super().__init__(**others)
        self.arguments, self.environment, self.summarizes = arguments, environment, summarizes
        self.hook = SubprocessHook()

    def execute(self, context: Any) -> Any:
        python = self.python()
        # Airflow's own settings hold its secrets, and its Python paths are of another environment.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_", "PYTHON"))}
        with TemporaryDirectory(prefix="retake-") as folder:
            summary = Path(folder) / "summary.json"
            command = [str(python), "-u", "-m", "pipelines.run_node", *self.arguments]
            if self.summarizes:
                command += ["--summary", str(summary)]
            ended = self.hook.run_command(command, inherited, cwd=folder)
            if ended.exit_code == CANNOT_RUN:
                raise AirflowFailException(ended.output)
            if ended.exit_code:
                raise AirflowException(ended.output if ended.exit_code > 0 else f"killed by signal {-ended.exit_code}")
            return json.loads(summary.read_text()) if self.summarizes else None

    def python(self) -> Path:
        """The project's interpreter.

        Raises:
          AirflowFailException: it is not there.
        """
        folder = Variable.get(ENVIRONMENT, default=None) or os.environ.get(ENVIRONMENT.upper()) or self.environment
        python = Path(folder) / "bin" / "python"
        if not os.access(python, os.X_OK):
            raise AirflowFailException(
                f"{python} is not there or cannot be run: make the environment with `make setup` in the project's "
                f"folder on this worker, and name it in the Airflow variable {ENVIRONMENT} or the environment "
                f"variable {ENVIRONMENT.upper()}"
            )
        return python

    def on_kill(self) -> None:
        self.hook.send_sigterm()


def tell_records(context: Any) -> None:
    """Says in an asset event which records the run reads, so that they do not start another one.

    Not when the task is tried again or was cleared: an earlier try may have read them, when there were fewer.
    """
    [examples] = context["task"].outlets
    if context["ti"].try_number == 1:
        context["outlet_events"][examples].extra = {"records": listing(context["params"]["data"])}


def tell_verdict(context: Any, summary: dict[str, Any]) -> None:
    """Says in an asset event whether the model was blessed, and why."""
    [blessing] = context["task"].outlets
    accuracies = {key: (summary[key] or {}).get("accuracy") for key in ("metrics", "baseline_metrics")}
    context["outlet_events"][blessing].extra = {
        "blessed": summary["blessed"],
        "reason": summary["reason"],
        "accuracy": accuracies["metrics"],
        "baseline_accuracy": accuracies["baseline_metrics"],
    }


def tell_model(context: Any, summary: dict[str, Any]) -> None:
    """Says in an asset event where the model went; a model that is not blessed makes no event.

    Raises:
      AirflowSkipException: there is no model to tell of.
    """
    if summary["pushed_model"] is None:
        context["ti"].xcom_push("return_value", summary)
        raise AirflowSkipException(f"no model was pushed: {summary['reason']}")
    [model] = context["task"].outlets
    context["outlet_events"][model].extra = {"pushed_model": summary["pushed_model"]}


def watching(definition: dict[str, Any], records: Asset, examples: Asset) -> DAG:
    """The DAG that waits for records, takes a set of them, and begins to wait again."""
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


class RecordsSensor(BaseOperator):
    """Waits for record files that no run has read and no earlier event has told of; its event starts the training.

    The last events of both assets are all that it remembers, so a file is told of in the same database transaction
    that takes it. Between looks it is in the triggerer as Airflow's own DateTimeTrigger, which every triggerer has.

    Args:
      location: folder or gs:// prefix.
      seconds: between looks.
      training: the DAG that is started; while it is paused or running, nothing is taken.
    """

    def __init__(self, *, location: str, seconds: float, training: str, **others: Any):
        super().__init__(**others)
        self.location, self.seconds, self.training = location, seconds, training

    def execute(self, context: Any) -> list[str]:
        return self.look(context)

    def look(self, context: Any, event: Any = None, seen: dict[str, str] | None = None, looks: int = 0) -> list[str]:
        """Takes the new files that rest since the last look, in which `seen` was there; or looks again later."""
        known: set[tuple[str, str]] = set()
        for asset in self.inlets:
            for told in context["inlet_events"][asset].ascending(False).limit(MOST_EVENTS):
                known |= set(told.extra.get("records", {}).items())
        there = listing(self.location)
        new = {file for file, _ in there.items() - known}
        whole = new - of_incomplete_sets(there)
        resting = {file for file in whole if (seen or {}).get(file) == there[file] and is_whole(file)}
        blocked = new and self.blocked(context["ti"])
        if resting and not blocked and (resting == new or looks >= MOST_LOOKS):
            [records] = self.outlets
            taken = {file: version for file, version in there.items() if file not in new - resting}
            context["outlet_events"][records].extra = {"new": sorted(resting), "records": taken}
            self.log.info("new records: %s", ", ".join(map(repr, sorted(resting))))
            return sorted(resting)
        if not new and datetime.now(timezone.utc) - context["dag_run"].start_date > LONGEST_WAIT:
            raise AirflowSkipException("no new records; the next run goes on waiting for them")
        if new:
            self.log.info(
                "%s: %s",
                blocked or "not at rest yet, not whole, or shards are missing",
                ", ".join(map(repr, sorted(new))),
            )
        self.defer(
            trigger=TimeDeltaTrigger(timedelta(seconds=self.seconds)),
            method_name="look",
            kwargs={"seen": there, "looks": looks + 1 if new and not blocked else 0},
        )
        raise AssertionError("defer raises")

    def blocked(self, ti: Any) -> str | None:
        """Why the training cannot be started now. An event would be lost on a paused DAG, and one of several that
        come during a run; the files themselves wait."""
        if ti.get_dag(self.training).is_paused:
            return f"{self.training} is paused"
        if ti.get_dr_count(self.training, states=["queued", "running"]):
            return f"{self.training} is running"
        return None


def listing(location: str) -> dict[str, str]:
    """Record file below a folder or gs:// prefix → its version: its size, and its generation or time of writing.

    Raises:
      AirflowException: there is no such folder.
    """
    if "://" not in location and not Path(location).is_dir():
        raise AirflowException(f"data location {location} is not a folder on this worker")
    root = ObjectStoragePath(location if "://" in location else f"file://{location}")
    found = {}
    for path, info in root.fs.find(root.path, detail=True).items():
        below = path.removeprefix(root.path.rstrip("/")).lstrip("/")
        hidden = any(part.startswith(HIDDEN) for part in below.split("/"))
        # A shard may have no records, and its set is not complete without it.
        if RECORDS.search(below) and not hidden and (info["size"] or SHARD.search(below)):
            found[f"{location.rstrip('/')}/{below}"] = f"{info['size']} {info.get('generation') or info.get('mtime')}"
    return found


def of_incomplete_sets(files: Iterable[str]) -> set[str]:
    """The shards among some files that tell of others which are not there."""
    sets: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for file in files:
        if shard := SHARD.search(file, file.rindex("/")):
            sets[file[: shard.start()], shard[2], file[shard.end() :]][int(shard[1])] = file
    incomplete = [there for (_, count, _), there in sets.items() if sum(n < int(count) for n in there) < int(count)]
    return {file for there in incomplete for file in there.values()}


def is_whole(path: str) -> bool:
    """Whether a local record file ends with a whole record; an object in a bucket appears whole."""
    if "://" in path:
        return True
    try:
        if not Path(path).is_file():  # A named pipe would never answer.
            return False
        with open(path, "rb") as file:  # noqa: PTH123
            # As the pipeline does: the first bytes tell, not the name.
            is_packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            if is_packed:
                with gzip.open(file) as unpacked:
                    return ends_with_a_record(unpacked, None)
            return ends_with_a_record(file, Path(path).stat().st_size)
    except (OSError, EOFError, ValueError, OverflowError, zlib.error):
        return False


def ends_with_a_record(file: Any, size: int | None) -> bool:
    """A TFRecord is length (uint64), checksum (uint32), data, checksum (uint32), and so on until the end."""
    while header := file.read(12):
        if len(header) < 12:
            return False
        [length] = struct.unpack("<Q", header[:8])
        if size is not None and file.tell() + length + 4 > size:
            return False
        if length > MAX_RECORD_BYTES:  # The run refuses it by name.
            return True
        file.seek(length, os.SEEK_CUR)
        if len(file.read(4)) < 4:
            return False
    return True


for each in pipelines():
    assets = Asset(f"{each['pipeline']}-records"), Asset(f"{each['pipeline']}-examples")
    training(each, *assets)
    watching(each, *assets)
