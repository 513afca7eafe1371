"""Transferability scores against direct densities, naive loops and scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from nlp_transfer.errors import DataError
from nlp_transfer.numeric.evidence import log_evidence, max_evidence
from nlp_transfer.numeric.transferability import (
    SCORES,
    estimate,
    h_score,
    knn,
    leep,
    linear_probe,
    logme,
    n_leep,
    scores_of,
)

SHAPES = [(40, 6), (12, 30), (15, 15)]


def planted(n, d, signal=1.0, classes=2, seed=0):
    """Gaussian classes whose means differ along the first features."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % classes)
    x = rng.standard_normal((n, d)) @ np.random.default_rng(9).uniform(0.3, 1.5, (d, d)) / np.sqrt(d)
    x[:, 0] += signal * y
    return x, y


def density(x, y, alpha, beta):
    """The evidence by its definition: the normal density of the targets with the weights integrated out."""
    return multivariate_normal(np.zeros(len(y)), np.eye(len(y)) / beta + x @ x.T / alpha).logpdf(y)


@pytest.mark.parametrize(("n", "d"), SHAPES)
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.2, 7.0), (30.0, 0.1)])
def test_log_evidence_is_the_density_of_the_targets(n, d, alpha, beta):
    x, y = planted(n, d)
    assert log_evidence(x, y, alpha, beta) == pytest.approx(density(x, y, alpha, beta), abs=1e-8)


@pytest.mark.parametrize(("n", "d"), [(5, 2), (2, 3)])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 3.0)])
def test_log_evidence_is_the_integral_over_the_weights(n, d, alpha, beta):
    """Gauss-Hermite quadrature of likelihood times prior, with fewer and with more features than rows."""
    x, y = planted(n, d)
    x *= 0.4
    nodes, shares = np.polynomial.hermite_e.hermegauss(80)
    weights = np.stack(np.meshgrid(*[nodes] * d, indexing="ij"), -1).reshape(-1, d) / np.sqrt(alpha)
    prior = np.prod(np.stack(np.meshgrid(*[shares / shares.sum()] * d, indexing="ij"), -1), -1).ravel()
    residual = y - weights @ x.T
    likelihood = (beta / (2 * np.pi)) ** (n / 2) * np.exp(-0.5 * beta * (residual**2).sum(1))
    assert log_evidence(x, y, alpha, beta) == pytest.approx(np.log(prior @ likelihood), abs=1e-6)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_logme_is_the_mean_of_the_highest_densities(n, d):
    x, y = planted(n, d, classes=3)
    expected = []
    for label in range(3):
        target = (y == label).astype(float)
        found = max_evidence(x, target)
        assert found.value * n == pytest.approx(density(x, target, found.alpha, found.beta), abs=1e-6)
        searched = [
            minimize(lambda p, t=target: -density(x, t, *np.exp(p)), start, method="Nelder-Mead",
                     options={"xatol": 1e-7, "fatol": 1e-10, "maxiter": 4000})
            for start in ([0.0, 0.0], [3.0, 1.0], [-3.0, 2.0])
        ]  # fmt: skip
        assert found.value * n >= max(-result.fun for result in searched) - 1e-6
        expected.append(found.value)
    assert logme(x, y) == pytest.approx(np.mean(expected), abs=1e-12)


def test_logme_of_ratings_is_one_evidence():
    x, y = planted(30, 50)
    ratings = y + 0.1 * x[:, 1]
    assert logme(x, ratings, objective="regression") == pytest.approx(max_evidence(x, ratings).value)


