"""Sentiment: classes learned with cross-entropy, or ratings learned with mean squared error."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from nlp_transfer.data.labels import canonical
from nlp_transfer.errors import ModelError, did_you_mean
from nlp_transfer.options import Options
from nlp_transfer.tasks.base import BestMetric, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

IGNORED_LABEL = -100
"""Rows with this class id add nothing to the loss; ``transformers.Trainer`` does not count them either."""


class SentimentOptions(Options):
    """Classify the sentiment of texts, or predict their ratings."""

    kind: Literal["sentiment"] = "sentiment"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """cross_entropy: labels are classes; mse: labels are ratings (numbers)."""
    labels: list[str] | None = None
    """Class names in order; default: those found in the training data, sorted. They are matched with the
    labels by name; where the names are words and the data holds 0, 1, ..., by position."""
    class_weights: Literal["balanced"] | list[float] | dict[str, float] | None = None
    """Weight of each class in the loss, by order or by name; only their ratio matters.
    balanced: inversely to how often each class occurs."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over all classes."""

    @field_validator("labels", mode="before")
    @classmethod
    def _label_names(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        names = [canonical(item) for item in value]
        if len(names) < 2 or None in names or len(set(names)) < len(names):
            raise ValueError(f"expected two or more different class names, found {list(value)}")
        return names

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        if value is None or value == "balanced":
            return value
        if not isinstance(value, (list, tuple, dict)):
            raise ValueError(
                f"expected balanced, a list of numbers or a mapping of class to number, found {value!r}"
            )
        numbers = list(value.values()) if isinstance(value, dict) else list(value)
        if not all(_is_weight(number) for number in numbers) or not any(numbers):
            raise ValueError(f"expected numbers of 0 or more, at least one of them above 0, found {value!r}")
        return (
            {canonical(name): number for name, number in value.items()}
            if isinstance(value, dict)
            else numbers
        )

    @model_validator(mode="after")
    def _ratings_have_no_classes(self) -> SentimentOptions:
        classes = {"labels": self.labels, "class_weights": self.class_weights}
        given = [name for name, value in classes.items() if value is not None]
        given += ["label_smoothing"] if self.label_smoothing else []
        if self.loss == "mse" and given:
            raise ValueError(f"loss mse predicts ratings and has no classes: leave out {', '.join(given)}")
        return self

    @model_validator(mode="after")
    def _weights_fit_labels(self) -> SentimentOptions:
        if self.labels is None or not isinstance(self.class_weights, (list, dict)):
            return self
        if isinstance(self.class_weights, dict):
            for name in self.class_weights:
                if name not in self.labels:
                    hint = did_you_mean(name, self.labels)
                    raise ValueError(f"class_weights names {name!r}, which is no label: {hint}")
        if len(self.class_weights) != len(self.labels):
            raise ValueError(f"found {len(self.class_weights)} class_weights for {len(self.labels)} labels")
        return self


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
    def from_model(cls, config: PretrainedConfig) -> SentimentTask:
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
        from nlp_transfer.models.classifier import build_classifier

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

    def collator(
        self, tokenizer: PreTrainedTokenizerBase
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

    def evaluate(self, logits: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
        """Report on n rows with bootstrap intervals; see ``classification_report`` and ``regression_report``.

        Args:
            logits: shape [n, C], or [n, 1] or [n] for ratings.
            labels: shape [n]; class ids or ratings.

        Raises:
            DataError: nothing to score, or shapes that do not fit.
            ModelError: outputs that are not finite.
        """
        from nlp_transfer.tasks import reports

        if self.objective == "regression":
            return reports.regression_report(reports.ratings(logits), labels)
        return reports.classification_report(reports.probabilities(logits), labels, self.names)

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


def start_at(model: PreTrainedModel, value: float) -> None:
    """Set the zero bias of a fresh one-output head; a trained bias, or a head without one, is left alone."""
    import torch

    heads = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == 1
    ]
    if heads and heads[-1].bias is not None and not heads[-1].bias.any():
        with torch.no_grad():
            heads[-1].bias.fill_(value)


def _is_weight(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
