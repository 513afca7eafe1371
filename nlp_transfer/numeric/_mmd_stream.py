"""Reading rows by the block, and the two MMD estimators that need only one pass over them. Private."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
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

BATCH = 4096  # rows of a side that are worked on together
GATHER = 4096  # rows of a file that are touched before its pages are given back
LARGE_FILE = 2**29  # bytes: the pages of smaller files may stay


class Rows:
    """A matrix of rows on disk or in memory, read by the part as a checked tensor on one device."""

    def __init__(self, name: str, data: Array, device: torch.device) -> None:
        self.name, self.data, self.device = name, data, device

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def read(self, which: slice | np.ndarray) -> torch.Tensor:
        """Copy some rows, in float32, or float64 where the source is float64; always fresh memory.

        Raises:
            DataError: a row that is not finite.
        """
        if isinstance(self.data, torch.Tensor):
            index = which if isinstance(which, slice) else torch.from_numpy(which).to(self.data.device)
            kind = torch.float64 if self.data.dtype == torch.float64 else torch.float32
            found = self.data.detach()[index].to(self.device, kind, copy=True)
        else:
            kind_of = np.float64 if self.data.dtype == np.float64 else np.float32
            source = np.asarray(self.data)
            if isinstance(which, slice):
                block = source[which].astype(kind_of, order="C")
            else:
                block = np.empty((len(which), source.shape[1]), kind_of)
                for start in range(0, len(which), GATHER):
                    block[start : start + GATHER] = source[which[start : start + GATHER]]
                    self.release()
            found = torch.from_numpy(block).to(self.device)
        numbers = which if isinstance(which, np.ndarray) else np.arange(which.start, which.start + len(found))
        return finite_rows(self.name, found, numbers)

    def prefetch(self) -> None:
        """Ask the system to read a memory-mapped file in the order of the file, ahead of random reads."""
        self._advise("MADV_WILLNEED")

    def release(self) -> None:
        """Give the pages of a large memory-mapped file back to the system: read again when needed."""
        if isinstance(self.data, np.memmap) and self.data.nbytes >= LARGE_FILE:
            self._advise("MADV_DONTNEED")

    def _advise(self, advice: str) -> None:
        """Advise on a file mapped for shared access: a private map would lose what was written to it."""
        if isinstance(self.data, np.memmap) and getattr(self.data, "mode", None) in ("r", "r+"):
            base: Any = self.data
            while isinstance(base, np.ndarray):
                base = base.base
            if isinstance(base, mmap.mmap) and hasattr(mmap, advice):
                base.madvise(getattr(mmap, advice))

    def features(self, kernel: TileKernel) -> Features:
        """All rows, prepared for `kernel`: a float32 copy in memory."""
        parts = []
        for start in range(0, len(self), BATCH):
            parts.append(kernel.features(self.read(slice(start, start + BATCH))))
            self.release()
        return join(parts)


def _dealt(
    x: Rows, y: Rows, n_x: int, n_y: int, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray, np.random.Generator]]:
    """Row numbers of both sides in random order, n_x and n_y at a time, with a generator for each batch.

    The order is uniform over all rows: files are often sorted by label, by date or by document, and
    neighbours that are more alike than chance would pass for a difference between the sides. It is ended by
    the shorter side.
    """
    x.prefetch()
    y.prefetch()
    of_x, of_y = rng.permutation(len(x)), rng.permutation(len(y))
    for i, j in zip(range(0, len(x), n_x), range(0, len(y), n_y), strict=False):
        yield of_x[i : i + n_x], of_y[j : j + n_y], np.random.default_rng(rng.integers(2**63))


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

    Cost: N block_rows / 2 (d + bandwidths * permutations) multiply-adds; memory of one block a thread.
    Source: the estimator is the B-test of Zaremba et al. 2013, equation 2.
    """
    blocks = max(1, min(len(x) // 2, len(y) // 2, round((len(x) + len(y)) / block_rows)))
    n_x, n_y = len(x) // blocks, len(y) // blocks

    def work(dealt: tuple[np.ndarray, np.ndarray, np.random.Generator]) -> Statistics:
        of_x, of_y, own = dealt
        z = join([kernel.features(x.read(of_x)), kernel.features(y.read(of_y))])
        return exact_statistics(kernel, z, n_x, permuted_indicators(n_x, n_y, permutations, own))

    values, cross, self_similarity = np.zeros((len(kernel), 1 + permutations)), np.zeros(len(kernel)), 0.0
    for found in workers.map(work, islice(_dealt(x, y, n_x, n_y, rng), blocks)):
        values += found.values
        cross += found.cross
        self_similarity += found.self_similarity
    return Statistics(values / blocks, cross / blocks, self_similarity / blocks)


def linear_statistics(
    x: Rows, y: Rows, kernel: TileKernel, permutations: int, rng: np.random.Generator, workers: Workers
) -> Statistics:
    """The linear-time MMD^2: the mean of h over disjoint quadruples of two rows a side, and its sign-flip
    null.

    h = k(x, x') + k(y, y') - k(x, y') - k(x', y) changes its sign when x and y trade places, which under
    the null hypothesis is as likely as not: flipping signs at random gives an exact p-value where Gretton
    et al. use the normal approximation. Rows are paired at random; the larger side is cut to the size of
    the smaller.

    Cost: O(min(n_x, n_y) (d + permutations)); memory of one batch a side and a thread.
    Source: Gretton et al. 2012, section 6, lemma 14.
    """

    def work(
        dealt: tuple[np.ndarray, np.ndarray, np.random.Generator],
    ) -> tuple[int, np.ndarray, np.ndarray, float]:
        of_x, of_y, own = dealt
        a, b = kernel.features(x.read(of_x)), kernel.features(y.read(of_y))
        count = min(len(a), len(b)) // 2
        a1, a2, b1, b2 = (side.part(start, start + count) for side in (a, b) for start in (0, count))
        across = _stack(kernel, a1, b2) + _stack(kernel, a2, b1)
        h = _stack(kernel, a1, a2) + _stack(kernel, b1, b2) - across
        flipped = h @ _random_signs(count, permutations, own).to(h.device)
        values = torch.cat([h.sum(1, keepdim=True), flipped], dim=1).double().cpu().numpy()
        diagonal = sum(float(kernel.diagonal(side).double().sum()) for side in (a1, a2, b1, b2)) / 2
        return count, values, across.sum(1).double().cpu().numpy() / 2, diagonal

    quadruples, values, cross, self_similarity = (
        0,
        np.zeros((len(kernel), 1 + permutations)),
        np.zeros(len(kernel)),
        0.0,
    )
    for count, some, some_cross, some_diagonal in workers.map(work, _dealt(x, y, BATCH, BATCH, rng)):
        quadruples += count
        values += some
        cross += some_cross
        self_similarity += some_diagonal
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
