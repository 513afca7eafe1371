"""The keys under ``model:`` of a recipe; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nlp_transfer.models.scratch import ScratchOptions
from nlp_transfer.models.source import DEFAULT_MODEL
from nlp_transfer.options import Options


class ModelOptions(Options):
    """Which pretrained model, and how it reads a text."""

    name: str = DEFAULT_MODEL
    """Hub id, checkpoint folder, or the folder of an earlier run."""
    init: Literal["pretrained", "scratch"] = "pretrained"
    """scratch: train a tokenizer and a model of the size under ``scratch`` from random values on the training
    pairs (translation only): what the target can do without transfer."""
    scratch: ScratchOptions = ScratchOptions()
    """The size of a model with init: scratch."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; null: its main branch."""
    max_length: int | None = Field(default=None, ge=2)
    """Tokens of a text that are read; null: 256, or what the model can take where that is less."""
    pooling: Literal["auto", "stock", "mean", "cls", "last"] = "auto"
    """From token vectors to one vector. auto: what the checkpoint declares (sentence-transformers), else the
    architecture's own classification head (stock)."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout everywhere but on attention weights; null: as the checkpoint has it."""
    attention_dropout: float | None = Field(default=0.0, ge=0, lt=1)
    """Dropout on attention weights; null: as the checkpoint has it. Without it fused attention kernels run
    in training, which takes a quarter to a third off a step."""
    attn_implementation: str | None = None
    """sdpa, eager, flash_attention_2, ...; null: the best that transformers finds."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    """Type of the weights in memory; auto: as they are stored. (Mixed precision is training.bf16 or fp16.)"""
    trust_remote_code: bool = False
    """Run model code that the checkpoint brings. Only for sources that you trust."""
