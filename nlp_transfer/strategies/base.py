"""What a strategy is: it decides which weights move, and how fast."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from nlp_transfer.options import Options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback

OptionsT = TypeVar("OptionsT", bound=Options)


class Strategy(ABC, Generic[OptionsT]):
    """One way to move a pretrained model to a task.

    A gradient strategy prepares the model that ``transformers.Trainer`` trains. A strategy with
    ``extracts = True`` never trains the encoder: the engine embeds each text once and calls ``fit``.
    """

    summary: ClassVar[str]
    """One line for ``nlp-transfer recipes list`` and the docs table."""
    extracts: ClassVar[bool] = False
    default_learning_rate: ClassVar[float] = 5e-5
    """Used where the recipe's ``training.learning_rate`` is not set."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options

    def quantization_config(self) -> Any:
        """A transformers quantization configuration for the pretrained weights, or None."""
        return None

    def prepare(self, model: PreTrainedModel) -> nn.Module:
        """Freeze, wrap or leave the model; called once per training phase, before the optimizer exists."""
        return model

    def learning_rate_scales(self, model: nn.Module) -> dict[str, float] | None:
        """Factor on the learning rate for each parameter name, or None where all share one."""
        return None

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks that change what moves during training."""
        return []

    def trainer_defaults(self) -> dict[str, object]:
        """``TrainingArguments`` fields that this strategy needs unless the recipe sets them."""
        return {}


def count_parameters(parameters: Iterable[nn.Parameter]) -> tuple[int, int]:
    """Return (trainable, total) numbers of weights; shared parameters count once."""
    trainable = total = 0
    for parameter in parameters:
        total += parameter.numel()
        trainable += parameter.numel() if parameter.requires_grad else 0
    return trainable, total
