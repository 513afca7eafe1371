"""The guard of the frozen strategy: heads with and without the source, judged by cross-fitting."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.processes import from_main
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.strategies.frozen import Frozen
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.guard import TARGET_ONLY, Evidence, adapts_without_source
from nlp_transfer.training.guard_baselines import target_scores
from nlp_transfer.training.heads import Fitted, HeadFit
from nlp_transfer.training.phases import Setup, Trained
from nlp_transfer.training.row_figures import Scorer, class_figures, scorer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.models.embed import Embedder

FOLDS = {"linear": 5, "mlp": 2, "adapted": 3}
"""Folds of the target's training rows by kind of head; fewer where each fit costs more."""


def frozen_evidence(setup: Setup, embedder: Embedder, fit: HeadFit, fitted: Fitted) -> Evidence | None:
    """Fit the head without the source, and score both on target rows that neither saw.

    Those are the target's training rows, each scored by heads that were fitted on other folds, and its
    validation rows, where there are any, scored by the heads themselves. An adaptation is fitted anew in each
    fold, without the labels of the rows that it is scored on.

    Args:
        setup: of the run.
        embedder: what made the features.
        fit: of the run.
        fitted: what it gave.

    Cost: a fit with its choice of C, and ten without; no text goes through the encoder again but the target's
    validation rows. With an adaptation, three more of its fits.

    Returns:
        None where there are too few labelled target rows to judge by.
    """
    started, task = time.perf_counter(), setup.task
    assert isinstance(task, SentimentTask)
    alone = fit.alone()
    without = from_main(lambda: alone.heads(None))
    scores = from_main(lambda: _cross_fitted(setup, (fit, alone), (fitted, without)))
    held_out = "cross-validated rows"
    if setup.domains["target"].validation is not None:
        extra = [target_scores(setup, _score(setup, one, embedder)) for one in (fitted, without)]
        scores = np.concatenate([scores, extra], axis=2)
        held_out = "cross-validated and validation rows"
    if not scores.size:
        return None
    seconds = time.perf_counter() - started

    def ship() -> Trained:
        from nlp_transfer.models.classifier import classifier_from_head

        head = without.heads[0]
        model = classifier_from_head(embedder, head.layers, task)
        trainable = sum(weight.size + bias.size for weight, bias in head.layers)
        _, total = count_parameters(model.parameters())
        return Trained(
            model,
            seconds,
            trainable,
            total,
            logits=lambda rows: head.scores(embedder.embed(rows).features),
        )

    return Evidence(
        baseline=scores[1],
        transferred=scores[0],
        held_out=held_out,
        kind=TARGET_ONLY,
        like=not adapts_without_source(setup.recipe),
        watched=False,
        fallback=ship,
        seconds=seconds,
    )


def _score(setup: Setup, fitted: Fitted, embedder: Embedder) -> Scorer:
    return scorer(setup, None, lambda rows: fitted.scores(embedder.embed(rows).features))


def _cross_fitted(setup: Setup, fits: tuple[HeadFit, HeadFit], known: tuple[Fitted, Fitted]) -> NDArray:
    """Figures of the target's training rows [2, k, n]: with the source, and without it."""
    from sklearn.model_selection import KFold, StratifiedKFold

    _, features, labels = fits[1].parts[0]
    task, strategy = setup.task, setup.strategy
    assert isinstance(task, SentimentTask)
    assert isinstance(strategy, Frozen)
    kind = KFold if task.objective == "regression" else StratifiedKFold
    rarest = len(labels) if kind is KFold else int(np.bincount(labels)[np.unique(labels)].min())
    wanted = FOLDS["adapted" if setup.recipe.adaptation else strategy.options.head]
    folds = min(wanted, rarest)
    scores = np.empty((2, 1 if kind is KFold else 2, len(labels)))
    if folds < 2:
        return scores[..., :0]
    splits = kind(folds, shuffle=True, random_state=setup.recipe.seed).split(features, labels)
    for train, test in splits:
        for line, (fit, whole) in enumerate(zip(fits, known, strict=True)):
            logits = fit(train, whole).scores(features[test])
            scores[line][:, test] = class_figures(task, logits, labels[test])
    return scores
