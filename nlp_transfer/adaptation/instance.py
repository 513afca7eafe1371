"""Instance-based transfer: source rows count by how much they look like the target."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from pydantic import Field

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, DomainFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.numeric.weights import ImportanceWeights


class WeightOptions(AdaptationOptions):
    """What all methods that weigh source rows share."""

    apply: Literal["loss", "sampler"] = "loss"
    """loss: each row's loss counts by its weight; sampler: rows are drawn in proportion to it."""
    max_weight: float = Field(default=20.0, ge=1)
    """Larger weights are cut to this before they are scaled to a mean of one."""
    min_effective: float = Field(default=0.8, ge=0, le=1)
    """Weights are flattened until their effective sample size is this share of the source rows; 0: never."""


class DensityRatioOptions(WeightOptions):
    """Weights p_target / p_source from a cross-fitted domain classifier."""

    kind: Literal["density_ratio"] = "density_ratio"
    folds: int = Field(default=5, ge=2)
    """Folds: each row's weight comes from a classifier that did not see it."""
    C: float | None = Field(default=None, gt=0)
    """Inverse regularisation of the classifier; smaller gives flatter weights. null: by held-out log loss."""


class LabelShiftOptions(WeightOptions):
    """Weights by class, so that the source has the target's estimated mix of classes."""

    kind: Literal["label_shift"] = "label_shift"
    folds: int = Field(default=5, ge=2)
    """Folds of the source classifier whose confusion is inverted."""


class KernelMeanMatchingOptions(WeightOptions):
    """Weights that bring the source's mean in a Gaussian kernel's space to the target's."""

    kind: Literal["kmm"] = "kmm"
    bandwidth: float | None = Field(default=None, gt=0)
    """Of the kernel, a distance between embeddings; null: their median distance."""
    epsilon: float | None = Field(default=None, ge=0)
    """How far the mean weight may be from one; null: (sqrt(n) - 1) / sqrt(n)."""


class KliepOptions(WeightOptions):
    """Weights that make the target's texts most likely."""

    kind: Literal["kliep"] = "kliep"
    centres: int = Field(default=100, ge=1)
    """Target texts that carry a kernel."""


class TrAdaBoostOptions(WeightOptions):
    """Weights that fall for source rows which contradict the target's labels."""

    kind: Literal["tradaboost"] = "tradaboost"
    rounds: int = Field(default=10, ge=1)
    """Classifiers that are fitted in turn."""


WeightOptionsT = TypeVar("WeightOptionsT", bound=WeightOptions)


@dataclass(frozen=True, eq=False)
class RowWeights:
    """Weights of training rows.

    Attributes:
        source: of the source's training rows [n], with a mean of about one.
        target: of the target's labelled training rows [k]; None: all one.
        clipped: share of the source's rows whose weight was cut.
        power: to which the source's weights were raised, to flatten them.
    """

    source: NDArray
    target: NDArray | None = None
    clipped: float = 0.0
    power: float = 1.0


class InstanceMethod(Adaptation[WeightOptionsT]):
    """A method that gives every source row a weight.

    Weights act on the rows of the source: in its own phase (sequential), or where both are mixed (joint).
    They need embeddings of both domains, which the pretrained encoder makes once, whatever the strategy.
    """

    stage = "instance"
    strategies = ("frozen", "full", "lora")
    alone_in_stage = True

    @abstractmethod
    def weigh(self, data: DomainFeatures) -> RowWeights:
        """Weights of the source rows, with a mean of one, and where the method has them of target rows."""

    def _flat(self, found: ImportanceWeights) -> RowWeights:
        """Flatten weights as the options say."""
        from nlp_transfer.numeric.weights import flatten_weights

        weights, power = flatten_weights(found.weights, self.options.min_effective)
        return RowWeights(weights, clipped=found.clipped, power=power)


