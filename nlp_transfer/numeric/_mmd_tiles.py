"""Kernel tiles, and the exact permutation statistics of MMD^2 from one pass over them. Private."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from nlp_transfer.errors import NlpTransferError
from nlp_transfer.numeric._workers import Workers
from nlp_transfer.numeric.kernels import KERNELS, KernelFunction

CPU_TILE = (
    512  # a float32 tile of 1 MiB: large enough for the matrix product, small enough for a core's cache
)
CUDA_TILE = 8192  # 256 MiB


@dataclass
class Features:
    """Rows made ready for `TileKernel`: scaled rows (n, d) float32 and what is added to their products
    (n,)."""

    rows: torch.Tensor
    offset: torch.Tensor

    def part(self, start: int, stop: int) -> Features:
        """A view of the rows start..stop."""
        return Features(self.rows[start:stop], self.offset[start:stop])

    def __len__(self) -> int:
        return len(self.rows)


def join(parts: list[Features]) -> Features:
    """Stack the rows of several `Features`."""
    return Features(torch.cat([part.rows for part in parts]), torch.cat([part.offset for part in parts]))


@dataclass
class TileKernel:
    """One kernel, at one or several bandwidths, that fills float32 tiles in place.

    Bandwidths are visited from the widest to the narrowest: for the Gaussian and Laplacian kernels the
    kernel at a narrower bandwidth is a power of the one at a wider, and a whole power of two of it is a few
    squarings.

    Attributes:
        kernel: a name in `KERNELS` or a function of two row blocks.
        bandwidths: widest first; one entry for kernels without a bandwidth.
        centre: subtracted from every row first (d,): translation-invariant kernels keep more digits that way.
    """

    kernel: str | KernelFunction
    bandwidths: tuple[float, ...]
    centre: torch.Tensor
    _local: threading.local = field(default_factory=threading.local, repr=False)  # a tile for each thread

    def __len__(self) -> int:
        return len(self.bandwidths)

    @property
    def powers(self) -> list[float]:
        """Exponent that leads from each bandwidth to the next narrower one."""
        order = 2.0 if self.kernel == "rbf" else 1.0
        return [(a / b) ** order for a, b in zip(self.bandwidths, self.bandwidths[1:], strict=False)]

    def features(self, rows: torch.Tensor) -> Features:
        """Prepare rows (n, d) of float32 or float64, overwriting them: shift, scale, round to float32."""
        if self.kernel in ("rbf", "laplacian", "linear"):
            rows.sub_(self.centre.to(rows.dtype))
        if self.kernel in ("rbf", "laplacian"):
            rows.mul_(1.0 / self.bandwidths[0])
        elif self.kernel == "cosine":
            rows = torch.nn.functional.normalize(rows, dim=1)
        rows = rows.float()
        if self.kernel == "rbf":
            return Features(rows, torch.linalg.vecdot(rows, rows).mul_(-0.5))
        return Features(rows, torch.zeros(len(rows), device=rows.device))

    def tiles(self, a: Features, b: Features) -> Iterator[torch.Tensor]:
        """Yield the tile (len(a), len(b)) at each bandwidth. The same memory every time: use it before the
        next.

        What the consumer writes into the first tile carries over: a zeroed diagonal stays zero.
        """
        tile = self._first(a, b)
        yield tile
        for power in self.powers:
            squarings = math.log2(power)
            if abs(squarings - round(squarings)) < 1e-6:
                for _ in range(round(squarings)):
                    tile.mul_(tile)
            else:
                tile.pow_(power)
            yield tile

    def pairs(self, a: Features, b: Features) -> Iterator[torch.Tensor]:
        """Yield k(a_i, b_i) for each i, shape (n,), at each bandwidth."""
        if not isinstance(self.kernel, str):
            raise NlpTransferError(
                "the linear estimator needs a named kernel",
                expected=", ".join(sorted(KERNELS)),
                found="a function",
            )
        if self.kernel == "rbf":
            value = torch.linalg.vecdot(a.rows, b.rows).add_(a.offset).add_(b.offset).exp_()
        elif self.kernel == "laplacian":
            value = (a.rows - b.rows).abs_().sum(1).neg_().exp_()
        else:
            value = torch.linalg.vecdot(a.rows, b.rows)
            if self.kernel == "polynomial":
                value = (value / a.rows.shape[1] + 1.0) ** 3
        yield value
        for power in self.powers:
            value = value**power
            yield value

    def diagonal(self, a: Features) -> torch.Tensor:
        """k(a_i, a_i) for each i, shape (n,)."""
        if self.kernel in ("rbf", "laplacian"):
            return torch.ones(len(a), device=a.rows.device)
        if isinstance(self.kernel, str):
            return next(self.pairs(a, a))
        blocks = [self.kernel(part, part).diagonal() for part in a.rows.split(256)]
        return torch.cat(blocks).float()

    def _first(self, a: Features, b: Features) -> torch.Tensor:
        """The tile at the widest bandwidth, in the buffer that all tiles of a thread share."""
        if not isinstance(self.kernel, str):
            return self.kernel(a.rows, b.rows).float()
        if self.kernel == "laplacian":
            return torch.cdist(a.rows, b.rows, p=1.0).neg_().exp_()
        size = len(a) * len(b)
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or buffer.numel() < size:
            buffer = self._local.buffer = torch.empty(size, device=a.rows.device)
        tile = buffer[:size].view(len(a), len(b))
        if self.kernel == "rbf":
            torch.addmm(b.offset.expand(len(a), -1), a.rows, b.rows.T, out=tile)
            return tile.add_(a.offset[:, None]).exp_()
        torch.mm(a.rows, b.rows.T, out=tile)
        if self.kernel == "polynomial":
            tile.mul_(1.0 / a.rows.shape[1]).add_(1.0).pow_(3)
        return tile


@dataclass
class Statistics:
    """Unbiased MMD^2 of the observed labels (column 0) and of each permutation, one row per bandwidth.

    Attributes:
        values: (bandwidths, 1 + permutations) float64.
        cross: observed mean of k(x, y) per bandwidth.
        self_similarity: mean of k(x, x) plus mean of k(y, y), each row with itself.
    """

    values: np.ndarray
    cross: np.ndarray
    self_similarity: float


def permuted_indicators(n_x: int, n_y: int, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Labels (1 + permutations, n_x + n_y): 1 where a row counts as x. Row 0 is the observed labelling.

    The n_x smallest of n_x + n_y uniform keys mark a uniform subset: less work than a shuffle.
    """
    total = n_x + n_y
    labels = np.zeros((1 + permutations, total), dtype=np.int8)
    labels[0, :n_x] = 1
    step = max(1, 4_000_000 // total)
    for start in range(1, 1 + permutations, step):
        part = labels[start : start + step]
        keys = rng.random(part.shape, dtype=np.float32)
        part[:] = keys <= np.partition(keys, n_x - 1, axis=1)[:, n_x - 1 : n_x]
        for row in np.flatnonzero(part.sum(1, dtype=np.int64) != n_x):  # equal keys at the limit: redrawn
            part[row] = rng.permutation(labels[0])
    return labels


def tile_size(rows: int, device: torch.device, threads: int) -> int:
    """Edge of a square tile: what suits the device, or less where few rows would leave threads without
    work, or the halves of the diagonal tiles that are computed for nothing would show."""
    if device.type == "cuda":
        return CUDA_TILE
    return max(CPU_TILE // 2, min(CPU_TILE, rows // max(2 * threads, 16)))


def exact_statistics(
    kernel: TileKernel, z: Features, n_x: int, labels: np.ndarray, workers: Workers | None = None
) -> Statistics:
    """Unbiased MMD^2 for every labelling in one pass over the tiles of the upper triangle.

    With s the 0/1 labels of one permutation, s' = s - c, K the kernel matrix without its diagonal and
    r = K 1, everything follows from s'K s' and s'r. The first is summed as (S'_i K_ij) * S'_j over tiles:
    one matrix product for all permutations. The constant c is the share of x, rounded to 1/64: centred
    labels make the products nearly cancel, so float32 keeps its digits, and such labels add up exactly in
    float32, so that equal rows give equal values to the last bit. Sums over tiles are float64.

    Args:
        kernel: fills the tiles.
        z: the pooled rows, x first.
        n_x: how many of them are x.
        labels: from `permuted_indicators`.
        workers: threads that share the tiles, in turn; default none.

    Cost: N^2 / 2 (d + bandwidths * permutations) multiply-adds; memory of one tile a thread
    and of the labels in float32.
    """
    device, total, count = z.rows.device, len(z), len(labels)
    shift = round(64 * n_x / total) / 64
    signs = torch.ones(count + 1, total, device=device)  # the last row stays 1: it gives the column sums of K
    signs[:count].copy_(torch.from_numpy(labels)).sub_(shift)
    threads = workers.threads if workers else 1
    starts = range(0, total, tile_size(total, device, threads))
    tiles = [(i, j) for i in starts for j in starts if i <= j]
    shares = [tiles[first::threads] for first in range(threads)]  # fixed: sums are always in one order

    def work(share: list[tuple[int, int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return _tile_sums(kernel, z, signs, share, starts.step)

    parts = list(workers.map(work, shares) if workers else map(work, shares))
    quadratic, row_sums = (torch.stack(side).sum(0) for side in zip(*parts, strict=True))
    diagonal = kernel.diagonal(z).double()
    self_similarity = float(diagonal[:n_x].mean() + diagonal[n_x:].mean())
    values, cross = _from_sums(quadratic, row_sums, signs[:count], n_x, shift)
    return Statistics(values, cross, self_similarity)


def _tile_sums(
    kernel: TileKernel, z: Features, signs: torch.Tensor, tiles: list[tuple[int, int]], edge: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """s'K s' (bandwidths, labellings) and K 1 (bandwidths, rows), summed over some tiles of the upper
    triangle."""
    count, device = len(signs) - 1, signs.device
    quadratic = torch.zeros(len(kernel), count, dtype=torch.float64, device=device)
    row_sums = torch.zeros(len(kernel), len(z), dtype=torch.float64, device=device)
    for i, j in tiles:
        left, right = signs[:, i : i + edge], signs[:count, j : j + edge]
        for index, tile in enumerate(kernel.tiles(z.part(i, i + edge), z.part(j, j + edge))):
            if i == j and index == 0:
                tile.fill_diagonal_(0.0)
            product = left @ tile
            row_sums[index, j : j + edge] += product[-1]
            if i != j:
                row_sums[index, i : i + edge] += tile.sum(1)
            quadratic[index] += torch.linalg.vecdot(product[:count], right).mul_(1.0 if i == j else 2.0)
    return quadratic, row_sums


def _from_sums(
    quadratic: torch.Tensor, row_sums: torch.Tensor, signs: torch.Tensor, n_x: int, shift: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turn s'K s' and r = K 1 into the unbiased MMD^2 of every labelling, and the observed mean of k(x, y).

    With s = s' + c: p = s.r, T = 1.r and within = s K s (pairs inside x) follow; the pairs inside y sum to
    T - 2p + within, those across to p - within.
    """
    n_y = signs.shape[1] - n_x
    everything = row_sums.sum(1, keepdim=True)
    mean = everything / signs.shape[1]
    centred = (row_sums - mean).float()
    touching = (centred @ signs.T).double() + mean * n_x  # centred sums to zero: c drops out
    # s'K s' = within - 2 c p + c^2 T
    within = quadratic + 2 * shift * touching - shift**2 * everything
    outside = everything - 2 * touching + within
    across = touching - within
    values = within / (n_x * (n_x - 1)) + outside / (n_y * (n_y - 1)) - 2 * across / (n_x * n_y)
    return values.cpu().numpy(), (across[:, 0] / (n_x * n_y)).cpu().numpy()
