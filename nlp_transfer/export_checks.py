"""How an exported model is compared with the original: on which rows, and what may differ."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nlp_transfer.console import notice
from nlp_transfer.errors import ModelError, NlpTransferError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.predict import TextModel

CHECK_ROWS = 128
"""Texts on which the exported model is compared with the original."""
CHECK_PAIRS = 500
"""Sentence pairs, where BLEU is compared."""
BLEU_TOLERANCE = 0.3
"""BLEU by which an exported model may fall below the original."""
TOLERANCE = 1e-3
"""Largest difference between two float32 logits, relative to the largest logit (at least 1)."""
TEXTS = (
    "A fine film, from the first scene to the last.",
    "It broke after two days.",
    "I do not know what to make of it; the second half is better than the first, if a little long.",
    "No.",
)
"""Checked where the run's own validation rows cannot be read."""


class CheckRows(NamedTuple):
    """Texts for the comparison, and their translations where the task has some."""

    texts: list[str]
    references: list[str] | None = None


def check_rows(run: Path) -> CheckRows:
    """The run's own held-out target rows; where they are out of reach, a few built-in texts, or none."""
    from nlp_transfer.data.domains import load_domain
    from nlp_transfer.recipe import Recipe

    try:
        folder = next(path for path in (run, run.parent) if (path / "recipe.yaml").is_file())
        recipe = Recipe.load(folder / "recipe.yaml")
    except (NlpTransferError, OSError, StopIteration):
        return CheckRows(list(TEXTS))
    task: Any = recipe.task
    translates = task.kind == "translation"
    rating = getattr(task, "loss", None) == "mse"
    try:
        data = load_domain(
            recipe.target,
            role="target",
            objective="translation" if translates else "regression" if rating else "classification",
            seed=recipe.seed,
            base=recipe.base,
            need=("validation",) if recipe.target.trains else (),
            languages=(task.source_lang, task.target_lang) if translates else None,
        )
    except (NlpTransferError, OSError):
        return CheckRows([] if translates else list(TEXTS))
    rows = data.validation or data.test or data.train
    if not rows:
        return CheckRows([] if translates else list(TEXTS))
    if translates:
        rows = rows.shuffle(seed=recipe.seed)[:CHECK_PAIRS]
        return CheckRows(rows["text"], rows["translation"])
    return CheckRows([str(text) for text in rows[:CHECK_ROWS]["text"]])


def token_rows(loaded: TextModel, texts: list[str]) -> list[dict[str, NDArray]]:
    """Ids and mask [1, tokens] of each text, as they are in prediction."""
    import numpy as np

    found = loaded.tokenizer(texts, truncation=True, max_length=loaded.max_length)["input_ids"]
    rows = [np.asarray([row or [loaded.tokenizer.pad_token_id]], dtype=np.int64) for row in found]
    return [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows]


def torch_logits(loaded: TextModel, row: dict[str, NDArray]) -> NDArray:
    """Logits [1, classes] of one text."""
    import torch

    with torch.inference_mode():
        return loaded.model(**{name: torch.from_numpy(value) for name, value in row.items()}).logits.numpy()


def compare_logits(
    loaded: TextModel,
    rows: list[dict[str, NDArray]],
    logits: Callable[[dict[str, NDArray]], NDArray],
    what: str,
    *,
    exact: bool = True,
) -> dict[str, Any]:
    """The exported model's logits against the original's, text by text, and the time that both take.

    Raises:
        ModelError: they differ by more than rounding.
    """
    import numpy as np

    for warm in (logits, lambda row: torch_logits(loaded, row)):
        warm(rows[0])
    begun = time.perf_counter()
    theirs = np.concatenate([logits(row) for row in rows])
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    ours = np.concatenate([torch_logits(loaded, row) for row in rows])
    original = time.perf_counter() - begun
    difference = float(np.abs(theirs - ours).max())
    if exact and not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise ModelError(
            f"{what} gives other logits than the original",
            expected=f"differences of at most {TOLERANCE:g}",
            found=f"{difference:.3g} on {len(rows)} texts",
            fix="report it, with the model's name",
        )
    same = float((theirs.argmax(1) == ours.argmax(1)).mean()) if ours.shape[1] > 1 else None
    return {
        "rows": len(rows),
        "difference": difference,
        "agreement": same,
        "seconds": round(seconds, 4),
        "original_seconds": round(original, 4),
    }


def translations(loaded: TextModel, texts: list[str]) -> list[str]:
    """What a model in torch writes, in float32."""
    from nlp_transfer.models.seq2seq import translate

    task: Any = loaded.task
    return translate(
        loaded.model,
        loaded.tokenizer,
        texts,
        prefix=task.prefix,
        max_length=loaded.max_length,
        max_new_tokens=task.options.max_new_tokens,
        num_beams=loaded.model.generation_config.num_beams or 1,
        bf16=False,
    )


def compare_translations(
    loaded: TextModel, check: CheckRows, exported: Callable[[list[str]], list[str]], what: str
) -> dict[str, Any]:
    """The exported model's translations against the original's, and their BLEU where there are references.

    Raises:
        ModelError: BLEU falls by more than ``BLEU_TOLERANCE``.
    """
    from nlp_transfer.tasks.translation_metrics import TranslationScorer

    if not check.texts:
        notice("not compared with the original: the run's validation rows are out of reach")
        return {}
    begun = time.perf_counter()
    ours = translations(loaded, check.texts)
    original = time.perf_counter() - begun
    begun = time.perf_counter()
    theirs = exported(check.texts)
    seconds = time.perf_counter() - begun
    figures: dict[str, Any] = {
        "rows": len(ours),
        "agreement": sum(a == b for a, b in zip(ours, theirs, strict=True)) / len(ours),
        "seconds": round(seconds, 4),
        "original_seconds": round(original, 4),
    }
    if check.references is None:
        return figures
    scorer = TranslationScorer(loaded.task.languages.target, ("bleu",))  # type: ignore[attr-defined]
    before, after = (float(scorer.scores(found, check.references)["bleu"]) for found in (ours, theirs))
    if not after >= before - BLEU_TOLERANCE:
        raise ModelError(
            f"{what} translates worse than the original",
            expected=f"at least {before - BLEU_TOLERANCE:.1f} BLEU on {len(ours)} validation rows",
            found=f"{after:.1f}, where the original has {before:.1f}",
            fix="use --quantization float32" if "int8" in what else "report it, with the model's name",
        )
    return {**figures, "bleu": round(after, 2), "original_bleu": round(before, 2)}
