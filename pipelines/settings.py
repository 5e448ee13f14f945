"""The whole configuration: the sections that all runners share, and a section for each runner that has settings.

Example:
    >>> settings = load("hotdog", ["vertex.region=europe-west4"])
    >>> settings.vertex.region, settings.airflow.retries
    ('europe-west4', 2)
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from retake import config as configuration
from retake.config import Config
from retake.sections import Place, Section

LOOPBACK = ("127.0.0.1", "localhost", "::1")

GOOGLE_NAMES = {
    "project": (r"[a-z][-a-z0-9]{4,28}[a-z0-9]", "a project's id"),
    "region": (r"[a-z]+-[a-z]+\d{1,2}", "a region such as europe-west4"),
    "bucket": (r"[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]", "a bucket's name"),
}
"""Key → a pattern of Google Cloud's names, and a description of it for messages."""


class AirflowSection(Section):
    """How the pipeline runs under Airflow."""

    retries: int = Field(2, ge=0, description="How often a task that failed is tried again.")
    retry_seconds: float = Field(30.0, gt=0, description="Wait before the first retry; it doubles with each retry.")
    watch_seconds: float = Field(
        60.0,
        ge=1,
        description="Time between two checks of the data location. New records must be unchanged for that long before "
        "training.",
    )
    places: list[Place] = Field(
        [],
        description="Folders and gs:// prefixes. The user who triggers a run may set its `data` and `models` to these "
        "places and to folders below them, in addition to data.location for `data` and pusher.destination for "
        "`models`.",
    )
    pods: dict[str, str] = Field(
        {},
        description="Node → file with the Kubernetes pod template of the node, `*` for all other nodes. A node without "
        "a template runs on Airflow's worker.",
    )


class Machine(Section):
    """The resources of a node on Vertex, which chooses the smallest machine that has them."""

    cpus: float = Field(gt=0)
    memory_gb: float = Field(gt=0)
    accelerator: str | None = None
    accelerators: int = Field(1, gt=0)
    image: str | None = None


Label = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


class VertexSection(Section):
    """How the pipeline runs on Vertex AI Pipelines."""

    project: str = Field("", description="Google Cloud project of the job.")
    region: str = Field("", description="Region of the job, such as europe-west4.")
    bucket: str = Field("", description="Bucket in that region. Relative places of the configuration lie in it.")
    image: str = Field("", description="Container image with this project's code, which every node runs.")
    service_account: str = Field("", description="Service account of the nodes; empty for the project's default.")
    endpoint: str = Field(
        "",
        description="Another address of the service. With a local Vertex (http://127.0.0.1:8480), relative places are "
        "folders of this machine, and project, region, bucket and image are not needed.",
    )
    labels: dict[Label, Label] = Field({}, description="Labels of the job, for bills and searches.")
    machines: dict[str, Machine] = Field(
        {},
        description='Node → its machine, `*` for all other nodes: {"Trainer": {"cpus": 8, "memory_gb": 30, '
        '"accelerator": "NVIDIA_TESLA_T4", "accelerators": 1, "image": "IMAGE-gpu"}}. A node without a machine gets '
        "Vertex's default machine; a machine without an image runs `vertex.image`.",
    )
    retries: int = Field(0, ge=0, description="How often a node that failed is tried again.")

    @property
    def is_local(self) -> bool:
        """Whether `endpoint` is a Vertex on this machine, whose nodes see this machine's folders."""
        return self.endpoint.startswith("http://")

    @field_validator("bucket")
    @classmethod
    def _name_only(cls, bucket: str) -> str:
        return bucket.removeprefix("gs://").rstrip("/")

    @field_validator(*GOOGLE_NAMES)
    @classmethod
    def _possible(cls, name: str, field: ValidationInfo) -> str:
        pattern, description = GOOGLE_NAMES[str(field.field_name)]
        if name and not re.fullmatch(pattern, name):
            raise ValueError(f"is not {description}")
        return name

    @field_validator("endpoint")
    @classmethod
    def _safe(cls, endpoint: str) -> str:
        parts = urlsplit(endpoint)
        if endpoint and not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK)):
            raise ValueError("must begin with https://, or with http:// and be on this machine")
        return endpoint.rstrip("/")


class KubeflowSection(Section):
    """How the pipeline runs on open-source Kubeflow Pipelines."""

    host: str = Field("", description="Address of Kubeflow Pipelines' API.")
    image: str = Field("", description="Container image with this project's code, which every node runs.")
    secret: str = Field("", description="Kubernetes secret. Its key `password` is the metadata store's password.")
    claims: dict[str, str] = Field(
        {}, description="Persistent volume claim → its mount path in every task; not needed if all places are gs://."
    )
    retries: int = Field(2, ge=0, description="How often a node that failed is tried again.")


class Settings(Config):
    """All settings that a run depends on."""

    model_config = ConfigDict(extra="forbid")

    airflow: AirflowSection = AirflowSection()
    vertex: VertexSection = VertexSection()
    kubeflow: KubeflowSection = KubeflowSection()


def load(name: str, overrides: list[str] | None = None) -> Settings:
    """Reads a configuration like `retake.config.load`, and also refuses sections and keys that no runner knows."""
    return configuration.validated(*configuration.read(name, overrides), Settings)


def whole(config: Config) -> Settings:
    """The configuration with the runners' sections, which are checked.

    Raises:
      UsageError: a section of a runner has an unknown key or an impossible value.
    """
    if isinstance(config, Settings):
        return config
    return configuration.validated(config.model_dump(), config.pipeline.name, Settings)


def reference() -> str:
    """The text of docs/configuration.md: every key with its default and meaning."""
    lines = ["# Configuration", "", "`python -m pipelines.settings` writes this page; a test checks it."]
    for name, section in Settings.model_fields.items():
        model: Any = section.annotation
        lines += [
            "",
            f"## {name}",
            "",
            inspect.cleandoc(model.__doc__),
            "",
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        for key, field in model.model_fields.items():
            default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
            lines.append(f"| `{key}` | {default} | {field.description} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
