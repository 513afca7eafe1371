"""Relation-based transfer on frozen embeddings: labels flow from source to target rows along neighbours."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import Field

from nlp_transfer.adaptation.base import Adaptation, AdaptationOptions, DomainFeatures

if TYPE_CHECKING:
    from numpy.typing import NDArray


class LabelOptions(AdaptationOptions):
    """What methods that label target rows share."""

    rounds: int = Field(default=3, ge=1, le=50)
    """Times that the rows are labelled: each round starts from the head that the last one's labels gave."""


class LabelPropagationOptions(LabelOptions):
    """Labels for target texts from the nearest-neighbour graph of both domains."""

    kind: Literal["label_propagation"] = "label_propagation"
    neighbours: int = Field(default=20, ge=1)
    """Neighbours of each text in the graph."""
    alpha: float = Field(default=0.3, gt=0, lt=1)
    """Share of a text's label that comes from its neighbours; the rest is what the head says."""
    balance: bool = True
    """Expect the source's class shares in the target: else one class can flood the graph."""


LabelOptionsT = TypeVar("LabelOptionsT", bound=LabelOptions)


@dataclass(frozen=True, eq=False)
class PseudoLabels:
    """Labels for unlabelled target rows.

    Attributes:
        classes: class numbers [m].
        weights: how sure each is, from 0 to 1 [m].
    """

    classes: NDArray
    weights: NDArray


class LabelMethod(Adaptation[LabelOptionsT]):
    """A method that labels target rows; the head is then fitted on source and target rows, in rounds."""

    stage = "labels"
    strategies = ("frozen",)
    needs_classes = True
    alone_in_stage = True

    @abstractmethod
    def label(self, data: DomainFeatures, scores: NDArray) -> PseudoLabels:
        """Label ``data.target``; ``scores`` are the logits of the head so far [m, classes]."""

    def learn(
        self, data: DomainFeatures, fit: Callable[[NDArray, NDArray, NDArray], Any]
    ) -> tuple[Any, PseudoLabels]:
        """The head after all rounds, and the labels of the last.

        Args:
            data: embeddings of both domains.
            fit: a head from target rows, their classes and their weights, beside the labelled rows; its
                ``scores`` are logits.
        """
        import numpy as np

        head = fit(data.target[:0], np.zeros(0, int), np.zeros(0))
        for _ in range(self.options.rounds):
            given = self.label(data, head.scores(data.target))
            head = fit(data.target, given.classes, given.weights)
        return head, given


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
