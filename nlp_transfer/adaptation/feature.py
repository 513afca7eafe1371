"""Feature-based transfer on frozen embeddings: a map after which source and target look alike.

The head is fitted on mapped source rows. What the map does to target rows is kept inside the saved model,
so that it predicts from text alone.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, DomainFeatures, OptionsT

if TYPE_CHECKING:
    from nlp_transfer.numeric.align import Alignment


class CoralOptions(AdaptationOptions):
    """Give the source the target's mean and covariance."""

    kind: Literal["coral"] = "coral"
    regularisation: float = Field(default=10.0, ge=0)
    """Added to the diagonals of both covariances, in units of the mean variance; large: the means alone
    move."""


class SubspaceAlignmentOptions(AdaptationOptions):
    """Principal directions of the source, turned towards the target's."""

    kind: Literal["subspace_alignment"] = "subspace_alignment"
    dimensions: int = Field(default=300, ge=1)
    """Principal directions that are kept."""


class TransferComponentOptions(AdaptationOptions):
    """Components of a Gaussian kernel that vary much while the domains' means agree."""

    kind: Literal["tca"] = "tca"
    dimensions: int = Field(default=300, ge=1)
    """Components that are kept."""
    mu: float = Field(default=1.0, gt=0)
    """Weight of the components' size; smaller matches the means more strictly."""
    landmarks: int = Field(default=500, ge=2)
    """Texts that stand for all in the kernel matrix (Nystroem)."""


class OptimalTransportOptions(AdaptationOptions):
    """Move the source onto the target at least cost."""

    kind: Literal["optimal_transport"] = "optimal_transport"
    map: Literal["gaussian", "samples"] = "gaussian"
    """gaussian: between normal distributions, an affine map; samples: between the texts (Sinkhorn)."""
    regularisation: float = Field(default=10.0, ge=0)
    """gaussian: added to the diagonals of both covariances, in units of the mean variance."""
    entropy: float = Field(default=0.05, gt=0)
    """samples: entropy of the coupling, in units of the mean squared distance."""
    class_weight: float = Field(default=0.1, ge=0)
    """samples: how strongly source texts of different classes keep apart; 0 ignores the classes."""


class FeatureSelectionOptions(AdaptationOptions):
    """Keep the dimensions that tell the labels and do not tell the domains."""

    kind: Literal["feature_selection"] = "feature_selection"
    keep: float = Field(default=0.9, gt=0, le=1)
    """Share of the dimensions that is kept."""
    by: Literal["relevance", "invariance", "both"] = "both"
    """relevance to the labels (the target's where it has 20 or more, else the source's), invariance across
    the domains, or the sum of both ranks."""


class FeatureMethod(Adaptation[OptionsT]):
    """A method that maps embeddings of both domains; several act one after another, in the recipe's order."""

    stage = "feature"
    strategies = ("frozen",)

    @abstractmethod
    def align(self, data: DomainFeatures) -> Alignment:
        """Fit the maps of source and target rows."""


class Coral(FeatureMethod[CoralOptions]):
    """Sun et al. 2016; see ``numeric.align.coral``."""

    summary = "give source embeddings the target's mean and covariance (CORAL)"

    def align(self, data: DomainFeatures) -> Alignment:
        """See the base class."""
        from nlp_transfer.numeric.align import coral

        return coral(data.source, data.target, regularisation=self.options.regularisation)


class SubspaceAlignment(FeatureMethod[SubspaceAlignmentOptions]):
    """Fernando et al. 2013; see ``numeric.align.subspace_alignment``."""

    summary = "turn the source's principal directions towards the target's (subspace alignment)"

    def align(self, data: DomainFeatures) -> Alignment:
        """See the base class."""
        from nlp_transfer.numeric.align import subspace_alignment

        return subspace_alignment(data.source, data.target, dimensions=self.options.dimensions)


class TransferComponents(FeatureMethod[TransferComponentOptions]):
    """Pan et al. 2011; see ``numeric.align.transfer_components``."""

    summary = "kernel components on which the domains' means agree (TCA, with landmarks)"
    alone_in_stage = True

    def align(self, data: DomainFeatures) -> Alignment:
        """See the base class."""
        from nlp_transfer.numeric.align import transfer_components

        options = self.options
        return transfer_components(
            data.source,
            data.target,
            dimensions=options.dimensions,
            mu=options.mu,
            landmarks=options.landmarks,
            seed=data.seed,
        )


class OptimalTransport(FeatureMethod[OptimalTransportOptions]):
    """Courty et al. 2017; see ``numeric.align.gaussian_transport`` and ``sample_transport``."""

    summary = "move source embeddings onto the target's at least cost (optimal transport)"

    def align(self, data: DomainFeatures) -> Alignment:
        """See the base class."""
        from nlp_transfer.numeric.align import gaussian_transport, sample_transport

        options = self.options
        if options.map == "gaussian":
            return gaussian_transport(data.source, data.target, regularisation=options.regularisation)
        return sample_transport(
            data.source,
            data.target,
            labels=data.source_labels if data.classes and options.class_weight else None,
            entropy=options.entropy,
            class_weight=options.class_weight,
            seed=data.seed,
        )


MIN_TARGET_LABELS = 20
"""From so many labelled target rows on relevance is judged by them."""


class FeatureSelection(FeatureMethod[FeatureSelectionOptions]):
    """Dimensions by F value; see ``numeric.align.select_features``."""

    summary = "keep the dimensions that tell the labels and do not tell the domains"

    def align(self, data: DomainFeatures) -> Alignment:
        """See the base class."""
        import numpy as np
        from sklearn.feature_selection import f_classif, f_regression

        from nlp_transfer.numeric.align import Alignment, select_features
        from nlp_transfer.numeric.features import LinearMap

        rows, labels = data.source, data.source_labels
        if len(data.labels) >= MIN_TARGET_LABELS and len(np.unique(data.labels)) > 1:
            rows, labels = data.labelled, data.labels
        with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # constant columns: they come last
            relevance, _ = (f_regression if data.classes is None else f_classif)(rows, labels)
        size = data.source.shape[1]
        keep = max(1, round(self.options.keep * size))
        chosen = select_features(data.source, data.target, relevance, keep=keep, by=self.options.by)
        both = LinearMap(np.eye(size)[chosen], np.zeros(len(chosen)))
        return Alignment(both, both)
