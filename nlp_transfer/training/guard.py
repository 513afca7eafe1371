"""The guard: did the source help or hurt? Judged on held-out target rows against a model without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.adaptation import ADAPTATIONS
from nlp_transfer.console import warn
from nlp_transfer.numeric.paired import PairedGain, paired_gain
from nlp_transfer.tasks import SentimentTask, TranslationTask

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from nlp_transfer.recipe import Recipe
    from nlp_transfer.training.phases import Setup, Trained

TARGET_ONLY = "target_only"
"""The baseline that is the same recipe without the source; also its folder among the checkpoints."""

Scorer = Callable[["Dataset"], "NDArray"]
"""From raw rows of a domain to one figure a row, larger being better, by which two models can be compared."""


@dataclass
class Evidence:
    """What a run leaves behind to be judged.

    Attributes:
        baseline: one figure a held-out target row from the model that never saw the source, [n].
        transferred: the same from the model that did, [n].
        held_out: what the rows are, in words.
        kind: of the baseline: target_only, probe or zero_shot.
        like: whether the source is the only difference of the two models.
        watched: whether the same rows were looked at while training.
        fallback: makes the baseline the run's model.
        seconds: spent on the baseline.
    """

    baseline: NDArray
    transferred: NDArray
    held_out: str
    kind: str
    like: bool
    watched: bool
    fallback: Callable[[], Trained]
    seconds: float = 0.0


def judged_by(setup: Setup) -> str:
    """The metric that a row's figures add up to: accuracy, mse, chrf or loss."""
    by_loss = setup.recipe.training.get("metric_for_best_model") in ("loss", "eval_loss")
    return "loss" if by_loss and isinstance(setup.task, TranslationTask) else setup.task.best_metric.name


def scorer(
    setup: Setup,
    model: Any,
    logits: Callable[[Dataset], NDArray] | None = None,
    max_length: int = 0,
) -> Scorer:
    """Figures of raw rows by a model.

    Args:
        setup: of the run.
        model: trained for translation; for sentiment the logits do.
        logits: of raw rows, for sentiment.
        max_length: tokens of a text that are read, for translation.
    """
    task, generate = setup.task, judged_by(setup) != "loss"

    def score(rows: Dataset) -> NDArray:
        if isinstance(task, SentimentTask):
            assert logits is not None
            return np.asarray(task.row_scores(logits(rows), task.label_array(rows)))
        assert isinstance(task, TranslationTask)
        return task.row_figures(
            model, setup.tokenizer, rows, max_length=max_length, seed=setup.recipe.seed, generate=generate
        )

    return score


def adapts_without_source(recipe: Recipe) -> bool:
    """Whether an adaptation would act without the source too, so that the source is not all that differs."""
    return any(not ADAPTATIONS[choice.kind][0].needs_source for choice in recipe.adaptation)


def why_not_judged(setup: Setup) -> str | None:
    """Why a run with a source cannot be judged; None where it can be."""
    recipe, target = setup.recipe, setup.domains["target"]
    translates = isinstance(setup.task, TranslationTask)
    if setup.domains["source"].train is None:
        return "the source is scored and not trained on"
    if recipe.guard.baseline == "none":
        return "guard.baseline is none"
    if target.train is None and (recipe.guard.baseline == TARGET_ONLY or not translates):
        return "there are no labelled target rows that a model without the source could learn from"
    if recipe.guard.baseline == "probe" and recipe.model.init != "pretrained":
        return "a new model knows nothing to compare with (guard.baseline=target_only trains one)"
    if target.validation is None and not (setup.strategy.extracts and not translates):
        return "there are no validation rows of the target"
    return None


