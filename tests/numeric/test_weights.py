"""Importance weights against true density ratios, label shift against planted shares."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize

from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric import weights as weights_module
from nlp_transfer.numeric._domain import C_GRID, target_probabilities
from nlp_transfer.numeric.weights import black_box_shift, density_ratio, effective_sample_size


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=30).filter(lambda w: sum(w) > 1e-3), st.floats(0.1, 10)
)
def test_effective_sample_size_lies_between_one_and_n_whatever_the_scale(weights, scale):
    value = effective_sample_size(weights)
    assert 1 - 1e-9 <= value <= len(weights) + 1e-9
    assert value == pytest.approx(effective_sample_size(np.array(weights) * scale))


def test_effective_sample_size_is_the_variance_ratio():
    """The variance of a weighted mean of unit-variance draws is 1 / n_eff."""
    w = np.array([1.0, 2.0, 4.0])
    means = np.random.default_rng(0).normal(size=(200_000, 3)) @ w / w.sum()
    assert 1 / means.var() == pytest.approx(effective_sample_size(w), rel=0.02)


def test_weights_follow_the_true_density_ratio():
    rng = np.random.default_rng(1)
    source, target = rng.normal(size=(3000, 2)), rng.normal(size=(1000, 2)) + np.array([1.0, 0.0])
    found = density_ratio(source, target)
    truth = np.exp(source[:, 0] - 0.5)  # N(1, 1) / N(0, 1)
    assert stats.spearmanr(found.weights, truth).statistic > 0.98
    assert np.median(found.weights / truth) == pytest.approx(1, abs=0.1)
    assert found.weights.mean() == pytest.approx(1)
    assert found.effective_sample_size == effective_sample_size(found.weights)
    # What weights are for: source averages become target averages.
    assert np.average(source[:, 0], weights=found.weights) == pytest.approx(1.0, abs=0.15)


def test_equal_domains_get_nearly_equal_weights():
    rng = np.random.default_rng(2)
    found = density_ratio(rng.normal(size=(500, 3)), rng.normal(size=(1500, 3)))
    assert found.effective_sample_size > 450
    assert found.clipped == 0


def test_each_row_is_weighed_by_a_model_that_did_not_see_it():
    """With more columns than rows an in-sample classifier would be sure of every row."""
    rng = np.random.default_rng(3)
    found = density_ratio(rng.normal(size=(80, 300)), rng.normal(size=(80, 300)), c=1e-3)
    assert found.effective_sample_size > 40


def test_extreme_ratios_are_cut():
    rng = np.random.default_rng(4)
    source = np.concatenate([rng.normal(size=(190, 1)), rng.normal(8, 0.5, size=(10, 1))])
    target = rng.normal(8, 0.5, size=(200, 1))
    loose, tight = (density_ratio(source, target, max_weight=cut) for cut in (1e6, 2.0))
    assert tight.clipped == pytest.approx(0.05, abs=0.02)
    assert tight.weights.max() <= 2.0 / tight.weights.min() or tight.weights.min() == 0
    assert loose.clipped <= tight.clipped
    assert np.isfinite(loose.weights).all()


def confused(rng, shares, count, confusion):
    true = rng.choice(len(shares), size=count, p=shares)
    predicted = (rng.random((count, 1)) > confusion.T[true].cumsum(1)).sum(1)
    return true, predicted


CONFUSION = np.array([[0.8, 0.1, 0.2], [0.1, 0.7, 0.1], [0.1, 0.2, 0.7]])  # [predicted, true]


def test_planted_label_shares_are_recovered():
    rng = np.random.default_rng(5)
    true, predicted = confused(rng, [0.4, 0.3, 0.3], 6000, CONFUSION)
    wanted = np.array([0.1, 0.2, 0.7])
    _, at_target = confused(rng, wanted, 6000, CONFUSION)
    found = black_box_shift(true, predicted, at_target)
    np.testing.assert_allclose(found.target, wanted, atol=0.04)
    assert (found.interval[:, 0] <= wanted).all()
    assert (wanted <= found.interval[:, 1]).all()
    np.testing.assert_allclose(found.weights * found.source, found.target)
    assert found.row_weights(true).mean() == pytest.approx(1)
    # What the predictions say without the correction is further away.
    naive = np.bincount(at_target, minlength=3) / 6000
    assert np.abs(naive - wanted).max() > 3 * np.abs(found.target - wanted).max()


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(6)
    two = np.array([[0.8, 0.3], [0.2, 0.7]])
    hits = 0
    for seed in range(60):
        true, predicted = confused(rng, [0.5, 0.5], 300, two)
        _, at_target = confused(rng, [0.3, 0.7], 300, two)
        low, high = black_box_shift(true, predicted, at_target, bootstrap=100, seed=seed).interval[0]
        hits += low <= 0.3 <= high
    assert stats.binomtest(hits, 60, 0.95).pvalue > 0.001


def test_probabilities_work_as_labels_do():
    rng = np.random.default_rng(7)
    true, predicted = confused(rng, [0.5, 0.25, 0.25], 4000, CONFUSION)
    _, at_target = confused(rng, [0.2, 0.5, 0.3], 4000, CONFUSION)
    hard = black_box_shift(true, predicted, at_target, bootstrap=0)
    same = black_box_shift(true, np.eye(3)[predicted], np.eye(3)[at_target], bootstrap=0)
    np.testing.assert_allclose(hard.target, same.target)
    softened = [0.2 / 3 + 0.8 * np.eye(3)[labels] for labels in (predicted, at_target)]
    np.testing.assert_allclose(black_box_shift(true, *softened, bootstrap=0).target, hard.target, atol=1e-6)
    assert np.isnan(hard.interval).all()


def test_names_can_be_labels():
    found = black_box_shift(["no", "yes", "yes"], ["no", "yes", "yes"], ["no", "no", "yes", "yes"])
    assert found.classes.tolist() == ["no", "yes"]
    np.testing.assert_allclose(found.row_weights(["yes", "no"]), [0.75, 1.5])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 10_000))
def test_the_solver_finds_the_least_squares_on_the_simplex(k, seed):
    rng = np.random.default_rng(seed)
    matrix, right = rng.dirichlet(np.ones(k), size=k).T, rng.dirichlet(np.ones(k) / 2)
    found = weights_module._simplex_least_squares(matrix, right)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    reference = minimize(
        lambda p: ((matrix @ p - right) ** 2).sum(),
        np.full(k, 1 / k),
        bounds=[(0, 1)] * k,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    assert ((matrix @ found - right) ** 2).sum() <= reference.fun + 1e-7


def test_bad_input_is_explained():
    x = np.random.default_rng(8).normal(size=(20, 2))
    with pytest.raises(DataError, match="source and target have different widths"):
        density_ratio(x, x[:, :1])
    with pytest.raises(DataError, match="fewer folds"):
        density_ratio(x, x[:3])
    with pytest.raises(NlpTransferError, match="max_weight"):
        density_ratio(x, x, max_weight=0.5)
    for bad in ([-1.0, 2.0], [0.0, 0.0], [np.nan, 1.0]):
        with pytest.raises(DataError, match="weights"):
            effective_sample_size(bad)
    with pytest.raises(DataError, match="2"):
        black_box_shift([0, 1], [0, 1], [0, 2])
    with pytest.raises(DataError, match="do not fit"):
        black_box_shift([0, 1], [0, 1, 1], [0, 1])
    with pytest.raises(DataError, match="2 columns"):
        black_box_shift([0, 1], np.eye(3)[:2], np.eye(3))


def test_without_a_penalty_the_held_out_loss_chooses_one():
    """Equal domains want flat weights, far ones steep weights."""
    rng = np.random.default_rng(8)
    for shift in (0.0, 1.5):
        source, target = rng.normal(size=(60, 8)), rng.normal(size=(60, 8)) + shift
        losses = {}
        for c in C_GRID:
            at_source, at_target = target_probabilities(source, target, folds=5, c=c, seed=0)
            losses[c] = -(np.log(1 - at_source).mean() + np.log(at_target).mean())
        best = min(losses, key=losses.get)
        assert (best < 0.1) == (shift == 0)
        chosen, given = (density_ratio(source, target, c=c).weights for c in (None, best))
        np.testing.assert_array_equal(chosen, given)
