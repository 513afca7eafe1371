"""Sequence-to-sequence models: load, save, and translate many texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.errors import ModelError
from nlp_transfer.models import load
from nlp_transfer.models.inference import token_batches
from nlp_transfer.models.precision import bf16_pays
from nlp_transfer.models.search import fits, search
from nlp_transfer.processes import gather, rank, world_size

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from nlp_transfer.models.load import ModelOptions, ModelSource

__all__ = ["load_seq2seq", "require_seq2seq", "save_seq2seq", "target_losses", "translate"]

GENERATION_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Padded source tokens times beams in one batch of generation."""
GENERATION_LOGITS = 1 << 27
"""Logits of one step at most (sentences times beams times vocabulary): half a GB."""


def is_seq2seq(config: PretrainedConfig) -> bool:
    """True for an encoder-decoder that writes texts."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

    return config.is_encoder_decoder and config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES


def require_seq2seq(config: PretrainedConfig) -> None:
    """Refuse a checkpoint that cannot translate.

    Raises:
        ModelError: not an encoder-decoder language model.
    """
    if not is_seq2seq(config):
        raise ModelError(
            f"{config._name_or_path}: not a model that translates",
            expected="an encoder-decoder, such as Marian, T5, mT5, BART, mBART, M2M100 or NLLB",
            found=f"model type {config.model_type!r}",
            fix="choose another model, such as Helsinki-NLP/opus-mt-de-en",
        )


def load_seq2seq(
    source: ModelSource, options: ModelOptions, *, quantization: Any = None, merge: bool = True
) -> PreTrainedModel:
    """Load a translation model; an adapter is merged into its base (or, with ``merge=False``, wrapped).

    Raises:
        ModelError: no encoder-decoder, or weights that do not fit.
    """
    from transformers import AutoModelForSeq2SeqLM

    if source.is_adapter:
        from peft import PeftModel

        base: Any = load_seq2seq(load.base_of(source, options), options, quantization=quantization)
        with load.loading(source, options):
            adapted = PeftModel.from_pretrained(base, str(source.folder), is_trainable=not merge)
            model: Any = adapted.merge_and_unload() if merge else adapted
        _own_generation(model, source)
        return model
    config = load.load_config(source, options)
    require_seq2seq(config)
    arguments = load.model_arguments(config, options)
    if quantization is not None:
        arguments["quantization_config"] = quantization
    with load.loading(source, options):
        model, info = AutoModelForSeq2SeqLM.from_pretrained(source.folder, **arguments)
    load.check_loaded(source, info)
    model.name_or_path = model.config._name_or_path = source.name
    return model


def _own_generation(model: Any, source: ModelSource) -> None:
    """Take the generation settings that were saved beside an adapter."""
    if (source.folder / "generation_config.json").is_file():
        from transformers import GenerationConfig

        model.generation_config = GenerationConfig.from_pretrained(source.folder)


def save_seq2seq(model: PreTrainedModel | PeftModel, folder: str | Path) -> None:
    """Save a translation model or an adapter, with its generation settings."""
    with load.quiet():
        if hasattr(model, "peft_config"):
            adapter: Any = model
            adapter.save_pretrained(str(folder), save_embedding_layers=False)
            adapter.get_base_model().generation_config.save_pretrained(str(folder))
        else:
            model.save_pretrained(str(folder))


@torch.inference_mode()
def translate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    prefix: str = "",
    max_length: int = 256,
    max_new_tokens: int | None = None,
    num_beams: int = 4,
    batch_tokens: int | None = None,
    bf16: bool | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[str]:
    """Translate texts: equal ones once, sorted by length, batched by tokens, order restored.

    Beam and greedy search drop finished sentences (``nlp_transfer.models.search``).

    On many processes each takes a share of the batches, and every process gets all translations.

    Args:
        model: on its device; a DDP wrapper is taken off.
        tokenizer: of that model, with its languages set.
        texts: n texts; a blank one becomes "".
        prefix: written before each text.
        max_length: longer texts are cut to this many tokens.
        max_new_tokens: limit of a translation; None: twice the tokens of the batch's longest text plus 16.
        num_beams: 1 is greedy search.
        batch_tokens: padded source tokens times beams in one batch; None: 8,192 on a CPU, 65,536 elsewhere.
        bf16: autocast; None where it is faster.
        advance: called with the number of texts done after each batch.

    Returns:
        n translations in the order of the texts.
    """
    model = getattr(model, "module", model)
    device = next(model.parameters()).device
    use_bf16 = bf16_pays(device.type) if bf16 is None else bf16
    was_training = model.training
    model.eval()
    unique = [text for text in dict.fromkeys(texts) if text.strip()]
    encoded = _encode(tokenizer, [prefix + text for text in unique], max_length)
    lengths = [len(ids) for ids in encoded]
    budget = max(1, (batch_tokens or GENERATION_TOKENS.get(device.type, 65_536)) // num_beams)
    most = max(1, GENERATION_LOGITS // (num_beams * model.config.get_text_config().vocab_size))
    way = search if fits(model.generation_config) else None
    own, processes = rank(), world_size()
    found: dict[int, str] = {}
    for number, indices in enumerate(token_batches(lengths, budget, most)):
        if number % processes != own:
            continue
        batch = tokenizer.pad({"input_ids": [encoded[i] for i in indices]}, return_tensors="pt").to(device)
        limit = max_new_tokens or 2 * int(batch["input_ids"].shape[1]) + 16
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            output = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                num_beams=num_beams,
                max_new_tokens=_room(model, limit),
                max_length=None,
                custom_generate=way,
            )
        for index, text in zip(
            indices, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True
        ):
            found[int(index)] = text.strip()
        if advance is not None:
            advance(len(indices))
    model.train(was_training)
    found = dict(item for part in gather(found) for item in part.items())
    by_text = {text: found[index] for index, text in enumerate(unique)}
    return [by_text.get(text, "") for text in texts]


def _encode(tokenizer: Any, texts: list[str], max_length: int) -> list[list[int]]:
    if not texts:
        return []
    return tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]


def _room(model: Any, limit: int) -> int:
    """No more new tokens than the decoder has positions for."""
    positions = getattr(model.config, "max_position_embeddings", None)
    return min(limit, positions - 2) if isinstance(positions, int) and positions > 3 else limit


@torch.inference_mode()
def target_losses(
    model: Any,
    rows: Any,
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    *,
    batch_tokens: int | None = None,
    bf16: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Negative log-likelihood of each row's reference (nats, summed over its tokens), and its tokens.

    Args:
        model: on its device.
        rows: encoded, with ``input_ids`` and ``labels``.
        collate: pads rows and adds ``decoder_input_ids``.
        batch_tokens: padded tokens in one pass; None: 2,048 on a CPU, 65,536 elsewhere.
        bf16: autocast; None where it is faster.

    Returns:
        Losses [n] and numbers of tokens [n], both float64; on many processes every process gets all.
    """
    from accelerate.utils import send_to_device

    model = getattr(model, "module", model)
    device = next(model.parameters()).device
    use_bf16 = bf16_pays(device.type) if bf16 is None else bf16
    was_training = model.training
    model.eval()
    lengths = np.asarray(rows["length"])
    budget = batch_tokens or (2048 if device.type == "cpu" else 65_536)
    own, processes = rank(), world_size()
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for number, indices in enumerate(token_batches(lengths, budget)):
        if number % processes != own:
            continue
        chunk = rows[indices.tolist()]
        batch = collate([{name: chunk[name][i] for name in chunk} for i in range(len(indices))])
        inputs = send_to_device(batch, device)
        labels = inputs.pop("labels")
        inputs.pop("weight", None)
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bf16):
            logits = model(**inputs).logits
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="none"
        ).view(labels.shape)
        tokens = labels.ne(IGNORED_LABEL).sum(1)
        parts.append((indices, losses.sum(1).double().cpu().numpy(), tokens.double().cpu().numpy()))
    model.train(was_training)
    parts = [part for shared in gather(parts) for part in shared]
    total, count = np.zeros(len(lengths)), np.zeros(len(lengths))
    for indices, summed, counted in parts:
        total[indices], count[indices] = summed, counted
    return total, count