def conclude(setup: Setup, trained: Trained) -> tuple[dict[str, Any] | None, Trained]:
    """The verdict of a run, for ``metrics.json``, and the model to ship; no verdict without a source.

    Returns:
        ``verdict`` (helped, no evidence, hurt, not judged), ``sentence``, ``gain`` with its interval,
        ``baseline``, ``scores``, ``held_out``, ``rows``, ``looks``, ``shipped`` and ``seconds``.
    """
    if "source" not in setup.domains:
        return None, trained
    evidence, options = trained.evidence, setup.recipe.guard
    if evidence is None:
        reason = why_not_judged(setup) or "there are too few labelled target rows"
        return {
            "verdict": "not judged",
            "sentence": f"Not judged: {reason}.",
            "shipped": "transferred",
        }, trained
    gain = paired_gain(
        evidence.transferred, evidence.baseline, confidence=0.975 if evidence.watched else 0.95
    )
    verdict = _outcome(gain, like=evidence.like)
    falls_back = options.on_negative_transfer == "fallback" and gain.value < 0
    sentence = _sentence(setup, evidence, gain, verdict)
    if falls_back:
        sentence += " The model without the source scores higher and is shipped."
    if verdict == "hurt":
        warn(sentence)
    record = {
        "verdict": verdict,
        "sentence": sentence,
        "gain": {"value": gain.value, "low": gain.low, "high": gain.high},
        "confidence": gain.confidence,
        "metric": judged_by(setup),
        "baseline": evidence.kind,
        "scores": {
            "transferred": float(evidence.transferred.mean()),
            "baseline": float(evidence.baseline.mean()),
        },
        "held_out": evidence.held_out,
        "rows": gain.rows,
        "looks": _looks(trained),
        "shipped": "baseline" if falls_back else "transferred",
        "seconds": round(evidence.seconds, 3),
    }
    return record, evidence.fallback() if falls_back else trained


def _outcome(gain: PairedGain, *, like: bool) -> str:
    if gain.high < 0:
        return "hurt"
    return "helped" if gain.low > 0 and like else "no evidence"


def _looks(trained: Trained) -> list[dict[str, float]]:
    """What was seen while training, evaluation by evaluation."""
    return [
        {"step": entry["step"], **{name: entry[f"eval_guard_{name}"] for name in ("gain", "low", "high")}}
        for phase in trained.phases
        for entry in phase.get("history", ())
        if "eval_guard_gain" in entry
    ]


UNITS = {
    "accuracy": ("points of accuracy", 100.0, 1),
    "mse": ("mean squared error", 1.0, 3),
    "chrf": ("chrF", 1.0, 1),
    "loss": ("nats of loss a token", 1.0, 3),
}
"""Of each metric: how a difference is called, what it is multiplied with, and its digits."""
AGAINST = {
    TARGET_ONLY: "the same model without it",
    "probe": "a linear probe that never saw it",
    "zero_shot": "the pretrained model as it was",
}


def _sentence(setup: Setup, evidence: Evidence, gain: PairedGain, verdict: str) -> str:
    """The verdict in words, with its figures."""
    source, target = setup.domains["source"].name, setup.domains["target"].name
    metric = judged_by(setup)
    unit, factor, digits = UNITS[metric]
    value, low, high = (
        f"{factor * number:+.{digits}f}".replace("-", "\u2212")
        for number in (gain.value, gain.low, gain.high)
    )
    figures = f"{value} {unit} [{low}, {high}] on {gain.rows:,} {evidence.held_out}"
    figures += " (plus is better)" if metric in ("mse", "loss") else ""
    against = AGAINST[evidence.kind]
    if evidence.kind == TARGET_ONLY and setup.recipe.adaptation:
        against += " and without adaptation"
    if verdict == "helped":
        return f"{source} helped on {target}: {figures}, against {against}."
    if verdict == "hurt":
        return f"{source} hurt on {target}: {figures}, against {against}."
    text = f"No evidence that {source} helped or hurt on {target}: {figures}, against {against}."
    if gain.low > 0 and evidence.kind == TARGET_ONLY:
        text += " The adaptation alone may explain it, which needs no source."
    elif gain.low > 0 and not evidence.like:
        text += " Fine-tuning alone may explain it; guard.baseline=target_only tells the two apart."
    return text
