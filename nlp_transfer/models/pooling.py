"""From hidden states to one vector a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from nlp_transfer.errors import ModelError

Pooling = Literal["mean", "cls", "last"]
Layer = int | Literal["last", "mean", "all"] | tuple[int, ...]
"""One hidden layer (0 = embeddings, -1 = the last), the mean over all of them, several, or all."""


def pool(hidden: Tensor, mask: Tensor | None, how: Pooling) -> Tensor:
    """Pool token vectors, computing in float32.

    Args:
        hidden: token vectors [n, t, d].
        mask: 1 for tokens, 0 for padding, on either side, [n, t]; None: no padding.
        how: mean over the tokens, the first token (cls), or the last token.

    Returns:
        vectors [n, d] in the type of ``hidden``; zeros for the mean of a text without tokens.
    """
    if mask is None:
        mask = torch.ones(hidden.shape[:2], dtype=torch.long, device=hidden.device)
    if how == "mean":
        weights = mask.to(torch.float32)
        total = torch.bmm(weights[:, None, :], hidden.float()).squeeze(1)
        return (total / weights.sum(1, keepdim=True).clamp(min=1)).to(hidden.dtype)
    ones = mask.to(torch.int32)
    position = ones.argmax(1) if how == "cls" else mask.shape[1] - 1 - ones.flip(1).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), position]


def pool_layers(outputs: Any, mask: Tensor | None, how: Pooling, layer: Layer) -> Tensor:
    """Pool one layer, or several, of a model's output.

    Args:
        outputs: with ``last_hidden_state``, and ``hidden_states`` unless ``layer`` is "last".
        mask: [n, t].
        how: see ``pool``.
        layer: "mean" is the mean over all L + 1 hidden states; "all" and tuples keep one axis for the layers.

    Returns:
        [n, d], or [n, layers, d].

    Raises:
        ModelError: a layer that the model does not have.
    """
    if layer == "last":
        return pool(outputs.last_hidden_state, mask, how)
    states: Sequence[Tensor] = outputs.hidden_states
    if layer == "mean":
        return torch.stack([pool(state, mask, how).float() for state in states]).mean(0).to(states[-1].dtype)
    if layer == "all":
        layer = tuple(range(len(states)))
    wanted = (layer,) if isinstance(layer, int) else layer
    wrong = [index for index in wanted if not -len(states) <= index < len(states)]
    if wrong:
        raise ModelError(
            f"layer {wrong[0]} does not exist in this model",
            expected=f"0 (embeddings) to {len(states) - 1} (last), or -1 (last) to -{len(states)}",
            found=str(wrong[0]),
            fix="choose a layer in that range, or last, or mean",
        )
    pooled = [pool(states[index], mask, how) for index in wanted]
    return pooled[0] if isinstance(layer, int) else torch.stack(pooled, dim=1)
