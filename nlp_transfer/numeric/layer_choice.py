"""Which hidden layer suits labelled data best, and how much too good the choice makes it look."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nlp_transfer.numeric.transferability import DEFAULT_SCORE, SCORES, Objective, scores_of


def best_layer(layers: Any, labels: Any, *, objective: Objective = "classification") -> int:
    """The layer with the best default score.

    Args:
        layers: (n, layers, d).
        labels: class numbers or ratings, (n,).
        objective: how to read the labels.

    Cost: one default score a layer.
    """
    compute = SCORES[DEFAULT_SCORE].compute
    return int(np.argmax([compute(layers[:, index], labels, objective) for index in range(layers.shape[1])]))


def selection_optimism(
    layers: Any,
    labels: Any,
    *,
    objective: Objective = "classification",
    splits: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """How much each score of the best layer profits from the choice having been made on the same rows.

    Nested selection: the rows are halved at random; on each half, the layer chosen there is compared with the
    layer that the other half chooses, whose score owes nothing to these rows. The mean difference, divided by
    the square root of 2 (so the noise falls that is chosen from, with twice the rows), is to be subtracted
    from the scores on all rows. It is 0 where both halves choose one layer, and never negative for the
    default score.

    Args:
        layers: (n, layers, d).
        labels: class numbers or ratings, (n,), at least four rows a class.
        objective: how to read the labels.
        splits: number of halvings.
        seed: of the halvings.

    Returns:
        By name of the score.

    Cost: 2 x splits x layers default scores on n / 2 rows, and the other scores where choices differ.

    Source: nested selection as in Varma and Simon 2006, "Bias in error estimation when using cross-validation
    for model selection".
    """
    x, y = np.asarray(layers), np.asarray(labels)
    names = scores_of(objective)
    differences: dict[str, list[float]] = {name: [] for name in names}
    for halves in _halvings(y, objective, splits, seed):
        chosen = [best_layer(x[rows], y[rows], objective=objective) for rows in halves]
        for rows, own, other in zip(halves, chosen, reversed(chosen), strict=True):
            for name in names:
                compute = SCORES[name].compute
                found = (
                    0.0
                    if own == other
                    else compute(x[rows][:, own], y[rows], objective)
                    - compute(x[rows][:, other], y[rows], objective)
                )
                differences[name].append(found)
    return {name: float(np.mean(values)) / math.sqrt(2) for name, values in differences.items()}


def _halvings(y: np.ndarray, objective: Objective, count: int, seed: int) -> list[list[np.ndarray]]:
    """Both halves of the rows, each with half of every class."""
    rng = np.random.default_rng(seed)
    strata = (
        [np.arange(len(y))] if objective == "regression" else [np.flatnonzero(y == c) for c in np.unique(y)]
    )
    found = []
    for _ in range(count):
        dealt = [np.array_split(rng.permutation(rows), 2) for rows in strata]
        found.append([np.concatenate(half) for half in zip(*dealt, strict=True)])
    return found
