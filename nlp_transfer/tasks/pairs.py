"""Batches of sentence pairs: by tokens, padded on both sides, with cached encoder states or without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.data.replay import ReplayedRows

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from nlp_transfer.models.encoder_states import EncoderStates


class TokenBatches(TorchDataset):
    """Batches of pairs of like length whose padded size stays within a budget; one batch is one row.

    Rows are sorted by length, ties in an order drawn by the seed, and cut into batches once. The order of the
    batches is the Trainer's, which shuffles, splits over processes, accumulates and resumes as with any other
    rows.

    Args:
        rows: encoded, with ``input_ids``, ``labels`` and ``length``.
        budget: padded tokens of source and target in a batch; a longer pair is a batch of its own.
        seed: of the order of near ties.
    """

    def __init__(self, rows: Dataset | ReplayedRows, budget: int, seed: int) -> None:
        self.rows, self.budget = rows, budget
        table = rows.rows if isinstance(rows, ReplayedRows) else rows
        target = np.asarray([len(ids) for ids in table["labels"]])
        source = np.asarray(table["length"]) - target
        if isinstance(rows, ReplayedRows):
            source, target = rows.largest(source), rows.largest(target)
        longer = np.maximum(source, target)
        order = np.lexsort((np.random.default_rng(seed).random(len(longer)), source + target, longer))
        self.batches, filled = _cut(order, source, target, budget)
        self.padding_waste = 1.0 - float(source.sum() + target.sum()) / filled

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> list[dict[str, Any]]:
        chunk = self.rows[self.batches[index].tolist()]
        return [dict(zip(chunk, values, strict=True)) for values in zip(*chunk.values(), strict=True)]


def _cut(
    order: np.ndarray, source: np.ndarray, target: np.ndarray, budget: int
) -> tuple[list[np.ndarray], float]:
    """Index arrays of the batches, and the padded tokens of all of them."""
    batches, start, filled = [], 0, 0.0
    widest, longest = 0, 0
    for end, row in enumerate(order):
        wide, long = max(widest, int(source[row])), max(longest, int(target[row]))
        if end > start and (end - start + 1) * (wide + long) > budget:
            batches.append(order[start:end])
            filled += (end - start) * (widest + longest)
            start, wide, long = end, int(source[row]), int(target[row])
        widest, longest = wide, long
    batches.append(order[start:])
    filled += (len(order) - start) * (widest + longest)
    return batches, filled


def split_batch(inputs: dict[str, Any], parts: int) -> list[dict[str, Any]]:
    """A batch as ``parts`` batches of about as many pairs each; fewer where there are not so many pairs."""
    if parts == 1:
        return [inputs]
    size = -(-len(inputs["labels"]) // parts)
    starts = range(0, len(inputs["labels"]), size)
    return [{name: _slice(value, start, start + size) for name, value in inputs.items()} for start in starts]


def _slice(value: Any, start: int, end: int) -> Any:
    """Rows of a tensor, or of each tensor of a model output."""
    if isinstance(value, torch.Tensor):
        return value[start:end]
    return type(value)(**{name: tensor[start:end] for name, tensor in value.items()})


class PairCollator:
    """Pad encoded pairs to the longest in the batch.

    Takes rows, or one batch of ``TokenBatches`` as its single row. With ``states`` the encoder's outputs are
    read from there and ``input_ids`` stay behind.

    Args:
        tokenizer: pads the source side.
        model: makes ``decoder_input_ids`` from the labels; None leaves them out.
        states: cached encoder outputs of rows with the column ``state``.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        model: Any = None,
        states: EncoderStates | None = None,
    ) -> None:
        model = getattr(model, "module", model)
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.tokenizer, self.states = tokenizer, states
        self.multiple = 8 if torch.cuda.is_available() else 1

    def __call__(self, rows: list[Any]) -> dict[str, Any]:
        """Return one batch of tensors."""
        if rows and isinstance(rows[0], list):
            rows = [row for batch in rows for row in batch]
        batch: dict[str, Any] = self._source(rows)
        if "labels" in rows[0]:
            labels = _padded([row["labels"] for row in rows], IGNORED_LABEL, self.multiple)
            batch["labels"] = labels
            if self.model is not None:
                batch["decoder_input_ids"] = decoder_inputs(self.model, labels)
        if "weight" in rows[0]:
            batch["weight"] = torch.tensor([row["weight"] for row in rows], dtype=torch.float32)
        return batch

    def _source(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        if self.states is not None and "state" in rows[0]:
            from transformers.modeling_outputs import BaseModelOutput

            states, mask = self.states.batch([row["state"] for row in rows])
            return {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "attention_mask": mask}
        ids = _padded([row["input_ids"] for row in rows], self.tokenizer.pad_token_id, self.multiple)
        lengths = torch.tensor([len(row["input_ids"]) for row in rows])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask}


def decoder_inputs(model: Any, labels: Tensor) -> Tensor:
    """The labels moved one place to the right, behind the token that the model starts with.

    The model's own way where it has one: mBART starts with the language code that ends the labels.
    """
    if hasattr(model, "prepare_decoder_input_ids_from_labels"):
        return model.prepare_decoder_input_ids_from_labels(labels=labels)
    moved = torch.full_like(labels, model.config.decoder_start_token_id)
    moved[:, 1:] = labels[:, :-1]
    return moved.masked_fill(moved == IGNORED_LABEL, model.config.pad_token_id)


def _padded(sequences: list[list[int]], value: int, multiple: int) -> Tensor:
    width = max(len(ids) for ids in sequences)
    width = -(-width // multiple) * multiple
    padded = torch.full((len(sequences), width), value, dtype=torch.long)
    for row, ids in enumerate(sequences):
        padded[row, : len(ids)] = torch.as_tensor(ids)
    return padded


class TokenisePairs:
    """A batch of rows to token ids; an object, so that ``datasets`` can fingerprint it."""

    def __init__(self, tokenizer: Any, max_length: int, prefix: str) -> None:
        self.tokenizer, self.max_length, self.prefix = tokenizer, max_length, prefix

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        """Encode a batch of raw rows."""
        limit: dict[str, Any] = {"truncation": True, "max_length": self.max_length}
        texts = [self.prefix + text for text in batch["text"]]
        columns = {"input_ids": self.tokenizer(texts, **limit)["input_ids"]}
        sides = [columns["input_ids"]]
        if "translation" in batch:
            columns["labels"] = self.tokenizer(text_target=batch["translation"], **limit)["input_ids"]
            sides.append(columns["labels"])
        rows = list(zip(*sides, strict=True))
        columns["length"] = [sum(len(ids) for ids in row) for row in rows]
        columns["truncated"] = [any(len(ids) >= self.max_length for ids in row) for row in rows]
        if "weight" in batch:
            columns["weight"] = batch["weight"]
        return columns
