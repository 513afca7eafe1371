"""The witness function of the MMD: which rows make two samples differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nlp_transfer.errors import DataError
from nlp_transfer.numeric._checks import Array, same_width, shaped
from nlp_transfer.numeric._mmd_stream import Rows
from nlp_transfer.numeric._mmd_tiles import Features, TileKernel, tile_size
from nlp_transfer.numeric._workers import Workers
from nlp_transfer.numeric.kernels import (
    BANDWIDTH_KERNELS,
    KernelFunction,
    checked_bandwidths,
    full_precision,
    median_bandwidth,
    sample_rows,
)


@dataclass(frozen=True, eq=False)
class Witness:
    """Values of the witness function; positive where x is denser, negative where y is.

    Attributes:
        x: (n,) at the rows of x, each compared with the other rows only.
        y: (m,) at the rows of y, likewise.
        queries: (q,) at the rows asked for; empty when none were.
        bandwidth: the bandwidth used, None for kernels that have none.
    """

    x: np.ndarray
    y: np.ndarray
    queries: np.ndarray
    bandwidth: float | None

    def most_x_like(self, count: int = 10) -> np.ndarray:
        """Indices of the rows of x least like y, the clearest first."""
        return np.argsort(-self.x, kind="stable")[:count]

    def most_y_like(self, count: int = 10) -> np.ndarray:
        """Indices of the rows of y least like x, the clearest first."""
        return np.argsort(self.y, kind="stable")[:count]


def witness(
    x: Array,
    y: Array,
    queries: Array | None = None,
    *,
    kernel: str | KernelFunction = "rbf",
    bandwidth: float | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Witness:
    """Evaluate the witness function: mean similarity to x less mean similarity to y.

    With x the source and y the target, the highest values of `x` mark the most source-like texts and the
    lowest of `y` the most target-like. A row of a sample is left out of its own sample's mean, so that its
    similarity to itself does not count; with that, mean(witness.x) - mean(witness.y) is the unbiased MMD^2.

    Args:
        x: rows (n, d), at least 2.
        y: rows (m, d), at least 2.
        queries: more places to evaluate (q, d); default none. Nothing is left out for these.
        kernel: a name in `kernels.KERNELS`, or a function of two row blocks that returns their matrix.
        bandwidth: a distance; default the median distance of the pooled rows.
        seed: of the rows drawn for the median.
        device: where to compute; default the CPU.

    Raises:
        DataError: not matrices, fewer than 2 rows a side, different widths, or NaN.

    Cost: O((n + m + q)(n + m) d) time; memory of the rows in float32 and one tile.
    Source: Gretton et al. 2012, section 2.3.

    Example:
        >>> import numpy as np
        >>> found = witness(np.array([[0.0], [0.1], [1.0]]), np.array([[1.0], [1.1]]), bandwidth=0.2)
        >>> found.most_x_like(1), found.most_y_like(1)
        (array([0]), array([1]))
    """
    x, y = shaped("x", x, 2), shaped("y", y, 2)
    same_width(x, y)
    where = torch.device(device or "cpu")
    width = None
    if isinstance(kernel, str) and kernel in BANDWIDTH_KERNELS:
        given: Sequence[float] = checked_bandwidths(
            median_bandwidth(x, y, kernel=kernel, seed=seed) if bandwidth is None else bandwidth
        )
        if len(given) != 1:
            raise DataError("witness takes one bandwidth", expected="a number", found=repr(bandwidth))
        width = given[0]
    centre = torch.from_numpy(sample_rows(x, y, 1000, seed).mean(0)).to(where)
    tiles = TileKernel(kernel, (width or 1.0,), centre)
    with full_precision(), Workers(where) as workers:
        a, b = Rows("x", x, where).features(tiles), Rows("y", y, where).features(tiles)
        sides = [a, b]
        if queries is not None:
            queries = shaped("queries", queries)
            same_width(x, queries, "x", "queries")
            sides.append(Rows("queries", queries, where).features(tiles))
        to_x, to_y = (
            np.concatenate([_sums(tiles, side, other, workers) for side in sides]) for other in (a, b)
        )
        self_x, self_y = (tiles.diagonal(side).double().cpu().numpy() for side in (a, b))
    n, m = len(a), len(b)
    at_x = (to_x[:n] - self_x) / (n - 1) - to_y[:n] / m
    at_y = to_x[n : n + m] / n - (to_y[n : n + m] - self_y) / (m - 1)
    at_queries = to_x[n + m :] / n - to_y[n + m :] / m
    return Witness(at_x, at_y, at_queries, width)


def _sums(tiles: TileKernel, a: Features, b: Features, workers: Workers) -> np.ndarray:
    """Sum over b of k(a_i, b_j) for each i: (len(a),) float64."""
    edge = tile_size(len(a), a.rows.device, workers.threads)

    def rows(start: int) -> torch.Tensor:
        part, total = a.part(start, start + edge), torch.zeros((), dtype=torch.float64, device=a.rows.device)
        for other in range(0, len(b), edge):
            total = total + next(tiles.tiles(part, b.part(other, other + edge))).sum(1)
        return total

    return torch.cat(list(workers.map(rows, range(0, len(a), edge)))).cpu().numpy()
