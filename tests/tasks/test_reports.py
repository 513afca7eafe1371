"""Reports against scikit-learn, SciPy and naive loops."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from nlp_transfer.errors import DataError, ModelError
from nlp_transfer.tasks.reports import (
    calibration_error,
    calibration_gaps,
    classification_report,
    regression_report,
)

from .references import naive_calibration_error, random_scores


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classification_figures(classes):
    scores, labels = random_scores(250, classes)
    guess = scores.argmax(axis=1)
    report = classification_report(scores, labels, [f"c{i}" for i in range(classes)])
    wanted = {
        "accuracy": sk.accuracy_score(labels, guess),
        "macro_f1": sk.f1_score(labels, guess, average="macro"),
        "matthews_correlation": sk.matthews_corrcoef(labels, guess),
        "expected_calibration_error": naive_calibration_error(scores, labels),
        "loss": sk.log_loss(labels, scores, labels=range(classes)),
    }
    for name, value in wanted.items():
        assert report[name]["value"] == pytest.approx(value), name
        assert report[name]["low"] <= value <= report[name]["high"], name
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, guess)
    for index, row in enumerate(report["per_class"].values()):
        wanted_row = {"precision": precision, "recall": recall, "f1": f1, "support": support}
        assert row == pytest.approx({name: column[index] for name, column in wanted_row.items()})
    assert report["confusion_matrix"]["counts"] == sk.confusion_matrix(labels, guess).tolist()
    assert report["rows"] == 250


def test_calibration_at_the_edges():
    """A confidence on a bin's edge belongs to the bin below it; 0.5 and 1.0 fall inside."""
    scores = np.array([[0.5, 0.5], [1.0, 0.0], [0.4, 0.6], [0.8, 0.2], [1 / 3, 2 / 3]])
    labels = np.array([0, 0, 0, 1, 1])
    bins, gaps = calibration_gaps(scores, labels)
    found = calibration_error(bins[None], gaps[None], axis=1)
    assert found[0] == pytest.approx(naive_calibration_error(scores, labels))


def test_calibration_closed_cases():
    always_sure_and_half_right = np.tile([1.0, 0.0], (4, 1)), np.array([0, 0, 1, 1])
    report = classification_report(*always_sure_and_half_right, ["a", "b"])
    assert report["expected_calibration_error"]["value"] == pytest.approx(0.5)
    calibrated = np.tile([0.75, 0.25], (4, 1)), np.array([0, 0, 0, 1])
    assert classification_report(*calibrated, ["a", "b"])["expected_calibration_error"]["value"] == 0


def test_classes_that_are_absent():
    """A class that never occurs and one that is never predicted: no warning, no NaN, valid JSON."""
    scores = np.array([[0.8, 0.1, 0.1, 0.0], [0.7, 0.2, 0.1, 0.0], [0.1, 0.1, 0.8, 0.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = classification_report(scores, [0, 1, 0], ["a", "b", "c", "d"])
    json.dumps(report, allow_nan=False)
    assert report["per_class"]["b"] == {"precision": None, "recall": 0.0, "f1": 0.0, "support": 1}
    assert report["per_class"]["c"] == {"precision": 0.0, "recall": None, "f1": 0.0, "support": 0}
    assert report["per_class"]["d"] == {"precision": None, "recall": None, "f1": None, "support": 0}
    wanted = sk.f1_score([0, 1, 0], [0, 0, 2], average="macro", zero_division=0)
    assert report["macro_f1"]["value"] == pytest.approx(wanted)


def test_one_class_in_the_test_set():
    scores = np.array([[0.9, 0.1], [0.8, 0.2]])
    report = classification_report(scores, [0, 0], ["a", "b"])
    json.dumps(report, allow_nan=False)
    assert report["matthews_correlation"]["value"] == 0
    assert report["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}


def test_impossible_label_keeps_the_loss_finite():
    report = classification_report([[1.0, 0.0], [0.0, 1.0]], [1, 1], ["a", "b"])
    assert np.isfinite(report["loss"]["value"])


def test_regression_figures():
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 6, 300).astype(float)
    found = truth + rng.normal(size=300)
    report = regression_report(found, truth)
    wanted = {
        "mse": sk.mean_squared_error(truth, found),
        "mae": sk.mean_absolute_error(truth, found),
        "pearson": stats.pearsonr(found, truth).statistic,
        "spearman": stats.spearmanr(found, truth).statistic,
    }
    for name, value in wanted.items():
        assert report[name]["value"] == pytest.approx(value), name
        assert report[name]["low"] < value < report[name]["high"], name


@pytest.mark.parametrize(
    ("found", "truth", "reason"),
    [
        ([3.0, 3.0, 3.0], [1.0, 2.0, 3.0], "the predictions are constant"),
        ([1.0, 2.0, 3.0], [0.1, 0.1, 0.1], "the ratings are constant"),
        ([1.0], [2.0], "the predictions and the ratings are constant"),
    ],
)
def test_constant_ratings_have_no_correlation(found, truth, reason):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = regression_report(found, truth)
    json.dumps(report, allow_nan=False)
    assert report["pearson"] == {"value": None, "low": None, "high": None, "reason": reason}
    assert report["spearman"]["reason"] == reason
    assert report["mse"]["value"] == pytest.approx(np.mean((np.array(found) - truth) ** 2))


def test_same_seed_same_report():
    scores, labels = random_scores(100, 3)
    first, again = (classification_report(scores, labels, "abc", seed=3) for _ in range(2))
    assert first == again
    assert first != classification_report(scores, labels, "abc", seed=4)


@pytest.mark.parametrize(
    ("scores", "labels", "error"),
    [
        (np.zeros((0, 2)), [], DataError),
        ([[0.5, 0.5]], [2], DataError),
        ([[0.5, 0.5]], [-100], DataError),
        ([[0.5, 0.5]], [0, 1], DataError),
        ([[0.2, 0.3, 0.5]], [0], DataError),
        ([[2.0, -3.0]], [0], DataError),
        ([[np.nan, 0.5]], [0], ModelError),
    ],
)
def test_refuses_bad_scores(scores, labels, error):
    with pytest.raises(error, match="fix:"):
        classification_report(scores, labels, ["a", "b"])


@pytest.mark.parametrize(
    ("found", "truth", "error"),
    [
        ([], [], DataError),
        ([1.0], [1.0, 2.0], DataError),
        ([1.0], [np.nan], DataError),
        ([np.inf], [1.0], ModelError),
    ],
)
def test_refuses_bad_ratings(found, truth, error):
    with pytest.raises(error, match="fix:"):
        regression_report(found, truth)
