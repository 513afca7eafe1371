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

    Cost: O(n log n) time, about 30 n bytes beside the arguments.
    """
    order = _small(np.argsort(groups, kind="stable"))
    new = np.empty(len(order), dtype=bool)
    new[:1] = True
    ordered = groups[order]
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    del ordered
    first = order[new]
    chosen = np.zeros(len(first), dtype=bool)
    chosen[_draw(strata[first], round(fraction * len(first)), rng, both_sides=True)] = True
    mask = np.empty(len(order), dtype=bool)
    mask[order] = chosen[np.cumsum(new, dtype=order.dtype) - 1]
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def sample(strata: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return ``count`` sorted row numbers drawn without replacement, in proportion to ``strata`` (n,).

    All rows where there are no more than ``count``. Cost: O(n k) time for k strata, about 16 n bytes.
    """
    if len(strata) <= count:
        return np.arange(len(strata))
    return np.sort(_draw(strata, count, rng, both_sides=False))


def _draw(strata: np.ndarray, count: int, rng: np.random.Generator, *, both_sides: bool) -> np.ndarray:
    names, sizes = np.unique(strata, return_counts=True)
    quota = _quota(sizes, count)
    if both_sides:
        quota = np.clip(quota, np.minimum(1, sizes - 1), sizes - 1)
    members = (_small(np.flatnonzero(strata == name)) for name in names)
    return np.concatenate(
        [
            rng.choice(rows, take, replace=False, shuffle=False)
            for rows, take in zip(members, quota, strict=True)
        ]
    )


def _small(rows: np.ndarray) -> np.ndarray:
    """Row numbers in 32 bits where they fit: half the memory."""
    return rows.astype(np.int32) if rows.max(initial=0) < 1 << 31 else rows


def _quota(sizes: np.ndarray, count: int) -> np.ndarray:
    """Divide ``count`` in proportion to ``sizes`` by largest remainders; no share exceeds its size."""
    exact = count * sizes / sizes.sum()
    quota = np.floor(exact).astype(np.int64)
    quota[np.argsort(quota - exact, kind="stable")[: count - quota.sum()]] += 1
    return quota
