"""Instance-based transfer: source rows count by how much they look like the target."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, DomainFeatures, OptionsT

if TYPE_CHECKING:
    from nlp_transfer.numeric.weights import ImportanceWeights


class WeightOptions(AdaptationOptions):
    """What all methods that weigh source rows share."""

    apply: Literal["loss", "sampler"] = "loss"
    """loss: each row's loss counts by its weight; sampler: rows are drawn in proportion to it."""
    max_weight: float = Field(default=20.0, ge=1)
    """Larger weights are cut to this before they are scaled to a mean of one."""


class DensityRatioOptions(WeightOptions):
    """Weights p_target / p_source from a cross-fitted domain classifier."""

    kind: Literal["density_ratio"] = "density_ratio"
    folds: int = Field(default=5, ge=2)
    """Folds: each row's weight comes from a classifier that did not see it."""
    C: float = Field(default=1.0, gt=0)
    """Inverse regularisation of the classifier; smaller gives flatter weights."""


class LabelShiftOptions(WeightOptions):
    """Weights by class, so that the source has the target's estimated mix of classes."""

    kind: Literal["label_shift"] = "label_shift"
    folds: int = Field(default=5, ge=2)
    """Folds of the source classifier whose confusion is inverted."""


class InstanceMethod(Adaptation[OptionsT]):
    """A method that gives every source row a weight."""

    stage = "instance"
    strategies = ("frozen", "full", "lora")
    alone_in_stage = True

    @abstractmethod
    def weigh(self, data: DomainFeatures) -> ImportanceWeights:
        """Weights of the source rows, with a mean of one."""


class DensityRatio(InstanceMethod[DensityRatioOptions]):
    """Bickel et al. 2009; see ``numeric.weights.density_ratio``."""

    summary = "weigh source rows by p_target / p_source, from a cross-fitted domain classifier"
    tasks = ("sentiment", "translation")

    def weigh(self, data: DomainFeatures) -> ImportanceWeights:
        """See the base class."""
        from nlp_transfer.numeric.weights import density_ratio

        options = self.options
        return density_ratio(
            data.source,
            data.target,
            folds=options.folds,
            c=options.C,
            max_weight=options.max_weight,
            seed=data.seed,
        )


class LabelShift(InstanceMethod[LabelShiftOptions]):
    """Lipton et al. 2018; see ``numeric.weights.black_box_shift``."""

    summary = "weigh classes so that the source has the target's estimated class shares (BBSE)"
    needs_classes = True

    def weigh(self, data: DomainFeatures) -> ImportanceWeights:
        """See the base class."""
        from nlp_transfer.numeric.weights import label_shift_weights

        options = self.options
        return label_shift_weights(
            data.source,
            data.source_labels,
            data.target,
            folds=options.folds,
            max_weight=options.max_weight,
            seed=data.seed,
        )
