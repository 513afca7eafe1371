"""A translation model from nothing: sentencepiece trained on the pairs, and a Marian of a given size.

It is what a target alone can do without transfer: the baseline that negative transfer is judged by.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from nlp_transfer.errors import DataError
from nlp_transfer.options import Options

if TYPE_CHECKING:
    from nlp_transfer.models.source import ModelSource


class ScratchOptions(Options):
    """The size of a model that starts at random values."""

    vocab_size: int = Field(default=8000, ge=50)
    """Pieces of the vocabulary that both languages share (byte-pair encoding); fewer where the text has not
    enough."""
    d_model: int = Field(default=256, ge=8)
    """Width."""
    encoder_layers: int = Field(default=3, ge=1)
    """Layers of the encoder."""
    decoder_layers: int = Field(default=3, ge=1)
    """Layers of the decoder."""
    heads: int = Field(default=4, ge=1)
    """Attention heads."""
    ffn_dim: int = Field(default=1024, ge=8)
    """Units of the feed-forward layers."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout; attention weights have none."""
    positions: int = Field(default=256, ge=8)
    """Longest text, in tokens."""

    @model_validator(mode="after")
    def _heads_fit(self) -> ScratchOptions:
        if self.d_model % self.heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of heads {self.heads}")
        return self


def scratch_model(
    options: ScratchOptions, pairs: Iterable[tuple[str, str]], *, languages: tuple[str, str], seed: int
) -> ModelSource:
    """Write tokenizer, configuration and random weights to a folder of the cache, and locate it.

    Equal texts, options and seed give the same folder, so that a resumed run finds its tokenizer.

    Args:
        options: sizes.
        pairs: the training texts of both sides.
        languages: their codes.
        seed: of the weights.

    Raises:
        DataError: too little text for a vocabulary.

    Cost: a few seconds for 100,000 pairs.
    """
    from nlp_transfer.models.cache import cache_root
    from nlp_transfer.models.load import ModelOptions, locate, quiet

    lines = [text.replace("\n", " ") for pair in pairs for text in pair if text.strip()]
    digest = hashlib.sha256(json.dumps([options.model_dump(), list(languages), seed]).encode())
    for line in lines:
        digest.update(line.encode("utf-8", "surrogatepass") + b"\n")
    folder = cache_root().parent / "scratch" / digest.hexdigest()[:40]
    if not (folder / "model.safetensors").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            with quiet():
                _write(scratch, options, lines, languages, seed)
            scratch.chmod(0o755)
            os.rename(scratch, folder)
        except OSError:
            if not (folder / "model.safetensors").is_file():  # else another process was first
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return locate(ModelOptions(name=str(folder)))


def _write(
    folder: Path, options: ScratchOptions, lines: list[str], languages: tuple[str, str], seed: int
) -> None:
    import torch
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    pieces = _train_pieces(folder, lines, options.vocab_size)
    vocabulary = {"</s>": 0, "<unk>": 1}
    vocabulary |= {piece: number for number, piece in enumerate(pieces, len(vocabulary))}
    vocabulary["<pad>"] = pad = len(vocabulary)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    shutil.copy(folder / "source.spm", folder / "target.spm")
    config = MarianConfig(
        vocab_size=len(vocabulary),
        d_model=options.d_model,
        encoder_layers=options.encoder_layers,
        decoder_layers=options.decoder_layers,
        encoder_attention_heads=options.heads,
        decoder_attention_heads=options.heads,
        encoder_ffn_dim=options.ffn_dim,
        decoder_ffn_dim=options.ffn_dim,
        dropout=options.dropout,
        max_position_embeddings=options.positions,
        activation_function="swish",
        scale_embedding=True,
        pad_token_id=pad,
        decoder_start_token_id=pad,
        bos_token_id=0,
        eos_token_id=0,
        forced_eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        MarianMTModel(config).save_pretrained(folder)
    tokenizer = MarianTokenizer(
        source_spm=str(folder / "source.spm"),
        target_spm=str(folder / "target.spm"),
        vocab=str(folder / "vocab.json"),
        source_lang=languages[0],
        target_lang=languages[1],
        model_max_length=options.positions,
    )
    tokenizer.save_pretrained(folder)


def _train_pieces(folder: Path, lines: list[str], size: int) -> list[str]:
    """Train the joint model as ``source.spm``; return its pieces without the control symbols."""
    import sentencepiece as spm

    def train(vocabulary: int) -> None:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(folder / "source"),
            vocab_size=vocabulary,
            model_type="bpe",
            character_coverage=0.9998,
            hard_vocab_limit=False,
            minloglevel=2,
        )

    try:
        try:
            train(size)
        except RuntimeError as error:  # names the largest size that the text allows
            numbers = [
                int(word) for word in str(error).replace("<=", " ").split() if word.strip(".").isdigit()
            ]
            if not numbers or numbers[-1] < 10:
                raise
            train(numbers[-1])
    except (RuntimeError, OSError) as error:
        raise DataError(
            "a tokenizer cannot be trained on the training pairs",
            expected="a few hundred sentence pairs or more",
            found=f"{len(lines):,} sentences: {str(error).splitlines()[0][:200]}",
            fix="add training rows, or lower model.scratch.vocab_size",
        ) from error
    (folder / "source.model").rename(folder / "source.spm")
    (folder / "source.vocab").unlink()
    processor = spm.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    found = (processor.id_to_piece(number) for number in range(processor.get_piece_size()))
    return [piece for piece in found if piece not in ("<unk>", "<s>", "</s>")]
