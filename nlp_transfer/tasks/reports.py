"""Evaluation reports: every figure with its bootstrap interval, ready for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from nlp_transfer.errors import DataError, ModelError
from nlp_transfer.tasks.bootstrap import Interval, bootstrap_cells, bootstrap_interval, no_rows

CALIBRATION_BINS = 15


def classification_report(
    probabilities: ArrayLike,
    labels: ArrayLike,
    names: Sequence[str],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score a classifier on n rows.

    Macro F1 averages over the classes that occur in the labels or the predictions; per-class figures that
    divide by zero (the recall of a class without rows, the precision of one never predicted) are None.

    Args:
        probabilities: shape [n, C]; each row sums to one.
        labels: shape [n], class indices 0..C-1.
        names: the C class names.
        confidence, resamples, seed: of the intervals; see ``bootstrap_interval``.

    Returns:
        ``accuracy``, ``macro_f1``, ``matthews_correlation``, ``expected_calibration_error`` and ``loss``
        (unweighted negative log-likelihood, nats), each ``{"value", "low", "high"}``; ``per_class``;
        ``confusion_matrix`` (rows are true classes); ``rows``; ``confidence``.

    Raises:
        DataError: no rows, or shapes and labels that do not fit together.
        ModelError: probabilities that are not finite.
    """
    scores, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    _check_classification(scores, truth, names)
    truth = truth.astype(np.int64)
    classes = range(len(names))
    counts = confusion_matrix(truth, scores.argmax(axis=1), labels=classes)
    likelihood = scores[np.arange(len(truth)), truth]
    bins, gaps = calibration_gaps(scores, truth)
    cells = partial(bootstrap_cells, confidence=confidence, resamples=resamples, seed=seed)
    rows = partial(bootstrap_interval, confidence=confidence, resamples=resamples, seed=seed)
    return {
        "rows": len(truth),
        "confidence": confidence,
        "accuracy": cells(accuracy, counts),
        "macro_f1": cells(macro_f1, counts),
        "matthews_correlation": cells(matthews_correlation, counts),
        "expected_calibration_error": rows(calibration_error, bins, gaps),
        "loss": rows(np.mean, -np.log(np.maximum(likelihood, np.finfo(np.float64).tiny))),
        "per_class": _per_class(truth, scores.argmax(axis=1), names),
        "confusion_matrix": {"names": list(names), "counts": counts.tolist()},
    }


