"""The MMD estimate: double loops, closed forms, gradients, properties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric.kernels import KERNELS, kernel_matrix
from nlp_transfer.numeric.mmd import mmd2


def loop_mmd2(x, y, k, unbiased=True):
    """Equations 3 and 5 of Gretton et al. 2012, as written: sums over pairs."""
    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j or not unbiased)
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j or not unbiased)
    xy = sum(k(x[i], y[j]) for i in range(n) for j in range(m))
    pairs = (n * (n - 1), m * (m - 1)) if unbiased else (n * n, m * m)
    return xx / pairs[0] + yy / pairs[1] - 2 * xy / (n * m)


def gaussian(width):
    return lambda a, b: math.exp(-sum((s - t) ** 2 for s, t in zip(a, b, strict=True)) / (2 * width**2))


POINT_KERNELS = {
    "rbf": gaussian(1.3),
    "laplacian": lambda a, b: math.exp(-sum(abs(s - t) for s, t in zip(a, b, strict=True)) / 1.3),
    "cosine": lambda a, b: float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)),
    "linear": lambda a, b: float(np.dot(a, b)),
    "polynomial": lambda a, b: float((np.dot(a, b) / len(a) + 1) ** 3),
}


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("name", sorted(KERNELS))
def test_it_is_the_double_loop(name, unbiased):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(9, 3)), rng.normal(0.5, 1.2, size=(6, 3))
    widths = [1.3] if name in ("rbf", "laplacian") else None
    found = mmd2(torch.from_numpy(x), torch.from_numpy(y), kernel=name, bandwidths=widths, unbiased=unbiased)
    assert float(found) == pytest.approx(loop_mmd2(x, y, POINT_KERNELS[name], unbiased), rel=1e-9)


def test_gaussians_under_a_gaussian_kernel_have_a_closed_form():
    """E k(u, v) for u - v ~ N(delta, s2 I) is (w2 / (w2 + s2))^(d/2) exp(-|delta|^2 / (2 (w2 + s2)))."""
    d, width, shift, spread = 3, 1.5, 0.7, 1.4

    def mean_kernel(s2, delta2):
        return (width**2 / (width**2 + s2)) ** (d / 2) * math.exp(-delta2 / (2 * (width**2 + s2)))

    truth = mean_kernel(2, 0) + mean_kernel(2 * spread**2, 0) - 2 * mean_kernel(1 + spread**2, d * shift**2)
    rng = np.random.default_rng(1)
    estimates = [
        float(
            mmd2(
                torch.from_numpy(rng.normal(size=(400, d))),
                torch.from_numpy(rng.normal(shift, spread, size=(300, d))),
                bandwidths=[width],
            )
        )
        for _ in range(30)
    ]
    error = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates) - truth) < 4 * error
    assert error < 0.03 * truth


def test_the_linear_kernel_measures_the_distance_of_means():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(8, 4)), rng.normal(1, 1, size=(5, 4))
    found = mmd2(torch.from_numpy(x), torch.from_numpy(y), kernel="linear", unbiased=False)
    assert float(found) == pytest.approx(((x.mean(0) - y.mean(0)) ** 2).sum())


def test_whole_weights_repeat_rows():
    """Weight 2 is the row twice: exactly so for the biased form, where pairs of copies count."""
    rng = np.random.default_rng(3)
    x, y = torch.from_numpy(rng.normal(size=(5, 2))), torch.from_numpy(rng.normal(size=(4, 2)))
    weights = torch.tensor([2, 1, 1, 3, 1])
    repeated = x.repeat_interleave(weights, dim=0)
    found = mmd2(x, y, weights_x=weights, bandwidths=[1.0], unbiased=False)
    assert float(found) == pytest.approx(float(mmd2(repeated, y, bandwidths=[1.0], unbiased=False)))


def test_unbiased_weights_against_a_loop():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(4, 2))
    u, v = rng.random(5), rng.random(4)
    k = gaussian(0.9)

    def within(z, w):
        pairs = [(i, j) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(w[i] * w[j] * k(z[i], z[j]) for i, j in pairs) / sum(w[i] * w[j] for i, j in pairs)

    across = sum(u[i] * v[j] * k(x[i], y[j]) for i in range(5) for j in range(4)) / (u.sum() * v.sum())
    tensors = [torch.from_numpy(a) for a in (x, y, u, v)]
    found = mmd2(*tensors[:2], weights_x=tensors[2], weights_y=tensors[3], bandwidths=[0.9])
    assert float(found) == pytest.approx(within(x, u) + within(y, v) - 2 * across)


def test_importance_weights_undo_a_planted_shift():
    """x drawn from the wrong mixture and weighted by the true ratio looks like y."""
    rng = np.random.default_rng(5)

    def draw(share, count):
        side = rng.random(count) < share
        return rng.normal(size=(count, 2)) + 3 * side[:, None], side

    (x, side), (y, _) = draw(0.2, 1500), draw(0.7, 1500)
    ratio = torch.from_numpy(np.where(side, 0.7 / 0.2, 0.3 / 0.8))
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    plain, weighted = (float(mmd2(x, y, bandwidths=[2.0], weights_x=w)) for w in (None, ratio))
    assert plain > 0.1
    assert abs(weighted) < 0.005


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("name", ["rbf", "laplacian", "cosine", "linear", "polynomial"])
def test_gradients_are_those_of_finite_differences(name, unbiased):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.randn(3, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    widths = [0.7, 1.4] if name in ("rbf", "laplacian") else None

    def penalty(a, b):
        return mmd2(a, b, kernel=name, bandwidths=widths, unbiased=unbiased)

    assert torch.autograd.gradcheck(penalty, (x, y))


@pytest.mark.parametrize("sizes", [(1, 1), (1, 5), (2, 1), (2, 2)])
def test_the_smallest_batches_train(sizes):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(size, 3, generator=generator).requires_grad_() for size in sizes)
    loss = mmd2(x, y)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(y.grad).all()
    if 1 in sizes:
        assert loss >= 0


def test_identical_rows_train():
    x = torch.ones(3, 2, requires_grad=True)
    loss = mmd2(x, torch.ones(2, 2))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(x.grad).all()


def test_a_step_along_the_gradient_shrinks_the_gap():
    generator = torch.Generator().manual_seed(2)
    x = (torch.randn(40, 3, generator=generator) + 2).requires_grad_()
    y = torch.randn(40, 3, generator=generator)
    before = mmd2(x, y)
    (gradient,) = torch.autograd.grad(before, x)
    assert mmd2(x - 5 * gradient, y) < before


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_raised_and_autocast_ignored(kind):
    generator = torch.Generator().manual_seed(3)
    x, y = (torch.randn(30, 16, generator=generator).to(kind) for _ in range(2))
    reference = mmd2(x.double(), y.double(), bandwidths=[4.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mmd2(x, y, bandwidths=[4.0])
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(reference), abs=1e-6)


def test_a_function_can_be_the_kernel():
    x, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    found = mmd2(x, y, kernel=lambda a, b: kernel_matrix(a, b, "rbf", [1.1]))
    assert float(found) == pytest.approx(float(mmd2(x, y, bandwidths=[1.1])))


MATRICES = hnp.arrays(
    np.float64, st.tuples(st.integers(2, 7), st.just(3)), elements=st.floats(-50, 50, allow_subnormal=False)
)


@settings(max_examples=40, deadline=None)
@given(MATRICES, MATRICES, st.sampled_from(sorted(KERNELS)), st.randoms(use_true_random=False))
def test_properties(x, y, name, random):
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    widths = [0.5, 3.0] if name in ("rbf", "laplacian") else None
    biased = mmd2(x, y, kernel=name, bandwidths=widths, unbiased=False)
    scale = max(1.0, *(float(kernel_matrix(z, z, name, widths or ()).abs().max()) for z in (x, y)))
    assert biased >= -1e-9 * scale
    assert mmd2(x, x, kernel=name, bandwidths=widths, unbiased=False).abs() <= 1e-9 * scale
    value = float(mmd2(x, y, kernel=name, bandwidths=widths))
    assert value == pytest.approx(float(mmd2(y, x, kernel=name, bandwidths=widths)), abs=1e-9 * scale)
    order = random.sample(range(len(x)), len(x))
    assert value == pytest.approx(float(mmd2(x[order], y, kernel=name, bandwidths=widths)), abs=1e-9 * scale)


def test_bad_input_is_explained():
    x = torch.ones(3, 2)
    with pytest.raises(DataError, match="different widths"):
        mmd2(x, torch.ones(3, 4))
    with pytest.raises(DataError, match="too few rows"):
        mmd2(x, torch.ones(0, 2))
    with pytest.raises(DataError, match="wrong shape"):
        mmd2(torch.ones(3), x)
    with pytest.raises(NlpTransferError, match="weights do not fit"):
        mmd2(x, x, weights_x=torch.ones(2))
    with pytest.raises(NlpTransferError, match="bandwidth"):
        mmd2(x, x, bandwidths=[-1.0])
