"""Which rows go where: splitting off and sampling, in proportion to the labels; numbers only."""

from __future__ import annotations

import numpy as np


def split_off(
    groups: np.ndarray, strata: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into a rest and about ``fraction`` held out, stratified; rows of one group stay together.

    Args:
        groups: (n,) group of each row, such as the hash of its text; of any integer type.
        strata: (n,) stratum of each row, such as its class. A group has the stratum of its first row.
        fraction: share of the groups to hold out, between 0 and 1. Every stratum of two or more groups gives
            at least one and keeps at least one.
        rng: decides which.

    Returns:
        Two sorted arrays of row numbers: rest and held out. The second is empty if no stratum can be split.

    Cost: O(n log n) time, about 40 n bytes.
    """
    _, first, group_of = np.unique(groups, return_index=True, return_inverse=True)
    held = _draw(strata[first], round(fraction * len(first)), rng, both_sides=True)
    chosen = np.zeros(len(first), dtype=bool)
    chosen[held] = True
    mask = chosen[group_of]
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def sample(strata: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` sorted row numbers drawn without replacement, in proportion to ``strata`` (n,).

    All rows where there are no more than ``count``. Cost: O(n log n) time, about 16 n bytes.
    """
    if len(strata) <= count:
        return np.arange(len(strata))
    return np.sort(_draw(strata, count, rng, both_sides=False))


def _draw(strata: np.ndarray, count: int, rng: np.random.Generator, *, both_sides: bool) -> np.ndarray:
    sizes = np.unique(strata, return_counts=True)[1]
    quota = _quota(sizes, count)
    if both_sides:
        quota = np.clip(quota, np.minimum(1, sizes - 1), sizes - 1)
    order = rng.permutation(len(strata))
    order = order[np.argsort(strata[order], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    return np.concatenate([order[start : start + take] for start, take in zip(starts, quota, strict=True)])


def _quota(sizes: np.ndarray, count: int) -> np.ndarray:
    """Divide ``count`` in proportion to ``sizes`` by largest remainders; no share exceeds its size."""
    exact = count * sizes / sizes.sum()
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    return quota
