"""The frozen strategy: embed each text once, fit a head, put both together as one model."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.console import notice
from nlp_transfer.models.embed import Embedder
from nlp_transfer.processes import from_main
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.strategies.frozen import Frozen
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.embedded import domain_features, fold
from nlp_transfer.training.guard import why_not_judged
from nlp_transfer.training.guard_frozen import frozen_evidence
from nlp_transfer.training.heads import Fitted, HeadFit, Part
from nlp_transfer.training.phases import Phase, Setup, Trained, plan_phases
from nlp_transfer.training.scoring import AFTER_SOURCE, look_before

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
    data = domain_features(setup, embedder) if recipe.adaptation else None
    embedded = [embedder.embed(rows) for _, rows, *_ in plan]
    parts = [
        Part(name, np.asarray(found.features), task.label_array(rows, name=f"{name}.train"))
        for (name, rows, *_), found in zip(plan, embedded, strict=True)
    ]
    target = setup.domains["target"].train
    fit = HeadFit(setup, parts, 0 if target is None else len(target), data)
    adapted = fit.adapt()
    fitted = from_main(lambda: fit.heads(adapted))
    done = [] if adapted is None else [*adapted.records, *_labelled(setup, fitted)]
    records = [
        {
            "phase": part.name,
            "rows": len(part.labels),
            "embedded": found.misses,
            "from_cache": found.hits,
            "embed_seconds": round(found.seconds, 3),
            "fit_seconds": round(seconds, 3),
            "C": head.C,
            "features": head.features,
            **({"adaptation": done} if adapted else {}),
        }
        for part, found, head, seconds in zip(parts, embedded, fitted.heads, fitted.seconds, strict=True)
    ]
    setup.folder.start(recipe.dump())
    layers, kernel = fitted.heads[-1].layers, None
    if adapted:
        layers, kernel = fold(layers, adapted.target)
    model = classifier_from_head(embedder, layers, task, kernel=kernel)
    trainable = sum(weight.size + bias.size for weight, bias in layers)
    _, total = count_parameters(model.parameters())

    def logits(rows: Dataset, phase: int = -1) -> NDArray:
        return fitted.scores(embedder.embed(rows).features, phase)

    trained = Trained(model, time.perf_counter() - started, trainable, total, records, logits)
    if len(parts) > 1:
        trained.before = look_before(setup, AFTER_SOURCE, lambda rows: logits(rows, 0))
    if "source" in setup.domains and why_not_judged(setup) is None:
        trained.evidence = frozen_evidence(setup, embedder, fit, fitted)
    return trained


def _labelled(setup: Setup, fitted: Fitted) -> list[dict[str, Any]]:
    """What an adaptation that labels target rows did, told to the user and for ``metrics.json``."""
    given, task = fitted.labelled, setup.task
    if given is None:
        return []
    assert isinstance(task, SentimentTask)
    kind = setup.adaptations("labels")[0].options.kind
    counts = np.bincount(given.classes, minlength=task.num_labels)
    classes = {str(name): int(count) for name, count in zip(task.names, counts, strict=True)}
    said = ", ".join(f"{count:,} {name}" for name, count in classes.items())
    sure = float(given.weights.mean())
    notice(f"{kind}: {len(given.classes):,} target texts labelled ({said}); mean weight {sure:.2f}")
    return [{"method": kind, "labelled": classes, "mean_weight": round(sure, 4)}]


def _joined(plan: list[Phase]) -> Phase:
    from datasets import concatenate_datasets

    return Phase("joint", concatenate_datasets([rows for _, rows, *_ in plan]), plan[-1].validation)
