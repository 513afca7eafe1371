"""Importance weights for source rows, and what the target's label shares must be.

Covariate shift (the texts differ, the labelling rule does not): `density_ratio`. Label shift (the mix of
classes differs, texts within a class do not): `black_box_shift`. `effective_sample_size` says what either
costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from nlp_transfer.errors import DataError
from nlp_transfer.numeric._checks import Array, as_floats, as_pair, as_vector, as_weights, at_least
from nlp_transfer.numeric._domain import target_probabilities


def effective_sample_size(weights: Any) -> float:
    """Kish's effective sample size (sum w)^2 / sum w^2: how many equally weighted rows tell as much.

    Args:
        weights: non-negative (n,), any scale.

    Returns:
        A number of rows, from 1 (one row has all the weight) to n (all weigh the same).

    Raises:
        DataError: negative, not finite or all zero.

    Source: Kish 1965, "Survey sampling".

    Example:
        >>> effective_sample_size([1, 1, 1, 1]), effective_sample_size([5, 0, 0, 0])
        (4.0, 1.0)
    """
    checked = as_weights("weights", weights, len(weights))
    return float(checked.sum() ** 2 / (checked**2).sum())


def flatten_weights(weights: Any, share: float) -> tuple[np.ndarray, float]:
    """Raise weights to the largest power of at most one that keeps an effective sample size.

    Args:
        weights: non-negative (n,).
        share: the effective sample size is at least this share of n; from 0 (weights stay) to 1 (all equal).

    Returns:
        The weights (n,) with mean 1, and the power.

    Source: Shimodaira 2000, "Improving predictive inference under covariate shift", section 5: a power
    between 0 and 1 trades bias for variance.

    Example:
        >>> flat, power = flatten_weights([1.0, 1.0, 16.0], 0.9)
        >>> round(effective_sample_size(flat) / 3, 3), power < 1
        (0.9, True)
    """
    checked = as_weights("weights", weights, len(weights))
    low, high = 0.0, 1.0
    if effective_sample_size(checked) >= share * len(checked):
        low = 1.0
    while high - low > 1e-9:
        power = (low + high) / 2
        raised = np.maximum(checked, 1e-12 * checked.max()) ** power
        low, high = (power, high) if effective_sample_size(raised) >= share * len(raised) else (low, power)
    flat = checked if low == 1.0 else np.maximum(checked, 1e-12 * checked.max()) ** low
    return flat / flat.mean(), low


def draw_by_weight(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw as many row numbers as there are weights, in proportion to them, rising.

    Each row comes n w / sum(w) times, rounded up or down (systematic resampling, Carpenter et al. 1999): less
    noise than independent draws.
    """
    edges = np.cumsum(weights) / np.sum(weights)
    points = (np.arange(len(weights)) + rng.random()) / len(weights)
    return np.minimum(np.searchsorted(edges, points, side="right"), len(weights) - 1)


@dataclass(frozen=True, eq=False)
class ImportanceWeights:
    """Weights for the source rows.

    Attributes:
        weights: (n,) with mean 1.
        effective_sample_size: see `effective_sample_size`. Below some tenth of n, expect weighting to hurt.
        clipped: share of the rows whose weight was cut.
    """

    weights: np.ndarray
    effective_sample_size: float
    clipped: float


def density_ratio(
    source: Array,
    target: Array,
    *,
    folds: int = 5,
    c: float | None = 1.0,
    max_weight: float = 20.0,
    seed: int = 0,
) -> ImportanceWeights:
    """Importance weights p_target / p_source of the source rows, from a cross-fitted domain classifier.

    A classifier with equal priors for the domains has the ratio as its odds. Each row's odds come from a
    model that did not see it: otherwise the weights are overconfident just where the classifier has
    overfitted.

    Args:
        source: rows (n, d).
        target: rows (m, d).
        folds: of the cross-fitting; default 5.
        c: inverse L2 penalty of the logistic regression on standardised columns; default 1.0. Smaller gives
            flatter weights. None: of five, from 0.0001 to 1, the one with the least held-out log loss.
        max_weight: cut ratios above this before normalising; default 20. Trades a little bias for variance.
        seed: of the folds.

    Returns:
        Weights with mean 1, in the order of `source`.

    Raises:
        DataError: not matrices, different widths, NaN, or fewer rows a side than folds.
        NlpTransferError: a `max_weight` below 1.

    Cost: `folds` logistic regressions, O((n + m) d) for each of their iterations. It hurts where the
    domains hardly overlap (proxy A-distance near 2): a few rows get all the weight. Source: Bickel et al.
    2009, "Discriminative learning under covariate shift"; Sugiyama et al. 2012, chapter 4.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> source, target = rng.normal(size=(300, 1)), rng.normal(1, 1, size=(300, 1))
        >>> found = density_ratio(source, target)
        >>> bool(np.corrcoef(found.weights, source[:, 0])[0, 1] > 0.7)
        True
    """
    at_least("max_weight", max_weight, 1.0)
    a, b = as_pair(source, target, names=("source", "target"))
    probability, _ = target_probabilities(a, b, folds=folds, c=c, seed=seed)
    ratio = probability / np.maximum(1.0 - probability, np.finfo(float).tiny)
    return finished_weights(ratio, max_weight)


