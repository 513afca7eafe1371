"""Models that never saw the source, which a fine-tuned model is judged against."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.processes import from_main
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.guard_watch import Watch
from nlp_transfer.training.phases import Setup, Trained
from nlp_transfer.training.row_figures import Scorer, scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

PROBE_ROWS = 2000
"""Labelled target rows that a probe learns from at most."""


@dataclass(frozen=True)
class Baseline:
    """A model that never saw the source.

    Attributes:
        kind: target_only, probe or zero_shot.
        scores: its figures on the target's validation rows, [k, n].
        like: whether the source is the only difference from the run's model.
        fallback: makes it the run's model.
        seconds: that it took.
    """

    kind: str
    scores: NDArray
    like: bool
    fallback: Callable[[], Trained]
    seconds: float

    def watch(self, setup: Setup) -> Watch:
        """The callback of the target's training."""
        return Watch(self.scores[0], stops=setup.recipe.guard.on_negative_transfer == "stop")


def target_scores(setup: Setup, score: Scorer) -> NDArray:
    """Figures of the target's validation rows."""
    rows = setup.domains["target"].validation
    assert rows is not None
    return score(rows)


def probe_baseline(setup: Setup) -> Baseline:
    """A linear head on the untrained encoder's embeddings of the target's labelled rows.

    Cost: one forward pass for each text of target.train (2,000 rows at most) and target.validation that is
    not in the cache, and a cross-validated fit. Every process must call this.
    """
    from nlp_transfer.models.classifier import classifier_from_head
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.strategies import Frozen, FrozenOptions

    started, task = time.perf_counter(), setup.task
    assert isinstance(task, SentimentTask)
    rows = setup.domains["target"].train
    assert rows is not None
    if len(rows) > PROBE_ROWS:
        rows = rows.select(
            np.sort(np.random.default_rng(setup.recipe.seed).choice(len(rows), PROBE_ROWS, False))
        )
    embedder = Embedder.load(setup.pretrained, setup.recipe.model, sharded=True)
    features = np.asarray(embedder.embed(rows).features)
    labels = task.label_array(rows, name="target.train")
    head = from_main(
        lambda: Frozen(FrozenOptions()).fit(
            features,
            labels,
            classes=task.num_labels if task.objective == "classification" else None,
            class_weights=getattr(task, "class_weights", None),
            seed=setup.recipe.seed,
        )
    )
    score = scorer(setup, None, lambda texts: head.scores(embedder.embed(texts).features))
    scores = target_scores(setup, score)
    seconds = time.perf_counter() - started

    def ship() -> Trained:
        fresh = Embedder.load(setup.pretrained, setup.recipe.model, sharded=True)
        model = classifier_from_head(fresh, head.layers, task)
        trainable = sum(weight.size + bias.size for weight, bias in head.layers)
        _, total = count_parameters(model.parameters())
        return Trained(
            model, seconds, trainable, total, logits=lambda texts: head.scores(fresh.embed(texts).features)
        )

    return Baseline("probe", scores, False, ship, seconds)
