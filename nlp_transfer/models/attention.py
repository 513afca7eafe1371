"""Attention in bfloat16 on a CPU, where torch's fused kernel is slow."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from nlp_transfer.models.load import quiet

NAME = "sdpa_or_products"
LONGEST = 512
"""Tokens up to which attention weights are held in memory: 2 bytes x heads x tokens^2 a text and layer."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    position_bias: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention by two matrix products and a softmax where that is faster, else by torch's fused kernel.

    It is for bfloat16 on a CPU: forward and backward take a fourth of the fused kernel's time at 107 tokens
    and two thirds at 512 (AMD EPYC, torch 2.13).

    Args:
        module: the attention layer.
        query, key, value: [n, heads, t, d].
        attention_mask: boolean or additive, [n, 1 or heads, t, t]; None: all tokens, or those before where
            the layer is causal (left to the fused kernel).
        dropout: on the attention weights.
        scaling: of the products; None: d ** -0.5.
        is_causal, position_bias, kwargs: of transformers' interface, for the fused kernel.

    Returns:
        [n, t, heads, d], and None for the weights.
    """
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    plain = (
        query.dtype == torch.bfloat16
        and query.device.type == "cpu"
        and max(query.shape[2], key.shape[2]) <= LONGEST
        and position_bias is None
        and not (causal and attention_mask is None)
        and kwargs.get("cache") is None
    )
    if not plain:
        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            is_causal=is_causal,
            position_bias=position_bias,
            **kwargs,
        )
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query * scale, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores + _additive(attention_mask, scores.dtype)
    weights = nn.functional.dropout(scores.softmax(-1), dropout, training=dropout > 0)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Zero where a token is seen and the lowest number where it is not, so that no row becomes NaN."""
    if mask.dtype != torch.bool:
        return mask.to(dtype).clamp(min=torch.finfo(dtype).min)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


@contextlib.contextmanager
def bf16_attention(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within this block the parts of a CPU's model that use torch's fused attention use ``attention``."""
    changed: list[PreTrainedModel] = []
    if not wanted or next(model.parameters()).device.type != "cpu":
        yield
        return
    with quiet():  # about models that cannot change: they keep what they have
        for part in model.modules():
            if isinstance(part, PreTrainedModel) and part.config._attn_implementation == "sdpa":
                part.set_attn_implementation(NAME)
                changed.append(part)
    try:
        yield
    finally:
        with quiet():
            for part in changed:
                part.set_attn_implementation("sdpa")


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
