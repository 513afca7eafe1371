"""TrAdaBoost against a loop written from the paper's figure."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from nlp_transfer.errors import DataError
from nlp_transfer.numeric.boosting import tradaboost


def domains(seed=0, n=60, m=20):
    """A third of the source's labels are wrong for the target."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    of_a = (a[:, 0] + 0.3 * rng.normal(size=n) > 0).astype(int)
    wrong = a[:, 1] > 0.5
    return a, np.where(wrong, 1 - of_a, of_a), b, (b[:, 0] + 0.3 * rng.normal(size=m) > 0).astype(int), wrong


def naive(a, of_a, b, of_b, rounds, c, start):
    """Dai et al. 2007, figure 1, steps 1 to 5; n source rows first, then m target rows."""
    n, m = len(a), len(b)
    x, y = np.vstack([a, b]), np.concatenate([of_a, of_b])
    x = (x - x.mean(0)) / x.std(0)
    w = [1.0] * n + [start] * m
    beta = 1 / (1 + np.sqrt(2 * np.log(n) / rounds))
    seen, errors = [], []
    for _ in range(rounds):
        p = np.array(w) / sum(w)
        seen.append(p * (n + m))
        guess = LogisticRegression(C=c, max_iter=1000).fit(x, y, sample_weight=p * (n + m)).predict(x)
        off = [abs(int(h) - int(t)) for h, t in zip(guess, y, strict=True)]
        error = sum(w[i] * off[i] for i in range(n, n + m)) / sum(w[n:])
        errors.append(error)
        share = min(max(error, 1e-3), 0.49)
        beta_t = share / (1 - share)
        w = [w[i] * (beta ** off[i] if i < n else beta_t ** -off[i]) for i in range(n + m)]
    half = np.mean(seen[rounds // 2 :], axis=0)
    return half[:n], half[n:], errors


@pytest.mark.parametrize("rounds", [1, 4, 9])
@pytest.mark.parametrize(("c", "start"), [(0.01, 1.0), (1.0, 1.0), (0.01, 3.0)])
def test_weights_and_errors_are_the_papers(rounds, c, start):
    a, of_a, b, of_b, _ = domains()
    source, target, errors = naive(a, of_a, b, of_b, rounds, c, start)
    found = tradaboost(a, of_a, b, of_b, rounds=rounds, c=c, start=start)
    np.testing.assert_allclose(found.source, source, rtol=1e-6)
    np.testing.assert_allclose(found.target, target, rtol=1e-6)
    np.testing.assert_allclose(found.errors, errors, rtol=1e-6)
    assert np.concatenate([found.source, found.target]).mean() == pytest.approx(1)


def test_contradicting_rows_lose_their_weight():
    a, of_a, b, of_b, wrong = domains(1, 200, 60)
    found = tradaboost(a, of_a, b, of_b, rounds=20, c=1.0)
    assert found.source[wrong].mean() < 0.5 * found.source[~wrong].mean()


def test_one_class_is_refused():
    a, _, b, _, _ = domains()
    with pytest.raises(DataError, match="one class only"):
        tradaboost(a, np.zeros(60, int), b, np.zeros(20, int))
