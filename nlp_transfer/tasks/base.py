"""What a task is: it decides what is learned, from encoding to loss to metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from nlp_transfer.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from datasets import Dataset
    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

OptionsT = TypeVar("OptionsT", bound=Options)


class BestMetric(NamedTuple):
    """The figure that picks the best checkpoint."""

    name: str
    greater_is_better: bool


class Task(ABC, Generic[OptionsT]):
    """One thing to learn: how texts become inputs, what the loss is and how predictions are scored.

    ``bind`` settles what only the training data can tell; every other method needs a bound task, which comes
    from ``bind`` (before training) or from ``from_model`` (a finished model). Tasks never change in place.
    """

    summary: ClassVar[str]
    """One line for ``nlp-transfer recipes list`` and the docs table."""
    kind: ClassVar[str]
    """The name in a recipe."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    @property
    @abstractmethod
    def objective(self) -> Literal["classification", "regression"]:
        """What the data must bring: ``"classification"`` (class labels) or ``"regression"`` (numbers)."""

    @property
    @abstractmethod
    def best_metric(self) -> BestMetric:
        """The figure of ``compute_metrics`` that picks the best checkpoint."""

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """The figures of ``compute_metrics``, which can choose the best checkpoint."""

    @abstractmethod
    def bind(self, train: Mapping[str, Dataset]) -> Self:
        """Return the task with its labels settled from all training data, by names such as ``source.train``.

        Raises:
            DataError: labels that cannot be learned from.
        """

    @classmethod
    @abstractmethod
    def from_model(cls, config: PretrainedConfig) -> Self:
        """Restore a bound task from the configuration of a model trained for it.

        Raises:
            ModelError: the model does something else.
        """

    @property
    @abstractmethod
    def num_labels(self) -> int:
        """Width of the model's output."""

    @abstractmethod
    def build_model(self, source: Any, model_options: Any, *, quantization: Any = None) -> PreTrainedModel:
        """Load the pretrained model with an output layer for this task."""

    @abstractmethod
    def encode(
        self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, name: str = "data"
    ) -> Dataset:
        """Tokenise the rows, without padding.

        Args:
            dataset: rows with ``text``, and ``label`` where they are labelled.
            tokenizer: of the model.
            max_length: longer rows are cut to this many tokens.
            name: the split that error messages speak of.

        Returns:
            The rows in their order with ``input_ids``, ``attention_mask``, ``length`` (in tokens),
            ``truncated``, and ``labels`` where they are labelled.

        Raises:
            DataError: no rows, or a label that the task does not know.
        """

    def truncation_rate(self, encoded: Dataset) -> float:
        """Share of the encoded rows that were cut at the length limit, from 0 to 1."""
        cut = encoded["truncated"][:]
        return sum(cut) / len(cut)

    @abstractmethod
    def label_array(self, dataset: Dataset, *, name: str = "data") -> NDArray:
        """The labels of raw rows as the model learns them: class ids, or numbers; shape [n].

        Raises:
            DataError: a label that is missing or that the task does not know.
        """

    @abstractmethod
    def collator(
        self, tokenizer: PreTrainedTokenizerBase
    ) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """A function that pads encoded rows to the longest in the batch."""

    @abstractmethod
    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """The training loss of a batch, in float32, divided by ``num_items`` (default: the batch's rows)."""

    @abstractmethod
    def evaluate(self, logits: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
        """The full report on n rows, with intervals, ready for JSON; logits are NumPy arrays."""

    @abstractmethod
    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Flat figures for ``transformers.Trainer`` after each evaluation; cheap, without intervals."""

    @abstractmethod
    def postprocess(self, logits: ArrayLike) -> list[dict[str, Any]]:
        """One JSON-ready prediction per row."""
