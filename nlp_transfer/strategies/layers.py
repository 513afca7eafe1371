"""The order of a model's parameters from the input to the head, for any architecture.

Freezing, gradual unfreezing and layer-wise learning rates all need one answer: how deep does this
parameter sit? Depth 0 is the embeddings, 1..L are the transformer layers, L + 1 is everything after them
(final norm, pooler, projection, head).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import ModelError

if TYPE_CHECKING:
    from torch import nn


def layer_stacks(model: nn.Module) -> dict[str, int]:
    """Return the transformer stacks as {dotted path: number of layers}.

    A stack is an ``nn.ModuleList`` of at least one equal block that is not inside another stack: one for an
    encoder or a decoder, two for an encoder-decoder.

    Raises:
        ModelError: no stack can be found.
    """
    from torch import nn

    stacks: dict[str, int] = {}
    for path, module in model.named_modules():
        inside = any(path.startswith(f"{outer}.") for outer in stacks)
        if isinstance(module, nn.ModuleList) and len(module) and not inside:
            first = module[0]
            if (
                all(type(block) is type(first) for block in module)
                and next(first.parameters(), None) is not None
            ):
                stacks[path] = len(module)
    if not stacks:
        raise ModelError(
            f"{type(model).__name__} has no stack of transformer layers that can be told apart",
            expected="a model with an nn.ModuleList of equal blocks",
            fix="leave out freeze_layers, layer_decay and gradual_unfreezing for this model",
        )
    deepest = max(stacks.values())
    return {path: count for path, count in stacks.items() if count * 2 >= deepest}


def parameter_depths(model: nn.Module) -> tuple[dict[str, int], int]:
    """Return ({parameter name: depth}, L) with depth 0 = embeddings, 1..L = layers, L + 1 = the rest.

    In an encoder-decoder the layers of both stacks are numbered side by side and L is the longer one.
    """
    stacks = layer_stacks(model)
    top = max(stacks.values()) + 1
    embeddings = _embedding_prefixes(model, stacks)
    depths = {}
    for name, _ in model.named_parameters():
        stack = next((path for path in stacks if name.startswith(f"{path}.")), None)
        if stack is not None:
            depths[name] = int(name[len(stack) + 1 :].split(".", 1)[0]) + 1
        else:
            depths[name] = 0 if name.startswith(embeddings) else top
    return depths, top - 1


def _embedding_prefixes(model: nn.Module, stacks: dict[str, int]) -> tuple[str, ...]:
    """Paths of the modules whose parameters sit at depth 0.

    They are the ``nn.Embedding`` modules outside the stacks, and every module called "embeddings" (which
    also holds the norm and projection that follow the lookup in BERT-like models).
    """
    from torch import nn

    found = []
    for path, module in model.named_modules():
        if any(path == stack or path.startswith(f"{stack}.") for stack in stacks):
            continue
        if isinstance(module, nn.Embedding) or path.rsplit(".", 1)[-1] in (
            "embeddings",
            "embeddings_project",
        ):
            found.append(f"{path}.")
    return tuple(found)


def freeze_half(model: nn.Module, half: str) -> None:
    """Freeze the ``encoder`` or the ``decoder`` of an encoder-decoder, with the embeddings that it uses.

    Raises:
        ModelError: the model has no such halves.
    """
    if not writes(model):
        raise ModelError(
            f"{type(model).__name__} has no {half} of its own to freeze",
            expected="an encoder-decoder that writes texts (task translation)",
            fix="leave out strategy.freeze; use strategy.freeze_layers or strategy.kind=frozen",
        )
    part: Any = model.get_encoder() if half == "encoder" else model.get_decoder()  # type: ignore[operator]
    part.requires_grad_(False)


def writes(model: nn.Module) -> bool:
    """True for an encoder-decoder that writes texts, rather than classifying them."""
    config = getattr(model, "config", None)
    classifies = any(hasattr(model, name) for name in ("classifier", "score", "classification_head"))
    return bool(getattr(config, "is_encoder_decoder", False)) and not classifies
