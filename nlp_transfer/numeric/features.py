"""Maps of feature rows: affine, Gaussian kernel, and Nystroem features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from nlp_transfer.numeric.draws import draw_rows
from nlp_transfer.numeric.kernels import full_precision, median_bandwidth, rbf_kernel


def gaussian_matrix(x: np.ndarray, y: np.ndarray, bandwidth: float) -> np.ndarray:
    """exp(-|x - y|^2 / (2 bandwidth^2)) of the rows of two arrays, float64 [n, m]."""
    with full_precision():
        a, b = (torch.tensor(np.asarray(side), dtype=torch.float64) for side in (x, y))
        return rbf_kernel(a, b, bandwidth).numpy()


@dataclass(frozen=True, eq=False)
class LinearMap:
    """Rows x become weight @ x + bias.

    Attributes:
        weight: (k, d).
        bias: (k,).
    """

    weight: np.ndarray
    bias: np.ndarray

    @classmethod
    def identity(cls, size: int) -> LinearMap:
        """The map that changes nothing."""
        return cls(np.eye(size), np.zeros(size))

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Map rows (n, d) to (n, k), float64."""
        return np.asarray(rows, dtype=np.float64) @ self.weight.T + self.bias


@dataclass(frozen=True, eq=False)
class KernelMap:
    """Rows x become weight @ [exp(-|x - z_l|^2 / (2 bandwidth^2)) over the landmarks z_l] + bias.

    Attributes:
        landmarks: (r, d).
        bandwidth: a distance.
        weight: (k, r).
        bias: (k,).
    """

    landmarks: np.ndarray
    bandwidth: float
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Map rows (n, d) to (n, k), float64."""
        return gaussian_matrix(rows, self.landmarks, self.bandwidth) @ self.weight.T + self.bias


class NystroemMap(KernelMap):
    """Features phi(x) whose inner products are about k(x, y), exactly so between landmarks.

    Source: Williams and Seeger 2001.
    """

    @classmethod
    def fit(
        cls,
        *sides: np.ndarray,
        bandwidth: float | None = None,
        landmarks: int = 500,
        seed: int = 0,
    ) -> NystroemMap:
        """Draw landmarks from all sides together; all rows are landmarks where there are no more.

        Cost: O(landmarks^3 + landmarks^2 d).
        """
        rows = np.concatenate(sides)
        width = median_bandwidth(rows, seed=seed) if bandwidth is None else float(bandwidth)
        rows = draw_rows(rows, landmarks, np.random.default_rng(seed))
        values, vectors = np.linalg.eigh(gaussian_matrix(rows, rows, width))
        keep = values > values[-1] * 1e-12
        root = vectors[:, keep] / np.sqrt(values[keep])
        return cls(rows, width, root.T, np.zeros(int(keep.sum())))


Map = LinearMap | KernelMap