@dataclass(frozen=True, eq=False)
class LabelShift:
    """What `black_box_shift` found. Vectors follow the order of `classes`.

    Attributes:
        classes: the labels (k,).
        target: estimated label shares of the target (k,); they sum to 1.
        interval: 95 % bootstrap interval of each: (k, 2).
        source: label shares of the source (k,).
        weights: target / source (k,): the weight of a source row of that class.
        condition_number: of the confusion matrix. Above some 20 the classifier confuses classes too much
            for the estimate to be trusted; look at `interval`.
    """

    classes: np.ndarray
    target: np.ndarray
    interval: np.ndarray
    source: np.ndarray
    weights: np.ndarray
    condition_number: float

    def row_weights(self, labels: Any) -> np.ndarray:
        """The weight of each source row, by its label."""
        return self.weights[np.searchsorted(self.classes, np.asarray(labels))]


def black_box_shift(
    source_labels: Any,
    source_predictions: Any,
    target_predictions: Any,
    *,
    bootstrap: int = 200,
    seed: int = 0,
) -> LabelShift:
    """Estimate the target's label shares from a classifier's predictions alone (BBSE).

    Under label shift the confusion P(predicted | true) is the same in both domains, so the shares of the
    target solve confusion @ shares = shares of its predictions. They are found by least squares over the
    simplex: never negative, always summing to 1. The classifier need not be good, only better than chance
    on every class.

    Args:
        source_labels: true labels of held-out source rows (n,): rows the classifier was not trained on.
        source_predictions: its predictions for them: labels (n,), or probabilities (n, k) with columns in
            sorted order of the labels (the soft form, usually less variable).
        target_predictions: its predictions for the target rows, in the same form.
        bootstrap: resamples of rows behind the interval; default 200, 0 for none (the interval is then NaN).
        seed: of the resamples.

    Raises:
        DataError: lengths that do not fit, predicted labels that the source does not have, or probabilities
            with the wrong number of columns.

    Cost: O((n + m) k bootstrap). Source: Lipton et al. 2018, "Detecting and correcting for label shift with
    black box predictors"; the simplex constraint as in Saerens et al. 2002 and Alexandari et al. 2020.

    Example:
        >>> found = black_box_shift([0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1])
        >>> [round(float(share), 3) for share in found.target]
        [0.25, 0.75]
    """
    labels = as_vector("source_labels", source_labels)
    classes, true = np.unique(labels, return_inverse=True)
    at_source = _prediction_matrix("source_predictions", source_predictions, classes)
    at_target = _prediction_matrix("target_predictions", target_predictions, classes)
    if len(at_source) != len(labels):
        raise DataError(
            "source_predictions do not fit source_labels",
            expected=f"{len(labels)} rows",
            found=f"{len(at_source)}",
        )
    confusion = _confusion(at_source, true, len(classes))
    target = _simplex_least_squares(confusion, at_target.mean(0))
    rng = np.random.default_rng(seed)
    draws = []
    for _ in range(bootstrap):
        rows, others = (
            rng.integers(len(true), size=len(true)),
            rng.integers(len(at_target), size=len(at_target)),
        )
        again = _confusion(at_source[rows], true[rows], len(classes), fallback=confusion)
        draws.append(_simplex_least_squares(again, at_target[others].mean(0)))
    interval = np.quantile(draws, [0.025, 0.975], axis=0).T if draws else np.full((len(classes), 2), np.nan)
    shares = np.bincount(true, minlength=len(classes)) / len(true)
    return LabelShift(classes, target, interval, shares, target / shares, float(np.linalg.cond(confusion)))


