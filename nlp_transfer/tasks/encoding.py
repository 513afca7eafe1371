"""From texts to padded batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.data import Dataset as TorchDataset

from nlp_transfer.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from torch import Tensor
    from transformers import BatchEncoding, PreTrainedTokenizerBase

    from nlp_transfer.data.stream import StreamedRows

_NOT_FOR_THE_MODEL = ("length", "truncated")


def encode(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    convert: Callable[[list], list] | None,
) -> Dataset:
    """Tokenise the column ``text``; ``convert`` turns ``label`` into ``labels``; see ``Task.encode``.

    Raises:
        DataError: no rows.
    """
    if not len(dataset):
        raise DataError(
            "there is nothing to encode",
            expected="at least one row",
            found="no rows",
            fix="check the data file and its filters",
        )

    columns = dataset.column_names
    encoder = batch_encoder(tokenizer, max_length, convert)
    return dataset.map(encoder, batched=True, remove_columns=columns, desc="Tokenising")


def batch_encoder(
    tokenizer: PreTrainedTokenizerBase, max_length: int, convert: Callable[[list], list] | None
) -> Callable[[dict[str, list]], dict[str, list]]:
    """A function from columns ``text`` (and ``label``) to the columns of encoded rows."""

    def encode_batch(batch: dict[str, list]) -> dict[str, list]:
        output = tokenizer(batch["text"], truncation=True, max_length=max_length, return_attention_mask=True)
        columns = dict(output)
        columns["length"] = [len(ids) for ids in columns["input_ids"]]
        columns["truncated"] = _truncated(output, columns["length"], max_length)
        if convert is not None:
            columns["labels"] = convert(batch["label"])
        return columns

    return encode_batch


class EncodedStream(TorchDataset):
    """Streamed rows that are read and tokenised when they are asked for.

    Args:
        rows: where they lie.
        encoder: from `batch_encoder`.
    """

    def __init__(self, rows: StreamedRows, encoder: Callable[[dict[str, list]], dict[str, list]]) -> None:
        self.rows, self.encoder = rows, encoder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once, as torch's loader asks for them."""
        columns = self.encoder(self.rows.read(indices))
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    @property
    def lengths(self) -> np.ndarray:
        """Characters of each row, (n,): what batches of like length go by before anything is tokenised."""
        return self.rows.lengths


class PaddingCollator:
    """Pad encoded rows to the longest in the batch, and to a multiple of 8 where CUDA is there.

    ``length`` and ``truncated`` stay behind; any other column (such as a row weight) becomes a tensor.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        import torch
        from transformers import DataCollatorWithPadding

        multiple = 8 if torch.cuda.is_available() else None
        self._pad = DataCollatorWithPadding(tokenizer, pad_to_multiple_of=multiple)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Return one batch of tensors."""
        kept = [{name: row[name] for name in row if name not in _NOT_FOR_THE_MODEL} for row in rows]
        return dict(self._pad(kept))


def _truncated(output: BatchEncoding, lengths: list[int], max_length: int) -> list[bool]:
    """Which rows lost tokens; a slow tokenizer does not tell, so there every full row counts."""
    encodings = output.encodings
    return [
        length >= max_length and (encodings is None or bool(encodings[row].overflowing))
        for row, length in enumerate(lengths)
    ]
