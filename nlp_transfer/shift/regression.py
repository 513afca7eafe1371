"""Ridge and logistic regression of outcomes on the probe's figures, for ``calibrate`` and ``correction``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.shift.labelled import INTERVAL

Array = np.ndarray
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
LABEL_FREE: tuple[str, ...] = (
    "source_accuracy",
    "doc_estimate",
    "atc_estimate",
    "prior_shift",
    "domain_accuracy",
    "mean_distance",
    "log_score_spread",
    "log_effective_share",
    "log_n_source",
)
HURT_PENALTY = 3.0
"""Of the logistic regression on standardised figures."""
LABEL_FREE_PENALTY = 10.0
"""Label-free figures are shrunk this much more: they vary with the pair and not with the labels, so there are
only as many different values as pairs, and chance relations with a domain easily pass for rules."""


@dataclass(frozen=True)
class Part:
    """What the rows of a fit are about: their target group and weight, and whether they are real."""

    groups: Array
    weights: Array
    real: Array


@dataclass(frozen=True)
class Standardised:
    """Figures in units of their spread, clipped at 4 of them, with 0 for what is unknown.

    Attributes:
        z: (n, p).
        penalties: (p,), of each column before the overall factor.
    """

    z: Array
    mean: Array
    scale: Array
    known: Array
    penalties: Array
    names: tuple[str, ...]

    @classmethod
    def of(cls, x: Array, weights: Array, names: Sequence[str]) -> Standardised:
        """Standardise the figures (n, p) by their weighted mean and standard deviation."""
        known = ~np.isnan(x)
        share = known * weights[:, None]
        share = share / np.maximum(share.sum(0), 1e-12)
        mean = (np.nan_to_num(x) * share).sum(0)
        scale = np.sqrt((np.where(known, x - mean, 0.0) ** 2 * share).sum(0))
        scale = np.where(scale > 1e-9, scale, 1.0)
        z = np.nan_to_num(np.clip((x - mean) / scale, -4, 4))
        penalties = np.array([LABEL_FREE_PENALTY if name in LABEL_FREE else 1.0 for name in names])
        return cls(z, mean, scale, known.any(0), penalties, tuple(names))

    def terms(self, coefficients: Array) -> dict[str, list[float]]:
        """Mean, standard deviation and coefficient of each figure that is known."""
        columns = zip(self.names, self.mean, self.scale, coefficients, self.known, strict=True)
        return {
            name: [float(mean), float(scale), float(own)]
            for name, mean, scale, own, known in columns
            if known
        }


def regress(
    x: Array, y: Array, part: Part, names: Sequence[str], penalties: Sequence[float] = PENALTIES
) -> tuple[dict[str, Any], Array]:
    """Ridge regression of ``y`` [n] on the figures [n, p]: the model, and the left-out predictions [n].

    The penalty (one of ``penalties``), the error and the interval come from leaving out one group of targets
    at a time.
    """
    figures = Standardised.of(x, part.weights, names)
    z = np.hstack([figures.z, np.ones((len(y), 1))])
    shrink = np.diag([*figures.penalties, 1e-9])
    folds = [part.groups == group for group in np.unique(part.groups)]
    grams = [(z[rows].T * part.weights[rows]) @ z[rows] for rows in folds]
    products = [(z[rows].T * part.weights[rows]) @ y[rows] for rows in folds]
    gram, product = sum(grams), sum(products)
    best = (np.inf, penalties[0], np.zeros(len(y)))
    for penalty in penalties:
        apart = np.empty(len(y))
        for rows, own_gram, own_product in zip(folds, grams, products, strict=True):
            apart[rows] = z[rows] @ np.linalg.solve(gram - own_gram + penalty * shrink, product - own_product)
        loss = float(np.average((apart - y)[part.real] ** 2, weights=part.weights[part.real]))
        if loss < best[0]:
            best = (loss, penalty, apart)
    loss, penalty, apart = best
    solution = np.linalg.solve(gram + penalty * shrink, product)
    low, high = np.quantile((y - apart)[part.real], [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    model = {
        "intercept": float(solution[-1]),
        "terms": figures.terms(solution[:-1]),
        "penalty": penalty,
        "error": max(float(np.sqrt(loss)), 1e-4),
        "low": float(min(low, 0.0)),
        "high": float(max(high, 0.0)),
    }
    return model, apart


def classify(x: Array, truth: Array, part: Part, names: Sequence[str]) -> dict[str, Any]:
    """Logistic regression of ``truth`` [n] on the figures [n, p], with fixed penalties."""
    figures = Standardised.of(x, part.weights, names)
    share = float(np.clip(np.average(truth, weights=part.weights), 0.005, 0.995))
    start = np.append(np.zeros(x.shape[1]), np.log(share / (1 - share)))
    precision = np.append(HURT_PENALTY * figures.penalties, 1e-3)
    solution = logistic(figures.z, truth, part.weights, start, precision)
    return {"intercept": float(solution[-1]), "terms": figures.terms(solution[:-1])}


def logistic(z: Array, truth: Array, weights: Array, start: Array, precision: Array) -> Array:
    """Coefficients and, last, intercept by Newton's method, drawn towards ``start`` with this precision."""
    design = np.hstack([z, np.ones((len(z), 1))])
    beta = start.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weights * (truth - p)) - precision * (beta - start)
        step = np.linalg.solve((design.T * (weights * p * (1 - p))) @ design + np.diag(precision), gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta
