"""What `docker build -f kubeflow/Dockerfile .` would make, without Docker: the Dockerfile's own steps, in a folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from pipelines import vertex_job
from retake import config as configuration
from retake import sample
from retake.weights import Weights

PROJECT = Path(__file__).parents[2]
DOCKERFILE = PROJECT / "kubeflow" / "Dockerfile"
TOOLS = {"pip", "pip3", "uv", "gcc", "cc", "make", "pytest", "mypy", "ruff", "hadolint"}
NOT_NEEDED = {"jupyterlab", "jupyter-server", "notebook", "nbconvert", "js2py"}
"""TFX 1.16 brings them along, though no node needs them."""


class Step(NamedTuple):
    """An instruction of the Dockerfile, with its stage's name."""

    stage: str
    name: str
    value: str


def steps() -> list[Step]:
    found: list[Step] = []
    stage = ""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, text.splitlines()):
        name, _, value = line.partition(" ")
        if name == "FROM":
            *_, stage = value.split()
        found.append(Step(stage, name, value.strip()))
    return found


def of(stage: str, name: str) -> list[str]:
    return [step.value for step in steps() if step[:2] == (stage, name)]


class Image:
    """The stage `build` in a folder, in place of `/`."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root
        [place] = [path for path in map(str.strip, of("task", "COPY")) if path.startswith("--from=build")]
        self.environment = self.inside(place.split()[-1])
        self.variables = {"PATH": f"{root}/bin:{os.environ['PATH']}", "HOME": str(root / "home")}
        for kept in ("UV_CACHE_DIR", "XDG_CACHE_HOME", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "SSL_CERT_FILE"):
            if kept in os.environ:
                self.variables[kept] = os.environ[kept]
        self.variables.setdefault("UV_CACHE_DIR", self.cache())
        (root / "bin").mkdir(parents=True)
        (root / "bin" / "uv").symlink_to(uv())

    @staticmethod
    def cache() -> str:
        return subprocess.run([uv(), "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()

    def inside(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def build(self) -> None:
        for step in steps():
            if step.stage == "build" and step.name != "FROM":
                getattr(self, step.name.lower())(step.value)

    def env(self, value: str) -> None:
        for name, text in (each.split("=", 1) for each in shlex.split(value)):
            self.variables[name] = str(self.inside(text)) if text.startswith("/opt") else text
        # The interpreter of the base image, and what was downloaded already, in place of a download.
        self.variables |= {"UV_PYTHON": sys._base_executable, "UV_LINK_MODE": "hardlink"}  # type: ignore[attr-defined]
        self.variables.pop("UV_NO_CACHE", None)

    def arg(self, value: str) -> None:
        name, _, default = value.partition("=")
        self.variables.setdefault(name, default.strip('"'))

    def workdir(self, value: str) -> None:
        self.folder = self.inside(value)
        self.folder.mkdir(parents=True)

    def copy(self, value: str) -> None:
        *sources, target = value.split()
        for source in sources:
            assert source in copied(), f"{source} is not let through by .dockerignore"
            place = self.folder / target / source if target == "./" else self.folder / target
            if (PROJECT / source).is_dir():
                shutil.copytree(PROJECT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(PROJECT / source, place)

    def run(self, value: str) -> None:
        if "uv sync" in value:  # What comes before installs the tools that are here already.
            subprocess.run(["sh", "-c", value], cwd=self.folder, env=self.variables, check=True, timeout=3600)

    def change(self, extra: str) -> set[str]:
        """What the last step would install (+) or remove (-) with an extra, as uv finds out without a network."""
        said = subprocess.run(
            ["sh", "-c", f"{of('build', 'RUN')[-1]} --dry-run --offline"],
            cwd=self.folder,
            env={**self.variables, "EXTRA": extra},
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        )
        return set(re.findall(r"^ ([+~-] \S+)", said.stderr, re.MULTILINE))

    def call(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command as a task would, away from the project's folder."""
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        return subprocess.run(
            command,
            cwd=home,
            env={"PATH": f"{self.environment}/bin:/usr/bin:/bin", "HOME": str(home), **variables},
            capture_output=True,
            text=True,
            timeout=900,
        )


