"""Relation-based transfer on frozen embeddings: labels flow from source to target rows along neighbours."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, DomainFeatures, OptionsT

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LabelPropagationOptions(AdaptationOptions):
    """Labels for target texts from the nearest-neighbour graph of both domains."""

    kind: Literal["label_propagation"] = "label_propagation"
    neighbours: int = Field(default=20, ge=1)
    """Neighbours of each text in the graph."""
    alpha: float = Field(default=0.8, gt=0, lt=1)
    """Share of a text's label that comes from its neighbours; the rest is what the source's head says."""
    balance: bool = True
    """Expect the source's class shares in the target: else one class can flood the graph."""


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Labels for unlabelled target rows.

    Attributes:
        classes: class numbers [m].
        weights: how sure each is, from 0 to 1 [m].
    """

    classes: NDArray
    weights: NDArray


class LabelMethod(Adaptation[OptionsT]):
    """A method that labels target rows; the head is then fitted on source and target rows."""

    stage = "labels"
    strategies = ("frozen",)
    needs_classes = True
    alone_in_stage = True

    @abstractmethod
    def label(self, data: DomainFeatures, scores: NDArray) -> PseudoLabels:
        """Label ``data.target``; ``scores`` are the logits of a head fitted on the source [m, classes]."""


class LabelPropagation(LabelMethod[LabelPropagationOptions]):
    """Zhou et al. 2004; see ``numeric.propagation.propagate_labels``."""

    summary = "labels flow from source to target texts along nearest neighbours; the head learns from both"

    def label(self, data: DomainFeatures, scores: NDArray) -> PseudoLabels:
        """See the base class. A row's weight is how far its probability is above an even guess."""
        import numpy as np
        from scipy.special import softmax

        from nlp_transfer.numeric.propagation import propagate_labels

        assert data.classes is not None
        centre = data.target.mean(0)  # the topic of a domain is no neighbourhood of its texts
        labelled = [data.source - data.source.mean(0), data.labelled - centre]
        shares = np.bincount(data.source_labels, minlength=data.classes) / len(data.source_labels)
        probabilities = propagate_labels(
            np.concatenate(labelled),
            np.concatenate([data.source_labels, data.labels]),
            data.target - centre,
            classes=data.classes,
            neighbours=self.options.neighbours,
            alpha=self.options.alpha,
            prior=softmax(scores, axis=1),
            shares=shares if self.options.balance else None,
        )
        even = 1 / data.classes
        return PseudoLabels(probabilities.argmax(1), (probabilities.max(1) - even) / (1 - even))
