"""The frozen strategy: embed each text once, fit a head, put both together as one model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.models.embed import Embedder
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.strategies.frozen import Frozen
from nlp_transfer.training.phases import Trained, plan_phases

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks.base import Task
    from nlp_transfer.training.artifacts import RunFolder


def fit_frozen(
    recipe: Recipe,
    task: Task,
    strategy: Strategy,
    domains: dict[str, DomainData],
    where: Any,
    tokenizer: Any,
    folder: RunFolder,
    *,
    resume: bool = False,
) -> Trained:
    """Embed (cached), fit the head, and return encoder + pooling + head as one classifier.

    In sequential mode the source's head is fitted first and its scores join the target's features; an MLP,
    which cannot take them, is fitted on both domains at once.
    """
    from nlp_transfer.models.classifier import classifier_from_head

    assert isinstance(strategy, Frozen)
    options = strategy.options
    started = time.perf_counter()
    embedder = Embedder.load(where, recipe.model, layer=options.layer, normalize=options.normalize)
    head, phases = None, []
    plan = plan_phases(recipe, domains)
    folder.start(recipe.dump())
    if options.head == "mlp" and len(plan) > 1:
        from datasets import concatenate_datasets

        plan = [("joint", concatenate_datasets([rows for _, rows, _ in plan]), plan[-1][2])]
    for name, rows, _ in plan:
        embeddings = embedder.embed(rows)
        fitting = time.perf_counter()
        head = strategy.fit(
            np.asarray(embeddings.features),
            task.label_array(rows, name=f"{name}.train"),
            classes=task.num_labels if task.objective == "classification" else None,
            class_weights=task.class_weights,
            start=head,
            seed=recipe.seed,
        )
        phases.append(
            {
                "phase": name,
                "rows": len(rows),
                "embedded": embeddings.misses,
                "from_cache": embeddings.hits,
                "embed_seconds": round(embeddings.seconds, 3),
                "fit_seconds": round(time.perf_counter() - fitting, 3),
                "C": head.C,
                "features": head.features,
            }
        )
    assert head is not None
    model = classifier_from_head(embedder, head.layers, task)
    trainable = sum(weight.size + bias.size for weight, bias in head.layers)
    _, total = count_parameters(model.parameters())
    seconds = time.perf_counter() - started

    def logits(rows: Dataset) -> NDArray:
        return head.scores(embedder.embed(rows).features)

    return Trained(model, tokenizer, seconds, trainable, total, phases, logits)
