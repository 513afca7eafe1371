"""The cross-fitted domain classifier behind the proxy A-distance and the density ratio. Private."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nlp_transfer.errors import DataError
from nlp_transfer.numeric._checks import at_least


def target_probabilities(
    x: np.ndarray, y: np.ndarray, *, folds: int, c: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """P(row is from y | row) under equal priors, for the rows of x and of y, each from a model that did not
    see it.

    Columns are standardised and a logistic regression with inverse penalty `c` and balanced classes is fitted
    on the other folds. Equal priors mean that the odds are the density ratio y / x, whatever the sizes.

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
    found = np.empty(len(rows))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(rows, side):
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=c, class_weight="balanced", max_iter=1000)
        )
        model.fit(rows[train], side[train])
        found[test] = model.predict_proba(rows[test])[:, 1]
    return found[: len(x)], found[len(x) :]


def draw_rows(rows: np.ndarray, max_rows: int | None, rng: np.random.Generator) -> np.ndarray:
    """At most `max_rows` of the rows, drawn without replacement and kept in order."""
    if max_rows is None or len(rows) <= max_rows:
        return rows
    return rows[np.sort(rng.choice(len(rows), max_rows, replace=False))]
