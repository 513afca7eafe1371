"""Load a located model: its configuration, tokenizer and encoder, with errors that say what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from nlp_transfer.console import notice, warn
from nlp_transfer.errors import ModelError, NlpTransferError
from nlp_transfer.models.options import ModelOptions
from nlp_transfer.models.source import DEFAULT_MODEL, ModelSource, locate

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ModelOptions",
    "ModelSource",
    "base_of",
    "declared_pooling",
    "load_config",
    "load_encoder",
    "load_tokenizer",
    "loading",
    "locate",
    "resolve_max_length",
]

DEFAULT_MAX_LENGTH = 256
POOLED_MODEL_TYPE = "nlp_transfer_pooled_classifier"
ADAPTER_CLASSIFIER = "classifier_config.json"
"""Beside an adapter: the configuration of the classifier that it adapts."""
_OFFSET_POSITIONS = ("roberta", "camembert", "mpnet", "data2vec-text", "longformer", "xmod", "ibert", "esm")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
    "*.bpe",
)
_BYTE_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' load reports and bars inside the block, and restore them after it."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextlib.contextmanager
def loading(source: ModelSource, options: ModelOptions | None = None) -> Iterator[None]:
    """Load quietly, and turn what goes wrong inside the block into a ModelError."""
    try:
        with quiet():
            yield
    except NlpTransferError:
        raise
    except ImportError as error:
        raise ModelError(
            f"{source.name}: a package is missing",
            found=_first_line(error),
            fix="install the package it names",
        ) from error
    except Exception as error:
        raise _load_error(source, options, error) from error


def _load_error(source: ModelSource, options: ModelOptions | None, error: Exception) -> ModelError:
    found = f"{type(error).__name__}: {_first_line(error)}"
    if "trust_remote_code" in str(error) and not (options and options.trust_remote_code):
        return ModelError(
            f"{source.name}: this model brings its own code",
            expected="a model whose architecture transformers knows, or leave to run the model's code",
            found=", ".join(sorted(path.name for path in source.folder.glob("*.py")))
            or "an auto_map in config.json",
            fix="read that code; if you trust it set model.trust_remote_code=true",
        )
    if options is not None and options.attn_implementation and "attention" in str(error).lower():
        return ModelError(
            f"model.attn_implementation: {options.attn_implementation} cannot be used with {source.name}",
            found=found,
            fix="leave model.attn_implementation out",
        )
    if "ignore_mismatched_sizes" in str(error):
        found = "weights of another size than config.json says"
    return ModelError(
        f"{source.name}: cannot be loaded",
        expected=f"a checkpoint that transformers can load, in {source.folder}",
        found=found,
        fix="check that config.json belongs to the weights; else copy or download the checkpoint again",
    )


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")


def base_of(source: ModelSource, options: ModelOptions) -> ModelSource:
    """The base model of an adapter, through ``locate``.

    Raises:
        ModelError: the adapter names no base, or the base is not there.
    """
    recorded = source.read_json("adapter_config.json")
    name = recorded.get("base_model_name_or_path")
    if not name:
        raise ModelError(
            f"{source.folder}: the adapter does not say which model it adapts",
            expected="base_model_name_or_path in adapter_config.json",
            fix="write the base's folder or hub id there",
        )
    return locate(options.model_copy(update={"name": str(name), "revision": recorded.get("revision")}))


def load_config(source: ModelSource, options: ModelOptions) -> PretrainedConfig:
    """The configuration of the model, or of an adapter's base."""
    from transformers import AutoConfig

    if source.is_adapter:
        return load_config(base_of(source, options), options)
    if source.read_json("config.json").get("model_type") == POOLED_MODEL_TYPE:
        import nlp_transfer.models.pooled  # noqa: F401  (makes the type known to AutoConfig)
    with loading(source, options):
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=options.trust_remote_code)


