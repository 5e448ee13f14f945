"""Measure what running node by node costs: the embedded sample with the local runner, under Airflow and on a Vertex on
this machine, with a fresh process for each task and with a node server.

It prints a Markdown table. It needs both environments (`make setup setup-airflow`). Run it alone on the machine; it
takes about five minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from kubeflow import stand_ins
from pipelines.local_airflow.__main__ import node_server
from pipelines.local_airflow.server import QUICK, AirflowServer
from retake.handover import VARIABLE as NODE_SERVER

PROJECT = Path(__file__).parents[1]


class Times(NamedTuple):
    """Seconds of a run.

    Fields:
      whole: from the command or the trigger to the end.
      work: node → time of the execution in ML Metadata.
      waited: node → time that the runner waited for the node.
      gaps: node → time between the end of its last dependency, or the start of the run, and its own start.
    """

    whole: float
    work: dict[str, float]
    waited: dict[str, float]
    gaps: dict[str, float]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        say("the local runner …")
        local = locally(work)
        runs = {}
        for server in (False, True):
            how = "node server" if server else "fresh"
            say(f"Airflow, {how} …")
            runs[f"Airflow, {how}"] = under_airflow(work, server)
            say(f"the local Vertex, {how} …")
            runs[f"Vertex, {how}"] = on_vertex(work, server)
    print(f"| node | work | local runner | {' | '.join(runs)} |")
    print("|---" * (3 + len(runs)) + "|")
    for node, seconds in local.work.items():
        columns = [seconds, local.waited[node], *(times.waited[node] for times in runs.values())]
        print(f"| {node} |", " | ".join(f"{each:.1f}" for each in columns), "|")
    wholes = [sum(local.work.values()), local.whole, *(times.whole for times in runs.values())]
    print("| whole run |", " | ".join(f"{each:.1f}" for each in wholes), "|")
    print("| / local runner |", " | ".join(f"{each / local.whole:.2f}" for each in wholes), "|")
    for what, value in (("over its work, a task", overhead), ("gap before a task", gap)):
        cells = [f"{sum(value(times, local)) / len(local.work):.1f}" for times in runs.values()]
        print(f"| {what} | | |", " | ".join(cells), "|")


def overhead(times: Times, local: Times) -> list[float]:
    """Seconds that tasks took over the nodes' own work. Vertex has no ML Metadata: there it is the local run's work."""
    work = times.work or local.work
    return [times.waited[node] - work[node] for node in local.work]


def gap(times: Times, _: Times) -> list[float]:
    return list(times.gaps.values())


def say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def settings(work: Path, name: str) -> list[str]:
    """Options for the sample with a separate root and models' folder."""
    places = ["--root", f"{work}/{name}", "--models", f"{work}/{name}-models"]
    return ["--config", "sample", "--set", f"data.location={work}/sample/records", *places]


def run(module: str, *arguments: str) -> tuple[float, str]:
    """Runs a module in a separate process. Returns the seconds and the output."""
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-m", module, *arguments], cwd=PROJECT, capture_output=True, text=True)
    if ended.returncode:
        sys.exit(f"{module} {' '.join(arguments)} failed:\n{ended.stdout}{ended.stderr}")
    return time.monotonic() - begun, ended.stdout


def works(summary: Any) -> dict[str, float]:
    return {node["id"]: node["seconds"] for node in summary["nodes"]}


def locally(work: Path) -> Times:
    from retake import sample

    sample.draw(work / "sample")  # Not a part of any run.
    file = work / "local.json"
    whole, output = run("pipelines.run", *settings(work, "local"), "--summary", str(file))
    waited = {node: float(seconds) for node, seconds in re.findall(r"^✓ (\w+) +\w+ +([\d.]+) s$", output, re.MULTILINE)}
    return Times(whole, works(json.loads(file.read_text())), waited, {})


def under_airflow(work: Path, server: bool) -> Times:
    name = f"airflow-{server}"
    definitions, home = work / f"{name}-definitions", work / f"{name}-home"
    run("pipelines.run", "--runner", "airflow", *settings(work, name), "--definitions", str(definitions))
    environment = {
        "RETAKE_DEFINITIONS": str(definitions),
        NODE_SERVER: str(work / "nodes") if server else "",
    }
    with ExitStack() as stack:
        airflow = AirflowServer(home, PROJECT / "dags", environment=environment, settings=QUICK)
        stack.enter_context(airflow)
        if server:
            nodes = stack.enter_context(node_server(airflow))
            stack.callback(nodes.terminate)
        airflow.wait_for_dag("sample")
        run_id = airflow.trigger("sample")
        ended = airflow.wait_for_run("sample", run_id, timeout=600)
        if ended["state"] != "success":
            sys.exit(airflow.told("sample", run_id))
        found = airflow.tasks("sample", run_id)
        summary = airflow.xcom("sample", run_id, "Pusher")
    # The API server takes the trigger; the scheduler starts the run.
    triggered, over = moment(ended["queued_at"]), moment(ended["end_date"])
    tasks = {node: (moment(task["start_date"]), moment(task["end_date"])) for node, task in found.items()}
    return times(definitions, triggered, over, tasks, works(summary))


def on_vertex(work: Path, server: bool) -> Times:
    name = f"vertex-{server}"
    [port] = stand_ins.free_ports(1)
    url = f"http://{stand_ins.HOST}:{port}"
    command = stand_ins.vertex_command(work / f"{name}-jobs", port, "--parallel=4", *([] if server else ["--fresh"]))
    with stand_ins.serving(url, command, {**os.environ}, work / "logs" / f"{name}.log"):
        places = settings(work, name)
        run("pipelines.run", "--runner", "vertex", "--image", "retake", "--endpoint", url, "--wait", *places)
        [listed] = answer(f"{url}/v1/projects/-/locations/-/pipelineJobs")["pipelineJobs"]
        job = answer(f"{url}/v1/{listed['name']}")
    tasks: dict[str, tuple[float, float]] = {}
    for task in job["jobDetail"]["taskDetails"]:
        node = task["taskName"].partition("-")[0]  # A resolver is two tasks.
        start, end = moment(task["startTime"]), moment(task["endTime"])
        first, last = tasks.get(node, (start, end))
        tasks[node] = min(first, start), max(last, end)
    definitions = work / "airflow-False-definitions"
    return times(definitions, moment(job["createTime"]), moment(job["endTime"]), tasks, {})


def answer(url: str) -> Any:
    with urlopen(url) as told:  # noqa: S310
        return json.load(told)


def times(
    definitions: Path, begun: float, over: float, tasks: dict[str, tuple[float, float]], own: dict[str, float]
) -> Times:
    gaps = {}
    for node in json.loads((definitions / "sample.json").read_text())["nodes"]:
        ready = max((tasks[before][1] for before in node["upstream"]), default=begun)
        gaps[node["id"]] = tasks[node["id"]][0] - ready
    return Times(over - begun, own, {node: end - start for node, (start, end) in tasks.items()}, gaps)


def moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.runners", description=__doc__).parse_args()
    main()
