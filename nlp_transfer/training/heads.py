"""The frozen strategy's fit on embeddings, which the guard repeats on parts of the target's rows."""

from __future__ import annotations

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nlp_transfer.strategies.frozen import Frozen, HeadWeights
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.embedded import Adapted, adapt_frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.adaptation.base import DomainFeatures
    from nlp_transfer.adaptation.propagation import PseudoLabels
    from nlp_transfer.training.phases import Setup


class Part(NamedTuple):
    """The rows of one phase: its name (source, target, joint), embeddings [n, d] and labels [n]."""

    name: str
    features: NDArray
    labels: NDArray


@dataclass(frozen=True)
class Fitted:
    """Heads by phase, and what an adaptation did to the embeddings that they read.

    Attributes:
        heads: the last is the run's.
        adapted: None without an adaptation.
        seconds: of each fit.
        labelled: what an adaptation said of unlabelled target rows, where it labels them.
    """

    heads: Sequence[HeadWeights]
    adapted: Adapted | None
    seconds: Sequence[float] = ()
    labelled: PseudoLabels | None = None

    def scores(self, features: NDArray, phase: int = -1) -> NDArray[np.float64]:
        """Logits (or ratings) [n, out] of target rows' embeddings, by the head of a phase."""
        rows = features if self.adapted is None else self.adapted.target(features)
        return self.heads[phase].scores(rows)


@dataclass(frozen=True)
class HeadFit:
    """All phases of a frozen run.

    Attributes:
        setup: of the run.
        parts: the phases' rows; the last rows of the last phase are the target's training rows.
        count: number of those.
        data: embeddings of both domains for the adaptation; None without one.
    """

    setup: Setup
    parts: Sequence[Part]
    count: int
    data: DomainFeatures | None

    def __call__(self, keep: NDArray, known: Fitted) -> Fitted:
        """Fit on these of the target's training rows, with the regularisation that the whole fit settled."""
        part = self._keeping(keep)
        adapted = part.adapt(tell=False)
        return part.heads(adapted, known)

    def alone(self) -> HeadFit:
        """The fit of the target's rows without the source, and so without an adaptation."""
        _, features, labels = self.parts[-1]
        own = Part("target", features[-self.count :], labels[-self.count :])
        return replace(self, parts=[own], data=None)

    def adapt(self, *, tell: bool = True) -> Adapted | None:
        """Fit the recipe's maps and weights."""
        return None if self.data is None else adapt_frozen(self.setup, self.data, tell=tell)

    def heads(self, adapted: Adapted | None, known: Fitted | None = None) -> Fitted:
        """Fit one head after another; ``known`` gives their regularisation, and a source's head as it is."""
        heads: list[HeadWeights] = []
        seconds, labelled = [], None
        for number, part in enumerate(self.parts):
            started = time.perf_counter()
            settled = None if known is None else known.heads[number]
            if settled is not None and part.name == "source" and adapted is None:
                heads.append(settled)
            else:
                strength = None if settled is None else settled.C
                start = heads[-1] if heads else None
                head, given = _fit_head(self.setup, adapted, part, start, strength)
                heads.append(head)
                labelled = labelled if given is None else given
            seconds.append(time.perf_counter() - started)
        return Fitted(heads, adapted, seconds, labelled)

    def _keeping(self, keep: NDArray) -> HeadFit:
        name, features, labels = self.parts[-1]
        offset = len(labels) - self.count
        rows = np.concatenate([np.arange(offset), offset + keep])
        data = self.data
        if data is not None:
            data = replace(data, labelled=data.labelled[keep], labels=data.labels[keep])
        last = Part(name, features[rows], labels[rows])
        return replace(self, parts=[*self.parts[:-1], last], count=len(keep), data=data)


def _fit_head(
    setup: Setup, adapted: Adapted | None, part: Part, start: HeadWeights | None, strength: float | None
) -> tuple[HeadWeights, PseudoLabels | None]:
    """Fit the head of one phase; target rows that an adaptation labels join those of the source."""
    task, strategy = setup.task, setup.strategy
    assert isinstance(strategy, Frozen)
    assert isinstance(task, SentimentTask)
    if strength is not None:
        strategy = Frozen(strategy.options.model_copy(update={"C": strength}))
    fit = functools.partial(
        strategy.fit,
        classes=task.num_labels if task.objective == "classification" else None,
        class_weights=getattr(task, "class_weights", None),
        common_scale=adapted is not None and adapted.components,
        seed=setup.recipe.seed,
    )
    name, features, labels = part
    if adapted is None:
        return fit(features, labels, start=start), None
    rows, weights = adapted.rows(name, features, setup.recipe.seed)
    if adapted.labels is None or name == "target":
        return fit(rows, labels, weights=weights, start=start), None
    own = np.ones(len(rows)) if weights is None else weights

    def fit_with(further: NDArray, classes: NDArray, sure: NDArray) -> HeadWeights:
        together = np.concatenate([rows, further]), np.concatenate([labels, classes])
        return fit(*together, weights=np.concatenate([own, sure]), start=start)

    return adapted.labels.learn(adapted.data, fit_with)
