"""Distances between two samples of embeddings, or between two tables of counts.

All are symmetric in their two samples, and zero or near it for equal distributions. They differ in what they
see and in their unit: see each. Arrays in, floats out; randomness only through `seed`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.covariance import ledoit_wolf

from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric._checks import Array, as_pair, as_vector, at_least
from nlp_transfer.numeric._domain import target_probabilities
from nlp_transfer.numeric.draws import draw_rows
from nlp_transfer.numeric.kernels import BANDWIDTH_KERNELS, median_bandwidth
from nlp_transfer.numeric.mmd import mmd_test

TILE = 2048


@dataclass(frozen=True)
class ProxyADistance:
    """What `proxy_a_distance` found.

    Attributes:
        value: 2 (1 - 2 error), from 0 (domains cannot be told apart) to 2 (perfectly).
        interval: 95 % bootstrap interval of it.
        error: balanced out-of-fold error of the domain classifier, in [0, 1].
    """

    value: float
    interval: tuple[float, float]
    error: float


def proxy_a_distance(
    x: Array,
    y: Array,
    *,
    folds: int = 5,
    c: float = 1.0,
    max_rows: int | None = 5000,
    bootstrap: int = 1000,
    seed: int = 0,
) -> ProxyADistance:
    """How well a linear classifier tells the two domains apart, on rows it has not seen.

    The error is the mean of the two sides' error rates, so unequal sizes do not flatter a classifier that
    always answers with the larger side. An error above one half counts as one half (distance 0).

    Args:
        x: rows (n, d).
        y: rows (m, d).
        folds: of the cross-fitting; default 5. Every row is predicted by a model that did not see it.
        c: inverse L2 penalty of the logistic regression on standardised columns; default 1.0.
        max_rows: draw larger sides down to this many rows; default 5000, None for all.
        bootstrap: resamples behind the interval; default 1000. Rows are resampled, models are not refitted.
        seed: of folds, draws and bootstrap.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer rows a side than folds.

    Cost: `folds` logistic regressions, O((n + m) d) for each of their iterations. It saturates: domains
    with any sure sign of their own (a product name, a casing) reach 2, however alike the rest is. Source:
    Ben-David et al. 2007, "Analysis of representations for domain adaptation", section 4.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> x, y = rng.normal(size=(200, 3)), rng.normal(5, 1, size=(200, 3))
        >>> proxy_a_distance(x, y).value > 1.9
        True
    """
    at_least("bootstrap", bootstrap, 1)
    rng = np.random.default_rng(seed)
    a, b = (draw_rows(side, max_rows, rng) for side in as_pair(x, y))
    at_x, at_y = target_probabilities(a, b, folds=folds, c=c, seed=seed)
    errors = (at_x >= 0.5).mean(), (at_y < 0.5).mean()
    # The bootstrap of a mean of zeros and ones is a binomial draw.
    draws = (
        rng.binomial(len(a), errors[0], bootstrap) / len(a),
        rng.binomial(len(b), errors[1], bootstrap) / len(b),
    )
    low, high = np.quantile(_a_distance((draws[0] + draws[1]) / 2), [0.025, 0.975])
    error = float(np.mean(errors))
    return ProxyADistance(float(_a_distance(np.array(error))), (float(low), float(high)), error)


def _a_distance(error: np.ndarray) -> np.ndarray:
    return 2.0 * (1.0 - 2.0 * np.minimum(error, 0.5))


def energy_distance(x: Array, y: Array) -> float:
    """Energy distance sqrt(2 E|X - Y| - E|X - X'| - E|Y - Y'|), in units of the square root of a distance.

    Zero only between equal distributions, without a bandwidth to choose. In one dimension it equals
    ``scipy.stats.energy_distance``. Averages run over all pairs, a row with itself included (a
    V-statistic): never negative, but biased upwards by about the root of 1/n + 1/m times the mean distance.

    Args:
        x: rows (n, d).
        y: rows (m, d).

    Raises:
        DataError: not matrices, no rows, different widths or NaN.

    Cost: O((n + m)^2 d) time in float64, O((n + m) d) memory and one tile.
    Source: Szekely & Rizzo 2013, "Energy statistics".

    Example:
        >>> import numpy as np
        >>> round(energy_distance(np.array([[0.0]]), np.array([[2.0]])), 4)  # sqrt(2 * 2)
        2.0
    """
    a, b = as_pair(x, y, min_rows=1)
    centre = np.concatenate([a, b]).mean(0)
    s, t = torch.from_numpy(a - centre), torch.from_numpy(b - centre)
    square = 2 * _mean_distance(s, t) - _mean_distance(s, s) - _mean_distance(t, t)
    return float(np.sqrt(max(square, 0.0)))


def _mean_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean Euclidean distance over all pairs, by tiles."""
    total = 0.0
    mode = "donot_use_mm_for_euclid_dist" if a.shape[1] < 8 else "use_mm_for_euclid_dist"
    for rows in a.split(TILE):
        for columns in b.split(TILE):
            tile = torch.cdist(rows, columns, compute_mode=mode)
            if rows.data_ptr() == columns.data_ptr():
                tile.fill_diagonal_(0.0)  # the matrix product leaves rounding noise there
            total += float(tile.sum())
    return total / (len(a) * len(b))


