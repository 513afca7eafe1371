"""Encoder outputs computed once and read from a memory-mapped file: a frozen encoder costs one pass."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nlp_transfer.models.cache import cache_root
from nlp_transfer.models.inference import token_batches
from nlp_transfer.models.languages import NO_HALF
from nlp_transfer.models.precision import bf16_pays

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedModel


class EncoderStates:
    """The last hidden states of encoded rows, token by token, in files of their own.

    A file is named by the encoder's weights and the rows' token ids, so another run over the same rows reads
    it again. States are float16 (float32 for T5, which overflows it): 2 d bytes a token.

    Args:
        model: the encoder-decoder, on its device.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.encoder: Any = model.get_encoder()
        self.width: int = int(getattr(model.config, "d_model", 0) or model.config.hidden_size)
        self.kind = "float32" if model.config.model_type in NO_HALF else "float16"
        self._identity = f"{self.kind} {_weights_hash(self.encoder)}"
        self._parts: list[tuple[NDArray, NDArray[np.int64]]] = []
        self.rows = 0
        self.computed = 0

    def add(self, encoded: Dataset) -> Dataset:
        """Compute (or find) the states of rows; return the rows with their number in the column ``state``.

        Cost: one pass of the encoder over the rows that no earlier run has left.
        """
        ids = encoded["input_ids"][:]
        lengths = np.asarray([len(row) for row in ids], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        path = self._path(ids)
        states = _open(path, int(offsets[-1]), self.width)
        if states is None:
            self.computed += len(ids)
            states = self._compute(ids, offsets, path)
        first = self.rows
        self._parts.append((states, offsets))
        self.rows += len(ids)
        return encoded.add_column("state", list(range(first, first + len(ids))))

    def batch(self, rows: list[int]) -> tuple[Tensor, Tensor]:
        """States [n, longest, d] (float32, zero at pads) and mask [n, longest] of rows by number."""
        found = [self._row(row) for row in rows]
        width = max(len(states) for states in found)
        padded = torch.zeros(len(found), width, self.width)
        mask = torch.zeros(len(found), width, dtype=torch.long)
        for index, states in enumerate(found):
            padded[index, : len(states)] = torch.from_numpy(np.array(states, dtype=np.float32))
            mask[index, : len(states)] = 1
        return padded, mask

    def _row(self, number: int) -> NDArray:
        for states, offsets in self._parts:
            if number < len(offsets) - 1:
                return states[offsets[number] : offsets[number + 1]]
            number -= len(offsets) - 1
        raise IndexError(number)

    def _path(self, ids: list[list[int]]) -> Path:
        digest = hashlib.sha256(self._identity.encode())
        for row in ids:
            digest.update(np.asarray(row, dtype=np.int32).tobytes() + b"|")
        return cache_root().parent / "encoder_states" / f"{digest.hexdigest()[:40]}.npy"

    @torch.inference_mode()
    def _compute(self, ids: list[list[int]], offsets: NDArray[np.int64], path: Path) -> NDArray:
        device = next(self.encoder.parameters()).device
        was_training = self.encoder.training
        self.encoder.eval()
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{uuid.uuid4().hex}.npy")
        shape = (int(offsets[-1]), self.width)
        out = np.lib.format.open_memmap(scratch, "w+", np.dtype(self.kind), shape)
        try:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16_pays(device.type)):
                for indices in token_batches(np.diff(offsets), 4096 if device.type == "cpu" else 65_536):
                    tokens, mask = _pad([ids[i] for i in indices])
                    output = self.encoder(input_ids=tokens.to(device), attention_mask=mask.to(device))
                    states = output.last_hidden_state.float().cpu().numpy()
                    for row, index in enumerate(indices):
                        out[offsets[index] : offsets[index + 1]] = states[row, : len(ids[index])]
            out.flush()
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)
            self.encoder.train(was_training)
        return np.load(path, mmap_mode="r")


def _pad(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Token ids and mask; what stands at pads is masked, so any id will do."""
    width = max(len(row) for row in ids)
    tokens = torch.zeros(len(ids), width, dtype=torch.long)
    mask = torch.zeros(len(ids), width, dtype=torch.long)
    for index, row in enumerate(ids):
        tokens[index, : len(row)] = torch.as_tensor(row)
        mask[index, : len(row)] = 1
    return tokens, mask


def _open(path: Path, tokens: int, width: int) -> NDArray | None:
    """The states of an earlier run; None where there are none, or not all of them."""
    try:
        states = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError):
        return None
    return states if states.shape == (tokens, width) else None


def _weights_hash(encoder: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(json.dumps([name, list(tensor.shape), str(tensor.dtype)]).encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
