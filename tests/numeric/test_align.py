"""Maps between domains against closed forms, naive matrices, scikit-learn and POT."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats
from sklearn.decomposition import PCA

from nlp_transfer.numeric.align import (
    coral,
    gaussian_transport,
    sample_transport,
    select_features,
    subspace_alignment,
    transfer_components,
)

TIGHT = {"rtol": 1e-6, "atol": 1e-6}


def domains(n=60, m=45, d=6, seed=0):
    """Two correlated clouds of other centres and shapes."""
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + rng.normal(size=d)
    return source, rng.normal(size=(m, d)) @ rng.normal(size=(d, d)) + 2


def covariances(a, b, share):
    """By the definition, with `share` of the mean variance on the diagonals."""
    found = [(side - side.mean(0)).T @ (side - side.mean(0)) / (len(side) - 1) for side in (a, b)]
    unit = share * np.mean([np.diag(matrix).mean() for matrix in found]) * np.eye(a.shape[1])
    return found[0] + unit, found[1] + unit


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_coral_is_whitening_and_colouring(share):
    a, b = domains()
    of_source, of_target = covariances(a, b, share)
    matrix = linalg.inv(linalg.sqrtm(of_source)).real @ linalg.sqrtm(of_target).real
    found = coral(a, b, regularisation=share)
    np.testing.assert_allclose(found.source(a), (a - a.mean(0)) @ matrix + b.mean(0), **TIGHT)
    np.testing.assert_array_equal(found.target(b), b)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(20, 60), st.integers(20, 60), st.integers(0, 2**31))
def test_both_affine_maps_give_the_targets_moments(d, n, m, seed):
    a, b = domains(n, m, d, seed)
    for method in (coral, gaussian_transport):
        moved = method(a, b).source(a)
        np.testing.assert_allclose(moved.mean(0), b.mean(0), atol=1e-6)
        np.testing.assert_allclose(np.cov(moved, rowvar=False), np.cov(b, rowvar=False), rtol=1e-5, atol=1e-5)


def test_without_centring_the_sources_mean_stays():
    a, b = domains()
    for method in (coral, gaussian_transport):
        np.testing.assert_allclose(method(a, b, centre=False).source(a).mean(0), a.mean(0), atol=1e-9)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_gaussian_transport_is_pots(share):
    """POT divides covariances by n, here by n - 1: equal sizes, and its `reg` in that unit."""
    a, b = domains(50, 50)
    raw = np.mean([np.trace(np.cov(side, rowvar=False)) / a.shape[1] for side in (a, b)])
    matrix, bias = ot.gaussian.empirical_bures_wasserstein_mapping(a, b, reg=share * raw * 49 / 50)
    np.testing.assert_allclose(
        gaussian_transport(a, b, regularisation=share).source(a), a @ matrix + bias, **TIGHT
    )


def test_transport_moves_less_than_coral():
    """It is the cheapest of all maps between the two Gaussians."""
    a, b = domains(seed=3)
    moved = [np.square(method(a, b).source(a) - a).sum() for method in (coral, gaussian_transport)]
    assert moved[1] < moved[0]


def test_fewer_rows_than_columns_stay_finite():
    a, b = domains(5, 4, 12)
    for method in (coral, gaussian_transport):
        for share in (0.0, 1.0):
            assert np.isfinite(method(a, b, regularisation=share).source(a)).all()


def test_subspace_alignment_is_built_from_principal_components():
    a, b = domains()
    of_source, of_target = (PCA(3).fit(side).components_.T for side in (a, b))
    found = subspace_alignment(a, b, dimensions=3)
    at_source, at_target = found.source(a), found.target(b)
    expected = (b - b.mean(0)) @ of_target
    signs = np.sign((at_target * expected).sum(0))
    np.testing.assert_allclose(at_target * signs, expected, **TIGHT)
    np.testing.assert_allclose(
        at_source * signs, (a - a.mean(0)) @ of_source @ of_source.T @ of_target, **TIGHT
    )


def gaussians(x, y, width):
    return np.array([[np.exp(-np.square(u - v).sum() / (2 * width**2)) for v in y] for u in x])


def naive_components(a, b, mu, width, count):
    """Pan et al. 2011, equation 7, on the whole kernel matrix: eigenvectors of (KLK + mu I)^-1 KHK."""
    rows, n, m = np.concatenate([a, b]), len(a), len(b)
    kernel = gaussians(rows, rows, width)
    signs = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)])
    below = kernel @ np.outer(signs, signs) @ kernel + mu * np.eye(n + m)
    centring = np.eye(n + m) - 1 / (n + m)
    values, vectors = linalg.eig(linalg.solve(below, kernel @ centring @ kernel))
    order = np.argsort(-values.real)[:count]
    weights = vectors.real[:, order]
    return rows, weights / np.sqrt(np.diag(weights.T @ below @ weights))


@pytest.mark.parametrize("mu", [0.1, 1.0])
def test_transfer_components_are_those_of_the_whole_kernel(mu):
    """On the fitted rows and on new ones; a component's sign is free."""
    a, b = domains(25, 20, 3)
    new = domains(8, 8, 3, seed=9)[0]
    rows, weights = naive_components(a, b, mu, 3.0, 4)
    found = transfer_components(a, b, dimensions=4, mu=mu, bandwidth=3.0, landmarks=100)
    signs = np.sign((found.source(rows) * (gaussians(rows, rows, 3.0) @ weights)).sum(0))
    for rows_given in (a, b, new):
        np.testing.assert_allclose(
            found.source(rows_given) * signs, gaussians(rows_given, rows, 3.0) @ weights, **TIGHT
        )
        np.testing.assert_array_equal(found.source(rows_given), found.target(rows_given))