def sliced_wasserstein(x: Array, y: Array, *, projections: int = 128, order: int = 2, seed: int = 0) -> float:
    """Sliced Wasserstein distance: the order-p mean of 1-D Wasserstein distances along random directions.

    In the unit of the rows. It sees shape as well as location, at the cost of a sort. For a pure change of
    mean by a vector v it tends to |v| / sqrt(d) (order 2).

    Args:
        x: rows (n, d).
        y: rows (m, d); the sizes may differ.
        projections: random unit directions; default 128.
        order: p, 1 or 2; default 2.
        seed: of the directions.

    Raises:
        DataError: not matrices, no rows, different widths or NaN.
        NlpTransferError: an order other than 1 or 2, or no projections.

    Cost: O(projections (n + m) (d + log(n + m))) time, O(projections (n + m)) memory. Its standard error
    over directions falls as 1 / sqrt(projections). With few rows it is biased upwards, as every Wasserstein
    distance.
    Source: Bonneel et al. 2015, "Sliced and Radon Wasserstein barycenters of measures".

    Example:
        >>> import numpy as np
        >>> sliced_wasserstein(np.zeros((3, 1)), np.full((2, 1), 2.0))
        2.0
    """
    a, b = as_pair(x, y, min_rows=1)
    at_least("projections", projections, 1)
    if order not in (1, 2):
        raise NlpTransferError("order is out of range", expected="1 or 2", found=repr(order))
    directions = np.random.default_rng(seed).normal(size=(a.shape[1], projections))
    directions /= np.linalg.norm(directions, axis=0)
    u, v = np.sort(a @ directions, axis=0), np.sort(b @ directions, axis=0)
    # Both quantile functions are constant between the levels i/n and j/m: integrate over those steps.
    n, m = len(a), len(b)
    levels = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))  # in units of 1 / (n m)
    width = np.diff(levels) / (n * m)
    gap = np.abs(u[levels[:-1] // m] - v[levels[:-1] // n]) ** order
    return float((width @ gap).mean() ** (1 / order))


def frechet_distance(x: Array, y: Array, *, shrinkage: float | str = "auto") -> float:
    """Squared Frechet (2-Wasserstein) distance between Gaussians fitted to the two samples.

    |mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), in squared units of the rows: the FID of images, on
    text embeddings. It sees means and covariances and nothing else.

    Args:
        x: rows (n, d), at least 2.
        y: rows (m, d), at least 2.
        shrinkage: share of the covariance replaced by its average variance times the identity, in [0, 1].
            "auto" (default) takes the Ledoit-Wolf estimate for each side, without which fewer rows than a
            few times d give a large distance between equal distributions; 0 is the plain sample covariance
            (the usual FID).

    Raises:
        DataError: not matrices, fewer than 2 rows a side, different widths or NaN.
        NlpTransferError: a shrinkage outside [0, 1].

    Cost: O((n + m) d^2 + d^3).
    Source: Dowson & Landau 1982; Heusel et al. 2017 for embeddings; Ledoit & Wolf 2004 for the shrinkage.

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0], [2.0]])
        >>> frechet_distance(x, x + 3.0)
        9.0
    """
    a, b = as_pair(x, y)
    if shrinkage != "auto" and not (isinstance(shrinkage, (int, float)) and 0 <= shrinkage <= 1):
        raise NlpTransferError(
            "shrinkage is out of range", expected='"auto" or 0 to 1', found=repr(shrinkage)
        )
    c_x, c_y = _covariance(a, shrinkage), _covariance(b, shrinkage)
    # tr (C_x C_y)^(1/2) = tr (R C_y R)^(1/2) with R = C_x^(1/2): symmetric, so eigenvalues are real.
    values, vectors = np.linalg.eigh(c_x)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ c_y @ root).clip(0)).sum()
    mean = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(max(mean + np.trace(c_x) + np.trace(c_y) - 2 * cross, 0.0))