@pytest.mark.parametrize(("n", "d"), [(60, 5), (30, 50)])
def test_h_score_against_loops(n, d):
    x, y = planted(n, d, classes=3)
    mean = [sum(x[i, a] for i in range(n)) / n for a in range(d)]
    centred = x - np.array(mean)
    sample = np.zeros((d, d))
    for row in centred:
        sample += np.outer(row, row) / n
    size = np.trace(sample) / d
    distance = ((sample - size * np.eye(d)) ** 2).sum() / d
    noise = sum(((np.outer(row, row) - sample) ** 2).sum() for row in centred) / n**2 / d
    shrinkage = min(noise, distance) / distance  # Ledoit and Wolf 2004, section 3.3
    shrunk = (1 - shrinkage) * sample + shrinkage * size * np.eye(d)
    between = np.zeros((d, d))
    for i in range(n):
        own = np.mean([centred[j] for j in range(n) if y[j] == y[i]], axis=0)
        between += np.outer(own, own) / n
    expected = np.trace(np.linalg.inv(shrunk) @ ((1 - shrinkage) * between))
    assert h_score(x, y) == pytest.approx(expected, rel=1e-6)


def test_leep_against_loops():
    rng = np.random.default_rng(1)
    theta, y = rng.dirichlet(np.ones(4), 25), rng.integers(0, 3, 25)
    total = 0.0
    for i in range(25):
        inner = 0.0
        for z in range(4):
            joint = sum(theta[j, z] for j in range(25) if y[j] == y[i]) / 25
            inner += joint / (sum(theta[:, z]) / 25) * theta[i, z]
        total += np.log(inner)
    assert leep(theta, y) == pytest.approx(total / 25, abs=1e-12)


def test_n_leep_against_its_parts():
    from sklearn.mixture import GaussianMixture

    x, y = planted(80, 7, classes=2)
    centred = x - x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(centred.T))
    order = np.argsort(-values)
    keep = int(np.searchsorted(np.cumsum(values[order]) / values.sum(), 0.8)) + 1
    reduced = centred @ vectors[:, order[:keep]]
    from sklearn.decomposition import PCA

    signs = np.sign((PCA(keep, svd_solver="full").fit_transform(x) * reduced).sum(0))
    reduced *= signs  # directions have no sign, and the mixture's start is drawn in coordinates
    fitted = GaussianMixture(4, reg_covar=1e-3 * reduced.var(0).mean(), random_state=3).fit(reduced)
    parts = zip(fitted.weights_, fitted.means_, fitted.covariances_, strict=True)
    likelihood = np.stack([w * multivariate_normal(m, c).pdf(reduced) for w, m, c in parts], axis=1)
    expected = leep(likelihood / likelihood.sum(1, keepdims=True), y)
    assert n_leep(x, y, components=4, seed=3) == pytest.approx(expected, abs=1e-6)


def naive_mixture(x, start, floor):
    """Expectation maximisation of full Gaussians in loops: memberships [n, c] after convergence."""

    def maximise(theta):
        parts = []
        for weights in theta.T:
            mean = sum(w * row for w, row in zip(weights, x, strict=True)) / weights.sum()
            covariance = floor * np.eye(x.shape[1])
            for w, row in zip(weights, x, strict=True):
                covariance = covariance + w * np.outer(row - mean, row - mean) / weights.sum()
            parts.append((weights.mean(), multivariate_normal(mean, covariance)))
        return np.stack([share * normal.pdf(x) for share, normal in parts], axis=1)

    likelihood, before = maximise(np.eye(start.max() + 1)[start]), -np.inf
    for _ in range(100):
        now = np.log(likelihood.sum(1)).mean()
        likelihood = maximise(likelihood / likelihood.sum(1, keepdims=True))
        if abs(now - before) < 1e-3:
            break
        before = now
    return likelihood / likelihood.sum(1, keepdims=True)


