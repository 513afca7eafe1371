"""Closed-form linear probes: ridge classifiers whose held-out scores cost one matrix inverse.

A ridge classifier trained on source and target rows together is a Gaussian process on the target rows
alone: its prior mean is the source's classifier and its prior covariance is what the source left open. The
same few lines then fit, cross-validate and compare a probe with and without the source.

Source: Rasmussen and Williams 2006, section 2.1 (the linear model in function space) and equations 5.10 to
5.12 (leave-one-out); Rifkin and Lippert 2007 for regularised least squares as a classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve, solve_triangular

Array = np.ndarray

PENALTIES = (0.3, 1.0, 3.0, 10.0)
"""Ridge penalties tried; rows have a mean squared length of one, so the unit is "rows"."""


def encode(labels: Array, classes: int) -> Array:
    """Targets of least squares (n, columns): one column of -1/+1 for two classes, else one a class."""
    if classes == 2:
        return np.where(labels == 1, 1.0, -1.0)[:, None]
    return np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)


def logits(scores: Array) -> Array:
    """One column a class (n, classes): a single column of two classes becomes -s/2, s/2."""
    return np.hstack([-scores, scores]) / 2 if scores.shape[1] == 1 else scores


def margins(scores: Array, labels: Array) -> Array:
    """Score of the right class above the best other one (n,): positive where it is the highest."""
    table = logits(scores).copy()
    rows = np.arange(len(table))
    right = table[rows, labels].copy()
    table[rows, labels] = -np.inf
    return right - table.max(1)


def votes(scores: Array) -> Array:
    """Share of each class in the prediction (n, classes): 1 for the highest score, 1/k each where k tie.

    Scores within 1e-9 tie: labels are -1 and +1, and what is left of a tie in float64 is rounding.
    """
    table = logits(scores)
    best = (table >= table.max(1, keepdims=True) - 1e-9).astype(float)
    return best / best.sum(1, keepdims=True)


def predictions(scores: Array) -> Array:
    """The class with the highest score (n,); the first of those that tie."""
    return votes(scores).argmax(1)


def correct(scores: Array, labels: Array) -> Array:
    """1 where the prediction is right, 0 where wrong, 1/k where the right class is one of k that tie (n,)."""
    return votes(scores)[np.arange(len(scores)), labels]


def calibrated_slope(scores: Array, labels: Array) -> float:
    """The slope on held-out logits with the highest likelihood: one-dimensional temperature scaling."""
    table = logits(scores)
    slopes = np.geomspace(0.2, 50, 60)
    picked = table[np.arange(len(table)), labels]
    losses = [np.mean(np.logaddexp.reduce(slope * table, axis=1) - slope * picked) for slope in slopes]
    return float(slopes[int(np.argmin(losses))])


def confidence(scores: Array, slope: float) -> Array:
    """Probability of the predicted class, by a softmax of the logits times ``slope`` (n,)."""
    table = slope * logits(scores)
    return np.exp(table.max(1) - np.logaddexp.reduce(table, axis=1))


@dataclass(frozen=True)
class Prior:
    """What is believed of the target's scores before its labels: a mean and, through features, a covariance.

    Attributes:
        mean: (n, columns) at the labelled rows; further_mean (m, columns) at further rows.
        rows: (n, k) with covariance rows @ rows.T, in units of the noise variance; further (m, k).
    """

    mean: Array
    rows: Array
    further_mean: Array
    further: Array

    def predict(self, y: Array, train: Array, at: Array) -> tuple[Array, Array]:
        """Fit on the labelled rows ``train``; score the labelled rows ``at`` and all further rows."""
        rows, residual = self.rows[train], y[train] - self.mean[train]
        if len(rows) > rows.shape[1]:
            weights = solve_spd(rows.T @ rows + np.eye(rows.shape[1]), rows.T @ residual)
        else:
            weights = rows.T @ solve_spd(rows @ rows.T + np.eye(len(rows)), residual)
        return self.mean[at] + self.rows[at] @ weights, self.further_mean + self.further @ weights


@dataclass(frozen=True)
class Fitted:
    """A prior together with all labels: the inverse from which every held-out score follows.

    Attributes:
        inverse: (K + I)^-1, (n, n).
        dual: inverse @ (y - mean), (n, columns).
        evidence: log marginal likelihood a row and column, its noise scale at the best value.
    """

    prior: Prior
    y: Array
    inverse: Array
    dual: Array
    evidence: float

    @classmethod
    def of(cls, prior: Prior, y: Array) -> Fitted:
        """Fit. Cost: O(n^2 k + min(n, k)^3); with more rows than features by Woodbury's identity."""
        rows = prior.rows
        if len(rows) > rows.shape[1]:
            lower = np.linalg.cholesky(rows.T @ rows + np.eye(rows.shape[1]))
            half = solve_triangular(lower, rows.T, lower=True, check_finite=False)
            inverse = np.eye(len(y)) - half.T @ half
        else:
            lower = np.linalg.cholesky(rows @ rows.T + np.eye(len(y)))
            inverse = cho_solve((lower, True), np.eye(len(y)), check_finite=False)
        residual = y - prior.mean
        dual = inverse @ residual
        variance = max(float((residual * dual).sum()) / residual.size, 1e-12)
        evidence = -0.5 * np.log(variance) - np.log(np.diag(lower)).sum() / len(y)
        return cls(prior, y, inverse, dual, float(evidence))

    def further(self) -> Array:
        """Scores of the further rows (m, columns)."""
        return self.prior.further_mean + self.prior.further @ (self.prior.rows.T @ self.dual)

    def held_out(self, fold: Array) -> Array:
        """Scores of the rows ``fold`` by the probe trained on all others: exact, without refitting."""
        return self.y[fold] - np.linalg.solve(self.inverse[np.ix_(fold, fold)], self.dual[fold])

    def leave_one_out(self) -> Array:
        """Scores of each row by the probe trained on all others (n, columns)."""
        return self.y - self.dual / np.diag(self.inverse)[:, None]


