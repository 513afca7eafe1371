"""Rows drawn at random without replacement, kept in their order."""

from __future__ import annotations

import numpy as np


def draw_numbers(rows: int, most: int | None, rng: np.random.Generator) -> np.ndarray:
    """Numbers of at most ``most`` rows, sorted; of all, without a draw, where there are no more."""
    if most is None or rows <= most:
        return np.arange(rows)
    return np.sort(rng.choice(rows, most, replace=False))


def draw_rows(rows: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    """At most ``most`` of the rows; the array itself where there are no more."""
    return rows if most is None or len(rows) <= most else rows[draw_numbers(len(rows), most, rng)]
