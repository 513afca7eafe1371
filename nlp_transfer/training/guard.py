"""The guard: did the source help or hurt? Judged on held-out target rows against a model without it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from nlp_transfer.console import warn
from nlp_transfer.numeric.paired import PairedGain, look_confidence, paired_gain
from nlp_transfer.processes import world_size
from nlp_transfer.tasks import SentimentTask

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import EvalPrediction

    from nlp_transfer.training.phases import Setup, Trained

TARGET_ONLY = "target_only"
"""The baseline that is the same recipe without the source; also its folder among the checkpoints."""
PROBE_ROWS = 2000
"""Labelled target rows that a probe learns from at most."""
STOPS_FROM = 0.5
"""Share of the target training after which harm may stop it: before, the model is still on its way."""


@dataclass
class Evidence:
    """What a run leaves behind to be judged.

    Attributes:
        baseline: one figure a held-out target row from the model that never saw the source, [n].
        transferred: the same from the model that did, [n].
        held_out: what the rows are, in words.
        like: whether the source is the only difference of the two models.
        watched: whether the same rows were looked at while training.
        fallback: makes the baseline the run's model.
        seconds: spent on the baseline.
    """

    baseline: NDArray
    transferred: NDArray
    held_out: str
    like: bool
    watched: bool
    fallback: Callable[[], Trained]
    seconds: float = 0.0


class Watch(TrainerCallback):
    """Compare the model with the baseline at every evaluation, and stop where harm is sure.

    ``compute_metrics`` adds ``guard_gain``, ``guard_low`` and ``guard_high`` to the task's figures, so that
    they stand in the Trainer's log, in trackers and in checkpoints; a resumed run goes on counting from
    those.

    Args:
        task: gives the figures of a row.
        baseline: figures of the baseline, in the order of the validation rows.
        truth: labels in that order.
        stops: end the training where harm is sure.
    """

    def __init__(self, task: SentimentTask, baseline: NDArray, truth: NDArray, *, stops: bool) -> None:
        self.task, self.baseline, self.truth, self.stops = task, baseline, truth, stops
        self.looks = 0
        self.order: Callable[[], NDArray] = lambda: np.arange(len(baseline))

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The task's figures and the gain over the baseline."""
        figures = self.task.compute_metrics(prediction)
        order = self.order()
        labels = np.asarray(prediction.label_ids)
        if labels.shape != self.truth.shape or not np.allclose(labels, self.truth[order]):
            return figures  # an evaluation of other rows
        scores = self.task.row_scores(prediction.predictions, self.truth[order])
        self.looks += 1
        gain = paired_gain(scores, self.baseline[order], confidence=look_confidence(self.looks))
        return {**figures, "guard_gain": gain.value, "guard_low": gain.low, "guard_high": gain.high}

    def on_train_begin(self, args, state, control, **kwargs):
        """Count the looks of the run that is resumed."""
        self.looks = sum("eval_guard_gain" in entry for entry in state.log_history)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Stop where the whole interval lies below zero, in the second half of the training."""
        harmed = (metrics or {}).get("eval_guard_high", 0.0) < 0
        if self.stops and harmed and state.global_step >= STOPS_FROM * state.max_steps:
            warn(f"the source hurts: training stops at step {state.global_step} of {state.max_steps}")
            control.should_training_stop = True


def why_not_judged(setup: Setup) -> str | None:
    """Why a run with a source cannot be judged; None where it can be."""
    target = setup.domains["target"]
    if setup.domains["source"].train is None:
        return "the source is scored and not trained on"
    if setup.recipe.guard.baseline == "none":
        return "guard.baseline is none"
    if not isinstance(setup.task, SentimentTask):
        return f"the guard cannot judge the task {setup.task.kind} yet"
    if setup.recipe.adaptation:
        return "the guard cannot judge runs with an adaptation yet"
    if not setup.strategy.extracts and world_size() > 1:
        return "the guard watches fine-tuning on one process only, and this run has several"
    if target.train is None:
        return "there are no labelled target rows that a model without the source could learn from"
    if not setup.strategy.extracts and target.validation is None:
        return "there are no validation rows of the target"
    return None


def _task(setup: Setup) -> SentimentTask:
    assert isinstance(setup.task, SentimentTask)
    return setup.task


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
    looks = [
        {"step": entry["step"], **{name: entry[f"eval_guard_{name}"] for name in ("gain", "low", "high")}}
        for phase in trained.phases
        for entry in phase.get("history", ())
        if "eval_guard_gain" in entry
    ]
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
        "metric": setup.task.best_metric.name,
        "baseline": TARGET_ONLY if evidence.like else "probe",
        "scores": {
            "transferred": float(evidence.transferred.mean()),
            "baseline": float(evidence.baseline.mean()),
        },
        "held_out": evidence.held_out,
        "rows": gain.rows,
        "looks": looks,
        "shipped": "baseline" if falls_back else "transferred",
        "seconds": round(evidence.seconds, 3),
    }
    return record, evidence.fallback() if falls_back else trained


def _outcome(gain: PairedGain, *, like: bool) -> str:
    if gain.high < 0:
        return "hurt"
    return "helped" if gain.low > 0 and like else "no evidence"


def _sentence(setup: Setup, evidence: Evidence, gain: PairedGain, verdict: str) -> str:
    """The verdict in words, with its figures."""
    source, target = setup.domains["source"].name, setup.domains["target"].name
    rating = setup.task.objective == "regression"
    unit, factor = ("mean squared error", 1.0) if rating else ("points of accuracy", 100.0)
    digits = 3 if rating else 1
    value, low, high = (
        f"{factor * number:+.{digits}f}".replace("-", "\u2212")
        for number in (gain.value, gain.low, gain.high)
    )
    figures = f"{value} {unit} [{low}, {high}] on {gain.rows:,} {evidence.held_out}"
    figures += " (plus is better)" if rating else ""
    against = "the same model without it" if evidence.like else "a linear probe that never saw it"
    if verdict == "helped":
        return f"{source} helped on {target}: {figures}, against {against}."
    if verdict == "hurt":
        return f"{source} hurt on {target}: {figures}, against {against}."
    text = f"No evidence that {source} helped or hurt on {target}: {figures}, against {against}."
    if not evidence.like and gain.low > 0:
        text += " Fine-tuning alone may explain it; guard.baseline=target_only tells the two apart."
    return text


def target_scores(setup: Setup, logits: Callable[[Any], NDArray]) -> NDArray:
    """Figures of the target's validation rows."""
    rows = setup.domains["target"].validation
    labels = _task(setup).label_array(rows, name="target.validation")
    return np.asarray(_task(setup).row_scores(logits(rows), labels))


