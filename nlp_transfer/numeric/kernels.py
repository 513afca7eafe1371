"""Positive definite kernels on rows of features, and the bandwidths to use them with.

Every kernel takes ``x`` (n, d) and ``y`` (m, d) and returns the matrix (n, m) of similarities, on the
device and in the floating type of its input (half precision is raised to float32 first), and is
differentiable in both. Bandwidths are in the unit of the features: a distance, not a variance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from nlp_transfer.errors import NlpTransferError
from nlp_transfer.numeric._checks import Array, at_least, finite_rows, one_of, same_width, shaped
from nlp_transfer.numeric.draws import draw_numbers

DEFAULT_FACTORS = (8**-0.5, 1.0, 8**0.5)
"""Multiples of the median distance: each Gaussian kernel is the eighth power of the next wider one."""

KernelFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@contextmanager
def full_precision() -> Iterator[None]:
    """Switch reduced-precision matrix products (TF32, bfloat16) and autocast off, and restore them on the
    way out.

    A distance is a difference of products: with 10 bits of mantissa the kernel of two near rows would be
    noise.
    """
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


def upcast(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Raise tensors to one floating type of at least float32, the widest among them (float64 stays)."""
    kind = torch.float32
    for tensor in tensors:
        if tensor.is_floating_point():
            kind = torch.promote_types(kind, tensor.dtype)
    return tuple(tensor.to(kind) for tensor in tensors)


def squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances (n, m), in [0, inf), by one matrix product.

    Both sides are shifted by the mean of `y` first, so that a large common offset costs no digits.
    Its gradient is finite everywhere, at coinciding rows too. Cost: O(n m d) time, O(n m) memory.
    """
    centre = y.detach().mean(dim=0)
    x, y = x - centre, y - centre
    square = (x * x).sum(1)[:, None] + (y * y).sum(1)[None, :] - 2.0 * (x @ y.T)
    return square.clamp_min(0.0)


def rbf_kernel(x: torch.Tensor, y: torch.Tensor, bandwidth: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Gaussian kernel exp(-||x - y||^2 / (2 bandwidth^2)), in (0, 1].

    It is characteristic: its MMD is zero only between equal distributions (Gretton et al. 2012, section 2.2).

    Args:
        x: rows (n, d).
        y: rows (m, d).
        bandwidth: the sigma of the exponent, a distance; default 1.0.

    Example:
        >>> import torch
        >>> round(float(rbf_kernel(torch.zeros(1, 1), torch.ones(1, 1))), 4)
        0.6065
    """
    x, y = upcast(x, y)
    return torch.exp(squared_distances(x, y) / (-2.0 * bandwidth**2))


