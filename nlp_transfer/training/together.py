"""One module over the model and all that is trained beside it, so that DDP and FSDP see one forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nlp_transfer.adaptation.penalties import Penalty, Rows
from nlp_transfer.models.features import logits_and_layers


class Together(nn.Module):
    """The base: what ``transformers.Trainer`` asks a model for, and checkpoints without repetition.

    Its state holds each tied weight once, and of an adapter's model only what moves; ``load_state_dict`` with
    ``strict=False``, as the Trainer calls it, puts all of it back.

    Args:
        model: what remains after training: the classifier, an adapter on one, or the encoder in it.
        adapter: whether adapters move in it, and its other weights never do.
    """

    accepts_loss_kwargs = False

    def __init__(self, model: nn.Module, *, adapter: bool) -> None:
        super().__init__()
        self.model, self.adapter = model, adapter
        frozen = [name for name, value in model.named_parameters() if not value.requires_grad]
        self._still = [f"model.{name}" for name in frozen] if adapter else []
        self._keys_to_ignore_on_save: set[str] = set()
        self.register_state_dict_post_hook(_without_repetition)

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self.model.config

    @property
    def _no_split_modules(self) -> Any:
        return getattr(self.model, "_no_split_modules", None)

    def tie_weights(self) -> None:
        """Nothing: tied weights share their memory and stay tied."""

    def gradient_checkpointing_enable(self, *args: Any, **kwargs: Any) -> None:
        """Switch it on in the model."""
        self.model.gradient_checkpointing_enable(*args, **kwargs)  # type: ignore[operator]


def _without_repetition(module: Together, state: dict[str, Any], prefix: str, _: Any) -> None:
    seen: set[tuple] = set()
    dropped = set()
    for key, value in state.items():
        name = key.removeprefix(prefix)
        if any(name == still or name.startswith(f"{still}.") for still in module._still):
            dropped.add(key)
        elif isinstance(value, Tensor) and value.numel():
            place = (value.data_ptr(), value.shape, value.stride(), value.device)
            dropped |= {key} if place in seen else set()
            seen.add(place)
    for key in dropped:
        del state[key]
    module._keys_to_ignore_on_save = {key.removeprefix(prefix) for key in dropped}


class AdaptedModel(Together):
    """A classifier with penalties: in training, one forward gives the logits and the terms of the loss.

    Args:
        model: the classifier.
        penalties: by the name of their method, which prefixes their figures.
    """

    progress: Tensor

    def __init__(self, model: nn.Module, penalties: Mapping[str, Penalty]) -> None:
        super().__init__(model, adapter=hasattr(model, "peft_config"))
        self.penalties = nn.ModuleDict(penalties)
        self.layers = {layer for penalty in penalties.values() for layer in penalty.layers}
        self.register_buffer("progress", torch.zeros(()), persistent=False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        weight: Tensor | None = None,
        teacher_logits: Tensor | None = None,
        teacher_features: Tensor | None = None,
    ) -> Any:
        """Evaluating: the classifier's own output. Training: a dict of logits, penalty and figures.

        Args:
            input_ids, attention_mask, token_type_ids: of the classifier; paired rows are source, target, ...
            labels, weight: named here so that the Trainer keeps these columns; the loss takes them itself.
            teacher_logits, teacher_features: what the teacher said about each row.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
        }
        inputs = {name: value for name, value in given.items() if value is not None}
        if not self.training:
            return self.model(**inputs)
        logits, vectors = logits_and_layers(self.model, inputs, self.layers)
        teacher = {"teacher_logits": teacher_logits, "teacher_features": teacher_features}
        rows = Rows(logits, vectors, self.progress, {k: v for k, v in teacher.items() if v is not None})
        total = logits.new_zeros((), dtype=torch.float32)
        figures: dict[str, Tensor] = {}
        for name, penalty in self.penalties.items():
            term, found = penalty(rows)
            total = total + term
            figures |= {f"{name}_loss": term.detach()}
            figures |= {f"{name}_{key}": value for key, value in found.items()}
        return {"logits": logits, "penalty": total, "figures": figures}

    def learning_rate_scales(self) -> dict[int, float]:
        """{id of a penalty's parameter: factor on the learning rate}."""
        penalties: list[Any] = list(self.penalties.values())
        return {id(weight): penalty.rate for penalty in penalties for weight in penalty.parameters()}
