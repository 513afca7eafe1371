"""Self-training: the model's own confident predictions on target text become labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray


class SelfTrainingOptions(AdaptationOptions):
    """Train on confident predictions for unlabelled target texts, in rounds."""

    kind: Literal["self_training"] = "self_training"
    rounds: int = Field(default=1, ge=1, le=20)
    """Times that the texts are labelled and trained on."""
    threshold: float = Field(default=0.9, ge=0, lt=1)
    """Probability from which on a prediction is taken for a label."""
    balanced: bool = True
    """Take equally many of each class: as many as the class with the fewest confident predictions has."""


class SelfTraining(Adaptation[SelfTrainingOptions]):
    """Pseudo-labels with a confidence threshold and a class-balanced choice (Lee 2013; Zou et al. 2018).

    Each round is a phase after all others: it goes on from the model so far, on every labelled row and the
    chosen target texts; where none is chosen, no round is trained. It follows the source phase where the
    target has no labels, and the sequential target phase or the joint one with few target labels
    (``target.unlabeled`` is labelled then). Cost: a pass over the texts and one training a round. It hurts
    where confident predictions are wrong: check the model's accuracy on the target, or the shift report,
    first.
    """

    summary = "label target texts by the model's own confident predictions, class by class, in rounds"
    stage = "rounds"
    strategies = ("full", "lora")
    needs_source = False
    needs_classes = True

    def choose(self, probabilities: NDArray) -> tuple[NDArray, NDArray]:
        """The texts to take, and their classes.

        Args:
            probabilities: [n, classes].

        Returns:
            Row numbers, rising, and class numbers; both [k], k may be 0. A class that is never predicted with
            confidence takes no part in the balance.
        """
        import numpy as np

        best, sure = probabilities.argmax(1), probabilities.max(1)
        confident = np.flatnonzero(sure >= self.options.threshold)
        if self.options.balanced and len(confident):
            groups = [confident[best[confident] == label] for label in np.unique(best[confident])]
            most = min(map(len, groups))
            groups = [group[np.argsort(-sure[group], kind="stable")[:most]] for group in groups]
            confident = np.sort(np.concatenate(groups))
        return confident, best[confident]
