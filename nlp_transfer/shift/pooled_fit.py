"""Ridge and logistic regression over several amounts of labels at once. Private to ``calibrate.py``."""

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
SHARES = (0.1, 1.0, 10.0)
"""Penalties on what sets an amount of labels apart from the others: multiples of those on what is common."""
HURT_SHARE = 1.0
"""The same for the logistic regression."""
HURT_PENALTY = 3.0
"""Of the logistic regression on standardised figures."""
LABEL_FREE_PENALTY = 10.0
"""Label-free figures are shrunk this much more: they vary with the pair and not with the labels, so there are
only as many different values as pairs, and chance relations with a domain easily pass for rules."""


@dataclass(frozen=True)
class Part:
    """What rows are about: their amount of labels, target group and weight, and whether they are real."""

    labels: Array
    groups: Array
    weights: Array
    real: Array


@dataclass(frozen=True)
class Design:
    """Standardised figures of several amounts of labels in one matrix, so that they share strength.

    One block of columns serves all amounts, one more block for each amount holds how it departs from that,
    and one constant for each amount. Penalties times ``share`` on the departures: at a large share all
    amounts have the same coefficients (in units of their own spread), at a small one each is on its own.

    Attributes:
        z: (n, p (1 + amounts) + amounts).
        moments: mean, standard deviation and which columns are known, for each amount.
    """

    z: Array
    amounts: tuple[int, ...]
    moments: dict[int, tuple[Array, Array, Array]]
    penalties: Array

    @classmethod
    def of(cls, x: Array, part: Part, names: Sequence[str]) -> Design:
        """Standardise the figures (n, p) of each amount by its own mean and spread."""
        amounts = tuple(int(value) for value in np.unique(part.labels))
        width, moments = x.shape[1], {}
        blocks = 1 + (len(amounts) if len(amounts) > 1 else 0)
        z = np.zeros((len(x), width * blocks + len(amounts)))
        for place, labels in enumerate(amounts, 1):
            rows = part.labels == labels
            mean, scale = _moments(x[rows], part.weights[rows])
            moments[labels] = (mean, scale, ~np.isnan(x[rows]).all(0))
            own = np.nan_to_num(np.clip((x[rows] - mean) / scale, -4, 4))
            z[rows, :width] = own
            if blocks > 1:
                z[rows, place * width : (place + 1) * width] = own
            z[rows, width * blocks + place - 1] = 1.0
        penalties = np.array([LABEL_FREE_PENALTY if name in LABEL_FREE else 1.0 for name in names])
        return cls(z, amounts, moments, penalties)

    def precision(self, share: float, constant: float) -> Array:
        """The penalty of each column, before the overall factor."""
        departures = [share * self.penalties] * (len(self.amounts) if len(self.amounts) > 1 else 0)
        return np.concatenate([self.penalties, *departures, np.full(len(self.amounts), constant)])

    def terms(self, labels: int, solution: Array, names: Sequence[str]) -> tuple[float, dict[str, Any]]:
        """Intercept and terms of one amount of labels."""
        width, place = len(names), self.amounts.index(labels)
        own = solution[:width]
        if len(self.amounts) > 1:
            own = own + solution[(place + 1) * width : (place + 2) * width]
        mean, scale, known = self.moments[labels]
        terms = {
            name: [float(mean[i]), float(scale[i]), float(own[i])] for i, name in enumerate(names) if known[i]
        }
        return float(solution[place - len(self.amounts)]), terms


