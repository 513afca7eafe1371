"""What the guard sees while a model trains: a comparison with the baseline at every evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import TrainerCallback

from nlp_transfer.console import warn
from nlp_transfer.numeric.paired import look_confidence, paired_gain

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import EvalPrediction

    from nlp_transfer.tasks import SentimentTask

STOPS_FROM = 0.5
"""Share of the target training after which harm may stop it: before, the model is still on its way."""


class Watch(TrainerCallback):
    """Compare the model with the baseline at every evaluation, and stop where harm is sure.

    ``guard_gain``, ``guard_low`` and ``guard_high`` join the task's figures, so that they stand in the
    Trainer's log, in trackers and in checkpoints; a resumed run goes on counting from those.

    Args:
        baseline: one figure a validation row, in their order [n].
        stops: end the training where harm is sure.
    """

    def __init__(self, baseline: NDArray, *, stops: bool) -> None:
        self.baseline, self.stops = baseline, stops
        self.looks = 0
        self.order: Callable[[], NDArray] = lambda: np.arange(len(baseline))

    def look(self, scores: NDArray, baseline: NDArray) -> dict[str, float]:
        """The gain of one more look at the same rows, with an interval that bears having looked before."""
        self.looks += 1
        gain = paired_gain(scores, baseline, confidence=look_confidence(self.looks))
        return {"guard_gain": gain.value, "guard_low": gain.low, "guard_high": gain.high}

    def figures(self, found: tuple[dict[str, float], NDArray | None]) -> dict[str, float]:
        """The figures of an evaluation that the task makes itself, and the gain."""
        figures, scores = found
        assert scores is not None
        return {**figures, **self.look(scores, self.baseline)}

    def metrics(self, task: SentimentTask, truth: NDArray) -> Callable[[EvalPrediction], dict[str, float]]:
        """A ``compute_metrics`` for the Trainer; ``truth`` is the labels of the validation rows."""

        def compute(prediction: EvalPrediction) -> dict[str, float]:
            figures = task.compute_metrics(prediction)
            order, labels = self.order(), np.asarray(prediction.label_ids)
            if labels.shape != truth.shape or not np.allclose(labels, truth[order]):
                return figures  # an evaluation of other rows
            outputs: Any = prediction.predictions
            logits = outputs[0] if isinstance(outputs, tuple) else outputs
            scores = task.row_scores(logits, truth[order])
            return {**figures, **self.look(scores, self.baseline[order])}

        return compute

    def harmed(self, metrics: dict[str, float] | None, step: int, steps: int) -> bool:
        """Whether an evaluation ends the training: its interval lies below zero, in the second half."""
        below = (metrics or {}).get("eval_guard_high", 0.0) < 0
        return self.stops and below and step >= STOPS_FROM * steps

    def stopped(self, state: dict[str, Any]) -> int | None:
        """The step at which this callback ended the training, where a checkpoint's state says so."""
        seen = [entry for entry in state.get("log_history", ()) if "eval_guard_high" in entry]
        here = seen and seen[-1]["step"] == state["global_step"]
        if here and self.harmed(seen[-1], state["global_step"], state["max_steps"]):
            return int(state["global_step"])
        return None

    def on_train_begin(self, args, state, control, **kwargs):
        """Count the looks of the run that is resumed."""
        self.looks = sum("eval_guard_gain" in entry for entry in state.log_history)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Stop where harm is sure."""
        if self.harmed(metrics, state.global_step, state.max_steps):
            warn(f"the source hurts: training stops at step {state.global_step} of {state.max_steps}")
            control.should_training_stop = True
