"""Is one system better than another on the same rows? Intervals that bear repeated looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from nlp_transfer.errors import DataError

_DRAWS = 10_000


@dataclass(frozen=True)
class PairedGain:
    """The mean difference of two systems on the same rows.

    Attributes:
        value: mean of first less second.
        low, high: ends of the interval.
        confidence: its coverage.
        rows: number of rows.
    """

    value: float
    low: float
    high: float
    confidence: float
    rows: int


def paired_gain(first: Any, second: Any, *, confidence: float = 0.95, seed: int = 0) -> PairedGain:
    """The mean of first - second over rows, with an interval.

    Where every difference is -1, 0 or 1 (right or wrong), the interval excludes zero only where the exact
    sign test of the rows that differ (McNemar) does, and is as wide as the percentile bootstrap at least.
    For other differences it is Student's; of one row it has no ends (infinity).

    Args:
        first, second: one figure a row from each system, (n,); larger is better.
        confidence: coverage, between 0 and 1.
        seed: of the bootstrap.

    Raises:
        DataError: no rows, different lengths, or figures that are not finite.

    Cost: O(n).

    Source: McNemar 1947, "Note on the sampling error of the difference between correlated proportions";
    Clopper and Pearson 1934 for the limits.

    Example:
        >>> gain = paired_gain([1, 1, 1, 0] * 20, [0, 1, 1, 0] * 20)
        >>> gain.value, gain.low > 0
        (0.25, True)
    """
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != two.shape or one.ndim != 1 or not len(one):
        raise DataError(
            "paired figures do not fit",
            expected="two rows of equal length",
            found=f"{one.shape}, {two.shape}",
        )
    difference = one - two
    if not np.isfinite(difference).all():
        raise DataError("paired figures are not finite", expected="finite numbers")
    value, tail = float(difference.mean()), (1 - confidence) / 2
    if np.isin(difference, (-1.0, 0.0, 1.0)).all():
        low, high = _signs(int((difference > 0).sum()), int((difference < 0).sum()), len(one), tail, seed)
    else:
        reach = np.inf
        if len(one) > 1:
            reach = float(stats.t.ppf(1 - tail, len(one) - 1) * difference.std(ddof=1) / np.sqrt(len(one)))
        low, high = value - reach, value + reach
    return PairedGain(value, float(low), float(high), confidence, len(one))


def _signs(better: int, worse: int, n: int, tail: float, seed: int) -> tuple[float, float]:
    differ = better + worse
    if not differ:
        most = 1 - tail ** (1 / n)  # a difference as frequent as this would hardly have stayed unseen
        return -most, most
    share_low = stats.beta.ppf(tail, better, worse + 1) if better else 0.0
    share_high = stats.beta.ppf(1 - tail, better + 1, worse) if worse else 1.0
    exact = (2 * share_low - 1) * differ / n, (2 * share_high - 1) * differ / n
    shares = np.array([better, worse, n - differ]) / n
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=_DRAWS)
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / n, [tail, 1 - tail])
    return min(exact[0], float(low)), max(exact[1], float(high))


def look_confidence(look: int, *, alpha: float = 0.05) -> float:
    """The coverage to ask for at the k-th of ever so many looks at the same rows.

    Half of alpha is kept for the last judgement (1 - alpha / 2); the other half is spent over the looks
    before as 1 / (k (k + 1)), which sums to one. All intervals together then hold with probability 1 -
    alpha, however often one looks and whichever model is picked in the end.

    Args:
        look: k, from 1.
        alpha: probability that any interval fails.

    Source: Lan and DeMets 1983, "Discrete sequential boundaries for clinical trials".
    """
    return 1 - alpha / 2 / (look * (look + 1))