def _covariance(rows: np.ndarray, shrinkage: float | str) -> np.ndarray:
    if shrinkage == "auto":
        return np.atleast_2d(ledoit_wolf(rows)[0])
    plain = np.atleast_2d(np.cov(rows, rowvar=False))
    size = len(plain)
    return (1 - float(shrinkage)) * plain + float(shrinkage) * np.trace(plain) / size * np.eye(size)


def coral_distance(x: Array, y: Array) -> float:
    """Correlation alignment loss |C_x - C_y|_F^2 / (4 d^2) between sample covariances.

    In the fourth power of the unit of the rows. It sees covariances only, not means. On unit-norm
    embeddings it is tiny (entries of the covariance are about 1/d); compare it between pairs, not with an
    absolute scale.

    Args:
        x: rows (n, d), at least 2.
        y: rows (m, d), at least 2.

    Raises:
        DataError: not matrices, fewer than 2 rows a side, different widths or NaN.

    Cost: O((n + m) d^2). Source: Sun & Saenko 2016, "Deep CORAL", equation 1.

    Example:
        >>> import numpy as np
        >>> coral_distance(np.array([[0.0], [2.0]]), np.array([[0.0], [0.0]]))  # variances 2 and 0
        1.0
    """
    a, b = as_pair(x, y)
    gap = _covariance(a, 0.0) - _covariance(b, 0.0)
    return float((gap**2).sum() / (4 * a.shape[1] ** 2))


def jensen_shannon(p: Mapping[Any, float] | Any, q: Mapping[Any, float] | Any) -> float:
    """Jensen-Shannon divergence between two tables of counts, in bits: from 0 (equal shares) to 1 (nothing
    shared).

    For token, n-gram or label counts. With sparse counts (a large vocabulary, few texts) it is biased
    upwards: two samples of one domain are not at 0. Its square root is a metric.

    Args:
        p: counts by name (a mapping), or a vector of counts in an order shared with `q`. They need not sum
            to one.
        q: likewise.

    Raises:
        DataError: negative or infinite counts, no counts above zero, or vectors of different lengths.

    Cost: O(size of the joint vocabulary). Source: Lin 1991, "Divergence measures based on the Shannon
        entropy".

    Example:
        >>> jensen_shannon({"good": 3, "bad": 1}, {"good": 3, "bad": 1}), jensen_shannon([1, 0], [0, 5])
        (0.0, 1.0)
    """
    if isinstance(p, Mapping) != isinstance(q, Mapping):
        raise DataError("p and q are of different kinds", expected="two mappings, or two vectors of counts")
    if isinstance(p, Mapping):
        names = list(dict.fromkeys([*p, *q]))
        p, q = ([table.get(name, 0) for name in names] for table in (p, q))
    shares = _shares("p", p), _shares("q", q, len(p))
    middle = (shares[0] + shares[1]) / 2
    return float(np.clip(_entropy(middle) - (_entropy(shares[0]) + _entropy(shares[1])) / 2, 0.0, 1.0))


def _shares(name: str, counts: Any, length: int | None = None) -> np.ndarray:
    vector = as_vector(name, counts, length, "entries of p").astype(np.float64)
    if not np.isfinite(vector).all() or (vector < 0).any() or vector.sum() <= 0:
        raise DataError(f"{name} holds no usable counts", expected="numbers from 0, at least one above 0")
    return vector / vector.sum()


