"""Paired intervals: against the exact test of SciPy, and their coverage under repeated looks."""

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from nlp_transfer.errors import DataError
from nlp_transfer.numeric.paired import look_confidence, paired_gain


@pytest.mark.parametrize(
    ("better", "worse"), [(6, 0), (5, 0), (9, 1), (8, 2), (0, 7), (30, 14), (30, 18), (0, 0)]
)
def test_zero_is_excluded_only_where_the_sign_test_does(better, worse):
    first = np.repeat([1, 0, 1, 0], [better, worse, 60, 20])
    second = np.repeat([0, 1, 1, 0], [better, worse, 60, 20])
    found = paired_gain(first, second)
    assert found.value == pytest.approx((better - worse) / (better + worse + 80))
    assert found.low <= found.value <= found.high
    p_value = binomtest(better, better + worse).pvalue if better + worse else 1.0
    if found.low > 0 or found.high < 0:
        assert p_value < 0.05
    if p_value < 0.01:
        assert found.low > 0 or found.high < 0


def test_other_differences_are_student_s():
    rng = np.random.default_rng(0)
    first, second = rng.normal(0.3, 1, 50), rng.normal(0, 1, 50)
    expected = ttest_rel(first, second).confidence_interval(0.9)
    found = paired_gain(first, second, confidence=0.9)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("p_better", "p_worse"), [(0.05, 0.05), (0.1, 0.0), (0.02, 0.08), (0.3, 0.2)])
@pytest.mark.parametrize("n", [60, 300])
def test_coverage(p_better, p_worse, n):
    rng = np.random.default_rng(1)
    counts = rng.multinomial(n, [p_better, p_worse, 1 - p_better - p_worse], size=150)
    hits = 0
    for better, worse, _ in counts:
        difference = np.repeat([1.0, -1.0, 0.0], [better, worse, n - better - worse])
        found = paired_gain(difference, np.zeros(n))
        hits += found.low <= p_better - p_worse <= found.high
    assert hits / 150 >= 0.92


def test_many_looks_together_fail_no_more_often_than_alpha():
    """Eight models that are as good as the baseline, judged on the same rows one after another."""
    rng, false = np.random.default_rng(2), 0
    for _ in range(120):
        baseline = rng.random(150) < 0.8
        models = [np.where(rng.random(150) < 0.15, rng.random(150) < 0.8, baseline) for _ in range(8)]
        looks = [paired_gain(m, baseline, confidence=look_confidence(k)) for k, m in enumerate(models, 1)]
        final = paired_gain(models[-1], baseline, confidence=0.975)
        false += any(look.high < 0 or look.low > 0 for look in [*looks, final])
    assert false / 120 <= 0.05


def test_what_is_spent_sums_to_half_of_alpha():
    assert sum(1 - look_confidence(k) for k in range(1, 10_000)) == pytest.approx(0.025, abs=1e-5)


def test_one_row_has_no_ends():
    """Student's interval without a degree of freedom is the whole line."""
    gain = paired_gain([-0.1], [-0.3])
    assert (gain.value, gain.rows) == (pytest.approx(0.2), 1)
    assert (gain.low, gain.high) == (-np.inf, np.inf)


@pytest.mark.parametrize(("first", "second"), [([], []), ([1, 0], [1]), ([1, np.nan], [0, 1])])
def test_what_cannot_be_compared(first, second):
    with pytest.raises(DataError):
        paired_gain(first, second)