def test_few_landmarks_come_near_the_whole_kernel():
    a, b = domains(150, 120, 3)
    whole, part = (
        transfer_components(a, b, dimensions=2, bandwidth=6.0, landmarks=landmarks) for landmarks in (500, 60)
    )
    for column in range(2):
        one, other = whole.target(b)[:, column], part.target(b)[:, column]
        assert abs(np.corrcoef(one, other)[0, 1]) > 0.99


def naive_sinkhorn(cost, entropy, rounds=1000):
    kernel = np.exp(-cost / entropy)
    left, right = np.ones(len(cost)) / len(cost), np.ones(cost.shape[1]) / cost.shape[1]
    u, v = np.ones(len(left)), np.ones(len(right))
    for _ in range(rounds):
        u = left / (kernel @ v)
        v = right / (kernel.T @ u)
    return u[:, None] * kernel * v


def scaled_cost(a, b):
    cost = np.array([[np.square(x - y).sum() for y in b] for x in a])
    return cost / cost.mean()


@pytest.mark.parametrize("entropy", [0.05, 0.5])
def test_sample_transport_is_sinkhorns_barycentre(entropy):
    a, b = domains(30, 20, 3)
    coupling = naive_sinkhorn(scaled_cost(a, b), entropy)
    expected = coupling @ b / coupling.sum(1, keepdims=True)
    found = sample_transport(a, b, entropy=entropy)
    np.testing.assert_allclose(found.source(a), expected, **TIGHT)
    np.testing.assert_array_equal(found.target(b), b)


def test_class_term_is_courtys():
    """Majorisation-minimisation of the l1/2 norm of each target row's mass from each class."""
    a, b = domains(24, 18, 3)
    labels = np.arange(24) % 3
    cost, change = scaled_cost(a, b), 0.0
    for _ in range(10):
        coupling = naive_sinkhorn(cost + 0.2 * change, 0.1)
        change = np.ones_like(cost)
        for label in range(3):
            rows = labels == label
            change[rows] = 0.5 * (coupling[rows].sum(0) + 1e-16) ** -0.5
    found = sample_transport(a, b, labels=labels, entropy=0.1, class_weight=0.2)
    np.testing.assert_allclose(found.source(a), coupling @ b / coupling.sum(1, keepdims=True), **TIGHT)


def test_little_entropy_finds_the_permutation():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(12, 2)) * 5
    order = rng.permutation(12)
    found = sample_transport(a, a[order] + 0.01, entropy=3e-4)
    np.testing.assert_allclose(found.source(a), a + 0.01, atol=1e-6)


def test_rows_that_were_not_coupled_move_as_their_neighbour():
    a, b = domains(40, 40, 2)
    found = sample_transport(a, b, max_rows=10, seed=1)
    near = a + 1e-9
    np.testing.assert_allclose(found.source(near) - near, found.source(a) - a, atol=1e-6)
    assert len(np.unique((found.source(a) - a).round(9), axis=0)) <= 10


def test_features_are_chosen_by_f_values():
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    a = rng.normal(size=(80, 7)) + np.outer(labels, np.arange(7))
    b = rng.normal(size=(50, 7)) + np.array([3, 0, 2, 1, 0, 4, 0.5])
    relevance = np.array([stats.f_oneway(a[labels == 0, j], a[labels == 1, j])[0] for j in range(7)])
    between = np.array([stats.f_oneway(a[:, j], b[:, j])[0] for j in range(7)])
    by_relevance, by_invariance = stats.rankdata(-relevance), stats.rankdata(between)
    for by, ranks in {
        "relevance": by_relevance,
        "invariance": by_invariance,
        "both": by_relevance + by_invariance,
    }.items():
        chosen = select_features(a, b, relevance, keep=3, by=by)
        cut = np.sort(ranks)[2]
        assert (
            {j for j in range(7) if ranks[j] < cut} <= set(chosen) <= {j for j in range(7) if ranks[j] <= cut}
        )
