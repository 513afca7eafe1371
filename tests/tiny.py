"""Tiny checkpoints with random weights and a real tokenizer, made in well under a second each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TEXTS = [
    "the film was a delight from start to end",
    "a dull and lifeless book , I want my money back",
    "this blender broke after two days of use",
    "what a wonderful recipe , we cook it every week",
    "the flight was late and the seats were small",
    "great sound , solid build , fair price",
    "he never understood why the story had to end",
    "Do not buy this ! It is awful .",
]
SIZE, LAYERS, HEADS, POSITIONS = 32, 2, 4, 64
KINDS = (
    "bert",
    "distilbert",
    "roberta",
    "electra",
    "deberta-v2",
    "modernbert",
    "gpt2",
    "llama",
    "qwen2",
    "t5",
)
DECODERS = ("gpt2", "llama", "qwen2")


def tiny_tokenizer(kind: str = "bert") -> Any:
    """A BPE tokenizer trained on ``TEXTS``: [CLS]/[SEP] for encoders, [SEP] for T5, none for decoders."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<|endoftext|>"]
    core = Tokenizer(models.BPE(unk_token="[UNK]"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    if kind in DECODERS:
        return PreTrainedTokenizerFast(
            tokenizer_object=core, unk_token="[UNK]", eos_token="<|endoftext|>", model_max_length=POSITIONS
        )
    single = "$A [SEP]" if kind == "t5" else "[CLS] $A [SEP]"
    core.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        eos_token="[SEP]",
        model_max_length=POSITIONS,
    )


def tiny_config(kind: str, vocabulary: int, **changes: Any) -> Any:
    """The configuration of a tiny model of this kind."""
    from transformers import AutoConfig

    common = {
        "vocab_size": vocabulary,
        "hidden_size": SIZE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": 2 * SIZE,
        "max_position_embeddings": POSITIONS + 2 if kind == "roberta" else POSITIONS,
        "pad_token_id": 0,
    }
    if kind == "distilbert":
        common = {
            "vocab_size": vocabulary,
            "dim": SIZE,
            "n_layers": LAYERS,
            "n_heads": HEADS,
            "pad_token_id": 0,
        }
        common |= {"hidden_dim": 2 * SIZE, "max_position_embeddings": POSITIONS}
    elif kind == "electra":
        common |= {"embedding_size": SIZE}
    elif kind == "modernbert":
        common |= {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
        common |= {"global_attn_every_n_layers": 1, "reference_compile": False}
    elif kind == "gpt2":
        common = {
            "vocab_size": vocabulary,
            "n_embd": SIZE,
            "n_layer": LAYERS,
            "n_head": HEADS,
            "n_positions": POSITIONS,
        }
        common |= {"bos_token_id": 5, "eos_token_id": 5}
    elif kind in ("llama", "qwen2"):
        common |= {"num_key_value_heads": 2, "bos_token_id": 5, "eos_token_id": 5, "pad_token_id": None}
    elif kind == "t5":
        common = {
            "vocab_size": vocabulary,
            "d_model": SIZE,
            "d_kv": SIZE // HEADS,
            "d_ff": 2 * SIZE,
            "pad_token_id": 0,
        }
        common |= {"num_layers": LAYERS, "num_heads": HEADS, "decoder_start_token_id": 0, "eos_token_id": 3}
    return AutoConfig.for_model(kind, **(common | changes))


def tiny_model(folder: str | Path, kind: str = "bert", *, seed: int = 0, **changes: Any) -> Path:
    """Save a tiny pretrained body and its tokenizer; return the folder.

    Args:
        folder: where to.
        kind: one of ``KINDS``, a transformers model type.
        seed: of the weights.
        changes: fields of the configuration.
    """
    import torch
    from transformers import AutoModel

    from nlp_transfer.models.load import quiet

    tokenizer = tiny_tokenizer(kind)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        AutoModel.from_config(tiny_config(kind, len(tokenizer), **changes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


def tiny_sentence_encoder(
    folder: str | Path, pooling: str = "mean", *, kind: str = "bert", seed: int = 0
) -> Path:
    """``tiny_model`` that declares its pooling (mean, cls or lasttoken) as sentence-transformers does."""
    path = tiny_model(folder, kind, seed=seed)
    modes = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}
    declared = {f"pooling_mode_{name}": mode == pooling for mode, name in modes.items()}
    (path / "1_Pooling").mkdir(exist_ok=True)
    (path / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": SIZE, **declared})
    )
    return path
