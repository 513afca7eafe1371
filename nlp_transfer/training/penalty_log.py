"""The penalties' figures in the log, their schedule, and a guard that says when one goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import TrainerCallback

from nlp_transfer.console import warn

if TYPE_CHECKING:
    from accelerate.accelerator import Accelerator
    from torch import Tensor

    from nlp_transfer.adaptation.penalties import Penalty
    from nlp_transfer.training.together import AdaptedModel

SETTLED = 0.25
"""Share of the training after which a discriminator's accuracy says something."""
SATURATED, CHANCE = 0.99, 0.02
SWAMPED = 5.0
"""Penalty over task loss, from which on the task is hardly heard."""


class Figures:
    """Means of figures since they were last taken; on the device until then, so that no step waits."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, figures: Mapping[str, Tensor]) -> None:
        """Add one batch."""
        for name, value in figures.items():
            found = self.sums.get(name)
            self.sums[name] = value.detach().float() if found is None else found + value.detach().float()
        self.count += 1

    def take(self, accelerator: Accelerator) -> dict[str, float]:
        """The means over all processes, each of which must call; the count starts anew."""
        if not self.count:
            return {}
        means = torch.stack([value.mean() for value in self.sums.values()]) / self.count
        means = cast("Tensor", accelerator.reduce(means, reduction="mean"))
        found = dict(zip(self.sums, means.tolist(), strict=True))
        self.sums, self.count = {}, 0
        return found


class PenaltySchedule(TrainerCallback):
    """Tell the penalties which share of the training is done; a function of the step, so resume is exact."""

    def __init__(self, module: AdaptedModel) -> None:
        self.module = module

    def on_step_begin(self, args, state, control, **kwargs):
        """Set the share."""
        self.module.progress.fill_(state.global_step / max(state.max_steps, 1))


class PenaltyGuard(TrainerCallback):
    """Warn, once each, of a discriminator that has won or lost and of a penalty that swamps the task.

    Args:
        penalties: by name.
        guessing: the task's loss of a classifier that knows the shares of the classes alone; None of ratings.
    """

    def __init__(self, penalties: Mapping[str, Penalty], guessing: float | None = None) -> None:
        self.penalties, self.guessing = dict(penalties), guessing
        self.logged_at = 0
        self.told: set[str] = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Look at the figures of the last logging interval."""
        logs, settled = logs or {}, SETTLED * max(state.max_steps, 1)
        late = state.global_step >= settled
        for name, penalty in self.penalties.items():
            accuracy, loss = logs.get(f"{name}_accuracy"), logs.get(f"{name}_loss")
            if accuracy is not None and late:
                self._check_accuracy(name, accuracy)
            if loss is not None and not penalty.adversarial:
                self._check_share(name, loss, logs.get("task_loss"))
        if "task_loss" in logs:
            if self.logged_at >= settled:
                self._check_task(logs["task_loss"])
            self.logged_at = state.global_step

    def _check_accuracy(self, name: str, accuracy: float) -> None:
        if accuracy >= SATURATED:
            self._tell(
                f"{name}: the discriminator tells source from target in {accuracy:.1%} of the rows: the "
                "encoder learns next to nothing from it; raise weight or lower learning_rate_scale"
            )
        elif abs(accuracy - 0.5) <= CHANCE:
            self._tell(
                f"{name}: the discriminator guesses ({accuracy:.1%} right): either the domains are aligned "
                "or it is too weak to see a difference; in doubt raise learning_rate_scale or hidden"
            )

    def _check_share(self, name: str, loss: float, task_loss: float | None) -> None:
        if task_loss is not None and loss > SWAMPED * max(task_loss, 0.1):
            self._tell(
                f"{name}: the penalty ({loss:.3g}) swamps the task's loss ({task_loss:.3g}): lower its weight"
            )

    def _check_task(self, loss: float) -> None:
        if self.guessing and loss >= self.guessing:
            self._tell(
                f"the task's loss ({loss:.3f}) is that of guessing: the classifier learns nothing beside "
                f"{' and '.join(self.penalties)}; lower weight, or change the learning rate"
            )

    def _tell(self, text: str) -> None:
        kind = text.partition("(")[0][:60]
        if kind not in self.told:
            self.told.add(kind)
            warn(text)


def split_loss(outputs: Mapping[str, Any], share: Tensor, task_loss: Tensor, figures: Figures) -> Tensor:
    """The task's part of a batch and the penalty, as a share of the whole accumulation window.

    Args:
        outputs: of an ``AdaptedModel`` in training.
        share: labelled rows of this batch over those of the window (on all processes).
        task_loss: already divided by the rows of the window.
        figures: where the batch's figures go.
    """
    figures.add({"task_loss": task_loss.detach() / share, **outputs["figures"]})
    return task_loss + share * outputs["penalty"]
