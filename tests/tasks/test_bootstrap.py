"""Intervals: coverage on simulated test sets, and the cell bootstrap against the row bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from nlp_transfer.errors import DataError
from nlp_transfer.tasks.bootstrap import bootstrap_cells, bootstrap_interval, paired_difference
from nlp_transfer.tasks.reports import accuracy, codes, macro_f1, matthews_correlation, pearson, spearman


def test_agrees_with_scipy():
    rng = np.random.default_rng(0)
    values = rng.exponential(size=300)
    found = bootstrap_interval(np.mean, values, resamples=20_000)
    wanted = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=rng)
    assert found["value"] == pytest.approx(values.mean())
    width = wanted.confidence_interval.high - wanted.confidence_interval.low
    assert found["low"] == pytest.approx(wanted.confidence_interval.low, abs=0.03 * width)
    assert found["high"] == pytest.approx(wanted.confidence_interval.high, abs=0.03 * width)


def test_covers_the_truth_of_accuracy():
    rng = np.random.default_rng(1)
    hits = 0
    for seed in range(400):
        correct = rng.random(200) < 0.8
        found = bootstrap_interval(np.mean, correct, resamples=400, seed=seed)
        hits += found["low"] <= 0.8 <= found["high"]
    assert 0.92 <= hits / 400 <= 0.98


def test_cells_cover_the_truth_of_macro_f1():
    rng = np.random.default_rng(2)
    world = np.array([[30, 10], [5, 55]]) / 100
    truth = float(macro_f1(world * 1000))
    hits = 0
    for seed in range(400):
        sample = rng.multinomial(300, world.ravel()).reshape(2, 2)
        found = bootstrap_cells(macro_f1, sample, resamples=400, seed=seed)
        hits += found["low"] <= truth <= found["high"]
    assert 0.92 <= hits / 400 <= 0.98


@pytest.mark.parametrize(
    ("statistic", "reference"),
    [
        (accuracy, sk.accuracy_score),
        (macro_f1, lambda truth, guess: sk.f1_score(truth, guess, average="macro", zero_division=0)),
        (matthews_correlation, sk.matthews_corrcoef),
    ],
)
def test_cells_equal_rows_in_distribution(statistic, reference):
    """The multinomial draws of cell counts and the draws of rows are one distribution (KS test)."""
    rng = np.random.default_rng(3)
    truth, noise = rng.integers(0, 3, 60), rng.integers(0, 3, 60)
    guess = np.where(rng.random(60) < 0.6, truth, noise)
    by_rows = [reference(truth[index], guess[index]) for index in rng.integers(0, 60, (1500, 60))]
    by_cells: list[float] = []
    counts = sk.confusion_matrix(truth, guess)

    def record(sample):
        scores = statistic(sample)
        by_cells.extend(scores if len(scores) > 1 else [])
        return scores

    found = bootstrap_cells(record, counts, resamples=1500)
    assert found["value"] == pytest.approx(reference(truth, guess))
    assert stats.ks_2samp(by_rows, by_cells).pvalue > 0.01


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = np.random.default_rng(4).normal(size=50)
    whole = bootstrap_interval(np.mean, values)
    monkeypatch.setattr("nlp_transfer.tasks.bootstrap._CHUNK_ELEMENTS", 700)
    assert bootstrap_interval(np.mean, values) == whole


def test_paired_difference_equals_the_interval_of_differences():
    rng = np.random.default_rng(5)
    hard = rng.random(400)
    first, second = hard < 0.85, hard < 0.80
    found = paired_difference(np.mean, first, second)
    assert found == pytest.approx(bootstrap_interval(np.mean, first.astype(float) - second.astype(float)))
    alone = bootstrap_interval(np.mean, first)
    assert found["low"] > 0
    assert found["high"] - found["low"] < alone["high"] - alone["low"]


def test_paired_difference_shares_the_labels():
    rng = np.random.default_rng(6)
    truth = rng.normal(size=200)
    first, second = truth + 0.1 * rng.normal(size=200), rng.normal(size=200)
    found = paired_difference(pearson, first, second, truth)
    wanted = stats.pearsonr(first, truth).statistic - stats.pearsonr(second, truth).statistic
    assert found["value"] == pytest.approx(wanted)
    assert found["low"] > 0.5


def test_row_vectors_stay_whole():
    rows = np.repeat(np.arange(20.0)[:, None], 3, axis=1)

    def spread(sample, axis):
        assert (np.ptp(sample, axis=2) == 0).all()
        return sample.mean(axis=(1, 2))

    assert bootstrap_interval(spread, rows)["value"] == 9.5


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_vectorised_correlations(levels):
    rng = np.random.default_rng(7)
    first = rng.integers(0, levels, (4, 30))
    second = first + rng.integers(0, levels, (4, 30))
    linear = [stats.pearsonr(a, b).statistic for a, b in zip(first, second, strict=True)]
    ranked = [stats.spearmanr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(pearson(first, second, axis=1), linear, atol=1e-12)
    np.testing.assert_allclose(spearman(first, second, axis=1), ranked, atol=1e-12)


def test_codes_keep_the_ranks():
    values = np.array([0.3, -2.0, 0.3, 8.5])
    assert codes(values).tolist() == [1, 0, 1, 2]


def test_undefined_draws_drop_out():
    found = bootstrap_interval(pearson, np.array([0.1, 0.1, 0.1, 0.7]), np.array([1.0, 2.0, 3.0, 4.0]))
    assert None not in found.values()
    assert -1 <= found["low"] <= found["value"] <= found["high"] <= 1


def test_refuses_what_cannot_be_scored():
    with pytest.raises(DataError, match="nothing to score"):
        bootstrap_interval(np.mean, [])
    with pytest.raises(DataError, match="nothing to score"):
        bootstrap_cells(accuracy, np.zeros((2, 2), dtype=int))
    with pytest.raises(DataError, match="lengths"):
        paired_difference(np.mean, [1, 0], [1, 0, 1])
