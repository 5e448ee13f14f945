"""The demo's way of a record file: it lands in the bucket, the function starts a run, the model is gated and pushed."""

from __future__ import annotations

import json
import logging
import time
import uuid
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from kubeflow import stand_ins
from pipelines import progress, vertex_job
from pipelines.google_cloud import Google
from pipelines.runners import vertex
from retake import summary as summaries
from retake.errors import RetakeError
from retake.summary import Summary

PROJECT, REGION = "retake-demo", "europe-west4"


class Loop(NamedTuple):
    """Uploads record files, and follows the runs that they start.

    Fields:
      root: of the summaries; the function's log is in `root/logs`.
      function: its address.
      bucket: the watched one.
      window: its minutes, 0 for a run for each file.
    """

    root: Path
    function: str
    google: Google
    compiled: vertex_job.Compiled
    bucket: Any
    console: Console
    window: int

    def land(self, file: Path, name: str) -> Summary:
        """Uploads a record file, and follows the run that its event starts.

        Raises:
          RetakeError: no run starts, it fails, or its model is not blessed.
        """
        blob = self.bucket.blob(name)
        blob.upload_from_filename(str(file))
        blob.reload()
        self.console.print(f"\n[bold]{file.name}[/] lands at gs://{self.bucket.name}/{name}", soft_wrap=True)
        read = len(self._log())
        event = str(uuid.uuid4())
        # Cloud Storage promises to deliver an event at least once.
        for about in ("event", "the same event again"):
            entry = self._send(blob, event)
            self.console.print(f"  {about}: {entry['message']}", style="dim", soft_wrap=True)
        run = f"projects/{PROJECT}/locations/{REGION}/pipelineJobs/{self._started(read)}"
        logging.getLogger("retake").propagate = False
        job = vertex.follow(self.google, run, self.compiled.nodes, progress.Progress(self.console))
        summary = vertex.summarize(job, self.compiled.nodes, self.google.failure(job))
        self.console.print()
        self.console.print(summaries.render(summary, nodes=False))
        summaries.write(summary, self.root / f"{file.stem}.summary.json")
        if not summary.pushed_model:
            raise RetakeError(f"the run on {file.name} pushed no model, so the loop ends here; the reason stands above")
        return summary

    def _log(self) -> list[dict[str, Any]]:
        """The function's log, entry by entry."""
        lines = (self.root / "logs" / "function.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith('{"severity"')]

    def _send(self, blob: Any, event: str) -> dict[str, Any]:
        """Sends the event of a stored object, and returns what the function logs about it.

        Raises:
          RetakeError: the function does not take it.
        """
        log = self.root / "logs" / "function.log"
        try:
            status = stand_ins.post(self.function, *stand_ins.stored_event(blob, event))
        except OSError as error:
            raise RetakeError(f"the function does not take the event: {error}; {log} says why") from None
        entries = [entry for entry in self._log() if entry.get("event") == event]
        if status != 200 or not entries:
            raise RetakeError(f"the function does not take the event: status {status}; {log} says why")
        return entries[-1]

    def _started(self, read: int) -> str:
        """The run that the function starts: at once, or when the window is over.

        Raises:
          RetakeError: it starts none.
        """
        end = time.monotonic() + 60 * (self.window + 1) + stand_ins.PATIENCE_SECONDS
        while True:
            entries = self._log()[read:]
            if run := next((entry["run"] for entry in entries if "run" in entry), None):
                return str(run)
            if time.monotonic() > end or not self.window or entries[-1]["severity"] == "ERROR":
                raise RetakeError(f"the function starts no run: {entries[-1]['message']}")
            time.sleep(1)
