"""The guard of the frozen strategy: heads with and without the source, judged by cross-fitting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.processes import from_main
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.strategies.frozen import Frozen, HeadWeights
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.guard import Evidence, target_scores
from nlp_transfer.training.phases import Setup, Trained

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from nlp_transfer.models.embed import Embedder

FOLDS = {"linear": 5, "mlp": 2}
"""Folds of the target's training rows by kind of head."""


@dataclass(frozen=True)
class HeadFit:
    """One fit of a head, which can be repeated on some of its rows.

    Attributes:
        strategy: that fits.
        features: [n, d].
        labels: [n].
        settings: of ``Frozen.fit``; ``weights`` among them are one a row.
    """

    strategy: Frozen
    features: NDArray
    labels: NDArray
    settings: dict[str, Any]

    def __call__(self, rows: NDArray | None = None) -> HeadWeights:
        """Fit on these rows; None for all."""
        if rows is None:
            return self.strategy.fit(self.features, self.labels, **self.settings)
        settings = dict(self.settings)
        if settings.get("weights") is not None:
            settings["weights"] = settings["weights"][rows]
        return self.strategy.fit(self.features[rows], self.labels[rows], **settings)

    def at(self, strength: float | None) -> HeadFit:
        """The same fit with its regularisation settled, so that a fold need not choose it."""
        if strength is None:
            return self
        return replace(self, strategy=Frozen(self.strategy.options.model_copy(update={"C": strength})))

    def last(self, count: int) -> HeadFit:
        """The fit of the last rows alone, without a start and without weights."""
        settings = {**self.settings, "start": None, "weights": None}
        return replace(self, features=self.features[-count:], labels=self.labels[-count:], settings=settings)


def frozen_evidence(
    setup: Setup, embedder: Embedder, fits: Sequence[HeadFit], head: HeadWeights
) -> Evidence | None:
    """Fit the head without the source, and score both on target rows that neither saw.

    Those are the target's training rows, each scored by heads that were fitted on other folds, and its
    validation rows, where there are any, scored by the heads themselves.

    Args:
        setup: of the run.
        embedder: what made the features.
        fits: of the run's phases; the last rows of the last fit are the target's training rows.
        head: what the last fit gave.

    Cost: a fit with its choice of C, and ten without; no text goes through the encoder again but the target's
    validation rows.

    Returns:
        None where there are too few labelled target rows to judge by.
    """
    started, target = time.perf_counter(), setup.domains["target"]
    task = setup.task
    assert isinstance(task, SentimentTask)
    assert target.train is not None
    count = len(target.train)
    alone = fits[-1].last(count)
    lone_head = from_main(alone)
    with_source, without = fits[-1].at(head.C), alone.at(lone_head.C)
    scores = from_main(lambda: _cross_fitted(setup, with_source, without, count))
    held_out = "cross-validated rows"
    if target.validation is not None:
        extra = [target_scores(setup, _scorer(fitted, embedder)) for fitted in (head, lone_head)]
        scores = np.concatenate([scores, extra], axis=1)
        held_out = "cross-validated and validation rows"
    if not scores.size:
        return None
    seconds = time.perf_counter() - started

    def ship() -> Trained:
        from nlp_transfer.models.classifier import classifier_from_head

        model = classifier_from_head(embedder, lone_head.layers, task)
        trainable = sum(weight.size + bias.size for weight, bias in lone_head.layers)
        _, total = count_parameters(model.parameters())
        return Trained(model, seconds, trainable, total, logits=_scorer(lone_head, embedder))

    return Evidence(
        baseline=scores[1],
        transferred=scores[0],
        held_out=held_out,
        like=True,
        watched=False,
        fallback=ship,
        seconds=seconds,
    )


def _scorer(head: HeadWeights, embedder: Embedder) -> Callable[[Dataset], NDArray]:
    return lambda rows: head.scores(embedder.embed(rows).features)


def _cross_fitted(setup: Setup, transferred: HeadFit, alone: HeadFit, count: int) -> NDArray:
    """Figures of the target's training rows [2, n]: with the source, and without it."""
    from sklearn.model_selection import KFold, StratifiedKFold

    labels, task = alone.labels, setup.task
    assert isinstance(task, SentimentTask)
    kind = KFold if task.objective == "regression" else StratifiedKFold
    rarest = count if kind is KFold else int(np.bincount(labels)[np.unique(labels)].min())
    folds = min(FOLDS[alone.strategy.options.head], rarest)
    scores = np.empty((2, count))
    if folds < 2:
        return scores[:, :0]
    offset = len(transferred.labels) - count
    for train, test in kind(folds, shuffle=True, random_state=setup.recipe.seed).split(
        alone.features, labels
    ):
        with_source = np.concatenate([np.arange(offset), offset + train])
        for line, head in enumerate((transferred(with_source), alone(train))):
            scores[line, test] = task.row_scores(head.scores(alone.features[test]), labels[test])
    return scores
