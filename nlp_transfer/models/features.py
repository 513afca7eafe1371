"""Pooled vectors from any classifier: stock or pooled, with adapters and other wrappers around it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from nlp_transfer.models.pooled import PooledClassifier
from nlp_transfer.models.pooling import Pooling, pool, pool_layers

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def unwrap(model: Any) -> Any:
    """The transformers model inside peft and distributed wrappers."""
    while not isinstance(model, PreTrainedModel):
        model = model.get_base_model() if hasattr(model, "get_base_model") else model.module
    return model


def encoder_of(model: nn.Module) -> PreTrainedModel:
    """The part of a classifier (or of an adapter on one) that turns texts into token vectors."""
    model = unwrap(model)
    encoder: Any = model.encoder if isinstance(model, PooledClassifier) else model.base_model
    return (
        encoder.get_encoder()
        if encoder.config.is_encoder_decoder and hasattr(encoder, "decoder")
        else encoder
    )


def pooled_features(model: nn.Module, batch: Mapping[str, Tensor], pooling: Pooling | None = None) -> Tensor:
    """Pooled vectors [n, d] of a batch from any classifier, adapters included; no head is run.

    Args:
        model: pooled or stock classifier, or a wrapper around one.
        batch: ``input_ids``, ``attention_mask`` and perhaps ``token_type_ids``; the rest is ignored.
        pooling: of a stock classifier's last hidden state; None: last for a decoder (one with a ``score``
            head), mean for the others. A pooled classifier has its own.
    """
    base = unwrap(model)
    inputs = {name: batch[name] for name in INPUTS if name in batch}
    if isinstance(base, PooledClassifier):
        return base.features(**inputs)
    hidden = encoder_of(base)(**inputs, return_dict=True).last_hidden_state
    return pool(hidden, inputs.get("attention_mask"), pooling or _stock_pooling(base))


def logits_and_features(
    model: nn.Module, batch: Mapping[str, Tensor], pooling: Pooling | None = None
) -> tuple[Tensor, Tensor]:
    """Logits [n, classes] and pooled vectors [n, d] from one pass through ``model`` and its wrappers.

    For losses that need both. See ``pooled_features``.
    """
    base = unwrap(model)
    inputs: dict[str, Any] = {name: batch[name] for name in INPUTS if name in batch}
    if isinstance(base, PooledClassifier):
        output = model(**inputs, return_features=True)
        return output.logits, output.features
    output = model(**inputs, output_hidden_states=True)
    states = output.encoder_hidden_states if base.config.is_encoder_decoder else output.hidden_states
    return output.logits, pool(states[-1], inputs.get("attention_mask"), pooling or _stock_pooling(base))


def logits_and_layers(
    model: nn.Module, batch: Mapping[str, Tensor], layers: Collection[int | None]
) -> tuple[Tensor, dict[int | None, Tensor]]:
    """Logits [n, classes] and pooled vectors [n, d] of several layers, from one pass through ``model``.

    Args:
        model: as for ``pooled_features``.
        batch: as for ``pooled_features``.
        layers: hidden layers (0 = embeddings, -1 = last), and None for what ``logits_and_features`` gives.

    Raises:
        ModelError: a layer that the model does not have.
    """
    hidden = sorted(layer for layer in layers if layer is not None)
    if not hidden:
        logits, features = logits_and_features(model, batch)
        return logits, {None: features}
    base = unwrap(model)
    inputs: dict[str, Any] = {name: batch[name] for name in INPUTS if name in batch}
    pooled = isinstance(base, PooledClassifier)
    output = model(**inputs, output_hidden_states=True, **({"return_features": True} if pooled else {}))
    if not pooled and base.config.is_encoder_decoder:
        output.hidden_states = output.encoder_hidden_states
    mask, how = inputs.get("attention_mask"), base.config.pooling if pooled else _stock_pooling(base)
    vectors: dict[int | None, Tensor] = dict(
        zip(hidden, pool_layers(output, mask, how, tuple(hidden)).unbind(1), strict=True)
    )
    vectors[None] = output.features if pooled else pool(output.hidden_states[-1], mask, how)
    return output.logits, vectors


def _stock_pooling(model: nn.Module) -> Pooling:
    return "last" if hasattr(model, "score") else "mean"