def test_n_leep_against_a_mixture_of_its_own():
    """Eigenvectors, expectation maximisation and LEEP anew; only the k-means start is scikit-learn's."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA

    x, y = planted(60, 5, signal=3.0)
    centred = x - x.mean(0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values)
    keep = int(np.searchsorted(np.cumsum(values[order]) / values.sum(), 0.8)) + 1
    reduced = centred @ vectors[:, order[:keep]]
    reduced *= np.sign((PCA(keep, svd_solver="full").fit_transform(x) * reduced).sum(0))
    start = KMeans(3, n_init=1, random_state=np.random.RandomState(5)).fit(reduced).labels_
    theta = naive_mixture(reduced, start, 1e-3 * reduced.var(0).mean())
    total = 0.0
    for i in range(60):
        own = sum(theta[j] for j in range(60) if y[j] == y[i]) / sum(theta)
        total += np.log(float(own @ theta[i]))
    assert n_leep(x, y, components=3, seed=5) == pytest.approx(total / 60, abs=1e-6)


def test_knn_against_scikit_learn():
    from sklearn.model_selection import LeaveOneOut, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

    x, y = planted(70, 5, classes=3)
    found = cross_val_predict(KNeighborsClassifier(4, metric="cosine"), x, y, cv=LeaveOneOut())
    assert knn(x, y, neighbours=4) == pytest.approx((found == y).mean())
    ratings = y + x[:, 1]
    found = cross_val_predict(KNeighborsRegressor(5, metric="cosine"), x, ratings, cv=LeaveOneOut())
    expected = 1 - ((found - ratings) ** 2).sum() / ((ratings - ratings.mean()) ** 2).sum()
    assert knn(x, ratings, objective="regression") == pytest.approx(expected)


def test_linear_probe_against_scikit_learn():
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = planted(60, 8)
    ratings = y + 0.3 * x[:, 2]
    folds = KFold(5, shuffle=True, random_state=0)
    losses = {}
    for strength in (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3):
        model = make_pipeline(StandardScaler(), Ridge(alpha=1 / strength))
        losses[strength] = ((cross_val_predict(model, x, ratings, cv=folds) - ratings) ** 2).mean()
    expected = 1 - min(losses.values()) / ratings.var()
    assert linear_probe(x, ratings, objective="regression") == pytest.approx(expected)
    assert linear_probe(*planted(200, 8, signal=6.0)) > 0.9
    assert abs(linear_probe(*planted(400, 8, signal=0.0)) - 0.5) < 0.1


@pytest.mark.parametrize("name", SCORES)
def test_every_score_prefers_features_that_tell_the_classes_apart(name):
    weak = estimate(name, *planted(120, 10, signal=0.2), resamples=4)
    strong = estimate(name, *planted(120, 10, signal=5.0), resamples=4)
    assert strong.value > weak.value
    assert strong.low <= strong.value <= strong.high


@pytest.mark.parametrize("name", ["linear_probe", "h_score", "knn"])
def test_intervals_cover_what_other_rows_give(name):
    """The interval is about as wide as fresh samples of the same size spread."""
    fresh = [SCORES[name].compute(*planted(100, 5, seed=seed), "classification") for seed in range(1, 61)]
    spread = np.std(fresh)
    widths = [estimate(name, *planted(100, 5, seed=s), resamples=20) for s in range(3)]
    implied = np.mean([(found.high - found.low) / 2 / 2.09 for found in widths])
    assert 0.6 < implied / spread < 1.8


def test_ratings_have_three_scores():
    assert scores_of("regression") == ["linear_probe", "logme", "knn"]
    assert scores_of("classification") == list(SCORES)


@pytest.mark.parametrize(
    ("score", "features", "labels"),
    [
        (logme, np.eye(4), np.zeros(4)),
        (h_score, np.eye(4), np.arange(3)),
        (n_leep, np.full((4, 2), np.nan), np.arange(4) % 2),
        (knn, np.eye(4), np.arange(4) % 2),
        (linear_probe, np.eye(4), np.array([0, 0, 0, 1])),
        (logme, np.ones(4), np.arange(4) % 2),
    ],
)
def test_what_cannot_be_scored(score, features, labels):
    with pytest.raises(DataError):
        score(features, labels)
