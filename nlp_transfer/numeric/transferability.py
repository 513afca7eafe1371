"""Transferability scores: how well a pretrained model's features suit labelled data, without fine-tuning.

Every score takes features (n, d) and labels (n,) and grows with transferability. They compare models on the
same rows; their scales have no meaning across data sets. ``SCORES`` names them all; a new one is a function
and a line there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from nlp_transfer.errors import DataError
from nlp_transfer.numeric._checks import shaped
from nlp_transfer.numeric.evidence import maximise

Objective = Literal["classification", "regression"]
Features = np.ndarray

PROBE_STRENGTHS = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Inverse regularisation strengths that the linear probe tries, on standardised features."""


def h_score(features: Any, labels: Any) -> float:
    """H-score with a shrunk covariance: between-class variance in units of the total variance.

    ``tr(S^-1 (1 - a) B)`` with S the Ledoit-Wolf covariance of the features, a its shrinkage and B the
    covariance of the class means. At least 0, at most the number of classes less 1.

    Args:
        features: (n, d).
        labels: class numbers 0..C-1, (n,).

    Raises:
        DataError: fewer than two classes, or shapes that do not fit.

    Cost: O(n d^2 + d^3).

    Source: Bao et al. 2019, "An information-theoretic approach to transferability"; shrinkage: Ibrahim et al.
    2021, "Newer is not always better", equation 5.
    """
    from sklearn.covariance import ledoit_wolf

    x, y = _classified(features, labels)
    centred = x - x.mean(0)
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    counts = np.bincount(y)
    present = np.flatnonzero(counts)
    means = np.stack([centred[y == label].mean(0) for label in present])
    solved = cho_solve(cho_factor(covariance + _jitter(covariance)), means.T)
    spread = (means * solved.T).sum(1) * counts[present] / len(y)
    return float((1 - shrinkage) * spread.sum())


def _jitter(covariance: np.ndarray) -> np.ndarray:
    """Next to nothing on the diagonal, so that constant features are no division by zero."""
    size = float(np.trace(covariance)) / len(covariance)
    return np.eye(len(covariance)) * max(size * 1e-12, 1e-300)


def logme(features: Any, labels: Any, *, objective: Objective = "classification") -> float:
    """LogME: the maximum log evidence of the labels a row, given the features; the mean over classes.

    The full evidence, with the log determinant of all d weights; right for d > n too.

    Args:
        features: (n, d).
        labels: class numbers 0..C-1, or ratings, (n,).
        objective: how to read the labels.

    Raises:
        DataError: fewer than two classes, or shapes that do not fit.

    Cost: one singular value decomposition, O(n d min(n, d)).

    Source: You et al. 2021, "LogME: practical assessment of pre-trained models for transfer learning", eq. 2.
    """
    if objective == "regression":
        x, y = _rated(features, labels)
        targets = [y]
    else:
        x, y = _classified(features, labels)
        targets = [(y == label).astype(np.float64) for label in np.unique(y)]
    decomposed = np.linalg.svd(x, full_matrices=False)[:2]
    return float(np.mean([maximise(decomposed, target).value for target in targets]))


def leep(memberships: Any, labels: Any) -> float:
    """LEEP: mean log likelihood of labels predicted through soft memberships in pseudo classes.

    Args:
        memberships: (n, v), rows sum to 1.
        labels: class numbers 0..C-1, (n,).

    Source: Nguyen et al. 2020, "LEEP: a new measure to evaluate transferability", equation 2.
    """
    theta, y = np.asarray(memberships, dtype=np.float64), np.asarray(labels)
    joint = np.stack([theta[y == label].sum(0) for label in range(int(y.max()) + 1)]) / len(y)
    marginal = joint.sum(0)
    conditional = np.divide(joint, marginal, out=np.zeros_like(joint), where=marginal > 0)
    return float(np.log(np.maximum((theta * conditional[y]).sum(1), 1e-300)).mean())


