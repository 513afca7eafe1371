"""Language codes: what a translation model calls its languages, and how it is told which to write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nlp_transfer.console import warn
from nlp_transfer.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

PREFIXED = ("t5",)
"""Model types that were trained to translate by a prefix in the text."""
NO_HALF = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
"""Model types whose activations overflow in float16."""


class Languages(NamedTuple):
    """The two languages by the codes of the data, and by those of the model where it has any."""

    source: str
    target: str
    source_code: str | None = None
    target_code: str | None = None


def model_languages(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The language codes that a multilingual tokenizer knows; () for a model of one pair of languages."""
    codes = getattr(tokenizer, "lang_code_to_id", None)
    if codes:
        return tuple(sorted(codes))
    module = __import__(type(tokenizer).__module__, fromlist=["FAIRSEQ_LANGUAGE_CODES"])
    listed = getattr(module, "FAIRSEQ_LANGUAGE_CODES", ())
    unknown = tokenizer.unk_token_id
    return tuple(sorted(code for code in listed if tokenizer.convert_tokens_to_ids(code) != unknown))


def settle_languages(tokenizer: PreTrainedTokenizerBase, wanted: Languages) -> Languages:
    """Find the model's code of each language.

    ``de`` stands for the one code of the model that is ``de`` or begins with ``de_``; any other code has to
    be given as the model spells it. A model of one pair of languages that says which (Marian) is warned of
    where the recipe has them the other way round.

    Raises:
        ModelError: a code that the model does not know, with those that it does.
    """
    codes = model_languages(tokenizer)
    if not codes:
        own = [getattr(tokenizer, name, None) for name in ("source_lang", "target_lang")]
        if own == [wanted.target, wanted.source] and own[0] != own[1]:
            warn(
                f"this model translates {own[0]} to {own[1]}, and the other direction is asked for: swap "
                "source_lang and target_lang, or choose a model of that direction"
            )
        return wanted
    found = []
    for role, language, code in (
        ("source", wanted.source, wanted.source_code),
        ("target", wanted.target, wanted.target_code),
    ):
        name = code or language
        matches = [name] if name in codes else [item for item in codes if item.split("_")[0] == name]
        if code is not None and name not in codes:
            matches = []
        if len(matches) != 1:
            raise ModelError(
                f"task.{role}_code: this model has no language {name!r}",
                expected=f"one of {', '.join(codes)}",
                found=name,
                fix=f"set task.{role}_code; {did_you_mean(name, codes)}",
            )
        found.append(matches[0])
    return wanted._replace(source_code=found[0], target_code=found[1])


def use_languages(tokenizer: Any, generation_config: Any, languages: Languages) -> None:
    """Tell the tokenizer both languages, and generation which one to write.

    mBART (25 languages) begins with the language code as its first decoder input; mBART-50, M2M100 and NLLB
    write it as their first, forced, token.
    """
    if not model_languages(tokenizer):
        return
    tokenizer.src_lang, tokenizer.tgt_lang = languages.source_code, languages.target_code
    if hasattr(tokenizer, "get_lang_id"):
        token = tokenizer.get_lang_id(languages.target_code)
    else:
        token = tokenizer.convert_tokens_to_ids(languages.target_code)
    if type(tokenizer).__name__.startswith("MBartTokenizer"):
        generation_config.decoder_start_token_id = token
    else:
        generation_config.forced_bos_token_id = token


def default_prefix(tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, languages: Languages) -> str:
    """What has to stand before each text.

    ``translate German to English: `` for T5; ``>>fra<< `` for a Marian of several target languages; else "".

    Raises:
        ModelError: a target language that such a Marian does not know.
    """
    marks = [mark[2:-2] for mark in getattr(tokenizer, "supported_language_codes", ())]
    if marks:
        wanted = languages.target_code or languages.target
        if wanted not in marks:
            raise ModelError(
                f"task.target_code: this model has no target language {wanted!r}",
                expected=f"one of {', '.join(marks)}",
                found=wanted,
                fix=f"set task.target_code; {did_you_mean(wanted, marks)}",
            )
        return f">>{wanted}<< "
    if config.model_type not in PREFIXED:
        return ""
    tasks = getattr(config, "task_specific_params", None) or {}
    task = tasks.get(f"translation_{languages.source}_to_{languages.target}", {})
    if "prefix" in task:
        return task["prefix"]
    return f"translate {language_name(languages.source)} to {language_name(languages.target)}: "


def language_name(code: str) -> str:
    """``German`` for ``de`` or ``de_DE``; the code itself where it is not known."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return LANGUAGES.get(code.split("_")[0].split("-")[0].lower(), code).title()
