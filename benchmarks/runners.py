"""Measure the cost of running node by node. The embedded sample runs with the local runner, with `run_node`, under
Airflow, and on the local Vertex.

The benchmark prints a Markdown table. It needs both environments (`make setup setup-airflow`). Run it alone on the
machine; it takes about five minutes on 2 cores.
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
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

from kubeflow import stand_ins
from pipelines.local_airflow.server import QUICK, AirflowServer

PROJECT = Path(__file__).parents[1]
ALLOWED = 9
"""Seconds that a process for a node may add to the node's own work."""


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
        say("run_node, node after node …")
        nodewise = node_by_node(work)
        say("Airflow …")
        airflow = under_airflow(work)
        say("the Vertex emulator …")
        vertex = on_vertex(work)

    print("| node | work | local runner | `run_node` | over its work | Airflow task | gap | Vertex task | gap |")
    print("|---|---|---|---|---|---|---|---|---|")
    over = {node: nodewise.waited[node] - nodewise.work[node] for node in nodewise.work}
    for node, seconds in local.work.items():
        columns = [seconds, local.waited[node], nodewise.waited[node], over[node]]
        columns += [airflow.waited[node], airflow.gaps[node], vertex.waited[node], vertex.gaps[node]]
        print(f"| {node} |", " | ".join(f"{value:.1f}" for value in columns), "|")
    sums = [sum(local.work.values()), local.whole, nodewise.whole, sum(over.values()), airflow.whole]
    for what, by, digits in (("whole run", 1.0, 1), ("/ local runner", local.whole, 2)):
        shares = [f"{value / by:.{digits}f}" for value in (*sums, vertex.whole)]
        print(f"| {what} |", " | ".join([*shares[:-1], "", shares[-1], ""]), "|")
    for node in ("SchemaGen", "Resolver"):
        print(f"\n{node}: {over[node]:.1f} s over its own work (at most {ALLOWED})", end="")
    print()


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


def node_by_node(work: Path) -> Times:
    run("pipelines.run", "--runner", "airflow", *settings(work, "nodes"), "--definitions", str(work))
    definition, file = work / "sample.json", work / "nodes.json"
    waited = {}
    for node in json.loads(definition.read_text())["nodes"]:
        call = [str(definition), "--node", node["id"], "--run-id", "benchmark", "--summary", str(file)]
        waited[node["id"]], _ = run("pipelines.run_node", *call)
    return Times(sum(waited.values()), works(json.loads(file.read_text())), waited, {})


def under_airflow(work: Path) -> Times:
    definitions, home = work / "definitions", work / "airflow"
    run("pipelines.run", "--runner", "airflow", *settings(work, "airflow-root"), "--definitions", str(definitions))
    environment = {"RETAKE_DEFINITIONS": str(definitions)}
    with AirflowServer(home, PROJECT / "dags", environment=environment, settings=QUICK) as server:
        server.wait_for_dag("sample")
        run_id = server.trigger("sample")
        ended = server.wait_for_run("sample", run_id, timeout=600)
        if ended["state"] != "success":
            sys.exit(server.told("sample", run_id))
        found = server.tasks("sample", run_id)
        summary = server.xcom("sample", run_id, "Pusher")
    # The API server takes the trigger; the scheduler starts the run.
    triggered, over = moment(ended["queued_at"]), moment(ended["end_date"])
    tasks = {node: (moment(task["start_date"]), moment(task["end_date"])) for node, task in found.items()}
    return times(work, triggered, over, tasks, works(summary))


def on_vertex(work: Path) -> Times:
    [port] = stand_ins.free_ports(1)
    url = f"http://{stand_ins.HOST}:{port}"
    command = stand_ins.vertex_command(work / "vertex", port, "--parallel=4")
    with stand_ins.serving(url, command, {**os.environ}, work / "logs" / "vertex.log"):
        places = settings(work, "vertex-root")
        run("pipelines.run", "--runner", "vertex", "--image", "retake", "--endpoint", url, "--wait", *places)
        [listed] = answer(f"{url}/v1/projects/-/locations/-/pipelineJobs")["pipelineJobs"]
        job = answer(f"{url}/v1/{listed['name']}")
    tasks: dict[str, tuple[float, float]] = {}
    for task in job["jobDetail"]["taskDetails"]:
        node = task["taskName"].partition("-")[0]  # A resolver is two tasks.
        start, end = moment(task["startTime"]), moment(task["endTime"])
        first, last = tasks.get(node, (start, end))
        tasks[node] = min(first, start), max(last, end)
    return times(work, moment(job["createTime"]), moment(job["endTime"]), tasks, {})


def answer(url: str) -> Any:
    with urlopen(url) as told:  # noqa: S310
        return json.load(told)


def times(work: Path, begun: float, over: float, tasks: dict[str, tuple[float, float]], own: dict[str, float]) -> Times:
    gaps = {}
    for node in json.loads((work / "sample.json").read_text())["nodes"]:
        ready = max((tasks[before][1] for before in node["upstream"]), default=begun)
        gaps[node["id"]] = tasks[node["id"]][0] - ready
    return Times(over - begun, own, {node: end - start for node, (start, end) in tasks.items()}, gaps)


def moment(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m benchmarks.runners", description=__doc__).parse_args()
    main()
