"""Divergences against SciPy, POT, closed forms and planted shifts."""

import math

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import linalg, stats
from scipy.spatial.distance import cdist, jensenshannon

from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric import divergence
from nlp_transfer.numeric.divergence import (
    class_conditional_mmd,
    coral_distance,
    energy_distance,
    frechet_distance,
    jensen_shannon,
    proxy_a_distance,
    sliced_wasserstein,
)
from nlp_transfer.numeric.mmd import mmd_test

ROWS = hnp.arrays(
    np.float64, st.tuples(st.integers(2, 9), st.just(2)), elements=st.floats(-20, 20, allow_subnormal=False)
)
DISTANCES = [energy_distance, sliced_wasserstein, frechet_distance, coral_distance]


@settings(max_examples=25, deadline=None)
@given(ROWS, ROWS, st.sampled_from(DISTANCES), st.randoms(use_true_random=False))
def test_distances_are_symmetric_blind_to_order_and_not_negative(x, y, distance, random):
    value = distance(x, y)
    assert value >= 0
    assert distance(y, x) == pytest.approx(value, abs=1e-4, rel=1e-6)
    assert distance(x[random.sample(range(len(x)), len(x))], y) == pytest.approx(value, abs=1e-4, rel=1e-6)
    assert distance(x, x) == pytest.approx(0, abs=1e-4)


# Proxy A-distance


def test_the_proxy_a_distance_of_gaussians_follows_the_bayes_error():
    """Two unit Gaussians at distance t are told apart at best with error Phi(-t / 2)."""
    rng = np.random.default_rng(0)
    for t in (0.0, 1.0, 2.0):
        x, y = rng.normal(size=(2000, 3)), rng.normal(size=(1000, 3))
        y[:, 0] += t
        found = proxy_a_distance(x, y)
        best = 2 * (1 - 2 * stats.norm.cdf(-t / 2))
        assert found.value == pytest.approx(best, abs=0.15)
        assert found.interval[0] <= found.value <= found.interval[1]
        assert found.value == pytest.approx(2 * (1 - 2 * min(found.error, 0.5)))


def test_no_column_is_remembered():
    """More columns than rows: an in-sample classifier would be perfect, a cross-fitted one guesses."""
    rng = np.random.default_rng(1)
    found = proxy_a_distance(rng.normal(size=(60, 300)), rng.normal(size=(60, 300)))
    assert found.value < 0.6
    assert found.error > 0.35


def test_sizes_do_not_flatter_the_classifier():
    rng = np.random.default_rng(2)
    assert proxy_a_distance(rng.normal(size=(1900, 2)), rng.normal(size=(100, 2))).value < 0.25


def test_the_interval_covers_as_a_binomial_does():
    """Standard error of the mean of two error rates, by the normal approximation."""
    rng = np.random.default_rng(3)
    found = proxy_a_distance(rng.normal(size=(500, 2)), rng.normal(1, 1, size=(400, 2)), bootstrap=4000)
    error = found.error
    spread = 4 * math.sqrt((error * (1 - error)) * (1 / 500 + 1 / 400)) / 2
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * spread, rel=0.15)


def test_large_sides_are_drawn_down_with_the_seed():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(400, 2)), rng.normal(1, 1, size=(300, 2))
    first, again, other = (proxy_a_distance(x, y, max_rows=100, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


# Energy distance


def test_in_one_dimension_the_energy_distance_is_that_of_scipy():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=50), rng.exponential(size=80)
    expected = stats.energy_distance(x, y)
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(expected, rel=1e-9)


def test_tiles_add_up_to_all_pairs(monkeypatch):
    monkeypatch.setattr(divergence, "TILE", 7)
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(30, 12)) + 100, rng.normal(0.5, 1, size=(23, 12)) + 100
    expected = math.sqrt(2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean())
    assert energy_distance(x, y) == pytest.approx(expected, rel=1e-8)


# Sliced Wasserstein