def uv() -> str:
    """The uv that `.ci/setup` uses."""
    found = shutil.which("uv") or next((str(path) for path in sorted((PROJECT / ".uv").glob("uv-*"))), None)
    return found or str(Path.home() / ".local" / "bin" / "uv")


def copied() -> set[str]:
    """What .dockerignore lets through."""
    return {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}


def locked() -> dict[str, str]:
    """The packages that uv.lock has for the image's Python, which may be another than this one, and their versions."""
    python = re.match(r"PYTHON=((\d+\.\d+)\.\d+)", of("", "ARG")[0])
    assert python
    where = {"python_full_version": python[1], "python_version": python[2]}
    options = [
        "--extra",
        "pipeline",
        "--frozen",
        "--offline",
        "--no-dev",
        "--no-emit-project",
        "--no-hashes",
        "--no-annotate",
        "--no-header",
    ]
    exported = subprocess.run(
        [uv(), "export", *options], cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60
    )
    named = map(Requirement, exported.stdout.splitlines())
    return {each.name: str(each.specifier) for each in named if not each.marker or each.marker.evaluate(where)}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image's environment, installed from the lock by the Dockerfile's own commands. Takes 2 GB while tests run."""
    image = Image(tmp_path_factory.mktemp("image"))
    image.build()
    yield image
    shutil.rmtree(image.root)


@pytest.fixture(scope="module")
def definition(node_server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's pipeline, compiled as for Airflow."""
    folder = tmp_path_factory.mktemp("definition")
    sample.draw(folder)
    options = ["--data", str(folder / "records"), "--root", str(folder / "runs"), "--models", str(folder / "models")]
    options += ["--weights", "none", "--set", "model.backbone=LeNet5", "--definitions", str(folder)]
    command = [sys.executable, "-m", "pipelines.run", "--runner", "airflow", *options]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=300)
    return folder / "sample.json"


def test_hadolint_has_nothing_to_say() -> None:
    linted = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), DOCKERFILE], capture_output=True, text=True, timeout=60
    )
    assert (linted.returncode, linted.stdout) == (0, "")


def test_its_bases_and_uv_are_pinned_to_what_the_project_uses() -> None:
    [base] = of("", "ARG")
    assert re.fullmatch(r"PYTHON=3\.13\.\d+-slim-trixie", base)
    for step in steps():
        if step.name == "FROM":
            assert step.value.split()[0] in ("python:${PYTHON}", "task")
        if step.name == "COPY" and (other := re.match(r"--from=(\S+:\S+)", step.value)):
            assert other[1] == f"apache/beam_python3.13_sdk:{locked()['apache-beam'].removeprefix('==')}"
    version = re.search(r"^uv_version=(\S+)$", (PROJECT / ".ci" / "setup").read_text(), re.MULTILINE)
    assert version and any(f"uv=={version[1]}" in value.split() for value in of("build", "RUN"))


def test_tasks_do_not_run_as_root_and_get_nothing_of_the_build_but_the_environment() -> None:
    assert of("task", "USER") == ["10001:10001"]
    assert of("task", "COPY") == ["--from=build /opt/retake /opt/retake"]
    assert any("pip uninstall --yes pip setuptools wheel" in value for value in of("task", "RUN"))
    assert any(value.startswith("PATH=/opt/retake/bin:") for value in of("task", "ENV"))
    assert not any(step.name in ("ENTRYPOINT", "ADD") for step in steps() if step.stage != "dataflow")
    assert steps()[-1] == Step("task", "FROM", "task")


def test_the_image_holds_all_code_and_nothing_else_of_the_machine() -> None:
    packages = re.search(r"packages = (\[.*\])", (PROJECT / "pyproject.toml").read_text())
    assert packages
    code = {package.partition("/")[0] for package in json.loads(packages[1])}
    assert code == {value.split()[0] for value in of("build", "COPY")} & code
    assert copied() - code == {"README.md", "pyproject.toml", "uv.lock"}
    assert (PROJECT / ".dockerignore").read_text().splitlines()[1] == "*"


def test_no_tool_that_builds_or_tests_is_inside(image: Image) -> None:
    commands = {path.name for path in (image.environment / "bin").iterdir()}
    assert {"python", "retake"} <= commands
    assert not TOOLS & commands