def laplacian_kernel(x: torch.Tensor, y: torch.Tensor, bandwidth: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Laplacian kernel exp(-||x - y||_1 / bandwidth), in (0, 1].

    Characteristic, with heavier tails than the Gaussian. The city-block distance has no matrix product
    behind it: expect it to be several times slower than `rbf_kernel`.
    """
    x, y = upcast(x, y)
    return torch.exp(torch.cdist(x, y, p=1.0) / (-bandwidth))


def cosine_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cosine similarity, in [-1, 1]; a row of zeros is similar to nothing (0).

    Not characteristic: its MMD sees a difference of the mean directions only.
    """
    x, y = upcast(x, y)
    return torch.nn.functional.normalize(x, dim=1) @ torch.nn.functional.normalize(y, dim=1).T


def linear_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Inner products x . y.

    Not characteristic: its MMD is the distance between the two means.
    """
    x, y = upcast(x, y)
    return x @ y.T


def polynomial_kernel(
    x: torch.Tensor, y: torch.Tensor, degree: int = 3, gamma: float | None = None, coef0: float = 1.0
) -> torch.Tensor:
    """Polynomial kernel (gamma x . y + coef0)^degree.

    Its MMD compares all moments up to `degree`. Defaults as in scikit-learn: degree 3, gamma 1/d, coef0 1.
    With gamma 1/d and degree 3 its MMD is the Kernel Inception Distance (Binkowski et al. 2018).
    """
    x, y = upcast(x, y)
    return (x @ y.T * (1.0 / x.shape[1] if gamma is None else gamma) + coef0) ** degree


KERNELS: dict[str, Callable[..., torch.Tensor]] = {
    "rbf": rbf_kernel,
    "laplacian": laplacian_kernel,
    "cosine": cosine_kernel,
    "linear": linear_kernel,
    "polynomial": polynomial_kernel,
}
"""Kernels by name."""

BANDWIDTH_KERNELS = frozenset({"rbf", "laplacian"})
"""The kernels that have a bandwidth."""


def kernel_matrix(
    x: torch.Tensor,
    y: torch.Tensor,
    kernel: str | KernelFunction = "rbf",
    bandwidths: Sequence[float | torch.Tensor] = (1.0,),
) -> torch.Tensor:
    """Matrix (n, m) of one kernel, averaged over `bandwidths` where the kernel has one.

    A mean of kernels is a kernel, and its MMD^2 is the mean of theirs.

    Args:
        x: rows (n, d).
        y: rows (m, d).
        kernel: a name in `KERNELS`, or a function of two row blocks that returns their matrix.
        bandwidths: used by "rbf" and "laplacian", ignored by the others.

    Raises:
        NlpTransferError: an unknown name, or no bandwidth where one is needed.

    Cost: O(n m d) time and O(n m) memory per bandwidth; the distances are computed once.
    """
    if not isinstance(kernel, str):
        return kernel(x, y)
    one_of("kernel", kernel, KERNELS)
    if kernel not in BANDWIDTH_KERNELS:
        return KERNELS[kernel](x, y)
    if len(bandwidths) == 0:
        raise NlpTransferError(f"the {kernel} kernel needs a bandwidth", expected="one or more", found="none")
    x, y = upcast(x, y)
    distance = squared_distances(x, y) if kernel == "rbf" else torch.cdist(x, y, p=1.0)
    total = torch.zeros_like(distance)
    for width in bandwidths:
        total = total + torch.exp(distance / (-2.0 * width**2 if kernel == "rbf" else -width))
    return total / len(bandwidths)


def median_bandwidth(
    x: Array, y: Array | None = None, *, kernel: str = "rbf", max_rows: int = 1000, seed: int = 0
) -> float:
    """Median distance between two different rows of the pooled sample: the median heuristic.

    Euclidean distance for "rbf", city-block for "laplacian". The rows are drawn from both sides together,
    without regard to the side, so a permutation test with this bandwidth keeps its level.

    Args:
        x: rows (n, d); an ``np.memmap`` is read only where rows are drawn.
        y: more rows (m, d); default none.
        kernel: "rbf" or "laplacian".
        max_rows: larger samples are drawn down to this many rows; default 1000 (499,500 distances).
        seed: of that draw.

    Returns: A positive distance. When more than half of the distances are zero (duplicates): the mean of
        the positive ones; when all rows coincide: 1.0.

    Raises:
        DataError: not a matrix, different widths, or NaN among the rows drawn.

    Cost: O(max_rows^2 d). Source: Gretton et al. 2012, section 8; Garreau et al. 2018 on when it is a poor
    choice (a difference at a much smaller scale than the data: see `bandwidth_grid`).

    Example:
        >>> import numpy as np
        >>> median_bandwidth(np.array([[0.0], [1.0], [3.0]]))
        2.0
    """
    one_of("kernel with a bandwidth", kernel, BANDWIDTH_KERNELS)
    at_least("max_rows", max_rows, 2)
    return median_of_rows(sample_rows(x, y, max_rows, seed), kernel)


def median_of_rows(sample: np.ndarray, kernel: str) -> float:
    """The median distance between two of these rows, as `median_bandwidth` defines it."""
    if len(sample) < 2:
        return 1.0
    rows = torch.from_numpy(sample - sample.mean(0))
    if kernel == "rbf":
        length = (rows * rows).sum(1)
        with full_precision():
            square = torch.addmm(length.expand(len(rows), -1), rows, rows.T, alpha=-2.0).add_(length[:, None])
        low, high = _middle(square.numpy()[np.tri(len(rows), k=-1, dtype=bool)])
        # Far above the rounding noise of a matrix product, in float32 too: no need for the slow distances.
        if low > 1e-4 * float(length.max()):
            return float(np.sqrt(low) + np.sqrt(high)) / 2
    distance = torch.pdist(rows, p=2.0 if kernel == "rbf" else 1.0)
    median = sum(_middle(distance.numpy())) / 2
    if median > 0:
        return median
    positive = distance[distance > 0]
    return float(positive.mean()) if len(positive) else 1.0


def _middle(values: np.ndarray) -> tuple[float, float]:
    """The two middle values, equal for an odd number of them."""
    half = len(values) // 2
    parted = np.partition(values, half)  # one pivot: several times faster than two
    return float(parted[half] if len(values) % 2 else parted[:half].max()), float(parted[half])


def sample_rows(x: Array, y: Array | None, max_rows: int, seed: int) -> np.ndarray:
    """Draw up to `max_rows` rows of the pooled sample without replacement, as finite floats (rows, d).

    Only the rows drawn are read. float64 input stays float64, everything else becomes float32.
    """
    sides = [shaped("x", x)] if y is None else [shaped("x", x), shaped("y", y)]
    same_width(sides[0], sides[-1])
    sizes = [side.shape[0] for side in sides]
    picked = draw_numbers(sum(sizes), max_rows, np.random.default_rng(seed))
    parts, start = [], 0
    for side, size in zip(sides, sizes, strict=True):
        chosen = picked[(picked >= start) & (picked < start + size)] - start
        start += size
        if isinstance(side, torch.Tensor):
            part = side.detach()[torch.from_numpy(chosen).to(side.device)].cpu()
            parts.append((part if part.dtype == torch.float64 else part.float()).numpy())
        else:
            parts.append(side[chosen].astype(np.float64 if side.dtype == np.float64 else np.float32))
    rows = np.concatenate(parts)
    finite_rows("the rows drawn from x and y", torch.from_numpy(rows))
    return rows


def bandwidth_grid(median: float, factors: Sequence[float] = DEFAULT_FACTORS) -> tuple[float, ...]:
    """Bandwidths around the median heuristic, narrowest first.

    On sentence embeddings every bandwidth from about the median upwards behaves like the linear kernel: it
    sees a change of the mean and little else. A change of spread, of local structure or of a small cluster
    shows at a quarter to a half of the median. The default (0.35, 1, 2.8) covers both, and three squarings
    lead from one Gaussian kernel to the next.

    Args:
        median: a positive distance, as `median_bandwidth` returns it.
        factors: multiples of it; default (1 / sqrt(8), 1, sqrt(8)).

    Raises:
        NlpTransferError: a bandwidth that is not a positive number.

    Example:
        >>> [round(width, 2) for width in bandwidth_grid(2.0)]
        [0.71, 2.0, 5.66]
    """
    grid = tuple(sorted(float(median) * float(factor) for factor in factors))
    return checked_bandwidths(grid)


def checked_bandwidths(bandwidths: Sequence[float] | float) -> tuple[float, ...]:
    """Return the bandwidths as a sorted tuple of positive, finite floats."""
    many = bandwidths if isinstance(bandwidths, (Sequence, np.ndarray)) else [bandwidths]
    grid = tuple(sorted(float(width) for width in many))
    if not grid or not all(np.isfinite(width) and width > 0 for width in grid):
        raise NlpTransferError(
            "a bandwidth is out of range", expected="positive numbers", found=repr(bandwidths)
        )
    return grid
