"""The ``evaluate`` metrics: figures, how ``evaluate`` uses them, and life without network or cache."""

from __future__ import annotations

import os
import subprocess
import sys

import evaluate
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from nlp_transfer.errors import DataError
from nlp_transfer.tasks.metrics import (
    Accuracy,
    ExpectedCalibrationError,
    MacroF1,
    MatthewsCorrelation,
    MeanSquaredError,
    PearsonCorrelation,
    SpearmanCorrelation,
)

from .references import naive_calibration_error, random_scores

CLASSIFICATION = {
    Accuracy: ("accuracy", sk.accuracy_score),
    MacroF1: ("macro_f1", lambda truth, guess: sk.f1_score(truth, guess, average="macro")),
    MatthewsCorrelation: ("matthews_correlation", sk.matthews_corrcoef),
}
REGRESSION = {
    MeanSquaredError: ("mse", sk.mean_squared_error),
    PearsonCorrelation: ("pearson", lambda truth, found: stats.pearsonr(truth, found).statistic),
    SpearmanCorrelation: ("spearman", lambda truth, found: stats.spearmanr(truth, found).statistic),
}
ALL = [*CLASSIFICATION, ExpectedCalibrationError, *REGRESSION]


@pytest.mark.parametrize("metric", CLASSIFICATION)
def test_classification_metrics(metric):
    scores, labels = random_scores(120, 3)
    key, reference = CLASSIFICATION[metric]
    wanted = pytest.approx({key: reference(labels, scores.argmax(axis=1))})
    assert metric().compute(predictions=scores.argmax(axis=1), references=labels) == wanted
    assert metric().compute(predictions=scores.tolist(), references=labels.tolist()) == wanted
    assert metric().compute(predictions=scores, references=labels) == wanted


@pytest.mark.parametrize("metric", REGRESSION)
def test_regression_metrics(metric):
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 6, 80).astype(float)
    found = truth + rng.normal(size=80)
    key, reference = REGRESSION[metric]
    assert metric().compute(predictions=found, references=truth) == pytest.approx(
        {key: reference(truth, found)}
    )


@pytest.mark.parametrize("bins", [15, 4])
def test_calibration(bins):
    scores, labels = random_scores(200, 4)
    found = ExpectedCalibrationError().compute(predictions=scores, references=labels, bins=bins)
    assert found == pytest.approx(
        {"expected_calibration_error": naive_calibration_error(scores, labels, bins)}
    )


def test_calibration_refuses_logits():
    with pytest.raises(DataError, match="softmax"):
        ExpectedCalibrationError().compute(predictions=[[3.0, -1.0]], references=[0])


@pytest.mark.parametrize("metric", [PearsonCorrelation, SpearmanCorrelation])
@pytest.mark.parametrize("found", [[1.0, 1.0, 1.0], [2.0]])
def test_undefined_correlation_is_nan_without_a_warning(metric, found, recwarn):
    (value,) = metric().compute(predictions=found, references=np.arange(len(found), dtype=float)).values()
    assert np.isnan(value)
    assert not recwarn.list


def test_batches_add_up():
    scores, labels = random_scores(50, 2)
    metric = Accuracy()
    for start in range(0, 40, 10):
        metric.add_batch(predictions=scores[start : start + 10], references=labels[start : start + 10])
    for row in range(40, 50):
        metric.add(prediction=scores[row], reference=labels[row])
    assert metric.compute() == {"accuracy": sk.accuracy_score(labels, scores.argmax(axis=1))}
    assert metric.compute(predictions=[0, 1], references=[0, 0]) == {"accuracy": 0.5}


def test_combine():
    scores, labels = random_scores(60, 2)
    together = evaluate.combine([Accuracy(), MacroF1(), MatthewsCorrelation(), ExpectedCalibrationError()])
    found = together.compute(predictions=scores, references=labels)
    assert found == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, scores.argmax(axis=1)),
            "macro_f1": sk.f1_score(labels, scores.argmax(axis=1), average="macro"),
            "matthews_correlation": sk.matthews_corrcoef(labels, scores.argmax(axis=1)),
            "expected_calibration_error": naive_calibration_error(scores, labels),
        }
    )


@pytest.mark.parametrize("metric", ALL)
def test_info(metric):
    info = metric().info
    assert info.module_type == "metric"
    assert info.description.endswith(".")
    assert info.citation.startswith("@")
    assert info.reference_urls[0].startswith("https://")
    assert "predictions:" in info.inputs_description


def test_global_random_state_is_left_alone():
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    Accuracy().compute(predictions=[0], references=[0])
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_needs_neither_network_nor_cache(tmp_path):
    """In a fresh process: sockets refuse, the cache folder cannot exist, and any warning is an error."""
    (tmp_path / "file").write_text("")
    script = """
import socket, warnings
warnings.simplefilter("error", FutureWarning)
warnings.simplefilter("error", DeprecationWarning)
def refuse(*args, **kwargs):
    raise AssertionError("network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import evaluate
from nlp_transfer.tasks import metrics
scores, labels = [[0.9, 0.1], [0.2, 0.8]], [0, 1]
kinds = [metrics.Accuracy, metrics.MacroF1, metrics.MatthewsCorrelation, metrics.ExpectedCalibrationError]
found = evaluate.combine([kind() for kind in kinds]).compute(predictions=scores, references=labels)
kinds = [metrics.MeanSquaredError, metrics.PearsonCorrelation, metrics.SpearmanCorrelation]
found |= evaluate.combine([kind() for kind in kinds]).compute(predictions=[1.0, 2.0], references=[1.0, 3.0])
print(sorted(found))
"""
    nowhere = str(tmp_path / "file" / "cache")  # below a file: nobody can make it, root included
    caches = ("HF_HOME", "HF_METRICS_CACHE", "HF_EVALUATE_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")
    environment = {**os.environ, **dict.fromkeys(caches, nowhere), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("'") == 14
