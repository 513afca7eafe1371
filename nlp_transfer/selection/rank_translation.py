"""Translation models judged for a target as they are: chrF, loss and token fertility, beside their cost."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.models.options import ModelOptions
from nlp_transfer.numeric.transferability import Estimate
from nlp_transfer.selection.cost import TIMED_TEXTS, EncodingCost, disk_mb, peak_memory
from nlp_transfer.tasks.bootstrap import bootstrap_interval

if TYPE_CHECKING:
    from datasets import Dataset

    from nlp_transfer.shift.translation import Translator
    from nlp_transfer.tasks.translation import TranslationTask

TITLES = {"chrf": "chrF", "loss": "loss", "fertility": "tokens / word"}
NOTES = {
    "chrf": "chrF of greedy translations, 0 to 100",
    "loss": "nats for each character of the references: less is better, whatever the vocabulary",
    "fertility": "tokens for each word of the texts: near 1, the model's vocabulary knows this domain",
}


def judge_model(
    name: str, task: TranslationTask, pairs: Dataset, seed: int
) -> tuple[dict[str, Estimate], EncodingCost]:
    """Translate a sample, score the references, count tokens; with what it cost.

    Args:
        name: hub name or folder.
        task: the languages.
        pairs: rows with ``text`` and ``translation``.
        seed: of the resamples.

    Raises:
        ModelError: it cannot be loaded, or does not translate these languages.

    Cost: two greedy translations of 64 texts at most, one of the others, and a forward pass a pair.
    """
    from nlp_transfer.models.load import locate
    from nlp_transfer.models.seq2seq import translate
    from nlp_transfer.shift.translation import Translator

    options = ModelOptions(name=name)
    with peak_memory() as peak:
        translator = Translator(task, options)
        texts = pairs["text"][:TIMED_TEXTS]
        run = functools.partial(
            translate,
            translator.model,
            translator.tokenizer,
            prefix=translator.task.prefix,
            max_length=translator.max_length,
            num_beams=1,
        )
        run(texts[:1])
        started = time.perf_counter()
        run(texts)
        seconds = (time.perf_counter() - started) / len(texts)
    parameters = sum(weight.numel() for weight in translator.model.parameters())
    cost = EncodingCost(parameters, disk_mb(locate(options)), round(peak.added, 1), round(1000 * seconds, 3))
    zero = translator.zero_shot(pairs, "train", seed=seed)
    chrf = Estimate(*(float(zero.chrf[end] or 0) for end in ("value", "low", "high")))
    per_token = [float(zero.loss[end] or 0) for end in ("value", "low", "high")]
    rate = _tokens_per_character(translator, pairs["translation"][:])
    loss = Estimate(*(value * rate for value in per_token))
    return {"chrf": chrf, "loss": loss, "fertility": _fertility(translator, pairs["text"][:], seed)}, cost


def _tokens_per_character(translator: Translator, references: list[str]) -> float:
    """Of the references, the end of each counted as a token."""
    tokens = sum(len(row) + 1 for row in translator.tokenize(references, references=True))
    return tokens / max(sum(map(len, references)), 1)


def _fertility(translator: Translator, texts: list[str], seed: int) -> Estimate:
    """Tokens for each word between spaces, with its interval over resamples of the texts."""
    tokens = np.array([len(row) for row in translator.tokenize(texts)], dtype=float)
    words = np.array([max(len(text.split()), 1) for text in texts], dtype=float)
    found = bootstrap_interval(lambda a, b, axis: a.sum(axis) / b.sum(axis), tokens, words, seed=seed)
    return Estimate(*(float(found[end] or 0) for end in ("value", "low", "high")))
