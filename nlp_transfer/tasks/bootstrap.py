"""Percentile bootstrap intervals over test rows, vectorised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nlp_transfer.errors import DataError

_CHUNK_ELEMENTS = 2**19  # numbers in one array while resampling: 4 MiB of float64


class _IntervalBase(TypedDict):
    value: float | None
    low: float | None
    high: float | None


class Interval(_IntervalBase, total=False):
    """A figure with the bounds of its interval; None where it is undefined, then with a ``reason``."""

    reason: str


def bootstrap_interval(
    statistic: Callable[..., ArrayLike],
    *arrays: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap interval of a statistic of n rows.

    Rows are drawn with replacement, jointly from all arrays. The interval is widened to hold the value
    itself where resampling is biased away from it (calibration error near zero is). It describes the
    sampling of test rows only, not the variation between training seeds.

    Args:
        statistic: called as ``statistic(*samples, axis=1)`` with samples of shape [B, n, ...]; returns [B].
            ``numpy.mean`` and most of ``scipy.stats`` fit.
        arrays: row-aligned arrays of shape [n, ...].
        confidence: coverage of the interval, between 0 and 1.
        resamples: number of bootstrap samples; cost O(resamples * n), memory bounded.
        seed: of the generator that draws the rows.

    Raises:
        DataError: no rows, or arrays of different lengths.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.

    Example:
        >>> interval = bootstrap_interval(np.mean, [1.0] * 90 + [0.0] * 10)
        >>> interval["value"], interval["low"] > 0.8, interval["high"] < 0.97
        (0.9, True, True)
    """
    rows = [np.asarray(array) for array in arrays]
    n = _row_count(rows)
    value = float(np.asarray(statistic(*(array[None] for array in rows), axis=1))[0])
    rng = np.random.default_rng(seed)
    draws = []
    for size in _chunks(resamples, sum(array.size for array in rows) + n):
        index = rng.integers(0, n, size=(size, n))
        draws.append(np.asarray(statistic(*(array[index] for array in rows), axis=1), dtype=float))
    return percentile_interval(value, np.concatenate(draws), confidence)


def bootstrap_cells(
    statistic: Callable[[NDArray], ArrayLike],
    counts: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a statistic of a confusion matrix, at a cost that does not grow with n.

    Drawing n rows with replacement draws the cell counts from Multinomial(n, counts / n), so this equals
    the bootstrap over rows in distribution.

    Args:
        statistic: maps counts of shape [B, C, C] to [B].
        counts: confusion matrix [C, C] of a test set; rows are true classes.
        confidence, resamples, seed: as in :func:`bootstrap_interval`.

    Raises:
        DataError: the matrix counts no row.
    """
    cells = np.asarray(counts)
    total = int(cells.sum())
    if total == 0:
        raise no_rows()
    filled = np.flatnonzero(cells)
    shares = cells.ravel()[filled] / total
    rng = np.random.default_rng(seed)
    draws = []
    for size in _chunks(resamples, cells.size):
        sample = np.zeros((size, cells.size), dtype=np.int64)
        sample[:, filled] = rng.multinomial(total, shares, size=size)
        draws.append(np.asarray(statistic(sample.reshape(size, *cells.shape)), dtype=float))
    value = float(np.asarray(statistic(cells[None]))[0])
    return percentile_interval(value, np.concatenate(draws), confidence)


def paired_difference(
    statistic: Callable[..., ArrayLike],
    first: ArrayLike,
    second: ArrayLike,
    *shared: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of statistic(first) - statistic(second) for two systems scored on the same rows.

    Both systems are resampled with the same rows, so what makes a row hard for both cancels out and the
    interval is narrower than two separate ones suggest. It excludes zero where the systems differ.

    Args:
        statistic: called as ``statistic(system, *shared, axis=1)``, as in :func:`bootstrap_interval`.
        first, second: one value (or vector) per row from each system, such as 1 where it was right.
        shared: arrays that both systems are scored against, such as the labels.
        confidence, resamples, seed: as in :func:`bootstrap_interval`.

    Example:
        >>> right, wrong = np.ones(50), np.zeros(50)
        >>> paired_difference(np.mean, right, wrong)
        {'value': 1.0, 'low': 1.0, 'high': 1.0}
    """

    def difference(one: NDArray, two: NDArray, *rest: NDArray, axis: int) -> NDArray:
        return np.asarray(statistic(one, *rest, axis=axis)) - np.asarray(statistic(two, *rest, axis=axis))

    return bootstrap_interval(
        difference, first, second, *shared, confidence=confidence, resamples=resamples, seed=seed
    )


def percentile_interval(value: float, draws: NDArray, confidence: float) -> Interval:
    """The percentiles of the draws, widened to hold the value; undefined draws drop out."""
    draws = draws[np.isfinite(draws)]
    if not np.isfinite(value) or not draws.size:
        return {"value": None, "low": None, "high": None}
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return {"value": value, "low": min(float(low), value), "high": max(float(high), value)}


def _chunks(resamples: int, elements: int) -> Iterator[int]:
    size = max(1, min(resamples, _CHUNK_ELEMENTS // elements))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _row_count(arrays: list[NDArray]) -> int:
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) != 1:
        raise DataError(
            "the arrays of a bootstrap must have one row per example each",
            expected="arrays of equal length",
            found=f"lengths {lengths}",
            fix="pass predictions and labels of the same rows",
        )
    if not lengths[0]:
        raise no_rows()
    return lengths[0]


def no_rows() -> DataError:
    """The error for an empty test set."""
    return DataError(
        "there is nothing to score",
        expected="at least one row",
        found="no rows",
        fix="check that the evaluation data is not empty",
    )
