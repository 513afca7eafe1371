"""What a task is: it decides what is learned, from encoding to loss to metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from nlp_transfer.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import EvalPrediction, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

    from nlp_transfer.data.stream import StreamedRows
    from nlp_transfer.tasks.encoding import EncodedStream

OptionsT = TypeVar("OptionsT", bound=Options)
TASK_FILE = "nlp_transfer.json"
"""Beside a saved model: its task, length and what the task needs, as ``Task.record`` gives it."""


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
    def objective(self) -> Literal["classification", "regression", "translation"]:
        """What the data must bring: class labels, numbers, or translations."""

    @property
    @abstractmethod
    def best_metric(self) -> BestMetric:
        """The figure that picks the best checkpoint."""

    @property
    @abstractmethod
    def metric_names(self) -> tuple[str, ...]:
        """The figures of the evaluations during training, which can choose the best checkpoint."""

    @property
    def headline_metric(self) -> str:
        """The figure of ``score`` that says most in one number."""
        return self.best_metric.name

    @abstractmethod
    def bind(self, train: Mapping[str, Dataset]) -> Self:
        """Return the task with its labels settled from all training data, by names such as ``source.train``.

        Raises:
            DataError: labels that cannot be learned from.
        """

    def settle(self, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> Self:
        """Return the task with what only the model can tell settled.

        Raises:
            ModelError: the model cannot do this task.
        """
        return self

    @classmethod
    @abstractmethod
    def from_model(cls, config: PretrainedConfig, saved: Mapping[str, Any]) -> Self:
        """Restore a bound task from a model trained for it.

        Args:
            config: the model's.
            saved: what ``describe`` returned when the model was saved; empty for models of another origin.

        Raises:
            ModelError: the model does something else.
        """

    def describe(self) -> dict[str, Any]:
        """What ``from_model`` needs beyond the model's configuration, ready for JSON."""
        return {}

    def record(self, max_length: int) -> dict[str, Any]:
        """What is written beside the weights, to load them by; texts are read up to ``max_length`` tokens."""
        return {"task": self.kind, "max_length": max_length, **self.describe()}

    @abstractmethod
    def build_model(self, source: Any, model_options: Any, *, quantization: Any = None) -> PreTrainedModel:
        """Load the pretrained model with an output layer for this task."""

    @staticmethod
    @abstractmethod
    def load_trained(source: Any, model_options: Any) -> PreTrainedModel:
        """Load what ``save_model`` wrote; an adapter is merged into its base."""

    @staticmethod
    @abstractmethod
    def save_model(model: Any, folder: Any) -> None:
        """Save a trained model or adapter, so that plain transformers (or peft) loads it."""

    @abstractmethod
    def encode(
        self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, *, name: str = "data"
    ) -> Dataset:
        """Tokenise the rows, without padding.

        Args:
            dataset: rows with ``text``, and with ``label`` or ``translation`` where they are labelled.
            tokenizer: of the model.
            max_length: longer texts are cut to this many tokens.
            name: the split that error messages speak of.

        Returns:
            The rows in their order with ``input_ids``, ``length`` (in tokens), ``truncated``, and ``labels``
            where they are labelled.

        Raises:
            DataError: no rows, or a label that the task does not know.
        """

    def encode_stream(
        self, rows: StreamedRows, tokenizer: PreTrainedTokenizerBase, max_length: int, *, name: str = "data"
    ) -> EncodedStream:
        """As ``encode``, for rows that stay in their files: each is tokenised when it is drawn."""
        raise NotImplementedError(f"the task {self.kind} has no streamed rows")

    def truncation_rate(self, encoded: Dataset) -> float:
        """Share of the encoded rows that were cut at the length limit, from 0 to 1."""
        cut = encoded["truncated"][:]
        return sum(cut) / len(cut)

    @abstractmethod
    def check_labels(self, dataset: Dataset, *, name: str = "data") -> None:
        """Read the labels of raw rows that will be scored.

        Raises:
            DataError: a label that is missing or that the task does not know.
        """

    @abstractmethod
    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: Any = None
    ) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """A function that pads encoded rows to the longest in the batch."""

    @abstractmethod
    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        num_items: Tensor | int | None = None,
    ) -> Tensor:
        """The training loss of a batch, in float32, divided by ``num_items`` (default: the batch's own)."""

    def trainer_defaults(self, training: Mapping[str, Any]) -> dict[str, Any]:
        """``TrainingArguments`` fields that this task needs unless the recipe's ``training`` sets them."""
        return {}

    def cuts_batches(self, training: Mapping[str, Any]) -> bool:
        """Whether ``training_rows`` makes batches of its own, by tokens."""
        return False

    def training_rows(self, encoded: Dataset, training: Mapping[str, Any], seed: int) -> Any:
        """What the Trainer draws batches from."""
        return encoded

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Flat figures of an evaluation during training, from logits; cheap, without intervals."""
        return {}

    evaluates_itself: ClassVar[bool] = False
    """Whether evaluations during training use ``validation_figures`` in place of ``compute_metrics``."""

    def validation_note(self, rows: int) -> str | None:
        """How evaluations during training differ from the final one on as many validation rows; None where
        they do not."""
        return None

    def validation_figures(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        encoded: Dataset,
        collate: Callable[[list[Any]], dict[str, Any]],
        *,
        max_length: int,
        seed: int,
        generate: bool,
    ) -> tuple[dict[str, float], NDArray | None]:
        """``loss`` and what else an evaluation during training gives, where logits are not enough.

        Args:
            model, tokenizer: as they are in training.
            rows: raw validation rows.
            encoded: the same, encoded.
            collate: encoded rows to a batch.
            max_length: tokens of a text that are read.
            seed: of a sample of the rows.
            generate: whether figures are wanted that need generation.

        Returns:
            The figures, and one figure a row (see ``TranslationTask.row_figures``) by which two models can be
            compared, where the task has some.
        """
        return {}, None

    def batch_figures(self, rows: Any) -> dict[str, float]:
        """Figures of the batches that the Trainer draws, for ``metrics.json``."""
        return {}

    def knows(self, config: Mapping[str, Any]) -> bool:
        """Whether a pretrained model with this ``config.json`` does the bound task before any training."""
        return False

    @property
    @abstractmethod
    def answers(self) -> tuple[str, ...]:
        """What its outputs are in: the classes in their order, or both languages; empty for ratings."""

    def misfit(self, other: Task) -> str | None:
        """Why a model of ``other`` cannot be compared with one of this task row by row; None where it can."""
        theirs, ours = (f"{task.objective} ({', '.join(task.answers)})" for task in (other, self))
        return None if theirs == ours else f"it is made for {theirs}, not for {ours}"

    @abstractmethod
    def outputs(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerBase,
        rows: Dataset,
        max_length: int,
        *,
        name: str = "data",
    ) -> Any:
        """What a model says of rows, before it is scored: logits, or translations."""

    @abstractmethod
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
        """The full report of a model on labelled rows, with intervals, ready for JSON.

        With ``baseline``, the ``outputs`` of another model for the same rows, ``against_baseline`` holds for
        each metric the paired difference ``value`` with ``low`` and ``high``, and the other's ``baseline``.
        """

    @abstractmethod
    def predict(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], max_length: int
    ) -> list[dict[str, Any]]:
        """One JSON-ready prediction for each text."""
