"""What a recipe says about translation: languages, batches, search."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nlp_transfer.options import Options

_LANGUAGE = Field(min_length=2, max_length=12)


class TranslationOptions(Options):
    """Translate from one language into another."""

    kind: Literal["translation"] = "translation"
    source_lang: str = _LANGUAGE
    """Language to translate from: its key in the data (``{"translation": {"de": ..., "en": ...}}``)."""
    target_lang: str = _LANGUAGE
    """Language to translate into."""
    source_code: str | None = None
    """What a multilingual model calls the source language, such as ``de_DE`` or ``deu_Latn``. Default: found
    from ``source_lang`` where that leaves no doubt."""
    target_code: str | None = None
    """What a multilingual model calls the target language."""
    prefix: str | None = None
    """Written before each text. Default: what T5 was trained with; nothing for other models."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of each target token that is spread evenly over the vocabulary."""
    batch_tokens: int = Field(default=4096, ge=32)
    """Padded tokens (source and target) of a training batch on each device. Not used where the recipe sets
    ``training.per_device_train_batch_size``, which counts sentences."""
    num_beams: int = Field(default=4, ge=1)
    """Beams of the final evaluation and of predict; 1 is greedy search."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    """Longest translation. Default: twice the tokens of the source plus 16."""
    score_before: bool = True
    """Translate the test sets with the model before training too: each figure then has the interval of its
    gain, and the old domain's (``source.test``) shows what was forgotten. Costs as much as final scores."""
    eval_num_beams: int = Field(default=1, ge=1)
    """Beams of the evaluations during training."""
    eval_max_samples: int = Field(default=500, ge=1)
    """Validation sentences translated at each evaluation during training, drawn by seed. The validation loss
    is over all of them."""

    @model_validator(mode="after")
    def _two_languages(self) -> TranslationOptions:
        if self.source_lang == self.target_lang:
            raise ValueError(f"source_lang and target_lang are both {self.source_lang!r}: give two languages")
        return self
