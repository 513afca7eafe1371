"""CTranslate2: translation models as specifications that its engine runs, with 32- or 8-bit weights.

The converter of CTranslate2 itself reads checkpoints of transformers 4. With transformers 5 it lacks settings
of BART and mBART, finds too few tokens in M2M100 and scales the outputs of T5 by a field that now means
something else; and it starts a Marian decoder from zeros where a fine-tuned one starts from its trained
``<pad>``. So its loaders fill the layers, and configuration, vocabulary and start come from the model itself.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nlp_transfer.errors import MissingExtraError, ModelError

LOADERS = {
    "marian": "BartLoader",
    "bart": "BartLoader",
    "mbart": "MBartLoader",
    "m2m_100": "M2M100Loader",
    "t5": "T5Loader",
    "mt5": "MT5Loader",
}
"""Model types that can be converted; the class of ``ctranslate2.converters.transformers`` for the layers."""
_SUPPRESSED = -1.0e4
"""Added to the logit of a token that is never written."""


class Calling(NamedTuple):
    """What a translator has to be given with each text, beside its tokens."""

    beam_size: int
    patience: float
    """1 stops at as many finished hypotheses as there are beams, as ``early_stopping`` of transformers does.
    Without that, transformers goes on while an unfinished one may still win: with 2 the same is found."""
    target_prefix: list[str]
    length_penalty: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    spared: int
    """Tokens fewer than the limit: one where transformers forces an end token at it."""

    def arguments(self) -> dict[str, Any]:
        """Of ``translate_batch``; ``target_prefix`` is that of each text."""
        return {name: value for name, value in self._asdict().items() if name != "spared"}


def require_ctranslate2() -> None:
    """Raises MissingExtraError where the package is not installed."""
    from importlib.util import find_spec

    if find_spec("ctranslate2") is None:
        raise MissingExtraError("ctranslate2", "export", "the format ctranslate2")


def convert(model: Any, tokenizer: Any, folder: Path, *, quantization: str) -> Calling:
    """Write a model into ``folder`` for ``ctranslate2.Translator``.

    Args:
        model: an encoder-decoder with float32 weights on the CPU, adapters merged.
        tokenizer: of that model, with its languages set.
        folder: there already.
        quantization: float32 or int8.

    Returns:
        The settings of ``translate_batch`` that the model's own generation settings stand for.

    Raises:
        ModelError: a model type, or an activation, that CTranslate2 does not have.
        MissingExtraError: it is not installed.
    """
    require_ctranslate2()
    kind = model.config.model_type
    if kind not in LOADERS:
        raise ModelError(
            f"{model.name_or_path}: CTranslate2 has no translation model of this type",
            expected=f"model type {', '.join(LOADERS)} (NLLB is m2m_100)",
            found=f"model type {kind!r}",
            fix="use --format merged",
        )
    if kind == "marian" and getattr(tokenizer, "separate_vocabs", False):
        raise ModelError(
            f"{model.name_or_path}: a Marian with a vocabulary for each language cannot be converted",
            expected="one vocabulary for both languages",
            fix="use --format merged",
        )
    with torch.no_grad():
        try:
            spec = _specification(model, tokenizer)
            spec.validate()
            spec.optimize(quantization=quantization)
            spec.save(str(folder))
        except (AttributeError, KeyError, NotImplementedError, ValueError) as error:
            raise ModelError(
                f"{model.name_or_path}: CTranslate2 cannot hold this {kind} model",
                expected="the layers and activations that it knows",
                found=f"{type(error).__name__}: {error}",
                fix="use --format merged",
            ) from error
    return calling(model, tokenizer)


def calling(model: Any, tokenizer: Any) -> Calling:
    """The model's generation settings in CTranslate2's terms."""
    config = model.generation_config
    forced = config.forced_bos_token_id
    return Calling(
        beam_size=config.num_beams or 1,
        patience=1.0 if config.early_stopping is True or (config.num_beams or 1) == 1 else 2.0,
        target_prefix=[] if forced is None else [tokenizer.convert_ids_to_tokens(forced)],
        length_penalty=1.0 if config.length_penalty is None else config.length_penalty,
        repetition_penalty=config.repetition_penalty or 1.0,
        no_repeat_ngram_size=config.no_repeat_ngram_size or 0,
        spared=0 if config.forced_eos_token_id is None else 1,
    )


def _specification(model: Any, tokenizer: Any) -> Any:
    """Layers, vocabulary and special tokens of a model."""
    from ctranslate2.converters import transformers as loaders
    from ctranslate2.specs.model_spec import OPTIONAL

    model = copy.deepcopy(model)  # quantising writes into the tensors
    config, kind = model.config, model.config.model_type
    config.normalize_before = kind in ("mbart", "m2m_100")
    config.normalize_embedding = kind in ("bart", "mbart")
    spec = getattr(loaders, LOADERS[kind])().get_model_spec(model)
    if kind in ("t5", "mt5"):
        scaled = getattr(config, "scale_decoder_outputs", False)
        spec.decoder.scale_outputs = config.d_model**-0.5 if scaled else OPTIONAL
    _suppress(spec.decoder.projection, _never(model))
    tokens = vocabulary(tokenizer, model.get_input_embeddings().weight.shape[0])
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    start = model.generation_config.decoder_start_token_id
    spec.config.decoder_start_token = tokens[config.decoder_start_token_id if start is None else start]
    spec.config.bos_token = tokenizer.bos_token or tokenizer.pad_token
    spec.config.eos_token, spec.config.unk_token = tokenizer.eos_token, tokenizer.unk_token
    return spec


def _never(model: Any) -> list[int]:
    """Tokens that are never written: those of ``bad_words_ids``, and the ``<pad>`` that starts a Marian."""
    banned = [ids[0] for ids in model.generation_config.bad_words_ids or () if len(ids) == 1]
    return [*banned, model.config.pad_token_id] if model.config.model_type == "marian" else banned


def _suppress(projection: Any, tokens: Sequence[int]) -> None:
    if not tokens:
        return
    bias = projection.bias if projection.has_bias() else torch.zeros(projection.weight.shape[0])
    bias = bias.clone()
    bias[list(tokens)] = _SUPPRESSED
    projection.bias = bias


def vocabulary(tokenizer: Any, size: int) -> list[str]:
    """The token of each id from 0 on; ids that the tokenizer never uses get a name of their own."""
    tokens: dict[str, int] = {}
    for number in range(size):
        token = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) + 1024 else None
        if token is None or token in tokens or tokenizer.convert_tokens_to_ids(token) != number:
            token = f"<unused{number}>"
        tokens[token] = number
    return list(tokens)


def translate(
    folder: Path,
    tokenizer: Any,
    texts: Sequence[str],
    settings: Calling,
    *,
    quantization: str,
    max_length: int,
    max_new_tokens: int | None = None,
) -> list[str]:
    """Translate with a converted model on the CPU, as ``models.seq2seq.translate`` does with the original.

    Args:
        folder: that ``convert`` wrote.
        tokenizer: of the model.
        texts: with their prefix; none blank.
        settings: from ``convert``.
        quantization: the type to compute in, float32 or int8.
        max_length: longer texts are cut to this many tokens.
        max_new_tokens: limit of a translation; None: twice the tokens of the batch's longest text plus 16.
    """
    import ctranslate2

    from nlp_transfer.models.inference import token_batches

    engine = ctranslate2.Translator(
        str(folder), device="cpu", compute_type=quantization, intra_threads=torch.get_num_threads()
    )
    encoded = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    found = [""] * len(texts)
    options = settings.arguments()
    prefix, spared = options.pop("target_prefix"), settings.spared
    for indices in token_batches([len(ids) for ids in encoded], 4096):
        tokens = [tokenizer.convert_ids_to_tokens(encoded[i]) for i in indices]
        hypotheses = engine.translate_batch(
            tokens,
            target_prefix=[prefix] * len(tokens) if prefix else None,
            max_decoding_length=(max_new_tokens or 2 * len(encoded[indices[0]]) + 16) - spared,
            min_decoding_length=0,
            max_input_length=0,
            **options,
        )
        for index, result in zip(indices, hypotheses, strict=True):
            ids = tokenizer.convert_tokens_to_ids(result.hypotheses[0])
            found[int(index)] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return found
