"""Ridge regression of outcomes on a probe's figures, each with one bend. Private to the calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.shift.labelled import INTERVAL

Array = np.ndarray
PENALTY = 6.0
"""On standardised figures; the fits hardly depend on it between a third and three times as much."""
REACH = 4.0
"""Standard deviations from the mean at which a figure is held."""


@dataclass(frozen=True)
class Part:
    """What the rows of a fit are about: their target group and weight, and whether they are real."""

    groups: Array
    weights: Array
    real: Array


@dataclass(frozen=True)
class Standardised:
    """Figures in units of their spread, and how far each is above its knee, the middle of its range.

    Attributes:
        z: (n, p), or (n, 2 p) with bends; 0 for what is unknown.
        knee: (p,), in standard deviations.
    """

    z: Array
    mean: Array
    scale: Array
    knee: Array
    known: Array
    names: tuple[str, ...]

    @classmethod
    def of(cls, x: Array, weights: Array, names: Sequence[str], *, bends: bool) -> Standardised:
        """Standardise the figures (n, p) by their weighted mean and standard deviation."""
        known = ~np.isnan(x)
        share = known * weights[:, None]
        share = share / np.maximum(share.sum(0), 1e-12)
        mean = (np.nan_to_num(x) * share).sum(0)
        scale = np.sqrt((np.where(known, x - mean, 0.0) ** 2 * share).sum(0))
        scale = np.where(scale > 1e-9, scale, 1.0)
        z = np.nan_to_num(np.clip((x - mean) / scale, -REACH, REACH))
        knee = (z.min(0) + z.max(0)) / 2
        columns = np.hstack([z, np.where(known, np.maximum(z - knee, 0), 0)]) if bends else z
        return cls(columns, mean, scale, knee, known.any(0), tuple(names))

    def terms(self, coefficients: Array) -> dict[str, list[float]]:
        """Mean, standard deviation, slope and, with bends, knee and further slope of each figure known."""
        width = len(self.names)
        parts = [self.mean, self.scale, coefficients[:width]]
        if len(coefficients) > width:
            parts += [self.knee, coefficients[width:]]
        rows = zip(self.names, self.known, zip(*parts, strict=True), strict=True)
        return {name: [float(value) for value in row] for name, known, row in rows if known}


def regress(
    x: Array, y: Array, part: Part, names: Sequence[str], *, bends: bool = True
) -> tuple[dict[str, Any], Array]:
    """Ridge regression of ``y`` [n] on the figures [n, p]: the model, and the left-out predictions [n].

    The error and the interval come from leaving out one group of targets at a time.
    """
    figures = Standardised.of(x, part.weights, names, bends=bends)
    z = np.hstack([figures.z, np.ones((len(y), 1))])
    shrink = np.diag([*np.full(figures.z.shape[1], PENALTY), 1e-9])
    folds = [part.groups == group for group in np.unique(part.groups)]
    grams = [(z[rows].T * part.weights[rows]) @ z[rows] for rows in folds]
    products = [(z[rows].T * part.weights[rows]) @ y[rows] for rows in folds]
    gram, product = sum(grams), sum(products)
    apart = np.empty(len(y))
    for rows, own_gram, own_product in zip(folds, grams, products, strict=True):
        apart[rows] = z[rows] @ np.linalg.solve(gram - own_gram + shrink, product - own_product)
    solution = np.linalg.solve(gram + shrink, product)
    left = (y - apart)[part.real]
    low, high = np.quantile(left, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    model = {
        "intercept": float(solution[-1]),
        "terms": figures.terms(solution[:-1]),
        "error": max(float(np.sqrt(np.average(left**2, weights=part.weights[part.real]))), 1e-4),
        "low": float(min(low, 0.0)),
        "high": float(max(high, 0.0)),
    }
    return model, apart
