"""The frozen strategy: embed each text once, fit a head, put both together as one model."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.models.embed import Embedder
from nlp_transfer.processes import from_main
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.strategies.frozen import Frozen, HeadWeights
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.embedded import Adapted, adapt_frozen, fold
from nlp_transfer.training.guard import why_not_judged
from nlp_transfer.training.guard_frozen import HeadFit, frozen_evidence
from nlp_transfer.training.phases import Phase, Setup, Trained, plan_phases

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray


def fit_frozen(setup: Setup) -> Trained:
    """Embed (cached), fit the head, and return encoder + pooling + head as one classifier.

    In sequential mode the source's head is fitted first and its scores join the target's features; an MLP,
    which cannot take them, is fitted on both domains at once. There is nothing to resume: embeddings are
    cached as they are made.

    Cost: one forward pass for each distinct text that is not in the cache, and the fit of the head.

    Raises:
        ModelError: the encoder cannot be loaded.
        DataError: a label that the task does not know.
    """
    from nlp_transfer.models.classifier import classifier_from_head

    recipe, task, strategy = setup.recipe, setup.task, setup.strategy
    assert isinstance(strategy, Frozen)
    assert isinstance(task, SentimentTask)
    started = time.perf_counter()
    embedder = Embedder.load(
        setup.pretrained,
        recipe.model,
        layer=strategy.options.layer,
        normalize=strategy.options.normalize,
        sharded=True,
    )
    plan = plan_phases(recipe, setup.domains)
    if strategy.options.head == "mlp" and len(plan) > 1:
        plan = [_joined(plan)]
    adapted = adapt_frozen(setup, embedder)
    head, records, fits = None, [], []
    for name, rows, *_ in plan:
        embeddings = embedder.embed(rows)
        fitting = time.perf_counter()
        labels = task.label_array(rows, name=f"{name}.train")
        fit = functools.partial(
            _fit_head, setup, adapted, name, np.asarray(embeddings.features), labels, start=head
        )
        settings = {
            "classes": task.num_labels if task.objective == "classification" else None,
            "class_weights": getattr(task, "class_weights", None),
            "start": head,
            "seed": recipe.seed,
        }
        fits.append(HeadFit(strategy, np.asarray(embeddings.features), labels, settings))
        head = from_main(fit)
        records.append(
            {
                "phase": name,
                "rows": len(rows),
                "embedded": embeddings.misses,
                "from_cache": embeddings.hits,
                "embed_seconds": round(embeddings.seconds, 3),
                "fit_seconds": round(time.perf_counter() - fitting, 3),
                "C": head.C,
                "features": head.features,
                **({"adaptation": adapted.records} if adapted else {}),
            }
        )
    assert head is not None
    setup.folder.start(recipe.dump())
    fitted, target = head, adapted.target if adapted else None
    layers, kernel = fold(fitted.layers, target) if target else (fitted.layers, None)
    model = classifier_from_head(embedder, layers, task, kernel=kernel)
    trainable = sum(weight.size + bias.size for weight, bias in layers)
    _, total = count_parameters(model.parameters())

    def logits(rows: Dataset) -> NDArray:
        features = embedder.embed(rows).features
        return fitted.scores(target(features) if target else features)

    trained = Trained(model, time.perf_counter() - started, trainable, total, records, logits)
    if "source" in setup.domains and why_not_judged(setup) is None:
        trained.evidence = frozen_evidence(setup, embedder, fits, fitted)
    return trained


def _fit_head(
    setup: Setup,
    adapted: Adapted | None,
    name: str,
    features: NDArray,
    labels: NDArray,
    start: HeadWeights | None,
) -> HeadWeights:
    """Fit the head of one phase; target rows that an adaptation labels join those of the source."""
    task, strategy = setup.task, setup.strategy
    assert isinstance(strategy, Frozen)
    assert isinstance(task, SentimentTask)
    fit = functools.partial(
        strategy.fit,
        classes=task.num_labels if task.objective == "classification" else None,
        class_weights=getattr(task, "class_weights", None),
        common_scale=adapted is not None and adapted.components,
        seed=setup.recipe.seed,
    )
    if adapted is None:
        return fit(features, labels, start=start)
    rows, weights = adapted.rows(name, features, setup.recipe.seed)
    if adapted.labels is None or name == "target":
        return fit(rows, labels, weights=weights, start=start)
    own = np.ones(len(rows)) if weights is None else weights

    def fit_with(further: NDArray, classes: NDArray, sure: NDArray) -> HeadWeights:
        together = np.concatenate([rows, further]), np.concatenate([labels, classes])
        return fit(*together, weights=np.concatenate([own, sure]), start=start)

    return adapted.labels.learn(adapted.data, fit_with)


def _joined(plan: list[Phase]) -> Phase:
    from datasets import concatenate_datasets

    return Phase("joint", concatenate_datasets([rows for _, rows, *_ in plan]), plan[-1].validation)