def regression_report(
    predictions: ArrayLike,
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Score rating predictions on n rows.

    Args:
        predictions: shape [n].
        values: shape [n], the true ratings.
        confidence, resamples, seed: of the intervals; see ``bootstrap_interval``.

    Returns:
        ``mse``, ``mae``, ``pearson`` and ``spearman``, each ``{"value", "low", "high"}``; a correlation that
        is undefined because one side is constant has None there and a ``reason``. Also ``rows`` and
        ``confidence``.

    Raises:
        DataError: no rows, shapes that differ, or ratings that are not finite.
        ModelError: predictions that are not finite.
    """
    found, truth = np.asarray(predictions, dtype=np.float64), np.asarray(values, dtype=np.float64)
    _check_regression(found, truth)
    rows = partial(bootstrap_interval, confidence=confidence, resamples=resamples, seed=seed)
    report: dict[str, Any] = {
        "rows": len(truth),
        "confidence": confidence,
        "mse": rows(np.mean, (found - truth) ** 2),
        "mae": rows(np.mean, np.abs(found - truth)),
    }
    constant = [name for name, side in (("predictions", found), ("ratings", truth)) if np.ptp(side) == 0]
    if constant:
        reason = f"the {' and the '.join(constant)} are constant"
        undefined: Interval = {"value": None, "low": None, "high": None, "reason": reason}
        return report | {"pearson": undefined, "spearman": undefined.copy()}
    return report | {
        "pearson": rows(pearson, found, truth),
        "spearman": rows(spearman, codes(found), codes(truth)),
    }


def paired_figures(ours: NDArray, theirs: NDArray, *, greater_is_better: bool) -> dict[str, float]:
    """The difference of two models' means with its paired interval, and the other's mean.

    Args:
        ours, theirs: one figure a row, larger being better, shape [n].
        greater_is_better: False turns the signs around: the figures are losses with a minus.
    """
    from nlp_transfer.numeric.paired import paired_gain

    gain, figure = paired_gain(ours, theirs), float(theirs.mean())
    if greater_is_better:
        return {"value": gain.value, "low": gain.low, "high": gain.high, "baseline": figure}
    return {"value": -gain.value, "low": -gain.high, "high": -gain.low, "baseline": -figure}


def probabilities(logits: ArrayLike) -> NDArray[np.float64]:
    """Softmax of logits [n, C], in float64.

    Raises:
        ModelError: logits that are not finite.
    """
    outputs = np.asarray(logits, dtype=np.float64)
    _check_finite(outputs)
    return softmax(outputs, axis=-1)


def ratings(outputs: ArrayLike) -> NDArray[np.float64]:
    """Ratings [n] from a model's outputs [n, 1] or [n].

    Raises:
        ModelError: outputs that are not finite.
    """
    numbers = np.asarray(outputs, dtype=np.float64)
    _check_finite(numbers)
    return numbers.reshape(len(numbers))


# Statistics of confusion matrices [..., C, C] (rows are true classes), vectorised over leading axes.


def accuracy(counts: NDArray) -> NDArray:
    """Share of rows on the diagonal."""
    return np.trace(counts, axis1=-2, axis2=-1) / counts.sum(axis=(-2, -1))


def macro_f1(counts: NDArray) -> NDArray:
    """Unweighted mean of F1 over the classes that occur in the labels or the predictions."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    either = counts.sum(axis=-1) + counts.sum(axis=-2)  # 2 TP + FP + FN
    present = either > 0
    scores = 2 * hits / np.where(present, either, 1)
    return scores.sum(axis=-1) / present.sum(axis=-1)


def matthews_correlation(counts: NDArray) -> NDArray:
    """The multi-class correlation of Gorodkin (2004); 0 where labels or predictions are all one class."""
    cells = counts.astype(np.float64)
    truth, guess = cells.sum(axis=-1), cells.sum(axis=-2)
    total = truth.sum(axis=-1)
    covariance = np.trace(cells, axis1=-2, axis2=-1) * total - (truth * guess).sum(axis=-1)
    spread = (total**2 - (truth**2).sum(axis=-1)) * (total**2 - (guess**2).sum(axis=-1))
    return np.where(spread > 0, covariance / np.sqrt(np.where(spread > 0, spread, 1)), 0.0)


# Statistics of rows.


def calibration_gaps(
    probabilities: NDArray, labels: NDArray, bins: int = CALIBRATION_BINS
) -> tuple[NDArray, NDArray]:
    """Each row's confidence bin (equal widths, open on the left) and its correctness minus its confidence."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    return np.searchsorted(edges, confidence, side="left"), correct - confidence


def calibration_error(bins: NDArray, gaps: NDArray, axis: int, count: int = CALIBRATION_BINS) -> NDArray:
    """Expected calibration error of samples [B, n] from ``calibration_gaps``: sum over bins of |gaps| / n.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks, equation 3.
    """
    samples = bins.shape[0]
    cell = bins + count * np.arange(samples)[:, None]
    sums = np.bincount(cell.ravel(), weights=gaps.ravel(), minlength=samples * count).reshape(samples, count)
    return np.abs(sums).sum(axis=-1) / bins.shape[axis]


def pearson(first: NDArray, second: NDArray, axis: int) -> NDArray:
    """Pearson's correlation along an axis; NaN where one side is constant."""
    varies = (np.ptp(first, axis=axis) > 0) & (np.ptp(second, axis=axis) > 0)
    first = first - first.mean(axis=axis, keepdims=True)
    second = second - second.mean(axis=axis, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=axis) * (second**2).sum(axis=axis))
    correlation = (first * second).sum(axis=axis) / np.where(varies, spread, 1)
    return np.where(varies, correlation.clip(-1, 1), np.nan)