class DensityRatio(InstanceMethod[DensityRatioOptions]):
    """Bickel et al. 2009; see ``numeric.weights.density_ratio``."""

    summary = "weigh source rows by p_target / p_source, from a cross-fitted domain classifier"
    tasks = ("sentiment", "translation")

    def weigh(self, data: DomainFeatures) -> RowWeights:
        """See the base class."""
        from nlp_transfer.numeric.weights import density_ratio

        options = self.options
        found = density_ratio(
            data.source,
            data.target,
            folds=min(options.folds, len(data.source), len(data.target)),
            c=options.C,
            max_weight=options.max_weight,
            seed=data.seed,
        )
        return self._flat(found)


class LabelShift(InstanceMethod[LabelShiftOptions]):
    """Lipton et al. 2018; see ``numeric.weights.black_box_shift``."""

    summary = "weigh classes so that the source has the target's estimated class shares (BBSE)"
    needs_classes = True

    def weigh(self, data: DomainFeatures) -> RowWeights:
        """See the base class."""
        from nlp_transfer.numeric.weights import label_shift_weights

        options = self.options
        found = label_shift_weights(
            data.source,
            data.source_labels,
            data.target,
            folds=options.folds,
            max_weight=options.max_weight,
            seed=data.seed,
        )
        return self._flat(found)


class KernelMeanMatching(InstanceMethod[KernelMeanMatchingOptions]):
    """Huang et al. 2007; see ``numeric.matching.kernel_mean_matching``."""

    summary = "weigh source rows so that their kernel mean matches the target's (KMM)"
    tasks = ("sentiment", "translation")

    def weigh(self, data: DomainFeatures) -> RowWeights:
        """See the base class."""
        from nlp_transfer.numeric.matching import kernel_mean_matching

        found = kernel_mean_matching(
            data.source,
            data.target,
            bandwidth=self.options.bandwidth,
            epsilon=self.options.epsilon,
            max_weight=self.options.max_weight,
            seed=data.seed,
        )
        return self._flat(found)


class Kliep(InstanceMethod[KliepOptions]):
    """Sugiyama et al. 2008; see ``numeric.matching.kliep``."""

    summary = "weigh source rows so that the target's texts are most likely (KLIEP)"
    tasks = ("sentiment", "translation")

    def weigh(self, data: DomainFeatures) -> RowWeights:
        """See the base class."""
        from nlp_transfer.numeric.matching import kliep

        options = self.options
        found = kliep(
            data.source, data.target, centres=options.centres, max_weight=options.max_weight, seed=data.seed
        )
        return self._flat(found)


class TrAdaBoost(InstanceMethod[TrAdaBoostOptions]):
    """Dai et al. 2007; see ``numeric.boosting.tradaboost``.

    For few target labels, sequential or joint; the paper's own setting is joint. The rounds start with equal
    weight on both domains, so that the first classifier is not the source's alone. One model is trained where
    the paper's vote, so target rows share their weight equally (boosting would give it to the noisy ones),
    and the weight that they had from the start is taken back.
    """

    summary = "lower the weight of source rows that contradict a few target labels (TrAdaBoost)"
    needs_target_text = False
    needs_target_labels = True
    needs_classes = True

    def weigh(self, data: DomainFeatures) -> RowWeights:
        """See the base class."""
        import numpy as np

        from nlp_transfer.numeric.boosting import tradaboost
        from nlp_transfer.numeric.weights import flatten_weights

        equal = len(data.source) / len(data.labels)
        found = tradaboost(
            data.source,
            data.source_labels,
            data.labelled,
            data.labels,
            rounds=self.options.rounds,
            start=equal,
        )
        top = self.options.max_weight
        flat, power = flatten_weights(found.source.clip(max=top), self.options.min_effective)
        clipped = float((found.source > top).mean())
        of_target = np.full(len(data.labels), found.target.mean() / equal)
        return RowWeights(flat * found.source.mean(), of_target, clipped, power)