@dataclass(frozen=True)
class RidgeFit:
    """A ridge classifier trained on (weighted) rows.

    Attributes:
        whiten: (d, d) with whiten @ whiten.T the inverse of X'WX + penalty I.
        weights: (d, columns).
        held_out: scores of the training rows, each by the classifier trained on the others (n, columns).
        penalty: the one chosen by the leave-one-out squared error.
    """

    whiten: Array
    weights: Array
    held_out: Array
    penalty: float

    def prior(self, rows: Array, further: Array, further_white: Array | None = None) -> Prior:
        """This classifier as the prior of a probe that is trained on target rows as well."""
        white = further @ self.whiten if further_white is None else further_white
        return Prior(rows @ self.weights, rows @ self.whiten, further @ self.weights, white)


def fit_ridge(
    x: Array, y: Array, weights: Array | None = None, penalties: tuple[float, ...] = PENALTIES
) -> RidgeFit:
    """Fit by least squares at each penalty and keep the one that predicts left-out rows best.

    Cost: O(n d^2 + d^3), and O(n d) a penalty.
    """
    root = np.ones((len(x), 1)) if weights is None else np.sqrt(weights)[:, None]
    scaled, target = x * root, y * root
    values, vectors = np.linalg.eigh(scaled.T @ scaled)
    rotated = scaled @ vectors
    squares, moment = rotated**2, rotated.T @ target
    best: tuple[float, float, Array] | None = None
    for penalty in penalties:
        shrink = 1.0 / (np.maximum(values, 0) + penalty)
        residual = target - rotated @ (shrink[:, None] * moment)
        residual /= 1 - np.minimum(squares @ shrink, 1 - 1e-6)[:, None]
        error = float((residual**2).mean())
        if best is None or error < best[0]:
            best = (error, penalty, residual)
    assert best is not None
    _, penalty, residual = best
    shrink = 1.0 / (np.maximum(values, 0) + penalty)
    return RidgeFit(
        whiten=vectors * np.sqrt(shrink),
        weights=vectors @ (shrink[:, None] * moment),
        held_out=y - residual / np.maximum(root, 1e-9),
        penalty=penalty,
    )


def plain_prior(rows: Array, further: Array, penalty: float, columns: int) -> Prior:
    """The prior of a probe that knows no source: mean zero, covariance x x' / penalty."""
    size = penalty**-0.5
    return Prior(
        np.zeros((len(rows), columns)), rows * size, np.zeros((len(further), columns)), further * size
    )


def solve_spd(matrix: Array, right: Array) -> Array:
    """Solve a symmetric positive definite system by Cholesky."""
    return cho_solve(cho_factor(matrix, lower=True, check_finite=False), right, check_finite=False)


def stratified_folds(labels: Array, folds: int, rng: np.random.Generator) -> Iterator[Array]:
    """Index arrays of a random partition in which every class is spread evenly."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    place = np.arange(len(labels)) % folds
    for fold in range(folds):
        part = order[place == fold]
        if len(part):
            yield part