def load_tokenizer(source: ModelSource, options: ModelOptions) -> PreTrainedTokenizerBase:
    """The tokenizer, with a padding token (the end-of-text token where it has none) and padding on the right.

    Raises:
        ModelError: no vocabulary in the folder, or no token that could pad.
    """
    from transformers import AutoTokenizer

    has_vocabulary = any(next(source.folder.glob(pattern), None) for pattern in _VOCABULARIES)
    if not has_vocabulary and source.is_adapter:
        return load_tokenizer(base_of(source, options), options)
    if (
        not has_vocabulary
        and source.read_json("tokenizer_config.json").get("tokenizer_class") not in _BYTE_TOKENIZERS
    ):
        raise ModelError(
            f"{source.folder}: no tokenizer",
            expected="tokenizer.json or the vocabulary files of the tokenizer",
            found=", ".join(sorted(path.name for path in source.folder.iterdir() if path.is_file())),
            fix="save the tokenizer beside the model: tokenizer.save_pretrained(folder)",
        )
    with loading(source, options):
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=options.trust_remote_code)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ModelError(
                f"{source.name}: the tokenizer has no padding token, nor an end-of-text token to stand in",
                expected="pad_token or eos_token in tokenizer_config.json",
                fix="add one of them to tokenizer_config.json",
            )
        tokenizer.pad_token = substitute
    _check_vocabulary(source, tokenizer)
    return tokenizer


def _check_vocabulary(source: ModelSource, tokenizer: PreTrainedTokenizerBase) -> None:
    config = source.read_json("config.json")
    size = config.get("encoder_config", config).get("vocab_size")
    if isinstance(size, int) and len(tokenizer) > size:
        warn(
            f"{source.name}: the tokenizer knows {len(tokenizer):,} tokens, the model only {size:,}: "
            "is it the tokenizer of another model?"
        )


def text_config(config: PretrainedConfig) -> PretrainedConfig:
    """The part of a configuration that describes the text encoder."""
    return config.encoder_config if config.model_type == POOLED_MODEL_TYPE else config.get_text_config()


def resolve_max_length(
    tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, max_length: int | None = None
) -> int:
    """Tokens of a text that are read: what was asked for, or 256 where the model can take that.

    Raises:
        ModelError: more was asked for than the model has positions.
    """
    config = text_config(config)
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1 or getattr(config, "position_biased_input", True) is False:
        limit = None
    elif any(kind in config.model_type for kind in _OFFSET_POSITIONS):
        limit = min(limit - 2, tokenizer.model_max_length)
    if limit is None:
        return max_length or int(min(DEFAULT_MAX_LENGTH, tokenizer.model_max_length))
    if max_length is not None and max_length > limit:
        raise ModelError(
            f"model.max_length: {max_length} tokens are more than this model has positions for",
            expected=f"at most {limit}",
            found=str(max_length),
            fix=f"set model.max_length={limit}, or choose a model for longer texts",
        )
    return max_length or int(min(DEFAULT_MAX_LENGTH, limit, tokenizer.model_max_length))