@pytest.mark.parametrize("sizes", [(40, 40), (40, 25), (7, 5), (1, 3)])
def test_in_one_dimension_it_is_the_wasserstein_distance(sizes):
    rng = np.random.default_rng(7)
    x, y = (rng.normal(size=size) for size in sizes)
    found = sliced_wasserstein(x[:, None], y[:, None], projections=3, order=1)
    assert found == pytest.approx(stats.wasserstein_distance(x, y))
    second = sliced_wasserstein(x[:, None], y[:, None], projections=3, order=2)
    assert second == pytest.approx(math.sqrt(ot.wasserstein_1d(x, y, p=2)))


def test_a_shifted_mean_has_a_closed_form():
    """Along a random direction u the shift v has length |v . u|, whose square has the mean |v|^2 / d."""
    x = np.random.default_rng(8).normal(size=(300, 6))
    found = sliced_wasserstein(x, x + 2.0, projections=4000)
    assert found == pytest.approx(2.0 * math.sqrt(6) / math.sqrt(6), rel=0.03)
    assert found == sliced_wasserstein(x, x + 2.0, projections=4000)
    assert found != sliced_wasserstein(x, x + 2.0, projections=4000, seed=1)


def test_it_is_that_of_pot_along_the_same_directions():
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=(30, 4)), rng.normal(1, 2, size=(45, 4))
    directions = np.random.default_rng(0).normal(size=(4, 20))
    directions /= np.linalg.norm(directions, axis=0)
    expected = ot.sliced_wasserstein_distance(x, y, projections=directions, p=2)
    assert sliced_wasserstein(x, y, projections=20) == pytest.approx(expected)


# Frechet and CORAL


def test_the_frechet_distance_is_the_formula_with_a_matrix_square_root():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5))
    y = rng.normal(0.4, 1, size=(50, 5)) @ rng.normal(size=(5, 5))
    c_x, c_y = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c_x + c_y - 2 * linalg.sqrtm(c_x @ c_y).real)
    assert frechet_distance(x, y, shrinkage=0) == pytest.approx(expected, rel=1e-6)


def test_gaussians_with_commuting_covariances_have_a_closed_form():
    rng = np.random.default_rng(11)
    x, y = rng.normal(size=(40_000, 2)) * [1, 2], rng.normal(size=(40_000, 2)) * [3, 1] + [0, 5]
    expected = 25 + (1 - 3) ** 2 + (2 - 1) ** 2
    for shrinkage in (0, "auto"):
        assert frechet_distance(x, y, shrinkage=shrinkage) == pytest.approx(expected, rel=0.02)


def test_shrinkage_tames_few_rows():
    """Equal distributions, fewer rows than columns: the plain estimate is far from zero."""
    rng = np.random.default_rng(12)
    x, y = rng.normal(size=(40, 100)), rng.normal(size=(40, 100))
    assert frechet_distance(x, y, shrinkage=0) > 10 * frechet_distance(x, y)


def test_full_shrinkage_compares_spheres():
    rng = np.random.default_rng(13)
    x, y = rng.normal(size=(50, 3)), 2 * rng.normal(size=(50, 3))
    s, t = (math.sqrt(np.trace(np.cov(z.T)) / 3) for z in (x, y))
    expected = 3 * (s - t) ** 2 + ((x.mean(0) - y.mean(0)) ** 2).sum()
    assert frechet_distance(x, y, shrinkage=1) == pytest.approx(expected)


def test_coral_is_the_squared_gap_of_covariances():
    rng = np.random.default_rng(14)
    x, y = rng.normal(size=(30, 4)), 2 * rng.normal(size=(20, 4)) + 7
    expected = sum(
        (np.cov(x[:, i], x[:, j])[0, 1] - np.cov(y[:, i], y[:, j])[0, 1]) ** 2
        for i in range(4)
        for j in range(4)
    )
    assert coral_distance(x, y) == pytest.approx(expected / (4 * 16))
    assert coral_distance(x, x + 3) == pytest.approx(0, abs=1e-12)


