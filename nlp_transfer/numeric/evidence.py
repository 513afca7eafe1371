"""The evidence of Bayesian linear regression, on which LogME rests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from nlp_transfer.errors import DataError
from nlp_transfer.numeric._checks import shaped

_RATIOS = np.logspace(-10, 12, 89)
"""Grid over alpha-free signal-to-noise ratios, in units of the largest squared singular value."""


def log_evidence(features: Any, targets: Any, alpha: float, beta: float) -> float:
    """Log marginal likelihood of targets under Bayesian linear regression with fixed precisions.

    ``log N(targets; 0, I / beta + F F' / alpha)``: weights have precision alpha, noise has precision beta.
    Holds for d > n too.

    Args:
        features: F, (n, d).
        targets: (n,).
        alpha: precision of the prior of the weights, above 0.
        beta: precision of the noise, above 0.

    Cost: O(n d min(n, d)).

    Source: Bishop 2006, "Pattern recognition and machine learning", equation 3.86.
    """
    x = np.asarray(shaped("features", features), dtype=np.float64)
    y = np.asarray(targets, dtype=np.float64)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    return float(_evidence(singular**2, (left.T @ y) ** 2, float(y @ y), len(y), beta / alpha, np.log(beta)))


def _evidence(squares: Any, projected: Any, total: float, n: int, ratio: Any, log_beta: Any) -> Any:
    """The log evidence in the singular basis; ``ratio`` is beta / alpha.

    The covariance of the targets is (I + ratio F F') / beta, whose eigenvalues are 1 + ratio s^2, and 1 for
    the n - r directions that no feature reaches.
    """
    stretched = 1 + np.multiply.outer(ratio, squares)
    quadratic = (projected / stretched).sum(-1) + max(total - float(projected.sum()), 0.0)
    determinant = np.log(stretched).sum(-1)
    return 0.5 * (n * log_beta - n * np.log(2 * np.pi) - determinant - np.exp(log_beta) * quadratic)


@dataclass(frozen=True)
class Evidence:
    """The maximum of the log evidence over both precisions.

    Attributes:
        value: log evidence a row.
        alpha, beta: precisions of weights and noise that give it.
    """

    value: float
    alpha: float
    beta: float


def max_evidence(features: Any, targets: Any) -> Evidence:
    """Maximise the log evidence over alpha and beta.

    Given beta / alpha the best beta has a closed form, so one number is searched: on a grid, then within the
    best cell. That finds the maximum where MacKay's fixed point may stop elsewhere.

    Args:
        features: (n, d).
        targets: (n,), not all zero.

    Cost: one singular value decomposition, O(n d min(n, d)).
    """
    x = np.asarray(shaped("features", features), dtype=np.float64)
    return maximise(np.linalg.svd(x, full_matrices=False)[:2], np.asarray(targets, dtype=np.float64))


def maximise(decomposed: tuple[np.ndarray, np.ndarray], y: np.ndarray) -> Evidence:
    """``max_evidence`` from the left singular vectors and singular values of the features."""
    left, singular = decomposed
    squares, projected = singular**2, (left.T @ y) ** 2
    n, total = len(y), float(y @ y)
    rest = max(total - float(projected.sum()), total * 1e-14)
    if total == 0 or squares[0] == 0:
        raise DataError(
            "evidence of features or targets that are all zero is not defined", fix="check the data"
        )

    def best_beta(ratio: Any) -> Any:
        return n / ((projected / (1 + np.multiply.outer(ratio, squares))).sum(-1) + rest)

    def profile(log_ratio: Any) -> Any:
        ratio = np.exp(log_ratio)
        return _evidence(squares, projected, total, n, ratio, np.log(best_beta(ratio)))

    grid = np.log(_RATIOS / squares[0])
    place = int(np.argmax(profile(grid)))
    bounds = (grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)])
    found = minimize_scalar(
        lambda value: -profile(value), bounds=bounds, method="bounded", options={"xatol": 1e-10}
    )
    log_ratio = found.x if -found.fun >= profile(grid[place]) else grid[place]
    beta = float(best_beta(np.exp(log_ratio)))
    return Evidence(float(profile(log_ratio)) / n, beta / float(np.exp(log_ratio)), beta)
