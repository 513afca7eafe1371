"""The guard: did the source help or hurt? Judged on held-out target rows against a model without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nlp_transfer.adaptation import ADAPTATIONS
from nlp_transfer.console import warn
from nlp_transfer.numeric.paired import PairedGain, paired_gain
from nlp_transfer.tasks import TranslationTask
from nlp_transfer.training.row_figures import judged_by

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.recipe import Recipe
    from nlp_transfer.training.phases import Setup, Trained

TARGET_ONLY = "target_only"
"""The baseline that is the same recipe without the source; also its folder among the checkpoints."""


@dataclass
class Evidence:
    """What a run leaves behind to be judged.

    Attributes:
        baseline: figures of held-out target rows from the model that never saw the source, [k, n].
        transferred: the same from the model that did, [k, n].
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
        ``verdict`` (helped, no evidence, hurt, not judged), ``sentence``, ``gain`` and, for classes,
        ``brier_gain`` (how much the Brier score fell) with their intervals, ``baseline``, ``scores``,
        ``held_out``, ``rows``, ``looks``, ``shipped`` and ``seconds``.
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
    confidence = 0.975 if evidence.watched else 0.95
    gain, *finer = (
        paired_gain(ours, theirs, confidence=confidence)
        for ours, theirs in zip(evidence.transferred, evidence.baseline, strict=True)
    )
    verdict = _outcome(gain, finer, like=evidence.like)
    worse = min(found.value for found in (gain, *finer)) < 0
    falls_back = options.on_negative_transfer == "fallback" and worse
    sentence = _sentence(setup, evidence, gain, finer, verdict)
    if falls_back:
        sentence += " The model without the source is shipped."
    if verdict == "hurt":
        warn(sentence)
    record = {
        "verdict": verdict,
        "sentence": sentence,
        "gain": _interval(gain),
        "brier_gain": _interval(finer[0]) if finer else None,
        "confidence": gain.confidence,
        "metric": judged_by(setup),
        "baseline": evidence.kind,
        "scores": {
            "transferred": float(evidence.transferred[0].mean()),
            "baseline": float(evidence.baseline[0].mean()),
        },
        "held_out": evidence.held_out,
        "rows": gain.rows,
        "looks": _looks(trained),
        "shipped": "baseline" if falls_back else "transferred",
        "seconds": round(evidence.seconds, 3),
    }
    return record, evidence.fallback() if falls_back else trained


def _interval(gain: PairedGain) -> dict[str, float]:
    return {"value": gain.value, "low": gain.low, "high": gain.high}


def _outcome(gain: PairedGain, finer: Sequence[PairedGain], *, like: bool) -> str:
    """Hurt where the interval of the gain lies below zero, or the finer one does and the gain is not above.

    A harmless source is called harmful with a probability of 5 % at most: 2.5 % for each interval. The same
    holds for help.
    """
    if gain.high < 0 or (gain.value <= 0 and any(found.high < 0 for found in finer)):
        return "hurt"
    return "helped" if _better(gain, finer) and like else "no evidence"


def _better(gain: PairedGain, finer: Sequence[PairedGain]) -> bool:
    return gain.low > 0 or (gain.value > 0 and any(found.low > 0 for found in finer))


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


def _sentence(
    setup: Setup, evidence: Evidence, gain: PairedGain, finer: Sequence[PairedGain], verdict: str
) -> str:
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
    if verdict in ("helped", "hurt") and gain.low <= 0 <= gain.high:
        ends = (f"{-number:+.3f}".replace("-", "\u2212") for number in (finer[0].high, finer[0].low))
        figures += f"; Brier score of the probabilities [{', '.join(ends)}] (minus is better)"
    against = AGAINST[evidence.kind]
    if evidence.kind == TARGET_ONLY and setup.recipe.adaptation:
        against += " and without adaptation"
    by = " in its probabilities, not surely in its answers" if gain.low <= 0 <= gain.high else ""
    if verdict == "helped":
        return f"{source} helped on {target}{by}: {figures}, against {against}."
    if verdict == "hurt":
        text = f"{source} hurt on {target}{by}: {figures}, against {against}."
        if not evidence.like and evidence.kind != TARGET_ONLY:
            text += (
                " A short fine-tuning alone may explain it; guard.baseline=target_only tells the two apart."
            )
        return text
    text = f"No evidence that {source} helped or hurt on {target}: {figures}, against {against}."
    better = _better(gain, finer)
    if better and evidence.kind == TARGET_ONLY:
        text += " The adaptation alone may explain it, which needs no source."
    elif better and not evidence.like:
        text += " Fine-tuning alone may explain it; guard.baseline=target_only tells the two apart."
    return text
