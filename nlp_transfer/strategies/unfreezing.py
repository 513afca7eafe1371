"""Gradual unfreezing as a Trainer callback."""

from __future__ import annotations

from transformers import TrainerCallback

from nlp_transfer.strategies.layers import parameter_depths


class GradualUnfreezing(TrainerCallback):
    """Free the head first, then one more layer from the top every ``epochs_per_layer`` epochs.

    The optimizer is built over all parameters; a frozen one has no gradient and AdamW leaves it alone. What
    is free depends on the epoch only, so a resumed run goes on where it was. Each training phase starts with
    the head alone again. Howard & Ruder (2018), ULMFiT, section 3.3.

    Args:
        epochs_per_layer: epochs, or a fraction of one, between one layer and the next.
    """

    def __init__(self, epochs_per_layer: float) -> None:
        self.epochs_per_layer = epochs_per_layer
        self._freed: int | None = None

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        """Apply the state of the current epoch, after the optimizer was built over all parameters."""
        self._freed = None
        self._apply(state.epoch or 0.0, model)

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        """Free the next layer when its epoch has come."""
        self._apply(state.epoch or 0.0, model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Leave no parameter marked as frozen."""
        for parameter in model.parameters():
            parameter.requires_grad_(True)

    def _apply(self, epoch: float, model) -> None:
        freed = int(epoch / self.epochs_per_layer + 1e-9)
        if freed == self._freed:
            return
        self._freed = freed
        depths, layers = parameter_depths(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(depths[name] > layers - freed)
            if not parameter.requires_grad:
                parameter.grad = None
