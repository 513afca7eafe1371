"""Importance weights without a classifier: match the target's mean in feature space, or its likelihood.

Both estimate p_target / p_source for the source rows directly. `nlp_transfer.numeric.weights.density_ratio`
does it through a domain classifier.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nlp_transfer.numeric._checks import Array, as_pair, at_least
from nlp_transfer.numeric.features import NystroemMap, gaussian_matrix
from nlp_transfer.numeric.kernels import median_bandwidth
from nlp_transfer.numeric.weights import ImportanceWeights, finished_weights

EXACT_ROWS = 2000
"""Up to so many source rows kernel mean matching holds the whole kernel matrix."""


def kernel_mean_matching(
    source: Array,
    target: Array,
    *,
    bandwidth: float | None = None,
    max_weight: float = 20.0,
    epsilon: float | None = None,
    landmarks: int = 500,
    iterations: int = 1000,
    seed: int = 0,
) -> ImportanceWeights:
    """Weights that bring the weighted source mean closest to the target mean in a Gaussian kernel's space.

    Minimises |sum_i w_i k(x_i, .) / n - mean_j k(z_j, .)|^2 subject to 0 <= w_i <= max_weight and
    |mean(w) - 1| <= epsilon, by accelerated projected gradient. More than 2,000 source rows are matched on
    Nystroem features, which makes an iteration linear in the rows.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        bandwidth: of the kernel, a distance; default the median heuristic.
        max_weight: the B of the paper; default 20.
        epsilon: of the paper; default (sqrt(n) - 1) / sqrt(n).
        landmarks: of the Nystroem features; default 500.
        iterations: at most; it stops where the weights no longer move.
        seed: of the bandwidth's sample and of the landmarks.

    Returns:
        Weights with mean 1.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.
        NlpTransferError: a `max_weight` below 1.

    Cost: O(n^2 + n m) time an iteration and O(n^2) memory up to 2,000 rows; O((n + m) landmarks) above.
    In high dimensions every row is about as far from every other: the weights then match little more than
    the means. Source: Huang et al. 2007, "Correcting sample selection bias by unlabeled data", equation 5.
    """
    at_least("max_weight", max_weight, 1.0)
    a, b = as_pair(source, target, names=("source", "target"))
    n = len(a)
    width = median_bandwidth(a, b, seed=seed) if bandwidth is None else float(bandwidth)
    if n <= EXACT_ROWS:
        matrix = gaussian_matrix(a, a, width)
        linear = gaussian_matrix(a, b, width).mean(1) * n

        def gradient(w: np.ndarray) -> np.ndarray:
            return matrix @ w - linear

        largest = float(np.linalg.norm(matrix, 1))
    else:
        nystroem = NystroemMap.fit(a, b, bandwidth=width, landmarks=landmarks, seed=seed)
        rows, mean = nystroem(a), nystroem(b).mean(0) * n

        def gradient(w: np.ndarray) -> np.ndarray:
            return rows @ (rows.T @ w - mean)

        largest = float(np.linalg.eigvalsh(rows.T @ rows)[-1])
    slack = (np.sqrt(n) - 1) / np.sqrt(n) if epsilon is None else float(epsilon)
    weights = _accelerated(gradient, 1.0 / largest, n, max_weight, slack, iterations)
    return finished_weights(weights, max_weight)


def _accelerated(gradient, step: float, n: int, top: float, slack: float, iterations: int) -> np.ndarray:
    """Projected gradient with Nesterov's momentum, restarted where it points uphill (O'Donoghue 2015)."""
    weights = previous = np.ones(n)
    momentum = 1.0
    for _ in range(iterations):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = weights + (momentum - 1) / following * (weights - previous)
        slope = gradient(ahead)
        previous, weights = weights, _project(ahead - step * slope, top, slack)
        momentum = following if slope @ (weights - previous) <= 0 else 1.0
        if np.abs(weights - previous).max() < 1e-11 * top:
            break
    return weights


def _project(point: np.ndarray, top: float, slack: float) -> np.ndarray:
    """The nearest w with 0 <= w <= top and |mean(w) - 1| <= slack: a shift of all entries, then the box."""
    clipped = np.clip(point, 0.0, top)
    mean = clipped.mean()
    if abs(mean - 1) <= slack:
        return clipped
    wanted = 1 + slack if mean > 1 else 1 - slack
    low, high = point.min() - top, point.max()
    for _ in range(60):
        shift = (low + high) / 2
        if np.clip(point - shift, 0.0, top).mean() > wanted:
            low = shift
        else:
            high = shift
    return np.clip(point - (low + high) / 2, 0.0, top)


BANDWIDTH_FACTORS = (0.25, 0.5, 1.0, 2.0)
"""Multiples of the median distance among which `kliep` chooses."""


def kliep(
    source: Array,
    target: Array,
    *,
    bandwidths: Sequence[float] | None = None,
    centres: int = 100,
    folds: int = 5,
    max_weight: float = 20.0,
    iterations: int = 500,
    seed: int = 0,
) -> ImportanceWeights:
    """Weights w(x) = sum_l alpha_l k(x, c_l) that make the target rows most likely (KLIEP).

    Maximises the mean log w(z) over the target rows subject to mean w(x) = 1 over the source rows and
    alpha >= 0. This is the likelihood of mixture proportions, so that it is climbed by
    expectation-maximisation: every step goes up, without a step size. The bandwidth is the one with the
    highest held-out likelihood.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        bandwidths: to choose from; default 1/4, 1/2, 1 and 2 times the median distance.
        centres: target rows that carry a kernel; default 100.
        folds: of the likelihood cross-validation; default 5, fewer for fewer target rows.
        max_weight: cut weights above this before normalising; default 20.
        iterations: of expectation-maximisation, at most.
        seed: of centres and folds.

    Returns:
        Weights with mean 1.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer than two rows.
        NlpTransferError: a `max_weight` below 1.

    Cost: O((n + m) centres d) a bandwidth, O(m centres) an iteration. Source: Sugiyama et al. 2008, "Direct
    importance estimation for covariate shift adaptation", sections 2.3 and 2.4.
    """
    at_least("max_weight", max_weight, 1.0)
    a, b = as_pair(source, target, names=("source", "target"))
    median = median_bandwidth(a, b, seed=seed)
    widths = [median * factor for factor in BANDWIDTH_FACTORS] if bandwidths is None else list(bandwidths)
    rng = np.random.default_rng(seed)
    chosen = b[rng.choice(len(b), min(centres, len(b)), replace=False)]
    parts = np.array_split(rng.permutation(len(b)), min(folds, len(b)))
    best, best_score = widths[0], -np.inf
    for width in widths if len(widths) > 1 else ():
        at_source, at_target = gaussian_matrix(a, chosen, width).mean(0), gaussian_matrix(b, chosen, width)
        scores = []
        for part in parts:
            alpha = _mixture(np.delete(at_target, part, axis=0), at_source, iterations)
            scores.append(np.log(np.maximum(at_target[part] @ alpha, 1e-300)))
        score = float(np.concatenate(scores).mean())
        if score > best_score:
            best, best_score = width, score
    kernel = gaussian_matrix(a, chosen, best)
    alpha = _mixture(gaussian_matrix(b, chosen, best), kernel.mean(0), iterations)
    return finished_weights(kernel @ alpha, max_weight)


def _mixture(at_target: np.ndarray, mean_source: np.ndarray, iterations: int) -> np.ndarray:
    """The alpha >= 0 with mean_source @ alpha = 1 that maximises mean(log(at_target @ alpha))."""
    mean_source = np.maximum(mean_source, 1e-300)
    scaled = at_target / mean_source  # in units of beta = mean_source * alpha, which sums to one
    scaled /= scaled.max()
    beta = np.full(len(mean_source), 1 / len(mean_source))
    for _ in range(iterations):
        gain = (scaled / np.maximum(scaled @ beta, 1e-300)[:, None]).mean(0)
        beta = beta * gain
        if gain.max() < 1 + 1e-6:  # the gap to the best likelihood is at most log(gain.max())
            break
    return beta / beta.sum() / mean_source