@dataclass(frozen=True)
class Baseline:
    """A model that never saw the source.

    Attributes:
        scores: its figures on the target's validation rows.
        like: whether the source is the only difference from the run's model.
        fallback: makes it the run's model.
        seconds: that it took.
    """

    scores: NDArray
    like: bool
    fallback: Callable[[], Trained]
    seconds: float

    def watch(self, setup: Setup) -> Watch:
        """The callback of the target's training."""
        rows = setup.domains["target"].validation
        truth = _task(setup).label_array(rows, name="target.validation")
        stops = setup.recipe.guard.on_negative_transfer == "stop"
        return Watch(_task(setup), self.scores, truth, stops=stops)


def probe_baseline(setup: Setup) -> Baseline:
    """A linear head on the untrained encoder's embeddings of the target's labelled rows.

    Cost: one forward pass for each text of target.train (2,000 rows at most) and target.validation that is
    not in the cache, and a cross-validated fit.
    """
    from nlp_transfer.models.classifier import classifier_from_head
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.strategies import Frozen, FrozenOptions
    from nlp_transfer.strategies.base import count_parameters
    from nlp_transfer.training.phases import Trained

    started, task = time.perf_counter(), _task(setup)
    rows = setup.domains["target"].train
    assert rows is not None
    if len(rows) > PROBE_ROWS:
        rows = rows.select(
            np.sort(np.random.default_rng(setup.recipe.seed).choice(len(rows), PROBE_ROWS, False))
        )
    embedder = Embedder.load(setup.pretrained, setup.recipe.model)
    head = Frozen(FrozenOptions()).fit(
        np.asarray(embedder.embed(rows).features),
        task.label_array(rows, name="target.train"),
        classes=task.num_labels if task.objective == "classification" else None,
        class_weights=getattr(task, "class_weights", None),
        seed=setup.recipe.seed,
    )
    scores = target_scores(setup, lambda texts: head.scores(embedder.embed(texts).features))
    seconds = time.perf_counter() - started

    def ship() -> Trained:
        fresh = Embedder.load(setup.pretrained, setup.recipe.model)
        model = classifier_from_head(fresh, head.layers, task)
        trainable = sum(weight.size + bias.size for weight, bias in head.layers)
        _, total = count_parameters(model.parameters())
        return Trained(
            model, seconds, trainable, total, logits=lambda texts: head.scores(fresh.embed(texts).features)
        )

    return Baseline(scores, False, ship, seconds)
