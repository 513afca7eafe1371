"""Adversarial alignment while training: the encoder learns to confuse a discriminator of the domains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nlp_transfer.adaptation.base import AdaptationOptions
from nlp_transfer.adaptation.discrepancy import PenaltyMethod

if TYPE_CHECKING:
    from nlp_transfer.adaptation.penalties import Penalty


class AdversarialOptions(AdaptationOptions):
    """What the adversarial methods share."""

    weight: float = Field(default=0.03, gt=0)
    """Largest factor of the reversed gradient that reaches the encoder (lambda). The paper's 1.0, and often
    0.1, tears a pretrained encoder apart under Adam: the classifier ends at chance."""
    schedule: Literal["constant", "ramp"] = "ramp"
    """ramp: from 0 at the first step to ``weight`` (Ganin et al. 2016), or constant."""
    hidden: int = Field(default=256, ge=1)
    """Units of the discriminator's two hidden layers."""
    learning_rate_scale: float = Field(default=10.0, gt=0)
    """The discriminator, which starts from nothing, learns this many times as fast as the model."""


class DannOptions(AdversarialOptions):
    """A discriminator on the features."""

    kind: Literal["dann"] = "dann"


class Dann(PenaltyMethod[DannOptions]):
    """Domain-adversarial training (Ganin et al. 2016).

    Cost of a step beyond the target's forward pass: a small MLP. It can fail to settle: watch the
    discriminator's accuracy, which is logged, and which the guard warns about.
    """

    summary = "adversarial: the features confuse a discriminator of the domains (gradient reversal)"

    def build(self, size: int, classes: int) -> Penalty:
        """See the base class."""
        from nlp_transfer.adaptation import penalties

        options = self.options
        return penalties.Dann(
            size, options.weight, options.schedule, options.hidden, options.learning_rate_scale
        )


class CdanOptions(AdversarialOptions):
    """A discriminator on features and predicted classes."""

    kind: Literal["cdan"] = "cdan"
    entropy: bool = True
    """Rows that the classifier is sure of count more (CDAN+E)."""


class Cdan(PenaltyMethod[CdanOptions]):
    """Conditional domain-adversarial training (Long et al. 2018).

    It aligns class by class, through the classifier's own guesses: bad first guesses on the target mislead
    it.
    """

    summary = "adversarial: the features confuse a discriminator that sees the predicted class too"
    needs_classes = True

    def build(self, size: int, classes: int) -> Penalty:
        """See the base class."""
        from nlp_transfer.adaptation import penalties

        options = self.options
        return penalties.Cdan(
            size,
            classes,
            options.weight,
            options.schedule,
            options.hidden,
            options.learning_rate_scale,
            entropy=options.entropy,
        )
