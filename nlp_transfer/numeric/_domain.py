"""The cross-fitted domain classifier behind the proxy A-distance and the density ratio. Private."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nlp_transfer.errors import DataError
from nlp_transfer.numeric._checks import at_least

C_GRID = (0.0001, 0.001, 0.01, 0.1, 1.0)
"""Inverse penalties among which the held-out log loss chooses."""


def target_probabilities(
    x: np.ndarray, y: np.ndarray, *, folds: int, c: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """P(row is from y | row) under equal priors, for the rows of x and of y, each from a model that did not
    see it.

    Columns are standardised and a logistic regression with inverse penalty `c` and balanced classes is fitted
    on the other folds; without a `c` the one of `C_GRID` with the least log loss on the held-out rows. Equal
    priors mean that the odds are the density ratio y / x, whatever the sizes.

    Raises:
        DataError: fewer rows on a side than folds.
    """
    at_least("folds", folds, 2)
    if min(len(x), len(y)) < folds:
        raise DataError(
            "too few rows to cross-fit a domain classifier",
            expected=f"at least {folds} rows a side, one for each fold",
            found=f"{len(x)} and {len(y)}",
            fix="give more examples or fewer folds",
        )
    rows = np.concatenate([x, y])
    side = np.repeat([0, 1], [len(x), len(y)])
    share = np.where(side, 0.5 / len(y), 0.5 / len(x))
    best, least = np.empty(len(rows)), np.inf
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, side))
    for strength in C_GRID if c is None else (c,):
        found = np.empty(len(rows))
        for train, test in splits:
            model = make_pipeline(
                StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
            )
            model.fit(rows[train], side[train])
            found[test] = model.predict_proba(rows[test])[:, 1]
        loss = -float(share @ np.log(np.maximum(np.where(side, found, 1 - found), 1e-12)))
        if loss < least:
            best, least = found, loss
    return best[: len(x)], best[len(x) :]
