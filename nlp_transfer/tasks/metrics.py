"""Offline metrics for ``evaluate``: built directly, kept in memory, never fetched.

    Accuracy().compute(predictions=[0, 1], references=[0, 1])
    both = evaluate.combine([Accuracy(), ExpectedCalibrationError()])
    both.compute(predictions=probabilities, references=labels)

``evaluate.load`` fetches a script from the hub; these classes need no network and touch no cache folder.
"""

from __future__ import annotations

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from nlp_transfer.errors import DataError
from nlp_transfer.tasks.reports import CALIBRATION_BINS, calibration_error, calibration_gaps

_SKLEARN = """\
@article{scikit-learn,
  title={Scikit-learn: Machine Learning in {P}ython},
  author={Pedregosa, F. and Varoquaux, G. and Gramfort, A. and others},
  journal={Journal of Machine Learning Research}, volume={12}, pages={2825--2830}, year={2011}
}"""
_SCIPY = """\
@article{2020SciPy-NMeth,
  title={{SciPy} 1.0: Fundamental Algorithms for Scientific Computing in Python},
  author={Virtanen, Pauli and Gommers, Ralf and Oliphant, Travis E. and others},
  journal={Nature Methods}, volume={17}, pages={261--272}, year={2020}
}"""
_GORODKIN = """\
@article{gorodkin2004comparing,
  title={Comparing two K-category assignments by a K-category correlation coefficient},
  author={Gorodkin, Jan},
  journal={Computational Biology and Chemistry}, volume={28}, number={5-6}, pages={367--374}, year={2004}
}"""
_GUO = """\
@inproceedings{guo2017calibration,
  title={On Calibration of Modern Neural Networks},
  author={Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle={International Conference on Machine Learning}, pages={1321--1330}, year={2017}
}"""
_SKLEARN_DOCS = "https://scikit-learn.org/stable/modules/generated/sklearn.metrics."
_SCIPY_DOCS = "https://docs.scipy.org/doc/scipy/reference/generated/scipy.stats."


class OfflineMetric(evaluate.Metric):
    """An ``evaluate.Metric`` that needs neither the network nor a cache folder.

    Takes the arguments of ``evaluate.Metric``; ``keep_in_memory`` is on unless ``num_process`` is above 1
    (then ``evaluate`` needs files to gather what the processes saw).
    """

    summary: ClassVar[str]
    source: ClassVar[str]
    reference: ClassVar[str]
    inputs: ClassVar[str]

    def __init__(
        self, config_name: str | None = None, keep_in_memory: bool | None = None, **kwargs: Any
    ) -> None:
        if keep_in_memory is None:
            keep_in_memory = kwargs.get("num_process", 1) == 1
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **kwargs)

    def _build_data_dir(self) -> str:
        # evaluate makes this folder even where it keeps everything in memory: a read-only cache would fail
        return "" if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.summary,
            citation=self.source,
            inputs_description=self.inputs,
            features=self._schema(),
            reference_urls=[self.reference],
        )

    def _schema(self) -> datasets.Features | list[datasets.Features]:
        raise NotImplementedError


class _ClassificationMetric(OfflineMetric):
    inputs = """
Args:
    predictions: class indices [n], or probabilities or logits [n, C], of which the largest counts.
    references: true class indices [n].
"""

    def _schema(self) -> list[datasets.Features]:
        return [_features("int64"), _features(datasets.List(datasets.Value("float64")))]

    def _compute(self, *, predictions: list, references: list) -> dict[str, float]:
        found = np.asarray(predictions)
        return self._score(found.argmax(axis=1) if found.ndim == 2 else found, np.asarray(references))

    def _score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        raise NotImplementedError


class Accuracy(_ClassificationMetric):
    """Share of predictions that equal the label."""

    summary = "Accuracy: the share of predictions that equal the label, from 0 to 1."
    source = _SKLEARN
    reference = _SKLEARN_DOCS + "accuracy_score.html"

    def _score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        return {"accuracy": float(sk.accuracy_score(references, predictions))}


class MacroF1(_ClassificationMetric):
    """Unweighted mean of the F1 of each class that occurs in the labels or the predictions."""

    summary = (
        "Macro F1: the unweighted mean over classes of 2PR/(P+R), from 0 to 1; every class counts alike."
    )
    source = _SKLEARN
    reference = _SKLEARN_DOCS + "f1_score.html"

    def _score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        return {"macro_f1": float(sk.f1_score(references, predictions, average="macro", zero_division=0.0))}


