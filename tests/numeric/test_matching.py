"""Kernel mean matching and KLIEP against generic solvers, and their optimality conditions."""

import numpy as np
import pytest
from scipy.optimize import lsq_linear, minimize

from nlp_transfer.numeric import matching
from nlp_transfer.numeric.kernels import median_bandwidth
from nlp_transfer.numeric.matching import kernel_mean_matching, kliep


def domains(n=30, m=25, d=2, seed=0, shift=1.0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=(m, d)) + shift


def gaussians(x, y, width):
    return np.array([[np.exp(-np.square(a - b).sum() / (2 * width**2)) for b in y] for a in x])


def quadratic_program(a, b, width, top, slack):
    """The weights before normalising, as bounded least squares by an active-set solver.

    Where their mean would leave its interval it lies on the border, which a heavy row asks for.
    """
    n = len(a)
    matrix, linear = gaussians(a, a, width), gaussians(a, b, width).mean(1) * n
    root = np.linalg.cholesky(matrix).T
    rows, right = root, np.linalg.solve(root.T, linear)
    found = lsq_linear(rows, right, (0, top), method="bvls", tol=1e-15).x
    if abs(found.mean() - 1) > slack:
        heavy = np.full((1, n), 1e4)
        border = 1e4 * n * (1 + slack * np.sign(found.mean() - 1))
        stacked = np.vstack([rows, heavy]), np.append(right, border)
        found = lsq_linear(*stacked, (0, top), method="bvls", tol=1e-15, max_iter=1000).x
    return found


@pytest.mark.parametrize(("top", "slack"), [(20.0, None), (20.0, 0.0), (1.5, 0.05), (2.0, 0.0)])
def test_kmm_solves_the_quadratic_program(top, slack):
    a, b = domains()
    width = 0.5
    loose = (np.sqrt(30) - 1) / np.sqrt(30) if slack is None else slack
    expected = quadratic_program(a, b, width, top, loose)
    found = kernel_mean_matching(a, b, bandwidth=width, max_weight=top, epsilon=slack)
    np.testing.assert_allclose(found.weights, expected / expected.mean(), atol=1e-6)


@pytest.mark.parametrize("width", [0.3, 1.0, None])
def test_kmm_meets_the_conditions_of_an_optimum(width):
    """With a mean of one for sure, each weight within the box has the same slope, those at its walls a
    steeper one (Karush, Kuhn and Tucker)."""
    a, b = domains(60, 40, 3)
    found = kernel_mean_matching(a, b, bandwidth=width, max_weight=3.0, epsilon=0.0).weights
    width = width or median_bandwidth(a, b, seed=0)
    slope = (gaussians(a, a, width) @ found - gaussians(a, b, width).mean(1) * len(a)) / len(a)
    inside = (found > 1e-5) & (found < 3 - 1e-5)
    level = slope[inside].mean()
    assert found.mean() == pytest.approx(1)
    np.testing.assert_allclose(slope[inside], level, atol=1e-6)
    assert (slope[found <= 1e-5] >= level - 1e-6).all()
    assert (slope[found >= 3 - 1e-5] <= level + 1e-6).all()


def test_kmm_of_many_rows_is_the_same_on_enough_landmarks(monkeypatch):
    """The distance of the kernel means to 1e-6; many weights are within a hair of it."""
    a, b = domains(80, 50)
    matrix, linear = gaussians(a, a, 0.7), gaussians(a, b, 0.7).mean(1) * 80
    exact = kernel_mean_matching(a, b, bandwidth=0.7, epsilon=0.0).weights
    monkeypatch.setattr(matching, "EXACT_ROWS", 10)
    by_features = kernel_mean_matching(a, b, bandwidth=0.7, epsilon=0.0, landmarks=200).weights
    gaps = [(0.5 * w @ matrix @ w - linear @ w) / 80**2 for w in (exact, by_features)]
    assert gaps[0] == pytest.approx(gaps[1], abs=1e-6)


def likelihood(weights_at_target):
    return np.log(weights_at_target).mean()


@pytest.mark.parametrize("width", [0.4, 1.0, 2.5])
def test_kliep_reaches_the_best_likelihood(width):
    """Against sequential quadratic programming: the likelihood to 1e-6, and the weights it implies."""
    a, b = domains(50, 12)
    at_source, at_target = gaussians(a, b, width), gaussians(b, b, width)
    best = minimize(
        lambda alpha: -np.log(np.maximum(at_target @ alpha, 1e-12)).mean(),
        np.full(12, 1 / at_source.mean(0).sum()),
        jac=lambda alpha: -(at_target / np.maximum(at_target @ alpha, 1e-12)[:, None]).mean(0),
        bounds=[(0, None)] * 12,
        constraints={"type": "eq", "fun": lambda alpha: at_source.mean(0) @ alpha - 1},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    found = kliep(a, b, bandwidths=[width], centres=12, max_weight=1e9)
    expected = at_source @ best.x
    np.testing.assert_allclose(found.weights, expected / expected.mean(), atol=2e-3, rtol=2e-3)
    # The weights span the same mixture, so its coefficients, and with them the likelihood, come back.
    alpha = np.linalg.lstsq(at_source, found.weights, rcond=None)[0]
    assert likelihood(at_target @ alpha) == pytest.approx(-best.fun, abs=2e-6)


def test_kliep_takes_the_bandwidth_with_the_best_held_out_likelihood():
    a, b = domains(60, 30)
    widths = [0.2, 0.8, 3.0]
    rng = np.random.default_rng(0)
    centres = b[rng.choice(30, 30, replace=False)]
    parts = np.array_split(rng.permutation(30), 5)
    scores = []
    for width in widths:
        at_source, at_target = gaussians(a, centres, width), gaussians(b, centres, width)
        held_out = []
        for part in parts:
            alpha = matching._mixture(np.delete(at_target, part, axis=0), at_source.mean(0), 500)
            held_out += list(np.log(at_target[part] @ alpha))
        scores.append(np.mean(held_out))
    chosen = kliep(a, b, bandwidths=widths, seed=0)
    alone = kliep(a, b, bandwidths=[widths[int(np.argmax(scores))]], seed=0)
    np.testing.assert_allclose(chosen.weights, alone.weights)
    others = [kliep(a, b, bandwidths=[w], seed=0).weights for w in widths if w != widths[np.argmax(scores)]]
    assert all(np.abs(chosen.weights - other).max() > 0.01 for other in others)