def label_shift_weights(
    source: Array,
    labels: Any,
    target: Array,
    *,
    folds: int = 5,
    c: float = 0.01,
    max_weight: float = 20.0,
    seed: int = 0,
) -> ImportanceWeights:
    """Importance weights p_target(y) / p_source(y) of the source rows, from features and source labels.

    A logistic regression is cross-fitted on the source; `black_box_shift` turns its predictions for the
    target into class shares.

    Args:
        source: rows (n, d).
        labels: their classes (n,).
        target: rows (m, d).
        folds: of the cross-fitting; default 5, fewer where a class has fewer rows.
        c: inverse L2 penalty of the logistic regression on standardised columns; default 0.01.
        max_weight: cut weights above this before normalising; default 20.
        seed: of the folds.

    Returns:
        Weights with mean 1. All equal where some class has a single row, which leaves nothing to cross-fit.

    Cost: `folds` + 1 logistic regressions. It hurts where the texts within a class differ between the
    domains: errors of the classifier then pass for a shift of the classes.
    """
    at_least("folds", folds, 2)
    a, b = as_pair(source, target, names=("source", "target"))
    classes, true = np.unique(as_vector("labels", labels, len(a)), return_inverse=True)
    folds = min(folds, int(np.bincount(true).min()))
    if len(classes) < 2 or folds < 2:
        return finished_weights(np.ones(len(a)), max_weight)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    held_out = cross_val_predict(model, a, true, cv=splitter, method="predict_proba")
    shift = black_box_shift(true, held_out, model.fit(a, true).predict_proba(b), bootstrap=0)
    return finished_weights(shift.row_weights(true), max_weight)


def finished_weights(weights: np.ndarray, max_weight: float) -> ImportanceWeights:
    """Weights cut at `max_weight` and scaled to mean 1; equal ones where all are zero."""
    at_least("max_weight", max_weight, 1.0)
    clipped = float((weights > max_weight).mean())
    weights = np.minimum(weights, max_weight)
    mean = weights.mean()
    weights = weights / mean if mean > 0 else np.ones(len(weights))
    return ImportanceWeights(weights, effective_sample_size(weights), clipped)


def _prediction_matrix(name: str, predictions: Any, classes: np.ndarray) -> np.ndarray:
    """Predictions as rows of shares over the classes: one-hot for labels, as they are for probabilities."""
    array = np.asarray(predictions)
    if array.ndim == 2:
        if array.shape[1] != len(classes):
            raise DataError(
                f"{name} has the wrong shape",
                expected=f"{len(classes)} columns, one for each class of the source",
                found=f"{array.shape[1]} columns",
            )
        return as_floats(name, array)
    array = as_vector(name, array)
    unknown = sorted({str(label) for label in np.setdiff1d(array, classes)})
    if unknown or not len(array):
        raise DataError(
            f"{name} cannot be matched to source_labels",
            expected=f"labels among {classes.tolist()[:8]}",
            found=", ".join(unknown[:8]) or "nothing",
            fix="drop the classes that the labelled source rows do not have",
        )
    return np.eye(len(classes))[np.searchsorted(classes, array)]


def _confusion(
    predictions: np.ndarray, true: np.ndarray, k: int, fallback: np.ndarray | None = None
) -> np.ndarray:
    """P(predicted = i | true = j) as matrix [i, j]. A class missing from a resample takes its fallback
    column."""
    counts = np.bincount(true, minlength=k)
    sums = np.eye(k)[true].T @ predictions  # [true, predicted]
    matrix = (sums / np.maximum(counts, 1)[:, None]).T
    if fallback is not None:
        matrix[:, counts == 0] = fallback[:, counts == 0]
    return matrix


def _simplex_least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The p >= 0 with sum 1 that minimises |matrix p - right|: non-negative least squares with a heavy sum
    row."""
    heavy = 1e4
    stacked = np.vstack([matrix, np.full((1, matrix.shape[1]), heavy)])
    found, _ = nnls(stacked, np.append(right, heavy))
    return found / found.sum()
