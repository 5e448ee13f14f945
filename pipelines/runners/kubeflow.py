"""The Kubeflow Pipelines runner: each node is a task that runs `pipelines.run_node` in the project's image.

TFX has no runner for open-source Kubeflow any more. A job that TFX compiles for Vertex relies on the service to find
the blessed model. Here, each node queries ML Metadata itself, so the service only has to run the tasks in their order.
"""

import argparse
import io
import logging
import tempfile
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from pipelines import definition as definitions
from pipelines.definition import Definition
from pipelines.runners.base import Run, Runner, Task
from pipelines.settings import KubeflowSection, Settings
from retake import places, quiet
from retake.errors import RetakeError, UsageError, first_line
from retake.sections import NO_FILES

PACKED = "RETAKE_DEFINITION"
"""Environment variable of the tasks that holds the definition, so that they need no shared file."""


@dataclass
class Kubeflow(Runner):
    """Submits the pipeline to open-source Kubeflow Pipelines."""

    SETTINGS: ClassVar[dict[str, str]] = {"image": "kubeflow.image", "host": "kubeflow.host"}

    dry_run: bool = False

    @classmethod
    def add_options(cls, group: argparse._ArgumentGroup) -> None:
        group.add_argument("--host", metavar="URL", help="of Kubeflow Pipelines: kubeflow.host")
        group.add_argument("--image", metavar="IMAGE", help="holds this project's code: kubeflow.image")
        group.add_argument("--dry-run", action="store_true", help="print the pipeline as YAML and submit nothing")

    def place(self, config: Settings) -> Settings:
        config = super().place(config)
        _check(config, self.dry_run)
        return config

    def run(self, task: Task, console: Console) -> Run:
        """Compiles the pipeline with the kfp SDK, and submits it unless this is a dry run.

        Raises:
          RetakeError: a file cannot be read, or the server refuses the pipeline.
        """
        config = task.config
        package = compile(definitions.compile(config, task.file, task.command, {}))
        if self.dry_run:
            print(package, end="")
            return Run(config.pipeline.name)
        run_id = _submit(package, config)
        link = f"{config.kubeflow.host.rstrip('/')}/#/runs/details/{run_id}"
        console.print(f"{config.pipeline.name} · run {run_id}\n{link}", soft_wrap=True)
        return Run(run_id)


def _check(config: Settings, dry_run: bool) -> None:
    """Raises one error that lists all problems."""
    problems = []
    if not config.kubeflow.image:
        problems.append("kubeflow.image is missing; give it with --image")
    if not config.kubeflow.host and not dry_run:
        problems.append("kubeflow.host is missing; give it with --host, or print the pipeline with --dry-run")
    if config.metadata.url.startswith("sqlite:"):
        problems.append(
            f"metadata.url {config.metadata.url}: the tasks need a server that all of them reach, "
            "such as postgresql://USER@HOST/DATABASE"
        )
    seen = places.of_config(config)
    if config.model.weights not in NO_FILES:
        seen["model.weights"] = config.model.weights
    mounts = list(config.kubeflow.claims.values())
    for key, place in seen.items():
        if not places.is_remote(place) and not any(Path(place).is_relative_to(mount) for mount in mounts):
            where = "see kubeflow.claims" if key == "model.weights" else "give a gs:// place, or see kubeflow.claims"
            problems.append(f"{key} {place} is on no volume of the tasks; {where}")
    if problems:
        raise UsageError("\n".join(problems))


def compile(definition: Definition) -> str:
    """The pipeline as YAML for the kfp SDK and Kubeflow's web page. Equal definitions give equal YAML."""
    with quiet.imports():
        from kfp import compiler, dsl

    settings = definition.config.kubeflow
    packed = definitions.packed(definition)
    components = {node.id: _component(definition, node.id, settings.image) for node in definition.nodes}

    @dsl.pipeline(name=definition.pipeline, description=f"Compiled by: {definition.command}")
    def pipeline(
        data: str = definition.parameters["data"].default, models: str = definition.parameters["models"].default
    ) -> None:
        tasks: dict[str, Any] = {}
        for node in definition.nodes:
            task = tasks[node.id] = components[node.id](data=data, models=models)
            task.set_display_name(node.id)
            task.set_env_variable(PACKED, packed)
            task.set_caching_options(False)  # The node has its own cache.
            task.set_retry(settings.retries)
            task.after(*(tasks[before] for before in node.upstream))
            _on_kubernetes(task, settings)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(file))
        return file.read_text()


def _component(definition: Definition, node: str, image: str) -> Any:
    from kfp import dsl

    def component(data: str, models: str) -> Any:
        arguments = ["--node", node, "--run-id", f"{definition.pipeline}.{dsl.PIPELINE_JOB_ID_PLACEHOLDER}"]
        arguments += ["--runner", "kubeflow", "--parameter", f"data={data}", "--parameter", f"models={models}"]
        command = ["python", "-m", "pipelines.run_node", f"env:{PACKED}"]
        return dsl.ContainerSpec(image=image, command=command, args=arguments)

    component.__name__ = node
    component.__annotations__["return"] = dsl.ContainerSpec
    return dsl.container_component(component)


def _on_kubernetes(task: Any, settings: KubeflowSection) -> None:
    from kfp import kubernetes

    from pipelines import metadata

    if settings.secret:
        kubernetes.use_secret_as_env(task, settings.secret, {"password": metadata.PASSWORD_VARIABLE})
    for claim, mount in settings.claims.items():
        kubernetes.mount_pvc(task, claim, mount)


def _submit(package: str, config: Settings) -> str:
    import kfp

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # Each retry is logged; the error contains the same message.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # The client warns about versions of the server.
        file = Path(folder) / "pipeline.yaml"
        file.write_text(package)
        try:
            client = kfp.Client(host=config.kubeflow.host)
            return str(client.create_run_from_pipeline_package(str(file), enable_caching=False).run_id)
        except Exception as error:  # From urllib3 or the client's API, or a plain RuntimeError.
            reason = first_line(error)
            raise RetakeError(
                f"kubeflow.host {config.kubeflow.host} does not take the pipeline ({type(error).__name__}: {reason})"
            ) from None
        finally:
            logging.disable(before)