# Jensen-Shannon


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 20).flatmap(
        lambda k: st.tuples(*(st.lists(st.integers(0, 50), min_size=k, max_size=k),) * 2)
    )
)
def test_jensen_shannon_is_that_of_scipy(tables):
    p, q = tables
    if not sum(p) or not sum(q):
        with pytest.raises(DataError, match="no usable counts"):
            jensen_shannon(p, q)
        return
    value = jensen_shannon(p, q)
    assert value == pytest.approx(np.nan_to_num(jensenshannon(p, q, base=2)) ** 2, abs=1e-9)
    assert 0 <= value <= 1
    assert value == pytest.approx(jensen_shannon(q, p))
    named = [{f"w{i}": count for i, count in enumerate(table) if count} for table in tables]
    assert jensen_shannon(*named) == pytest.approx(value, abs=1e-12)


# Class-conditional MMD


def two_classes(rng, share, n=400, shift=0.0):
    labels = (rng.random(n) < share).astype(int)
    return rng.normal(size=(n, 3)) + 4 * labels[:, None] + shift * labels[:, None], labels


def test_a_different_mix_of_classes_is_no_conditional_shift():
    rng = np.random.default_rng(15)
    (x, of_x), (y, of_y) = two_classes(rng, 0.2), two_classes(rng, 0.8)
    found = class_conditional_mmd(x, of_x, y, of_y)
    assert found.p_value > 0.01
    assert abs(found.value) < 0.05 * mmd_test(x, y).value
    assert found.weights == pytest.approx({0: 1 - of_y.mean(), 1: of_y.mean()})


def test_a_shift_within_one_class_is_found_there():
    rng = np.random.default_rng(16)
    (x, of_x), (y, of_y) = two_classes(rng, 0.5), two_classes(rng, 0.5, shift=1.0)
    names = np.array(["negative", "positive"])
    found = class_conditional_mmd(x, names[of_x], y, names[of_y])
    assert found.p_value < 0.01
    assert found.by_class["positive"] > 10 * abs(found.by_class["negative"])
    assert found.value == pytest.approx(sum(found.weights[k] * found.by_class[k] for k in found.weights))


def test_classes_of_one_side_are_skipped_and_named():
    rng = np.random.default_rng(17)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    of_x, of_y = np.repeat([0, 1], 10), np.repeat([1, 2], [19, 1])
    found = class_conditional_mmd(x, of_x, y, of_y, permutations=20)
    assert found.skipped == (0, 2)
    assert found.weights == {1: 1.0}


def test_class_conditional_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(18)
    p_values = []
    for seed in range(100):
        (x, of_x), (y, of_y) = two_classes(rng, 0.3, 40), two_classes(rng, 0.6, 50)
        p_values.append(class_conditional_mmd(x, of_x, y, of_y, permutations=39, seed=seed).p_value)
    assert stats.kstest(np.array(p_values) - rng.random(100) / 40, "uniform").pvalue > 0.01


# Input


@pytest.mark.parametrize("distance", [*DISTANCES, proxy_a_distance])
def test_bad_rows_are_explained(distance):
    x = np.random.default_rng(19).normal(size=(12, 3))
    with pytest.raises(DataError, match="different widths"):
        distance(x, x[:, :2])
    with pytest.raises(DataError, match="row 4 is not finite"):
        distance(x, np.where(np.arange(12)[:, None] == 4, np.nan, x))
    with pytest.raises(DataError, match="too few rows"):
        distance(x, x[:0])
    with pytest.raises(DataError, match="wrong shape"):
        distance(x[:, 0], x)


def test_bad_options_are_explained():
    x = np.random.default_rng(20).normal(size=(4, 2))
    with pytest.raises(DataError, match="fewer folds"):
        proxy_a_distance(x, x)
    with pytest.raises(NlpTransferError, match="shrinkage"):
        frechet_distance(x, x, shrinkage=2)
    with pytest.raises(NlpTransferError, match="order"):
        sliced_wasserstein(x, x, order=3)
    with pytest.raises(DataError, match="different kinds"):
        jensen_shannon({"a": 1}, [1])
    with pytest.raises(DataError, match="wrong shape"):
        jensen_shannon([1, 2], [1, 2, 3])
    with pytest.raises(DataError, match="no class to compare"):
        class_conditional_mmd(x, [0] * 4, x, [1] * 4)
    with pytest.raises(DataError, match="labels_y"):
        class_conditional_mmd(x, [0] * 4, x, [1] * 3)