class MatthewsCorrelation(_ClassificationMetric):
    """Correlation of predictions with labels over the whole confusion matrix; fair to unequal classes."""

    summary = (
        "Matthews correlation: agreement over the whole confusion matrix, from -1 to 1; "
        "0 is what guessing gives whatever the class shares."
    )
    source = _GORODKIN
    reference = _SKLEARN_DOCS + "matthews_corrcoef.html"

    def _score(self, predictions: NDArray, references: NDArray) -> dict[str, float]:
        return {"matthews_correlation": float(sk.matthews_corrcoef(references, predictions))}


class ExpectedCalibrationError(OfflineMetric):
    """How far the confidence of a classifier is from its accuracy, over 15 bins of equal width."""

    summary = (
        "Expected calibration error: the mean distance between confidence and accuracy over bins of equal "
        "width, weighted by their rows, from 0 to 1. Biased upwards on few rows."
    )
    source = _GUO
    reference = "https://proceedings.mlr.press/v70/guo17a.html"
    inputs = """
Args:
    predictions: probabilities [n, C]; each row sums to one.
    references: true class indices [n].
    bins: number of bins; default 15.
"""

    def _schema(self) -> datasets.Features:
        return _features(datasets.List(datasets.Value("float64")))

    def _compute(
        self, *, predictions: list, references: list, bins: int = CALIBRATION_BINS
    ) -> dict[str, float]:
        scores = np.asarray(predictions, dtype=np.float64)
        if scores.min() < 0 or scores.max() > 1 + 1e-6:
            raise DataError(
                "calibration is measured on probabilities",
                expected="values from 0 to 1",
                found=f"values from {scores.min():g} to {scores.max():g}",
                fix="apply a softmax to the logits first",
            )
        index, gaps = calibration_gaps(scores, np.asarray(references), bins)
        error = calibration_error(index[None], gaps[None], axis=1, count=bins)
        return {"expected_calibration_error": float(error[0])}


class _RegressionMetric(OfflineMetric):
    inputs = """
Args:
    predictions: numbers [n].
    references: true numbers [n].
"""

    def _schema(self) -> datasets.Features:
        return _features("float64", "float64")


class MeanSquaredError(_RegressionMetric):
    """Mean of the squared distance between prediction and rating."""

    summary = "Mean squared error, in squared units of the rating; lower is better."
    source = _SKLEARN
    reference = _SKLEARN_DOCS + "mean_squared_error.html"

    def _compute(self, *, predictions: list, references: list) -> dict[str, float]:
        return {"mse": float(sk.mean_squared_error(references, predictions))}


class _CorrelationMetric(_RegressionMetric):
    def _compute(self, *, predictions: list, references: list) -> dict[str, float]:
        if len(references) < 2 or np.ptp(predictions) == 0 or np.ptp(references) == 0:
            return self._score(None, None)
        return self._score(predictions, references)

    def _score(self, predictions: list | None, references: list | None) -> dict[str, float]:
        raise NotImplementedError


class PearsonCorrelation(_CorrelationMetric):
    """Linear correlation of predictions with ratings; NaN where one side is constant."""

    summary = "Pearson correlation: linear agreement, from -1 to 1; NaN where one side is constant."
    source = _SCIPY
    reference = _SCIPY_DOCS + "pearsonr.html"

    def _score(self, predictions: list | None, references: list | None) -> dict[str, float]:
        return {
            "pearson": np.nan
            if predictions is None
            else float(stats.pearsonr(predictions, references).statistic)
        }


class SpearmanCorrelation(_CorrelationMetric):
    """Rank correlation of predictions with ratings; NaN where one side is constant."""

    summary = "Spearman correlation: agreement of the ranks, from -1 to 1; NaN where one side is constant."
    source = _SCIPY
    reference = _SCIPY_DOCS + "spearmanr.html"

    def _score(self, predictions: list | None, references: list | None) -> dict[str, float]:
        return {
            "spearman": np.nan
            if predictions is None
            else float(stats.spearmanr(predictions, references).statistic)
        }


def _features(predictions: Any, references: str = "int64") -> datasets.Features:
    kind = datasets.Value(predictions) if isinstance(predictions, str) else predictions
    return datasets.Features({"predictions": kind, "references": datasets.Value(references)})
