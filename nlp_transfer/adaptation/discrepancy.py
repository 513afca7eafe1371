"""Alignment while training: a distance between source and target features is a term of the loss."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, OptionsT

if TYPE_CHECKING:
    from nlp_transfer.adaptation.penalties import Layer, Penalty


class PenaltyMethod(Adaptation[OptionsT]):
    """A term of the loss, over batches that hold as many source rows as target rows.

    It acts wherever labelled source rows are trained on. Without target labels the run is that one phase:
    source rows with labels, target texts without. In sequential mode a plain phase on the target's labels
    follows; in joint mode target rows that have labels add their task loss to the same batches. A few target
    labels (and ``target.unlabeled`` text) work in either mode.
    """

    stage = "penalty"
    strategies = ("full", "lora")

    @abstractmethod
    def build(self, size: int, classes: int) -> Penalty:
        """The module, for features of ``size`` columns and as many ``classes`` as the model has outputs.

        Fresh weights come from torch's global generator.
        """


class AlignmentOptions(AdaptationOptions):
    """What the distances share."""

    weight: float = Field(default=1.0, gt=0)
    """Factor on the distance."""
    schedule: Literal["constant", "ramp"] = "constant"
    """constant, or ramp: from 0 at the first step to ``weight`` (Ganin et al. 2016)."""
    layers: list[int] | None = Field(default=None, min_length=1)
    """Hidden layers whose pooled vectors are compared (0 = embeddings, -1 = last); null: the head's input."""

    @property
    def layer_choice(self) -> tuple[Layer, ...]:
        """The layers as ``penalties.Rows`` names them."""
        return (None,) if self.layers is None else tuple(self.layers)


class MmdOptions(AlignmentOptions):
    """Maximum mean discrepancy between source and target features."""

    kind: Literal["mmd"] = "mmd"
    kernel: Literal["rbf", "laplacian", "cosine", "linear", "polynomial"] = "rbf"
    """Kernel; rbf and laplacian are averaged over ``bandwidths``."""
    bandwidths: list[float] | None = Field(default=None, min_length=1)
    """Distances; null: 1/sqrt(8), 1 and sqrt(8) times the median distance within each batch."""
    joint: bool = False
    """Compare the joint distribution of the layers and the class probabilities (JAN), not each layer's
    own."""

    @field_validator("bandwidths")
    @classmethod
    def _positive(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and min(value) <= 0:
            raise ValueError(f"expected distances above 0, found {value}")
        return value


class Mmd(PenaltyMethod[MmdOptions]):
    """Multi-kernel MMD (Gretton et al. 2012; DAN, Long et al. 2015); joint: JAN (Long et al. 2017).

    Cost of a step beyond the target's forward pass: O(rows^2 d), a few per cent of an encoder's. It hurts
    where the domains have other shares of classes: it then aligns one class with another.
    """

    summary = "maximum mean discrepancy between source and target features as a term of the loss"

    def build(self, size: int, classes: int) -> Penalty:
        """See the base class."""
        from nlp_transfer.adaptation import penalties

        options = self.options
        return penalties.Mmd(
            options.weight,
            options.schedule,
            options.layer_choice,
            kernel=options.kernel,
            bandwidths=options.bandwidths,
            joint=options.joint,
        )


class CoralPenaltyOptions(AlignmentOptions):
    """Distance between the covariances of source and target features."""

    kind: Literal["deep_coral"] = "deep_coral"
    weight: float = Field(default=0.03, gt=0)
    """Factor on the distance. On short trainings 1.0 kept the classifier from learning far domains' task."""
    standardize: bool = True
    """Divide the vectors by the standard deviation within the domains, so that ``weight`` means the same for
    encoders of every scale, and shrinking all vectors gains nothing; false: the paper's own distance."""


class DeepCoral(PenaltyMethod[CoralPenaltyOptions]):
    """Deep CORAL (Sun & Saenko 2016).

    Cost of a step beyond the target's forward pass: O(rows d^2). It sees second moments alone: domains that
    differ in their mean are alike to it.
    """

    summary = "distance between the covariances of source and target features as a term of the loss"

    def build(self, size: int, classes: int) -> Penalty:
        """See the base class."""
        from nlp_transfer.adaptation import penalties

        options = self.options
        return penalties.Coral(
            options.weight, options.schedule, options.layer_choice, standardize=options.standardize
        )