def spearman(first: NDArray, second: NDArray, axis: int) -> NDArray:
    """Spearman's rank correlation of samples of ``codes``; ties at their mean rank, NaN where constant."""
    return pearson(_ranks(first), _ranks(second), axis)


def codes(values: NDArray) -> NDArray:
    """Number the different values 0, 1, ... by size: the same ranks, without a sort in every resample."""
    return np.unique(values, return_inverse=True)[1]


def _ranks(samples: NDArray) -> NDArray:
    """Mean ranks within each row of codes [B, n], by counting: O(B * n)."""
    rows, width = samples.shape[0], int(samples.max()) + 1
    cells = samples + width * np.arange(rows)[:, None]
    counts = np.bincount(cells.ravel(), minlength=rows * width).reshape(rows, width)
    middle = counts.cumsum(axis=1) - (counts - 1) / 2
    return np.take_along_axis(middle, samples, axis=1)


def _per_class(truth: NDArray, guess: NDArray, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    columns = precision_recall_fscore_support(truth, guess, labels=range(len(names)), zero_division=np.nan)
    fields = ("precision", "recall", "f1")
    table = {}
    for row, name in enumerate(names):
        figures = {
            field: None if np.isnan(column[row]) else float(column[row])
            for field, column in zip(fields, columns, strict=False)
        }
        table[name] = {**figures, "support": int(columns[3][row])}
    return table


def _check_classification(scores: NDArray, truth: NDArray, names: Sequence[str]) -> None:
    if scores.ndim != 2 or scores.shape[1] != len(names) or truth.shape != scores.shape[:1]:
        raise DataError(
            "probabilities, labels and class names do not fit together",
            expected=f"probabilities of shape [n, {len(names)}] and labels of shape [n]",
            found=f"shapes {list(scores.shape)} and {list(truth.shape)}",
            fix="score the rows with the model that was trained for these classes",
        )
    if not len(truth):
        raise no_rows()
    _check_finite(scores)
    if np.abs(scores.sum(axis=1) - 1).max() > 1e-2 or scores.min() < 0:
        raise DataError(
            "the scores are not probabilities",
            expected="non-negative rows that sum to one",
            found=f"row sums from {scores.sum(axis=1).min():g} to {scores.sum(axis=1).max():g}",
            fix="apply a softmax to the logits first",
        )
    if not np.isin(truth, np.arange(len(names))).all():
        raise DataError(
            "a label is outside the classes",
            expected=f"class indices from 0 to {len(names) - 1}",
            found=f"labels from {truth.min()} to {truth.max()}",
            fix="encode the labels with the task that the model was trained for",
        )


def _check_regression(found: NDArray, truth: NDArray) -> None:
    if found.ndim != 1 or found.shape != truth.shape:
        raise DataError(
            "predictions and ratings do not fit together",
            expected="two arrays of shape [n]",
            found=f"shapes {list(found.shape)} and {list(truth.shape)}",
            fix="score the same rows that the ratings belong to",
        )
    if not len(truth):
        raise no_rows()
    _check_finite(found)
    if not np.isfinite(truth).all():
        raise DataError(
            "a rating is not a number",
            expected="finite ratings",
            found=f"{int((~np.isfinite(truth)).sum())} of {len(truth)} are missing or infinite",
            fix="drop the rows without a rating",
        )


def _check_finite(outputs: NDArray) -> None:
    """Refuse model outputs that are NaN or infinite.

    Raises:
        ModelError: with the advice that fits diverged training.
    """
    bad = int((~np.isfinite(outputs)).sum())
    if bad:
        raise ModelError(
            "the model's outputs are not numbers",
            expected="finite outputs",
            found=f"{bad} of {outputs.size} are NaN or infinite",
            fix="lower training.learning_rate, or train in bf16 or float32 rather than fp16",
        )