def test_nothing_is_inside_that_no_node_needs() -> None:
    assert "tfx" in locked()
    assert not NOT_NEEDED & set(locked())


def test_python_is_the_environments_and_the_code_is_installed_and_compiled_in_it(image: Image) -> None:
    code = "import sys, retake, components, pipelines; print(sys.prefix); [print(m.__file__) for m in (retake, components, pipelines)]"  # noqa: E501
    prefix, *files = image.call("python", "-c", code).stdout.split()
    assert prefix == str(image.environment)
    for file in map(Path, files):
        assert file.is_relative_to(image.environment)
        assert list((file.parent / "__pycache__").glob("__init__.*.pyc"))


def test_records_are_written_by_compiled_code(image: Image) -> None:
    code = "import google_crc32c; print(google_crc32c.implementation)"
    assert image.call("python", "-c", code).stdout == "c\n"


def test_what_comes_as_source_finds_a_compiler() -> None:
    """Here one may be there that the Dockerfile forgot."""
    assert any("install" in value and " g++ " in value for value in of("build", "RUN"))


def test_for_gpus_it_holds_the_cuda_that_tensorflow_is_built_for_and_changes_nothing_else(image: Image) -> None:
    code = "import tensorflow as tf; about = tf.sysconfig.get_build_info(); print(about['cuda_version'], about['cudnn_version'])"  # noqa: E501
    cuda, cudnn = image.call("python", "-c", code).stdout.split()
    others = image.change("gpu") - image.change("")
    assert all(change.startswith("+ nvidia-") for change in others)
    added = dict(change.removeprefix("+ nvidia-").split("-cu12==") for change in others)
    assert {"cublas", "cuda-nvcc", "cuda-runtime", "cudnn", "cufft", "cusolver", "cusparse", "nccl"} <= set(added)
    for library, built_for in (("cuda-runtime", cuda), ("cudnn", cudnn)):
        assert Version(added[library]) >= Version(built_for)
        assert Version(added[library]).major == Version(built_for).major


@pytest.mark.parametrize(
    "command",
    [
        [*vertex_job.COMMAND, "executor"],
        [*vertex_job.COMMAND, "hook"],
        ["python", "-m", "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor"],
        ["python", "-m", "pipelines.run_node"],
    ],
    ids=" ".join,
)
def test_the_commands_of_tasks_explain_themselves(image: Image, command: list[str]) -> None:
    said = image.call(*command, "--help")
    assert "usage:" in said.stdout, said.stderr


def test_all_that_the_pipelines_tasks_name_can_be_imported(image: Image, tmp_path: Path) -> None:
    from pipelines import factory

    pipeline = factory.build(configuration.load("sample"), str(tmp_path), Weights("none", ""))
    names = set()
    for component in pipeline.components:
        executor = component.executor_spec
        names.add(getattr(executor, "class_path", "") or "tfx.dsl.components.base.node_registry.registered_nodes")
        names.add(f"{component.driver_class.__module__}.{component.driver_class.__qualname__}")
        names |= {component.exec_properties.get(key) for key in ("run_fn", "preprocessing_fn")} - {None}
    assert {"components.trainer.run_fn", "components.transform.preprocessing_fn"} <= names
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n m, _, n = name.rpartition('.')\n getattr(importlib.import_module(m), n)"  # noqa: E501
    imported = image.call("python", "-c", code, *sorted(names))
    assert imported.returncode == 0, imported.stderr


def test_a_node_runs_in_it_and_leaves_no_trace_there(image: Image, definition: Path) -> None:
    before = written(image.environment)
    command = ["python", "-m", "pipelines.run_node", str(definition), "--node", "ExampleGen", "--run-id", "1"]
    ran = image.call(*command)
    assert ran.returncode == 0, ran.stderr
    assert "ExampleGen complete" in ran.stdout
    assert written(image.environment) == before


def written(folder: Path) -> dict[str, int]:
    """When each file and folder below was written last."""
    return {
        path: os.stat(path).st_mtime_ns  # noqa: PTH116
        for below, _, files in os.walk(folder)
        for path in (below, *(f"{below}/{file}" for file in files))
    }
