"""Kernels against scikit-learn, and the bandwidth heuristics against SciPy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.metrics import pairwise

from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric import kernels


@pytest.fixture(scope="module")
def xy():
    rng = np.random.default_rng(0)
    return rng.normal(size=(7, 4)), rng.normal(size=(5, 4))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("rbf", lambda x, y: pairwise.rbf_kernel(x, y, gamma=1 / (2 * 1.7**2))),
        ("laplacian", lambda x, y: pairwise.laplacian_kernel(x, y, gamma=1 / 1.7)),
        ("cosine", pairwise.cosine_similarity),
        ("linear", pairwise.linear_kernel),
        ("polynomial", lambda x, y: pairwise.polynomial_kernel(x, y, degree=3, coef0=1)),
    ],
)
def test_each_kernel_is_that_of_scikit_learn(xy, name, reference):
    found = kernels.kernel_matrix(*map(torch.from_numpy, xy), name, [1.7])
    np.testing.assert_allclose(found.numpy(), reference(*xy), rtol=1e-10)


def test_several_bandwidths_are_averaged(xy):
    found = kernels.kernel_matrix(*map(torch.from_numpy, xy), "rbf", [0.5, 2.0])
    expected = sum(pairwise.rbf_kernel(*xy, gamma=1 / (2 * s**2)) for s in (0.5, 2.0)) / 2
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_distances_keep_their_digits_far_from_the_origin():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(20, 8))
    far = torch.from_numpy(x + 1000.0).float()
    near = kernels.rbf_kernel(far, far, 2.0).numpy()
    np.testing.assert_allclose(near, pairwise.rbf_kernel(x, gamma=1 / 8), atol=1e-3)


def test_half_precision_is_raised():
    x = torch.ones(3, 2, dtype=torch.bfloat16)
    assert kernels.rbf_kernel(x, x).dtype == torch.float32
    assert kernels.rbf_kernel(x, x.double()).dtype == torch.float64


@pytest.mark.parametrize("name", sorted(kernels.KERNELS))
def test_gradients_are_finite_where_rows_coincide(name):
    x = torch.zeros(3, 2, requires_grad=True)
    kernels.kernel_matrix(x, x, name, [1.0]).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("name", "metric"), [("rbf", "euclidean"), ("laplacian", "cityblock")])
def test_the_median_is_that_of_all_pairs_of_the_pooled_rows(xy, name, metric):
    expected = np.median(pdist(np.concatenate(xy), metric))
    assert kernels.median_bandwidth(*xy, kernel=name) == pytest.approx(expected)


def test_the_median_of_a_draw_is_near_and_repeats():
    x = np.random.default_rng(2).normal(size=(5000, 6)).astype(np.float32)
    exact = np.median(pdist(x[:2000]))
    drawn = kernels.median_bandwidth(x, max_rows=400, seed=3)
    assert drawn == pytest.approx(exact, rel=0.05)
    assert drawn == kernels.median_bandwidth(x, max_rows=400, seed=3)
    assert drawn != kernels.median_bandwidth(x, max_rows=400, seed=4)


def test_the_median_ignores_which_side_a_row_is_on():
    z = np.random.default_rng(2).normal(size=(3000, 3))
    assert kernels.median_bandwidth(z[:100], z[100:]) == kernels.median_bandwidth(z[:2000], z[2000:])


def test_duplicates_and_constant_rows_get_a_usable_bandwidth():
    many_zeros = np.array([[0.0]] * 9 + [[3.0]])
    assert kernels.median_bandwidth(many_zeros) == 3.0
    assert kernels.median_bandwidth(np.ones((5, 2))) == 1.0
    assert kernels.median_bandwidth(np.ones((1, 2))) == 1.0


def test_tensors_and_arrays_give_the_same_median(xy):
    assert kernels.median_bandwidth(*map(torch.from_numpy, xy)) == kernels.median_bandwidth(*xy)


def test_bad_input_is_explained(xy):
    x, y = xy
    with pytest.raises(NlpTransferError, match="did you mean 'rbf'"):
        kernels.kernel_matrix(torch.from_numpy(x), torch.from_numpy(y), "rbff")
    with pytest.raises(NlpTransferError, match="bandwidth"):
        kernels.bandwidth_grid(0.0)
    with pytest.raises(NlpTransferError, match="bandwidth"):
        kernels.kernel_matrix(torch.from_numpy(x), torch.from_numpy(y), "rbf", [])
    with pytest.raises(DataError, match="different widths"):
        kernels.median_bandwidth(x, y[:, :2])
    with pytest.raises(DataError, match="NaN"):
        kernels.median_bandwidth(np.full((3, 2), np.nan))
    with pytest.raises(DataError, match=r"reshape\(-1, 1\)"):
        kernels.median_bandwidth(np.ones(3))
    with pytest.raises(DataError, match="not numeric"):
        kernels.median_bandwidth(np.array([["a"], ["b"]]))