def declared_pooling(source: ModelSource) -> Literal["mean", "cls", "last"] | None:
    """The pooling that a sentence-transformers checkpoint or a pooled classifier declares, or None."""
    config = source.read_json("config.json")
    if config.get("model_type") == POOLED_MODEL_TYPE:
        return config["pooling"]
    pooling = source.read_json("1_Pooling/config.json")
    if not pooling:
        return None
    modes = pooling.get("pooling_mode") or [
        key.removeprefix("pooling_mode_")
        for key, on in pooling.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    modes = [modes] if isinstance(modes, str) else list(modes)
    known = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean", "lasttoken": "last"}
    if len(modes) == 1 and modes[0] in known:
        return known[modes[0]]  # type: ignore[return-value]
    notice(
        f"{source.name}: declares the pooling {' + '.join(modes) or 'none'}, which is not here: using mean"
    )
    return "mean"


def default_pooling(config: PretrainedConfig) -> Literal["mean", "last"]:
    """last for a decoder, whose last token alone has seen the whole text; mean for an encoder."""
    from transformers.models.auto import modeling_auto as auto

    kind = text_config(config).model_type
    is_causal = (
        kind in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    )
    return "last" if is_causal and not config.is_encoder_decoder else "mean"


def is_encoder_half(config: PretrainedConfig) -> bool:
    """True where the text encoder is the first half of an encoder-decoder (T5 and its kin)."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES

    return MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(config.model_type, "").endswith("EncoderModel")


def require_text_model(source: ModelSource, config: PretrainedConfig, *, head: bool) -> None:
    """Refuse checkpoints that cannot encode text.

    Args:
        source: named in the message.
        config: what the checkpoint is.
        head: True where the architecture's own classification head is wanted.

    Raises:
        ModelError: an image or sound model, or a translation model.
    """
    from transformers.models.auto import modeling_auto as auto

    kind = config.model_type
    with_head = kind in auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    texts = (
        auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES,
        auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )
    is_text = with_head or any(kind in names for names in texts) or hasattr(config, "auto_map")
    sequence_to_sequence = config.is_encoder_decoder and not is_encoder_half(config)
    if is_text and not (sequence_to_sequence and not (head and with_head)) and (with_head or not head):
        return
    what = (
        "a sequence-to-sequence model"
        if sequence_to_sequence
        else "a model without a text classification head"
    )
    raise ModelError(
        f"{source.name}: not a model that classifies or embeds texts",
        expected="a text encoder or decoder, such as BERT, RoBERTa, ModernBERT, T5, Llama or Qwen",
        found=f"model type {kind!r}: {what if is_text else 'not a text model'}",
        fix=f"choose another model, such as {DEFAULT_MODEL}"
        + ("" if sequence_to_sequence else ", or model.pooling=mean"),
    )


def model_arguments(config: PretrainedConfig, options: ModelOptions) -> dict[str, Any]:
    """Keyword arguments of every ``from_pretrained``; writes the dropout into ``config``."""
    for part in (config, text_config(config)):
        _set_dropout(part, options.dropout, attention=False)
        _set_dropout(part, options.attention_dropout, attention=True)
    arguments: dict[str, Any] = {
        "config": config,
        "dtype": options.dtype,
        "use_safetensors": True,
        "trust_remote_code": options.trust_remote_code,
        "output_loading_info": True,
    }
    if options.attn_implementation:
        arguments["attn_implementation"] = options.attn_implementation
    return arguments


def _set_dropout(config: PretrainedConfig, value: float | None, *, attention: bool) -> None:
    """Write a rate into the fields for attention weights, or into all others; None changes nothing."""
    for name, found in config.to_dict().items():
        is_rate = "dropout" in name or name.endswith("_pdrop")
        is_number = isinstance(found, int | float) and not isinstance(found, bool)
        if is_rate and ("att" in name) == attention and value is not None and (found is None or is_number):
            setattr(config, name, value)


def check_loaded(source: ModelSource, info: dict[str, Any], body: str = "") -> None:
    """Refuse weights that leave parts of the model at random values, where that is not a fresh head.

    Args:
        source: named in the message.
        info: what ``from_pretrained(output_loading_info=True)`` gives.
        body: prefix of the weights that must be there; "" for all (a pooler never has to be).

    Raises:
        ModelError: the checkpoint lacks them, or has them in another size.
    """
    keys = {str(key) for key in info["missing_keys"]}
    keys |= {str(key if isinstance(key, str) else key[0]) for key in info.get("mismatched_keys", ())}
    absent = sorted(key for key in keys if key.startswith(body) and "pooler" not in key.split("."))
    if absent:
        raise ModelError(
            f"{source.name}: the weights do not fit config.json",
            expected="every weight of the architecture",
            found=f"{len(absent)} missing or of another size, such as {absent[0]}",
            fix="check that config.json and the weights belong together",
        )


def load_encoder(source: ModelSource, options: ModelOptions) -> PreTrainedModel:
    """The model without a head: token vectors out. Of an encoder-decoder, the encoder.

    An adapter is merged into its base first; of an earlier classifier its encoder is taken.

    Raises:
        ModelError: not a text model, or weights that do not fit.
    """
    from transformers import AutoModel, AutoModelForTextEncoding

    if source.is_adapter or source.read_json("config.json").get("model_type") == POOLED_MODEL_TYPE:
        from nlp_transfer.models.classifier import encoder_of, load_classifier

        return encoder_of(load_classifier(source, options))
    config = load_config(source, options)
    require_text_model(source, config, head=False)
    auto = AutoModelForTextEncoding if is_encoder_half(config) else AutoModel
    with loading(source, options):
        encoder, info = auto.from_pretrained(source.folder, **model_arguments(config, options))
    check_loaded(source, info)
    return encoder
