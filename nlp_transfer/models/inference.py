"""Forward passes over many texts: sorted by length, batched by tokens, order restored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nlp_transfer.models.precision import bf16_pays
from nlp_transfer.processes import gather, rank, world_size

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn


def token_batches(
    lengths: Sequence[int] | np.ndarray, budget: int, most: int | None = None
) -> Iterator[np.ndarray]:
    """Yield index arrays, longest texts first, whose padded size stays within ``budget`` tokens.

    A text longer than the budget is a batch of its own; ``most`` limits the texts of a batch.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = max(1, min(budget // longest, most or len(order)))
        yield order[start : start + size]
        start += size


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    encoded: Dataset,
    collate: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]],
    *,
    batch_tokens: int | None = None,
    bf16: bool | None = None,
) -> np.ndarray:
    """Logits [n, classes], float32, in the order of the rows; on many processes every rank gets all of them.

    Args:
        model: a classifier on its device.
        encoded: rows with ``input_ids``, ``attention_mask`` and ``length``.
        collate: pads a list of rows.
        batch_tokens: padded tokens in one forward pass; None: 2,048 on a CPU, 65,536 elsewhere.
        bf16: autocast; None where it is faster.
    """
    device = next(model.parameters()).device
    use_bf16 = bf16_pays(device.type) if bf16 is None else bf16
    budget = batch_tokens or (2048 if device.type == "cpu" else 65_536)
    was_training = model.training
    model.eval()
    columns = [
        name for name in encoded.column_names if name not in ("labels", "length", "truncated", "weight")
    ]
    rows = encoded.select_columns(columns)
    lengths = np.asarray(encoded["length"])
    own, world = rank(), world_size()
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for number, indices in enumerate(token_batches(lengths, budget)):
        if number % world != own:
            continue
        chunk = rows[indices.tolist()]
        batch = collate([{name: chunk[name][i] for name in columns} for i in range(len(indices))])
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            logits = model(**inputs).logits
        parts.append((indices, logits.float().cpu().numpy()))
    model.train(was_training)
    parts = [part for found in gather(parts) for part in found]
    if not parts:
        return np.zeros((0, 0), dtype=np.float32)
    result = np.empty((len(lengths), parts[0][1].shape[1]), dtype=np.float32)
    for indices, values in parts:
        result[indices] = values
    return result
