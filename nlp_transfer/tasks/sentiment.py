"""Sentiment: classes learned with cross-entropy, or ratings learned with mean squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.errors import ModelError
from nlp_transfer.tasks.base import BestMetric, Task
from nlp_transfer.tasks.sentiment_options import SentimentOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from nlp_transfer.data.stream import StreamedRows
    from nlp_transfer.tasks.encoding import EncodedStream

__all__ = ["SentimentOptions", "SentimentTask"]


class SentimentTask(Task[SentimentOptions]):
    """Sentiment classes (binary or more) or sentiment ratings.

    Args:
        options: what the recipe says.
        names: class names in id order; empty until bound, and for ratings.
        class_weights: one per class, scaled to a mean of one over the training rows; None for equal weights.
        mean_rating: of the training rows, where a fresh regression head starts.
    """

    summary = "sentiment classes (cross-entropy) or ratings (mean squared error)"
    kind: ClassVar[str] = "sentiment"

    def __init__(
        self,
        options: SentimentOptions | None = None,
        *,
        names: Sequence[str] = (),
        class_weights: Sequence[float] | None = None,
        mean_rating: float | None = None,
    ) -> None:
        super().__init__(options or SentimentOptions())
        self.names = tuple(names)
        self.class_weights = None if class_weights is None else tuple(class_weights)
        self.mean_rating = mean_rating

    @property
    def objective(self) -> Literal["classification", "regression"]:
        """``"regression"`` for ratings, otherwise ``"classification"``."""
        return "regression" if self.options.loss == "mse" else "classification"

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for ratings."""
        return 1 if self.objective == "regression" else len(self.names)

    @property
    def best_metric(self) -> BestMetric:
        """Accuracy (higher is better), or mean squared error (lower is better)."""
        return BestMetric("mse", False) if self.objective == "regression" else BestMetric("accuracy", True)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Those of classes, or of ratings."""
        ratings = self.objective == "regression"
        return ("mse", "mae") if ratings else ("accuracy", "macro_f1", "matthews_correlation")

    def bind(self, train: Mapping[str, Dataset]) -> SentimentTask:
        """Settle the classes and their weights, or the mean rating.

        Args:
            train: the labelled training data by name, such as ``{"source.train": ..., "target.train": ...}``.

        Raises:
            DataError: fewer than two classes, classes of one split that another does not know, a label
                outside ``labels``, weights that do not fit the classes, or ratings that are not numbers or
                never vary.
        """
        from nlp_transfer.tasks import labels

        if self.objective == "regression":
            return SentimentTask(self.options, mean_rating=labels.mean_rating(train))
        names = labels.settle_names(train, self.options.labels)
        weights = labels.settle_weights(train, names, self.options.class_weights)
        return SentimentTask(self.options, names=names, class_weights=weights)

    @classmethod
    def from_model(cls, config: PretrainedConfig, saved: Mapping[str, Any] | None = None) -> SentimentTask:
        """Restore the task from a model's configuration: ``problem_type``, ``num_labels`` and ``id2label``.

        Raises:
            ModelError: a model for several labels at once.
        """
        if config.problem_type == "multi_label_classification":
            raise ModelError(
                "this model gives every text several labels at once",
                expected="a model for single-label classification or for ratings",
                found="problem_type multi_label_classification",
                fix="choose a model that was trained for sentiment",
            )
        if config.problem_type == "regression" or config.num_labels == 1:
            return cls(SentimentOptions(loss="mse"))
        names = [str(name) for _, name in sorted((config.id2label or {}).items())]
        return cls(names=names)

    def build_model(self, source: Any, model_options: Any, *, quantization: Any = None) -> PreTrainedModel:
        """Load a sequence classifier with one output per class, or one for the rating.

        A fresh rating head starts at the mean rating of the training data, not at zero, so that no steps are
        spent on learning the offset; the saved model predicts plain ratings.

        Args:
            source: the model as ``nlp_transfer.models`` resolved it.
            model_options: the recipe's ``model``.
            quantization: a ``transformers`` quantization configuration, where the strategy wants one.

        Raises:
            ModelError: from loading.
        """
        from nlp_transfer.models.classifier import build_classifier, start_at

        regression = self.objective == "regression"
        model = build_classifier(
            source,
            model_options,
            num_labels=self.num_labels,
            id2label={0: "rating"} if regression else dict(enumerate(self.names)),
            problem_type="regression" if regression else "single_label_classification",
            quantization=quantization,
        )
        if self.mean_rating is not None:
            start_at(model, self.mean_rating)
        return model

    @staticmethod
    def load_trained(source: Any, model_options: Any) -> PreTrainedModel:
        """Load a classifier, its head included; an adapter is merged."""
        from nlp_transfer.models.classifier import load_classifier

        return load_classifier(source, model_options)

    @staticmethod
    def save_model(model: Any, folder: Any) -> None:
        """Save a classifier, or an adapter with the configuration of its classifier."""
        from nlp_transfer.models.classifier import save_classifier

        save_classifier(model, folder)

    def encode(
        self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, name: str = "data"
    ) -> Dataset:
        """Tokenise ``text`` and turn ``label`` into class ids or floats; see ``Task.encode``.

        Cost: one pass of the tokenizer, O(total characters); rows stay in Arrow.

        Raises:
            DataError: no rows, a label that the task does not know, or a row without one.
        """
        from nlp_transfer.tasks.encoding import encode

        labelled = "label" in dataset.column_names
        return encode(dataset, tokenizer, max_length, self._converter(dataset, name) if labelled else None)

    def encode_stream(
        self, rows: StreamedRows, tokenizer: PreTrainedTokenizerBase, max_length: int, *, name: str = "data"
    ) -> EncodedStream:
        """See ``Task.encode_stream``; every label is checked here, before training."""
        from nlp_transfer.tasks.encoding import EncodedStream, batch_encoder

        return EncodedStream(rows, batch_encoder(tokenizer, max_length, self._converter(rows.index, name)))

    def label_array(self, dataset: Dataset, *, name: str = "data") -> NDArray:
        """Class ids (int64) or ratings (float64) of raw rows, shape [n].

        Raises:
            DataError: a label that the task does not know, or a row without one.
        """
        import numpy as np

        return np.asarray(self._converter(dataset, name)(dataset["label"][:]))

    def _converter(self, dataset: Dataset, name: str) -> Callable[[list], list]:
        from nlp_transfer.tasks.labels import converter

        return converter(dataset, name, self.names if self.objective == "classification" else None)

    def check_labels(self, dataset: Dataset, *, name: str = "data") -> None:
        """Read the labels once; raises DataError for one that the task does not know."""
        self.label_array(dataset, name=name)

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: Any = None
    ) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Pad to the longest row of the batch (on CUDA to a multiple of 8, for its tensor cores)."""
        from nlp_transfer.tasks.encoding import PaddingCollator

        return PaddingCollator(tokenizer)

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """Cross-entropy or mean squared error of a batch.

        ``sum_i weight_i * classweight(y_i) * loss_i / num_items``. The divisor counts rows; it is not the sum
        of the weights, which differs from batch to batch and would make the result depend on how rows fall
        into micro-batches. Class weights have a mean of one over the training rows (``bind`` sees to that),
        so over the training data this is what ``torch.nn.functional.cross_entropy(weight=...)`` gives. Label
        smoothing is torch's: the spread share of the target is weighted by class too.

        Args:
            logits: shape [n, C], or [n, 1] or [n] for ratings; any float type, computed in float32.
            labels: shape [n]; class ids (rows with -100 are left out) or ratings.
            weights: shape [n], one per row, with a mean of one over the training data; default all one.
            num_items: rows in the whole accumulation window, over all processes (``num_items_in_batch`` of
                ``transformers.Trainer``), so that micro-batches add up to the loss of the whole; default: the
                labelled rows of this batch.

        Returns:
            A scalar, float32.
        """
        import torch
        from torch.nn import functional

        if self.objective == "regression":
            values = functional.mse_loss(
                logits.float().reshape(labels.shape), labels.float(), reduction="none"
            )
            rows: Tensor | int = labels.numel()
        else:
            scale = (
                None if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device)
            )
            values = functional.cross_entropy(
                logits.float(),
                labels,
                weight=scale,
                ignore_index=IGNORED_LABEL,
                reduction="none",
                label_smoothing=self.options.label_smoothing,
            )
            rows = labels.ne(IGNORED_LABEL).sum().clamp(min=1)
        if weights is not None:
            values = values * weights.float()
        if isinstance(num_items, torch.Tensor):  # DataParallel repeats the count, once for each device
            num_items = num_items.to(values.device).float().mean()
        return values.sum() / (rows if num_items is None else num_items)

    def knows(self, config: Mapping[str, Any]) -> bool:
        """A classifier of the same classes in the same order, or a model of ratings."""
        if not any("Classif" in name for name in config.get("architectures") or ()):
            return False
        if self.objective == "regression":
            return config.get("problem_type") == "regression"
        names = sorted((config.get("id2label") or {}).items(), key=lambda item: int(item[0]))
        return [str(name) for _, name in names] == list(self.names)

    @property
    def answers(self) -> tuple[str, ...]:
        """The classes."""
        return self.names

    def outputs(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        max_length: int,
        *,
        name: str = "data",
    ) -> NDArray:
        """Logits [n, C] of labelled rows."""
        from nlp_transfer.models.inference import predict_logits

        encoded = self.encode(rows, tokenizer, max_length, name=name)
        return predict_logits(model, encoded, self.collator(tokenizer))

    def score(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        max_length: int,
        *,
        name: str = "data",
        baseline: Any = None,
    ) -> dict[str, Any]:
        """``evaluate`` on the model's outputs for labelled rows."""
        logits = self.outputs(model, tokenizer, rows, max_length, name=name)
        return self.evaluate(logits, self.label_array(rows, name=name), baseline=baseline)

    def predict(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> list[dict[str, Any]]:
        """``postprocess`` of the model's outputs for texts."""
        from datasets import Dataset

        from nlp_transfer.models.inference import predict_logits

        encoded = self.encode(Dataset.from_dict({"text": list(texts)}), tokenizer, max_length)
        return self.postprocess(predict_logits(model, encoded, self.collator(tokenizer)))

    def evaluate(
        self, logits: ArrayLike, labels: ArrayLike, *, baseline: ArrayLike | None = None
    ) -> dict[str, Any]:
        """Report on n rows with bootstrap intervals; see ``classification_report`` and ``regression_report``.

        Args:
            logits: shape [n, C], or [n, 1] or [n] for ratings.
            labels: shape [n]; class ids or ratings.
            baseline: logits of another model for the same rows; adds ``against_baseline`` (accuracy or mse).

        Raises:
            DataError: nothing to score, or shapes that do not fit.
            ModelError: outputs that are not finite.
        """
        from nlp_transfer.tasks import reports

        if self.objective == "regression":
            report = reports.regression_report(reports.ratings(logits), labels)
        else:
            report = reports.classification_report(reports.probabilities(logits), labels, self.names)
        if baseline is not None:
            rows = (self.row_scores(logits, labels), self.row_scores(baseline, labels))
            name, greater = self.best_metric
            report["against_baseline"] = {name: reports.paired_figures(*rows, greater_is_better=greater)}
        return report

    def row_scores(self, logits: ArrayLike, labels: ArrayLike) -> NDArray:
        """1 where a row's class is right, else 0; for ratings the negative squared error.

        Raises:
            ModelError: outputs that are not finite.
        """
        import numpy as np

        from nlp_transfer.tasks import reports

        if self.objective == "regression":
            return -((reports.ratings(logits) - np.asarray(labels, dtype=np.float64)) ** 2)
        return (reports.probabilities(logits).argmax(axis=1) == np.asarray(labels)).astype(np.float64)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """accuracy, macro_f1 and matthews_correlation; or mse and mae.

        Raises:
            ModelError: outputs that are not finite: training has diverged.
        """
        import numpy as np
        from sklearn import metrics

        from nlp_transfer.tasks import reports

        outputs = (
            prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
        )
        truth = np.asarray(prediction.label_ids)
        if self.objective == "regression":
            found = reports.ratings(outputs)
            return {
                "mse": float(metrics.mean_squared_error(truth, found)),
                "mae": float(metrics.mean_absolute_error(truth, found)),
            }
        classes = reports.probabilities(outputs).argmax(axis=1)
        return {
            "accuracy": float(metrics.accuracy_score(truth, classes)),
            "macro_f1": float(metrics.f1_score(truth, classes, average="macro", zero_division=0.0)),
            "matthews_correlation": float(metrics.matthews_corrcoef(truth, classes)),
        }

    def postprocess(self, logits: ArrayLike) -> list[dict[str, Any]]:
        """``{"label", "score", "probabilities": {name: p}}`` for each row, or ``{"rating"}``.

        Raises:
            ModelError: outputs that are not finite.
        """
        from nlp_transfer.tasks import reports

        if self.objective == "regression":
            return [{"rating": rating} for rating in reports.ratings(logits).tolist()]
        rows = []
        for scores in reports.probabilities(logits).tolist():
            best = max(range(len(scores)), key=scores.__getitem__)
            probabilities = dict(zip(self.names, scores, strict=True))
            rows.append({"label": self.names[best], "score": scores[best], "probabilities": probabilities})
        return rows
