"""Figures of single rows, by which two models are compared on the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.tasks import SentimentTask, TranslationTask
from nlp_transfer.tasks.reports import probabilities

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from nlp_transfer.training.phases import Setup

Scorer = Callable[["Dataset"], "NDArray"]
"""From raw rows of a domain to figures of each row, larger being better, shape [k, n].

The first adds up to the metric of the task. A second, for classes, is the negative Brier score.
"""


def judged_by(setup: Setup) -> str:
    """The metric that a row's figures add up to: accuracy, mse, chrf or loss."""
    by_loss = setup.recipe.training.get("metric_for_best_model") in ("loss", "eval_loss")
    return "loss" if by_loss and isinstance(setup.task, TranslationTask) else setup.task.best_metric.name


def scorer(
    setup: Setup,
    model: Any,
    logits: Callable[[Dataset], NDArray] | None = None,
    max_length: int = 0,
) -> Scorer:
    """Figures of raw rows by a model.

    Args:
        setup: of the run.
        model: trained for translation; for sentiment the logits do.
        logits: of raw rows, for sentiment.
        max_length: tokens of a text that are read, for translation.
    """
    task, generate = setup.task, judged_by(setup) != "loss"

    def score(rows: Dataset) -> NDArray:
        if isinstance(task, SentimentTask):
            assert logits is not None
            return class_figures(task, logits(rows), task.label_array(rows))
        assert isinstance(task, TranslationTask)
        found = task.row_figures(
            model, setup.tokenizer, rows, max_length=max_length, seed=setup.recipe.seed, generate=generate
        )
        return found[None]

    return score


def class_figures(task: SentimentTask, logits: NDArray, labels: NDArray) -> NDArray:
    """Figures [2, n] of classified rows, [1, n] of rated ones.

    First 1 where the class is right, else 0; then less the Brier score, half the squared error of all
    probabilities, which shows differences that few rows' classes do. Of ratings the negative squared error.

    Source: Gneiting and Raftery 2007, "Strictly proper scoring rules, prediction, and estimation".
    """
    scores = task.row_scores(logits, labels)
    if task.objective == "regression":
        return scores[None]
    odds = probabilities(logits)
    error = odds - np.eye(odds.shape[1])[np.asarray(labels, dtype=np.int64)]
    return np.stack([scores, -0.5 * (error**2).sum(axis=1)])
