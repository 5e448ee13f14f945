"""The pipeline: from records to a pushed model, the same for every runner."""

from __future__ import annotations

import hashlib
import inspect
from types import ModuleType
from typing import Any

from tfx.components import ExampleValidator, SchemaGen, StatisticsGen, Transform
from tfx.dsl.components.common.resolver import Resolver, ResolverStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing

from components import (
    backbones,
    counts,
    example_gen,
    export,
    extractors,
    head,
    network,
    outcomes,
    record_files,
    splits,
    start,
    training_split,
)
from components import evaluator as evaluator_node
from components import pusher as pusher_node
from components import trainer as trainer_function
from components import transform as transform_graph
from components.evaluator import GatedEvaluator
from components.example_gen import RecordsExampleGen
from components.pusher import WholePusher
from components.resolver import BaselineStrategy, StartStrategy
from components.trainer import ClassifierTrainer
from retake import backbones as known_backbones
from retake import durable, features, gate, images, locks, records, seal
from retake.config import Config
from retake.weights import Weights

DATA_PARAMETER = "data"
MODELS_PARAMETER = "models"
PARAMETERS = {
    DATA_PARAMETER: "Folder or gs:// prefix; every TFRecord below it is trained on.",
    MODELS_PARAMETER: "Folder or gs:// prefix of the pushed models' numbered versions.",
}
"""The runtime parameters, all strings, and their meanings."""

NO_PACKAGE = ["--sdk_container_image=none"]
"""Without it, TFX packs its own code for each Beam node, which takes a second and leaves a folder in /tmp. Workers
elsewhere run an image; if `beam.arguments` names one, it overrides this argument."""


def build(
    config: Config,
    root: str,
    weights: Weights,
    baseline: type[ResolverStrategy] = BaselineStrategy,
) -> Pipeline:
    """Builds the pipeline.

    Args:
      config: the whole configuration.
      root: folder or gs:// prefix for artifacts, as the nodes see it.
      weights: the resolved `model.weights`, as the nodes see them.
      baseline: the strategy that finds the blessed model. A service that cannot run BaselineStrategy needs another.

    Returns:
      A pipeline with the runtime parameters `data` and `models`.
    """
    examples = RecordsExampleGen(
        RuntimeParameter(DATA_PARAMETER, str),
        config.data,
        _code(example_gen, record_files, splits, counts, images, records, transform_graph),
    ).with_id("ExampleGen")
    statistics = StatisticsGen(examples=examples.outputs["examples"])
    schema = SchemaGen(statistics=statistics.outputs["statistics"], infer_feature_shape=True)
    validator = ExampleValidator(statistics=statistics.outputs["statistics"], schema=schema.outputs["schema"])
    transform = Transform(
        examples=examples.outputs["examples"],
        schema=schema.outputs["schema"],
        preprocessing_fn="components.transform.preprocessing_fn",
        materialize=False,
        disable_statistics=True,
        custom_config={
            "image_size": config.model.image_size,
            "max_pixels": config.data.max_pixels,
            "max_bytes": config.data.max_bytes,
            "code": _code(transform_graph, images),
        },
    )
    blessed: dict[str, Any] = {"model": Channel(type=Model), "model_blessing": Channel(type=ModelBlessing)}
    ours = baseline is BaselineStrategy
    starts = []
    if config.trainer.asks_model_in_service:
        known = {"examples": examples.outputs["examples"]} if ours else {}
        starts = [Resolver(strategy_class=StartStrategy if ours else baseline, **blessed, **known)]
        starts[0].with_id("StartResolver").add_upstream_node(examples)
    trainer = ClassifierTrainer(
        run_fn="components.trainer.run_fn",
        examples=examples.outputs["examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema.outputs["schema"],
        base_model=starts[0].outputs["model"] if starts else None,
        custom_config={
            "model": {**config.model.model_dump(), "weights": weights.weights},
            "weights_fingerprint": weights.fingerprint,
            "trainer": config.trainer.model_dump(),
            "classes": config.data.classes,
            "code": _code(
                trainer_function,
                training_split,
                network,
                start,
                export,
                backbones,
                known_backbones,
                features,
                head,
                transform_graph,
            ),
            "network_code": _code(backbones, known_backbones, transform_graph),
            "features": f"{root}/features",
            "tensorboard": f"{root}/tensorboard",
        },
    ).with_id("Trainer")
    known = {"candidate": trainer.outputs["model"]} if ours else {}
    resolver = Resolver(strategy_class=baseline, **blessed, **known).with_id("Resolver")
    resolver.add_upstream_node(trainer)
    evaluator = GatedEvaluator(
        examples=examples.outputs["examples"],
        model=trainer.outputs["model"],
        baseline_model=resolver.outputs["model"],
        schema=schema.outputs["schema"],
        gate=config.evaluator,
        code=_code(evaluator_node, outcomes, extractors, gate),
    ).with_id("Evaluator")
    # The Pusher waits for the validation of the data. So it is also the last node of every run.
    pusher = WholePusher(
        model=trainer.outputs["model"],
        model_blessing=evaluator.outputs["blessing"],
        push_destination=RuntimeParameter(MODELS_PARAMETER, str),
        code=_code(pusher_node, durable, locks, seal),
    ).with_id("Pusher")
    pusher.add_upstream_node(validator)
    return Pipeline(
        pipeline_name=config.pipeline.name,
        pipeline_root=root,
        components=[examples, statistics, schema, validator, transform, *starts, trainer, resolver, evaluator, pusher],
        enable_cache=config.pipeline.caching,
        beam_pipeline_args=[*NO_PACKAGE, *config.beam.arguments],
    )


def parameters(config: Config) -> dict[str, str]:
    """The runtime parameters with their values from the configuration."""
    return {DATA_PARAMETER: config.data.location, MODELS_PARAMETER: config.pusher.destination}


def _code(*modules: ModuleType) -> str:
    """Fingerprint of a node's code for the cache key. TFX itself covers a `module_file`, but not a function."""
    return hashlib.sha256("".join(map(inspect.getsource, modules)).encode()).hexdigest()