def _moments(x: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean and standard deviation of each column, NaN left out; 1 for a constant column."""
    known = ~np.isnan(x)
    total = np.maximum((known * weights[:, None]).sum(0), 1e-12)
    mean = (np.nan_to_num(x) * weights[:, None]).sum(0) / total
    scale = np.sqrt((np.where(known, x - mean, 0.0) ** 2 * weights[:, None]).sum(0) / total)
    return mean, np.where(scale > 1e-9, scale, 1.0)


def regress(x: Array, y: Array, part: Part, names: Sequence[str]) -> tuple[dict[int, dict[str, Any]], Array]:
    """Ridge regression over all amounts of labels; for each amount the model, and the left-out predictions.

    Penalty and share are chosen for each amount by its leave-one-group-out error.
    """
    design = Design.of(x, part, names)
    z, scaled, units = design.z, np.empty(len(y)), {}
    for labels in design.amounts:
        rows = part.labels == labels
        mean, scale = _moments(y[rows, None], part.weights[rows])
        units[labels] = (float(mean[0]), float(scale[0]))
        scaled[rows] = (y[rows] - mean[0]) / scale[0]
    folds = [part.groups == group for group in np.unique(part.groups)]
    grams = [(z[rows].T * part.weights[rows]) @ z[rows] for rows in folds]
    products = [(z[rows].T * part.weights[rows]) @ scaled[rows] for rows in folds]
    gram, product = sum(grams), sum(products)
    best: dict[int, tuple[float, float, float, Array, Array]] = {}
    for share in SHARES if len(design.amounts) > 1 else SHARES[-1:]:
        shrink = np.diag(design.precision(share, 1e-6))
        for penalty in PENALTIES:
            apart = np.empty(len(y))
            for rows, own_gram, own_product in zip(folds, grams, products, strict=True):
                apart[rows] = z[rows] @ np.linalg.solve(
                    gram - own_gram + penalty * shrink, product - own_product
                )
            solution = np.linalg.solve(gram + penalty * shrink, product)
            for labels in design.amounts:
                rows = (part.labels == labels) & part.real
                loss = float(np.average((apart - scaled)[rows] ** 2, weights=part.weights[rows]))
                if labels not in best or loss < best[labels][0]:
                    best[labels] = (loss, penalty, share, apart, solution)
    models, left_out = {}, np.empty(len(y))
    for labels, (loss, penalty, share, apart, solution) in best.items():
        centre, unit = units[labels]
        rows = part.labels == labels
        left_out[rows] = centre + unit * apart[rows]
        low, high = np.quantile((y - left_out)[rows & part.real], [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
        intercept, terms = design.terms(labels, unit * solution, names)
        models[labels] = {
            "intercept": centre + intercept,
            "terms": terms,
            "penalty": penalty,
            "share": share,
            "error": max(unit * float(np.sqrt(loss)), 1e-4),
            "low": float(min(low, 0.0)),
            "high": float(max(high, 0.0)),
        }
    return models, left_out


def classify(x: Array, truth: Array, part: Part, names: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Logistic regression on the figures over all amounts of labels, with fixed penalties."""
    design = Design.of(x, part, names)
    start = np.zeros(design.z.shape[1])
    for place, labels in enumerate(design.amounts):
        rows = part.labels == labels
        base = float(np.clip(np.average(truth[rows], weights=part.weights[rows]), 0.005, 0.995))
        start[place - len(design.amounts)] = np.log(base / (1 - base))
    precision = HURT_PENALTY * design.precision(HURT_SHARE, 1e-3 / HURT_PENALTY)
    beta = logistic(design.z, truth, part.weights, start, precision)
    out = {}
    for labels in design.amounts:
        intercept, terms = design.terms(labels, beta, names)
        out[labels] = {"intercept": intercept, "terms": terms}
    return out


def logistic(z: Array, truth: Array, weights: Array, start: Array, precision: Array) -> Array:
    """Coefficients by Newton's method, drawn towards ``start`` with this precision.

    Where ``start`` has one entry more than ``z`` has columns, the last one is an intercept.
    """
    design = np.hstack([z, np.ones((len(z), len(start) - z.shape[1]))])
    beta = start.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weights * (truth - p)) - precision * (beta - start)
        step = np.linalg.solve((design.T * (weights * p * (1 - p))) @ design + np.diag(precision), gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta
