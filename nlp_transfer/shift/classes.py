"""What the labels of two domains tell: the mix of classes, and the shift within each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.numeric.mmd import MMDResult
from nlp_transfer.shift.rows import Sample
from nlp_transfer.shift.statistics import (
    Statistic,
    conditional_statistic,
    estimate_label_shares,
    label_shift_statistic,
)


@dataclass(frozen=True)
class ClassShares:
    """One class in both domains; None where it is unknown.

    Attributes:
        name: of the class.
        source, target: its share among the labels of each side.
        estimated: its share in the target, estimated from texts alone.
        low, high: 95 % interval of that.
        mmd2: MMD squared between the texts of this class.
    """

    name: str
    source: float | None
    target: float | None
    estimated: float | None
    low: float | None
    high: float | None
    mmd2: float | None


def compare_classes(
    ours: Sample,
    theirs: Sample,
    x: np.ndarray,
    y: np.ndarray,
    y_labelled: np.ndarray,
    test: MMDResult,
    *,
    seed: int,
    far_apart: bool = False,
) -> tuple[list[Statistic], tuple[ClassShares, ...]]:
    """What labels tell: shares and shift within classes, as far as there are labels.

    Args:
        ours, theirs: the draws of source and target.
        x: features of the source's labelled texts.
        y: features of the target's texts.
        y_labelled: features of the target's labelled texts.
        test: of all texts; the test within classes takes as many permutations.
        seed: of permutations and bootstrap.
        far_apart: whether the texts differ so much that shares estimated from them are a hint only.
    """
    found: list[Statistic] = []
    if not len(ours.labels):
        return found, ()
    estimate, shares = estimate_label_shares(x, ours.labels, y, seed=seed, far_apart=far_apart)
    within: Mapping[Any, float] = {}
    if len(theirs.labels):
        found.append(label_shift_statistic(ours.labels, theirs.labels, seed=seed))
        conditional = conditional_statistic(
            x, ours.labels, y_labelled, theirs.labels, test, permutations=test.permutations, seed=seed
        )
        if conditional is not None:
            found.append(conditional[0])
            within = conditional[1].by_class
    found.append(estimate)
    labels = np.unique(ours.labels).tolist()
    names = list(dict.fromkeys([*labels, *np.unique(theirs.labels).tolist()]))
    source, target = ours.shares(), theirs.shares()
    rows = []
    for name in names:
        estimated = low = high = None
        if name in labels:
            place = labels.index(name)
            estimated, (low, high) = float(shares.target[place]), map(float, shares.interval[place])
        share = target.get(name, 0.0) if target else None
        within_class = within.get(name)
        rows.append(ClassShares(str(name), source.get(name, 0.0), share, estimated, low, high, within_class))
    return found, tuple(rows)
