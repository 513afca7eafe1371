"""Full fine-tuning, and its gentler forms: frozen layers, gradual unfreezing, layer-wise learning rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from nlp_transfer.errors import ModelError
from nlp_transfer.options import Options
from nlp_transfer.strategies.base import Strategy
from nlp_transfer.strategies.layers import freeze_half, parameter_depths

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel, TrainerCallback


class FullOptions(Options):
    """All weights move, or those above a chosen layer."""

    kind: Literal["full"] = "full"
    freeze_embeddings: bool = False
    """Keep the token and position embeddings as they are."""
    freeze: Literal["encoder", "decoder"] | None = None
    """Of an encoder-decoder: keep this half as it is, and the embeddings that it shares with the other."""
    freeze_layers: int = Field(default=0, ge=0)
    """Keep the embeddings and the first n transformer layers as they are (partial fine-tuning)."""
    layer_decay: float | None = Field(default=None, gt=0, le=1)
    """Multiply the learning rate by this for each layer further from the head (0.9 is usual)."""
    gradual_unfreezing: float | None = Field(default=None, gt=0)
    """Start with the head alone and free one more layer, from the top, every so many epochs."""

    @model_validator(mode="after")
    def _not_both(self) -> FullOptions:
        if self.gradual_unfreezing and (self.freeze_layers or self.freeze_embeddings or self.freeze):
            raise ValueError(
                "gradual_unfreezing frees every layer in the end: leave out "
                "freeze/freeze_layers/freeze_embeddings"
            )
        return self


class Full(Strategy[FullOptions]):
    """Train the model's own weights.

    Gradual unfreezing and discriminative learning rates follow Howard & Ruder (2018), ULMFiT, sections 3.2
    and 3.3; the decay by depth is the form of Clark et al. (2020), ELECTRA, appendix A.
    """

    summary = "all weights, or those above a layer; layer-wise rates; gradual unfreezing"
    default_learning_rate = 5e-5

    def prepare(self, model: PreTrainedModel) -> PreTrainedModel:
        """Freeze what the options say.

        Raises:
            ModelError: ``freeze_layers`` is more than the model has.
        """
        frozen = self.options.freeze_layers
        if self.options.freeze:
            freeze_half(model, self.options.freeze)
        if not frozen and not self.options.freeze_embeddings:
            return model
        depths, layers = parameter_depths(model)
        if frozen > layers:
            raise ModelError(
                f"strategy.freeze_layers is {frozen}, but {type(model).__name__} has {layers} layers",
                expected=f"a number from 0 to {layers}",
                found=str(frozen),
                fix="lower strategy.freeze_layers",
            )
        for name, parameter in model.named_parameters():
            if depths[name] <= frozen:
                parameter.requires_grad_(False)
        return model

    def learning_rate_scales(self, model: nn.Module) -> dict[str, float] | None:
        """lr * layer_decay ** (L + 1 - depth): the head at the full rate, the embeddings slowest."""
        decay = self.options.layer_decay
        if decay is None:
            return None
        depths, layers = parameter_depths(model)
        return {name: decay ** (layers + 1 - depth) for name, depth in depths.items()}

    def callbacks(self) -> list[TrainerCallback]:
        """The gradual unfreezing schedule, where asked for."""
        if self.options.gradual_unfreezing is None:
            return []
        from nlp_transfer.strategies.unfreezing import GradualUnfreezing

        return [GradualUnfreezing(self.options.gradual_unfreezing)]

    def trainer_defaults(self) -> dict[str, object]:
        """Parameters that join later are unused at first, which DDP must be told."""
        return {"ddp_find_unused_parameters": True} if self.options.gradual_unfreezing else {}