def n_leep(
    features: Any, labels: Any, *, components: int | None = None, energy: float = 0.8, seed: int = 0
) -> float:
    """N-LEEP: LEEP through a Gaussian mixture fitted on the features' principal components.

    Args:
        features: (n, d).
        labels: class numbers 0..C-1, (n,).
        components: of the mixture; None: five a class, at most one for 10 rows.
        energy: share of the variance that the principal components keep.
        seed: of the mixture's start.

    Raises:
        DataError: fewer than two classes, or shapes that do not fit.

    Cost: O(n d^2) for the components, then O(n c p^2) an iteration for c Gaussians in p dimensions.

    Source: Li et al. 2021, "Ranking neural checkpoints", section 4.1.
    """
    import warnings

    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    x, y = _classified(features, labels)
    reduced = PCA(n_components=energy, svd_solver="full").fit_transform(x)
    wanted = components or max(2, min(5 * len(np.unique(y)), len(x) // 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        mixture = GaussianMixture(wanted, reg_covar=_floor(reduced), random_state=seed).fit(reduced)
    return leep(mixture.predict_proba(reduced), y)


def _floor(reduced: np.ndarray) -> float:
    """What keeps a component's covariance invertible: a small share of the mean variance."""
    return max(1e-3 * float(reduced.var(0).mean()), 1e-12)


def knn(features: Any, labels: Any, *, objective: Objective = "classification", neighbours: int = 5) -> float:
    """Leave-one-out accuracy of the nearest neighbours by cosine similarity; R squared for ratings.

    Args:
        features: (n, d).
        labels: class numbers 0..C-1, or ratings, (n,).
        objective: how to read the labels.
        neighbours: that vote, each with one voice; the smaller class number wins a tie.

    Raises:
        DataError: not more rows than neighbours, fewer than two classes, or shapes that do not fit.

    Cost: O(n^2 d) time, O(n) rows of 1,024 similarities in memory.
    """
    x, y = (_rated if objective == "regression" else _classified)(features, labels)
    if len(x) <= neighbours:
        raise DataError(
            "too few rows for their neighbours", expected=f"more than {neighbours}", found=str(len(x))
        )
    unit = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    found = np.empty(len(x))
    for start in range(0, len(x), 1024):
        near = unit[start : start + 1024] @ unit.T
        rows = np.arange(len(near))
        near[rows, start + rows] = -np.inf
        closest = y[np.argpartition(-near, neighbours - 1, axis=1)[:, :neighbours]]
        if objective == "regression":
            found[start : start + len(near)] = closest.mean(1)
        else:
            votes = (closest[:, :, None] == np.arange(int(y.max()) + 1)).sum(1)
            found[start : start + len(near)] = votes.argmax(1)
    return _r_squared(y, found) if objective == "regression" else float((found == y).mean())


def linear_probe(
    features: Any, labels: Any, *, objective: Objective = "classification", folds: int = 5, seed: int = 0
) -> float:
    """Cross-validated accuracy of a linear probe; R squared for ratings.

    Features are standardised on the training folds; of several regularisation strengths the one with the
    least cross-validated loss counts.

    Args:
        features: (n, d).
        labels: class numbers 0..C-1, or ratings, (n,).
        objective: how to read the labels.
        folds: of the cross-validation; fewer where a class has fewer rows.
        seed: of the folds.

    Raises:
        DataError: a class with one row, fewer than two classes, or shapes that do not fit.

    Cost: folds x 7 fits of O(n d min(n, d)): about a second for 1,000 x 384.

    Source: Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    regression = objective == "regression"
    x, y = (_rated if regression else _classified)(features, labels)
    rarest = len(y) if regression else int(np.bincount(y)[np.unique(y)].min())
    if min(folds, rarest) < 2:
        raise DataError(
            "a class has too few rows to cross-validate", expected="at least 2", found=str(rarest)
        )
    splitter = (KFold if regression else StratifiedKFold)(min(folds, rarest), shuffle=True, random_state=seed)
    classes = 1 if regression else int(y.max()) + 1
    wanted = y[:, None] if regression else 2.0 * (y[:, None] == np.arange(classes)) - 1
    scores = np.empty((len(PROBE_STRENGTHS), len(y), classes))
    for train, test in splitter.split(x, y):
        scores[:, test] = _ridge(x[train], wanted[train], x[test])
    losses = ((scores - wanted) ** 2).mean((1, 2))
    best = scores[int(losses.argmin())]
    return _r_squared(y, best[:, 0]) if regression else float((best.argmax(1) == y).mean())


def _ridge(x: np.ndarray, targets: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Ridge predictions [strengths, rows, targets] for held-out rows, from one decomposition."""
    mean, scale = x.mean(0), x.std(0)
    scale = np.where(scale > 1e-9, scale, 1.0)
    z, offset = (x - mean) / scale, targets.mean(0)
    left, singular, right = np.linalg.svd(z, full_matrices=False)
    inner, outer = left.T @ (targets - offset), ((held_out - mean) / scale) @ right.T
    shrunk = [singular / (singular**2 + 1 / strength) for strength in PROBE_STRENGTHS]
    return np.stack([outer @ (factor[:, None] * inner) + offset for factor in shrunk])


def _r_squared(truth: np.ndarray, found: np.ndarray) -> float:
    return float(1 - ((truth - found) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())


@dataclass(frozen=True)
class Score:
    """One transferability score.

    Attributes:
        title: its name in tables.
        compute: called with features, labels and objective.
        regression: whether it is defined for ratings.
    """

    title: str
    compute: Callable[[Features, np.ndarray, Objective], float]
    regression: bool


SCORES: dict[str, Score] = {
    "linear_probe": Score("linear probe", lambda x, y, kind: linear_probe(x, y, objective=kind), True),
    "logme": Score("LogME", lambda x, y, kind: logme(x, y, objective=kind), True),
    "h_score": Score("H-score", lambda x, y, kind: h_score(x, y), False),
    "n_leep": Score("N-LEEP", lambda x, y, kind: n_leep(x, y), False),
    "knn": Score("kNN", lambda x, y, kind: knn(x, y, objective=kind), True),
}
DEFAULT_SCORE = "linear_probe"


def scores_of(objective: Objective) -> list[str]:
    """The names of the scores that are defined for this kind of labels."""
    return [name for name, score in SCORES.items() if score.regression or objective == "classification"]


@dataclass(frozen=True)
class Estimate:
    """A score with its interval over resamples of the rows.

    Attributes:
        value: on all rows.
        low, high: 95 % interval.
    """

    value: float
    low: float
    high: float


def estimate(
    name: str,
    features: Any,
    labels: Any,
    *,
    objective: Objective = "classification",
    resamples: int = 20,
    seed: int = 0,
) -> Estimate:
    """A score and how much it would vary with other rows of the same kind.

    The interval is value +- t s, with s the standard deviation over random halves of the rows: a half has
    twice the variance of the whole, and of the halves' spread half is shared rows, so no factor is left
    (delete-half jackknife; drawing with replacement would put copies of a row on both sides of a fold).

    Args:
        name: a key of ``SCORES``.
        features: (n, d).
        labels: class numbers or ratings, (n,).
        objective: how to read the labels.
        resamples: number of halves, at least 2.
        seed: of the draws, the same rows for every score and model.

    Cost: (1 + resamples / 2) times the score's.

    Source: Shao and Wu 1989, "A general theory for jackknife variance estimation".
    """
    from scipy.stats import t

    x, y = np.asarray(features), np.asarray(labels)
    compute = SCORES[name].compute
    value = compute(x, y, objective)
    halves = [compute(x[rows], y[rows], objective) for rows in _halves(y, objective, resamples, seed)]
    spread = float(t.ppf(0.975, resamples - 1) * np.std(halves, ddof=1))
    return Estimate(value, value - spread, value + spread)


def _halves(y: np.ndarray, objective: Objective, count: int, seed: int) -> list[np.ndarray]:
    """Random halves of the rows, of each class where there are classes (at least two rows of it)."""
    rng = np.random.default_rng(seed)
    strata = (
        [np.arange(len(y))] if objective == "regression" else [np.flatnonzero(y == c) for c in np.unique(y)]
    )
    sizes = [min(len(rows), max(2, len(rows) // 2)) for rows in strata]
    return [
        np.concatenate(
            [rng.choice(rows, size, replace=False) for rows, size in zip(strata, sizes, strict=True)]
        )
        for _ in range(count)
    ]


def _classified(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = _rows(features, labels)
    names, numbers = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise DataError("one class is too few to score", expected="at least two", found=f"{len(names)}")
    return x, numbers.reshape(-1)


def _rated(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x, y = _rows(features, labels)
    y = y.astype(np.float64)
    if not np.isfinite(y).all() or y.min() == y.max():
        raise DataError("ratings must be finite and differ", expected="at least two values")
    return x, y


def _rows(features: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    x = np.asarray(shaped("features", features, min_rows=2), dtype=np.float64)
    y = np.asarray(labels)
    if y.shape != (len(x),):
        raise DataError(
            "features and labels do not fit", expected=f"{len(x)} labels", found=f"shape {y.shape}"
        )
    if not np.isfinite(x).all():
        raise DataError("features are not finite", expected="finite numbers", fix="check the model")
    return x, y
