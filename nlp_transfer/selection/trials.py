"""Frozen heads with and without a source, plain and weighted, scored on target rows they did not see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.adaptation.instance import DensityRatio, DensityRatioOptions
from nlp_transfer.strategies.frozen import Frozen, FrozenOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.adaptation.base import DomainFeatures

FOLDS = 5
MOST_SCORED = 600
"""Rows scored in all repeats together: few labels are folded several times."""


@dataclass(frozen=True)
class Trial:
    """One way to train a head.

    Attributes:
        source: number of the source; None: the target alone.
        weighted: source rows weighted by the density ratio.
        right: share of repeats in which each labelled target row, held out, is predicted rightly [n].
    """

    source: int | None
    weighted: bool
    right: NDArray

    @property
    def accuracy(self) -> float:
        """Mean over the rows."""
        return float(self.right.mean())

    def gain_over(self, other: Trial) -> tuple[float, float]:
        """Difference of accuracies on the same rows, and its standard error."""
        difference = self.right - other.right
        return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))


def frozen_trials(sources: Sequence[DomainFeatures], *, seed: int = 42) -> list[Trial]:
    """Cross-validate heads on the target's labelled rows: target alone, then each source plain and weighted.

    The heads are those of ``strategy: frozen``; source and target rows are fitted together (``mode: joint``).
    Each head's regularisation is chosen once on all rows, for all alike.

    Args:
        sources: embeddings of each source and of the target, the same target in all.
        seed: of folds.

    Returns:
        The trials; none where a class has fewer than two labelled target rows.

    Cost: a choice of regularisation and some ten fits for each, of O((n_s + n_t) d) an iteration: about 10 s
    a source of 2,000 rows and 384 features.
    """
    first = sources[0]
    if not len(first.labels) or np.bincount(first.labels)[np.unique(first.labels)].min() < 2:
        return []
    if len(np.unique(first.labels)) < 2:
        return []
    folds = list(_folds(first.labels, seed))
    nothing = replace(first, source=first.source[:0], source_labels=first.source_labels[:0])
    trials = [Trial(None, False, _right(nothing, None, folds, seed))]
    for number, data in enumerate(sources):
        weights = DensityRatio(DensityRatioOptions()).weigh(data).source
        trials.append(Trial(number, False, _right(data, None, folds, seed)))
        trials.append(Trial(number, True, _right(data, weights, folds, seed)))
    return trials


def _folds(labels: NDArray, seed: int) -> Iterator[tuple[NDArray, NDArray]]:
    """Training and held-out rows of every fold of every repeat."""
    from sklearn.model_selection import StratifiedKFold

    count = min(FOLDS, int(np.bincount(labels)[np.unique(labels)].min()))
    for repeat in range(int(np.clip(MOST_SCORED // len(labels), 1, 6))):
        splitter = StratifiedKFold(count, shuffle=True, random_state=seed + repeat)
        yield from splitter.split(labels, labels)


def _right(
    data: DomainFeatures, weights: NDArray | None, folds: list[tuple[NDArray, NDArray]], seed: int
) -> NDArray:
    """How often each labelled target row is predicted rightly by heads that did not see it."""
    rows = np.concatenate([data.source, data.labelled])
    labels = np.concatenate([data.source_labels, data.labels]).astype(int)
    offset = len(data.source)
    of_rows = None if weights is None else np.concatenate([weights, np.ones(len(data.labels))])
    settings: dict[str, Any] = {"classes": data.classes, "seed": seed}
    whole = Frozen(FrozenOptions()).fit(rows, labels, weights=of_rows, **settings)
    strategy = Frozen(FrozenOptions(C=whole.C))
    right, seen = np.zeros(len(data.labels)), np.zeros(len(data.labels))
    for train, test in folds:
        used = np.concatenate([np.arange(offset), offset + train])
        given = None if of_rows is None else of_rows[used]
        head = strategy.fit(rows[used], labels[used], weights=given, **settings)
        right[test] += head.scores(data.labelled[test]).argmax(1) == data.labels[test]
        seen[test] += 1
    return right / seen
