"""How near the rows of one sample lie to another: to its nearest rows, or to its centre."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_TILE = 1 << 22  # similarities in memory at once


def mean_similarity(
    x: NDArray[np.floating], y: NDArray[np.floating], neighbours: int | None = 10
) -> NDArray[np.float32]:
    """Mean cosine similarity of each row of ``x`` to its nearest rows in ``y``; [n].

    Args:
        x: rows to score, [n, d].
        y: rows of the sample to be near to, [m, d].
        neighbours: how many nearest rows to average over; None: the similarity to the mean direction of all
            rows, which is fast, and right for a sample of one topic.

    Cost: n m d multiplications in tiles of 16 MB; n d for the centre.
    """
    x, y = _unit(x), _unit(y)
    if neighbours is None:
        return x @ _unit(y.mean(axis=0, keepdims=True))[0]
    count = min(neighbours, len(y))
    out = np.empty(len(x), np.float32)
    rows = max(1, _TILE // len(y))
    for start in range(0, len(x), rows):
        similar = x[start : start + rows] @ y.T
        nearest = np.partition(similar, len(y) - count, axis=1)[:, len(y) - count :]
        out[start : start + rows] = nearest.mean(axis=1)
    return out


def _unit(rows: NDArray) -> NDArray[np.float32]:
    rows = np.asarray(rows, np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
