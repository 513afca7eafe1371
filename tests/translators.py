"""Tiny translation models of each family, with tokenizers trained on the built-in sample."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nlp_transfer.data.options import SAMPLE_FOLDER

SIZE = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "positions": 128}
FAMILIES = ("marian", "t5", "bart", "mbart50", "m2m_100", "nllb")
CODES = {"mbart50": ("de_DE", "en_XX"), "nllb": ("deu_Latn", "eng_Latn"), "m2m_100": ("de", "en")}


def sample_pairs() -> list[tuple[str, str]]:
    """German and English sentences of the sample."""
    lines = (SAMPLE_FOLDER / "travel.train.jsonl").read_text("utf-8").splitlines()
    pairs = (json.loads(line)["translation"] for line in lines)
    return [(pair["de"], pair["en"]) for pair in pairs]


def tiny_translator(folder: Path, family: str = "marian", seed: int = 0) -> Path:
    """Save a tiny encoder-decoder and its tokenizer; return the folder."""
    import torch
    from transformers import AutoConfig, AutoModelForSeq2SeqLM

    from nlp_transfer.models.load import quiet
    from nlp_transfer.models.scratch import ScratchOptions, scratch_model

    options = ScratchOptions(vocab_size=300, heads=4, ffn_dim=64, **SIZE)
    marian = scratch_model(options, sample_pairs(), languages=("de", "en"), seed=seed).folder
    if family == "marian":
        return marian
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(folder, family, marian)
    room = 128 if family == "m2m_100" else 0  # its language codes lie beyond the vocabulary
    size: dict[str, Any] = {"vocab_size": len(tokenizer) + room, "pad_token_id": tokenizer.pad_token_id}
    size["eos_token_id"] = tokenizer.eos_token_id
    if family == "t5":
        size |= {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        size["decoder_start_token_id"] = tokenizer.pad_token_id
    else:
        size |= {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "max_position_embeddings": 128}
        size |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
        size |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "bos_token_id": tokenizer.bos_token_id}
        size |= {"decoder_start_token_id": tokenizer.eos_token_id, "forced_bos_token_id": None}
    kind = {"mbart50": "mbart", "nllb": "m2m_100"}.get(family, family)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(kind, **size)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path, family: str, marian: Path) -> Any:
    from tests.tiny import tiny_tokenizer

    if family in ("t5", "bart"):
        return tiny_tokenizer(family)
    vocabulary = json.loads((marian / "vocab.json").read_text("utf-8"))
    pieces = [piece for piece in vocabulary if piece not in ("</s>", "<unk>", "<pad>")]
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    if family == "mbart50":
        from transformers import MBart50Tokenizer

        scored = [(piece, -float(rank)) for rank, piece in enumerate(special + pieces)]
        return MBart50Tokenizer(vocab=scored, src_lang="de_DE", tgt_lang="en_XX")
    if family == "nllb":
        from transformers import NllbTokenizer

        numbered = {piece: number for number, piece in enumerate(special + pieces)}
        return NllbTokenizer(vocab=numbered, merges=[], src_lang="deu_Latn", tgt_lang="eng_Latn")
    from transformers import M2M100Tokenizer

    numbered = {piece: number for number, piece in enumerate(special + pieces)}
    (folder / "vocab.json").write_text(json.dumps(numbered), "utf-8")
    return M2M100Tokenizer(
        vocab_file=str(folder / "vocab.json"),
        spm_file=str(marian / "source.spm"),
        src_lang="de",
        tgt_lang="en",
    )
