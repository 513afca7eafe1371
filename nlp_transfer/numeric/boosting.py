"""TrAdaBoost: source rows that keep contradicting the target's labels lose their weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from nlp_transfer.errors import DataError
from nlp_transfer.numeric._checks import Array, as_pair, as_vector, at_least


@dataclass(frozen=True, eq=False)
class BoostedWeights:
    """What `tradaboost` found.

    Attributes:
        source: weights of the source rows (n,), target: of the target rows (m,); mean 1 over both together.
        errors: weighted error on the target rows before each round's update.
    """

    source: np.ndarray
    target: np.ndarray
    errors: tuple[float, ...]


def tradaboost(
    source: Array,
    source_labels: Any,
    target: Array,
    target_labels: Any,
    *,
    rounds: int = 10,
    c: float = 0.01,
    start: float = 1.0,
) -> BoostedWeights:
    """Weights for source and target rows by TrAdaBoost, from a few labelled target rows.

    In each round a logistic regression is fitted on all rows with their weights. Source rows that it gets
    wrong are multiplied by beta = 1 / (1 + sqrt(2 ln n / rounds)); target rows that it gets wrong by
    (1 - error) / error. Where the paper lets the models of the later rounds vote, this returns the mean of
    their weights, so that one model of any kind can be trained with them.

    Args:
        source: rows (n, d).
        source_labels: classes (n,).
        target: labelled target rows (m, d), m >= 1.
        target_labels: classes (m,).
        rounds: default 10; the paper has 100, on weaker learners.
        c: inverse L2 penalty of the logistic regression on standardised columns; default 0.01.
        start: weight of a target row before the first round, where a source row has 1; default 1. With n / m
            the domains weigh the same, and the first classifier is not the source's alone.

    Raises:
        DataError: not matrices, different widths, NaN, no rows, or one class only in both together.

    Cost: `rounds` logistic regressions. It hurts with so few target rows that the error on them is noise.
    Source: Dai et al. 2007, "Boosting for transfer learning", figure 1.
    """
    at_least("rounds", rounds, 1)
    a, b = as_pair(source, target, min_rows=1, names=("source", "target"))
    labels = np.concatenate(
        [
            as_vector("source_labels", source_labels, len(a)),
            as_vector("target_labels", target_labels, len(b)),
        ]
    )
    if len(np.unique(labels)) < 2:
        raise DataError(
            "there is one class only", expected="two or more classes", found=str(np.unique(labels).tolist())
        )
    n = len(a)
    rows = StandardScaler().fit_transform(np.concatenate([a, b]))
    weights = np.concatenate([np.ones(n), np.full(len(b), float(start))])
    beta_source = 1 / (1 + np.sqrt(2 * np.log(n) / rounds))
    kept, errors = [], []
    for _ in range(rounds):
        scaled = weights * (len(weights) / weights.sum())
        kept.append(scaled)
        model = LogisticRegression(C=c, max_iter=1000).fit(rows, labels, sample_weight=scaled)
        wrong = (model.predict(rows) != labels).astype(float)
        error = float(weights[n:] @ wrong[n:] / weights[n:].sum())
        errors.append(error)
        bounded = float(np.clip(error, 1e-3, 0.49))
        weights = weights * np.concatenate([beta_source ** wrong[:n], ((1 - bounded) / bounded) ** wrong[n:]])
    later = np.mean(kept[rounds // 2 :], axis=0)
    return BoostedWeights(later[:n], later[n:], tuple(errors))
