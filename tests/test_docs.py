"""The docs site builds, and no link of README, docs or the API page is broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def build(config: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("mkdocs"), "build", "--strict", "-f", config, "-d", site]
    environment = {**os.environ, "DISABLE_MKDOCS_2_WARNING": "true", "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)


def test_the_site_builds_without_a_broken_link(tmp_path: Path) -> None:
    ended = build(PROJECT / "mkdocs.yml", tmp_path / "site")
    assert ended.returncode == 0, ended.stderr
    assert "Train on your own pictures" in (tmp_path / "site" / "index.html").read_text()
    api = (tmp_path / "site" / "docs" / "api" / "index.html").read_text()
    assert "pipelines.run.run" in api and "one of pipelines.runners.RUNNERS" in api


def test_a_broken_link_and_a_missing_heading_are_found(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Retake\n\n[gone](docs/gone.md) [nowhere](#nowhere)\n")
    (tmp_path / "mkdocs.yml").write_text(
        "site_name: x\ndocs_dir: .\nplugins: [same-dir]\nsite_dir: site\nvalidation: {not_found: warn, anchors: warn}\n"
    )
    ended = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert ended.returncode == 1
    assert "docs/gone.md" in ended.stderr and "#nowhere" in ended.stderr
