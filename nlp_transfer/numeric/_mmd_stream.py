"""Reading rows by the block, and the two MMD estimators that need only one pass over them. Private."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch

from nlp_transfer.numeric._checks import Array, finite_rows
from nlp_transfer.numeric._mmd_tiles import (
    Features,
    Statistics,
    TileKernel,
    exact_statistics,
    join,
    permuted_indicators,
)
from nlp_transfer.numeric._workers import Workers

PIECE = 64  # rows read together: one contiguous read
BUFFER = 8192  # rows shuffled together


class Rows:
    """A matrix of rows on disk or in memory, read by the slice as a checked tensor on one device."""

    def __init__(self, name: str, data: Array, device: torch.device) -> None:
        self.name, self.data, self.device = name, data, device

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def read(self, starts: Sequence[int], length: int, order: np.ndarray | None = None) -> torch.Tensor:
        """Copy the slices of `length` rows from `starts` into one tensor, row k going to position order[k].

        float32, or float64 where the source is float64; always fresh memory.

        Raises:
            DataError: a row that is not finite.
        """
        sizes = [min(length, len(self) - start) for start in starts]
        places = np.arange(sum(sizes)) if order is None else order
        block, filled = self._empty(sum(sizes)), 0
        for start, size in zip(starts, sizes, strict=True):
            block[places[filled : filled + size]] = self.data[start : start + size]  # type: ignore[index]
            filled += size
        found = block if isinstance(block, torch.Tensor) else torch.from_numpy(block).to(self.device)
        if not torch.isfinite(found.sum()).item():
            for start in starts:  # name the first such row
                finite_rows(self.name, torch.as_tensor(self.data[start : start + length]), start)
        return found

    def _empty(self, rows: int) -> Array:
        """Room for some rows, on the side where the source is."""
        if isinstance(self.data, torch.Tensor):
            wide = self.data.dtype == torch.float64
            kind = torch.float64 if wide else torch.float32
            return torch.empty(rows, self.data.shape[1], dtype=kind, device=self.data.device)
        return np.empty(
            (rows, self.data.shape[1]), np.float64 if self.data.dtype == np.float64 else np.float32
        )

    def release(self) -> None:
        """Give the pages of a memory-mapped file back to the system; they are read again when needed."""
        if isinstance(self.data, np.memmap) and getattr(self.data, "mode", None) in ("r", "r+"):
            base: Any = self.data
            while isinstance(base, np.ndarray):
                base = base.base
            if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                base.madvise(mmap.MADV_DONTNEED)

    def features(self, kernel: TileKernel) -> Features:
        """All rows, prepared for `kernel`: a float32 copy in memory."""
        parts = []
        for start in range(0, len(self), BUFFER):
            parts.append(kernel.features(self.read([start], BUFFER)))
            self.release()
        return join(parts)


class ShuffledRows:
    """The rows of a matrix in random order, each once, read in contiguous pieces.

    Pieces of 64 rows are visited in random order and shuffled 8,192 rows at a time: the order is uniform up
    to 8,192 rows, and beyond that neighbours in the file meet no more often than once in 128. A file sorted
    by label or by date is thereby as good as a shuffled one, at the price of sequential reads.
    """

    def __init__(self, rows: Rows, kernel: TileKernel, rng: np.random.Generator) -> None:
        self._rows, self._kernel, self._rng = rows, kernel, rng
        self._pieces = iter(rng.permutation(-(-len(rows) // PIECE)).tolist())
        self._ready: Features | None = None

    def take(self, count: int) -> Features:
        """The next `count` rows, prepared for the kernel; fewer at the end."""
        ready = self._ready
        if ready is None or len(ready) < count:
            kept = [] if ready is None else [ready]
            ready = join(kept + list(self._fill(max(BUFFER, count))))
        self._ready = ready.part(count, len(ready))
        return ready.part(0, count)

    def _fill(self, count: int) -> Iterator[Features]:
        starts = [piece * PIECE for piece in islice(self._pieces, -(-count // PIECE))]
        if starts:
            rows = sum(min(PIECE, len(self._rows) - start) for start in starts)
            block = self._rows.read(starts, PIECE, self._rng.permutation(rows))
            self._rows.release()
            yield self._kernel.features(block)


def block_statistics(
    x: Rows,
    y: Rows,
    kernel: TileKernel,
    permutations: int,
    block_rows: int,
    rng: np.random.Generator,
    workers: Workers,
) -> Statistics:
    """Mean over blocks of the unbiased MMD^2, for the observed labels and for permutations within blocks.

    Rows are dealt at random into blocks of about `block_rows` (both sides together, in the proportion of
    the sides). Under the null hypothesis every relabelling within blocks is as likely as the observed one,
    so the permutation p-value is exact at any number of blocks; no normal approximation is made.

    Cost: N block_rows / 2 (d + bandwidths * permutations) multiply-adds; memory of one buffer per side.
    Source: the estimator is the B-test of Zaremba et al. 2013, equation 2.
    """
    blocks = max(1, min(len(x) // 2, len(y) // 2, round((len(x) + len(y)) / block_rows)))
    n_x, n_y = len(x) // blocks, len(y) // blocks
    streams = ShuffledRows(x, kernel, rng), ShuffledRows(y, kernel, rng)

    def deal() -> Iterator[tuple[Features, np.random.Generator]]:
        for _ in range(blocks):
            z = join([streams[0].take(n_x), streams[1].take(n_y)])
            yield z, np.random.default_rng(rng.integers(2**63))

    def work(block: tuple[Features, np.random.Generator]) -> Statistics:
        z, own = block
        return exact_statistics(kernel, z, n_x, permuted_indicators(n_x, n_y, permutations, own))

    values, cross, self_similarity = np.zeros((len(kernel), 1 + permutations)), np.zeros(len(kernel)), 0.0
    for found in workers.map(work, deal()):
        values += found.values
        cross += found.cross
        self_similarity += found.self_similarity
    return Statistics(values / blocks, cross / blocks, self_similarity / blocks)


def linear_statistics(
    x: Rows, y: Rows, kernel: TileKernel, permutations: int, rng: np.random.Generator
) -> Statistics:
    """The linear-time MMD^2: the mean of h over disjoint quadruples of two rows a side, and its sign-flip
    null.

    h = k(x, x') + k(y, y') - k(x, y') - k(x', y) changes its sign when x and y trade places, which under
    the null hypothesis is as likely as not: flipping signs at random gives an exact p-value where Gretton
    et al. use the normal approximation. Rows are paired at random; the larger side is cut to the size of
    the smaller.

    Cost: O(min(n_x, n_y) (d + permutations)); memory of one buffer per side.
    Source: Gretton et al. 2012, section 6, lemma 14.
    """
    quadruples = min(len(x), len(y)) // 2
    streams = ShuffledRows(x, kernel, rng), ShuffledRows(y, kernel, rng)
    values = np.zeros((len(kernel), 1 + permutations))
    cross, self_similarity = np.zeros(len(kernel)), 0.0
    for start in range(0, quadruples, BUFFER // 2):
        count = min(BUFFER // 2, quadruples - start)
        a, b = streams[0].take(2 * count), streams[1].take(2 * count)
        a1, a2, b1, b2 = (
            a.part(0, count),
            a.part(count, 2 * count),
            b.part(0, count),
            b.part(count, 2 * count),
        )
        within = _stack(kernel, a1, a2) + _stack(kernel, b1, b2)
        across = _stack(kernel, a1, b2) + _stack(kernel, a2, b1)
        h = within - across
        values[:, 0] += h.sum(1).double().cpu().numpy()
        values[:, 1:] += (h @ _random_signs(count, permutations, rng).to(h.device)).double().cpu().numpy()
        cross += across.sum(1).double().cpu().numpy() / 2
        self_similarity += float(kernel.diagonal(a).double().sum() + kernel.diagonal(b).double().sum()) / 2
    return Statistics(values / quadruples, cross / quadruples, self_similarity / quadruples)


def _stack(kernel: TileKernel, a: Features, b: Features) -> torch.Tensor:
    """k(a_i, b_i) at every bandwidth: (bandwidths, n)."""
    return torch.stack(list(kernel.pairs(a, b)))


def _random_signs(rows: int, columns: int, rng: np.random.Generator) -> torch.Tensor:
    """Independent +1 or -1 with equal probability: (rows, columns) float32."""
    bits = np.unpackbits(
        np.frombuffer(rng.bytes(-(-rows * columns // 8)), dtype=np.uint8), count=rows * columns
    )
    return torch.from_numpy(bits.reshape(rows, columns)).float().mul_(2.0).sub_(1.0)