def _entropy(shares: np.ndarray) -> float:
    positive = shares[shares > 0]
    return float(-(positive * np.log2(positive)).sum())


@dataclass(frozen=True)
class ClassConditionalMMD:
    """What `class_conditional_mmd` found.

    Attributes:
        value: weighted mean of `by_class`.
        p_value: of no difference within any class, from labels of origin permuted within classes.
        by_class: unbiased MMD^2 within each shared class.
        weights: share of each shared class among the rows of y in shared classes; they sum to 1.
        skipped: classes that only one side has, or that have fewer than 2 rows on a side.
        bandwidth: the one bandwidth used for all classes; None for kernels that have none.
    """

    value: float
    p_value: float
    by_class: dict[Any, float]
    weights: dict[Any, float]
    skipped: tuple[Any, ...]
    bandwidth: float | None


def class_conditional_mmd(
    x: Array,
    labels_x: Any,
    y: Array,
    labels_y: Any,
    *,
    kernel: str = "rbf",
    permutations: int = 200,
    method: str = "auto",
    seed: int = 0,
) -> ClassConditionalMMD:
    """MMD between the same classes of two domains, averaged over classes by their share in y.

    It leaves out what a plain MMD also counts: a different mix of classes. A large plain MMD with a small
    class-conditional one says that re-weighting classes is enough.

    Args:
        x: rows (n, d).
        labels_x: their classes (n,).
        y: rows (m, d): take the target here, whose class shares weigh.
        labels_y: their classes (m,).
        kernel: a name in `kernels.KERNELS`. One bandwidth serves all classes: the median over all rows.
        permutations: default 200.
        method: as in `mmd.mmd_test`.
        seed: of the permutations.

    Raises:
        DataError: labels that do not fit the rows, no class with 2 rows on both sides, different widths or
            NaN.

    Cost: one `mmd_test` per class. Source: Long et al. 2013, "Transfer feature learning with joint
    distribution adaptation", equation 5 (there with pseudo-labels and a linear kernel).

    Example:
        >>> import numpy as np
        >>> x = np.array([[0.0], [0.1], [9.0], [9.1]]); labels = np.array([0, 0, 1, 1])
        >>> class_conditional_mmd(x, labels, x, labels, permutations=20).value < 0
        True
    """
    a, b = as_pair(x, y)
    of_x, of_y = as_vector("labels_x", labels_x, len(a)), as_vector("labels_y", labels_y, len(b))
    every = [label.item() if isinstance(label, np.generic) else label for label in np.union1d(of_x, of_y)]
    shared = [label for label in every if min((of_x == label).sum(), (of_y == label).sum()) >= 2]
    if not shared:
        raise DataError(
            "no class to compare",
            expected="a class with at least 2 rows on both sides",
            found=f"classes {sorted(set(of_x.tolist()))[:8]} and {sorted(set(of_y.tolist()))[:8]}",
            fix="check that both domains use the same label names",
        )
    width = median_bandwidth(a, b, kernel=kernel, seed=seed) if kernel in BANDWIDTH_KERNELS else None
    counts = np.array([(of_y == label).sum() for label in shared], dtype=np.float64)
    weights = counts / counts.sum()
    results = [
        mmd_test(
            a[of_x == label],
            b[of_y == label],
            kernel=kernel,
            bandwidth=width,
            permutations=permutations,
            method=method,
            seed=seed + index,
        )
        for index, label in enumerate(shared)
    ]
    value = float(sum(w * r.value for w, r in zip(weights, results, strict=True)))
    null = sum(w * r.null for w, r in zip(weights, results, strict=True))
    return ClassConditionalMMD(
        value=value,
        p_value=float((1 + (null >= value).sum()) / (1 + permutations)),
        by_class={label: result.value for label, result in zip(shared, results, strict=True)},
        weights=dict(zip(shared, weights.tolist(), strict=True)),
        skipped=tuple(label for label in every if label not in shared),
        bandwidth=width,
    )
