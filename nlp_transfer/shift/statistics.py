"""The numbers of the shift report: each with an interval, a p-value where one exists, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from nlp_transfer.numeric.divergence import (
    ClassConditionalMMD,
    class_conditional_mmd,
    coral_distance,
    energy_distance,
    frechet_distance,
    proxy_a_distance,
    sliced_wasserstein,
)
from nlp_transfer.numeric.draws import draw_rows
from nlp_transfer.numeric.mmd import MMDResult, mmd_test
from nlp_transfer.numeric.weights import LabelShift, black_box_shift
from nlp_transfer.shift.linear import encode, fit_ridge, predictions

Array = np.ndarray
RELABELLINGS = 39
"""Random relabellings behind the range and p-value of a distance: p is at least 1/40."""
DISTANCE_ROWS = 2000
"""Rows of a side that the distances other than MMD look at."""


@dataclass(frozen=True)
class Statistic:
    """One number of the report.

    Attributes:
        name: its key, such as ``energy_distance``.
        title: its name for people.
        value: the number.
        interval: a 95 % range, of what ``interval_of`` says; None where there is none.
        interval_of: ``value``: where the true value lies; ``no shift``: where the value would lie if both
            samples came from one domain.
        p_value: of no shift; None where there is no test.
        meaning: what it says, in plain words.
        group: embeddings, vocabulary or labels; of parallel text also translation and references.
        detail: further figures by name.
    """

    name: str
    title: str
    value: float
    interval: tuple[float, float] | None
    interval_of: Literal["value", "no shift"]
    p_value: float | None
    meaning: str
    group: Literal["embeddings", "vocabulary", "labels", "translation", "references"]
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def mmd_statistic(test: MMDResult) -> Statistic:
    """The entry of the two-sample test."""
    size = (
        "hardly any" if test.inhomogeneity < 0.01 else "a small" if test.inhomogeneity < 0.05 else "a clear"
    )
    size = "a large" if test.inhomogeneity >= 0.15 else size
    sure = "The texts differ beyond chance" if test.p_value < 0.05 else "The texts may come from one domain"
    return Statistic(
        "mmd2",
        "MMD² (unbiased)",
        test.value,
        test.interval,
        "no shift",
        test.p_value,
        f"{sure}: {test.effect_size:.1f} standard deviations from what relabelled texts give. That is "
        f"{size} shift: "
        f"{test.inhomogeneity:.3f} on a scale from 0 (same) to 1 (nothing in common).",
        "embeddings",
        {"effect_size": test.effect_size, "inhomogeneity": test.inhomogeneity, "method": test.method},
    )


def distances(x: Array, y: Array, *, permutations: int = 200, seed: int = 0) -> list[Statistic]:
    """Proxy A-distance and the energy, sliced Wasserstein, Frechet and CORAL distances of two embeddings.

    Args:
        x: source rows (n, d).
        y: target rows (m, d).
        permutations: of the energy test; the others take ``RELABELLINGS``.
        seed: of draws, folds and permutations.

    Cost: that of each distance times its permutations: about 5 s for 2,000 + 2,000 rows of 384 on two cores.
    """
    rng = np.random.default_rng(seed)
    x, y = (draw_rows(side, DISTANCE_ROWS, rng) for side in (x, y))
    out = []
    if min(len(x), len(y)) >= 10:
        out.append(_proxy_a(x, y, seed))
    out.append(_energy(x, y, permutations, seed))
    measures: list[tuple[str, str, Callable[[Array, Array], float], str]] = [
        (
            "sliced_wasserstein",
            "sliced Wasserstein distance",
            lambda a, b: sliced_wasserstein(a, b, projections=64, seed=seed),
            "How far the embeddings would have to be moved to turn one domain into the other, seen along "
            "random "
            "directions.",
        ),
        (
            "frechet_distance",
            "Fréchet distance",
            frechet_distance,
            "Distance between the means and covariances of the two clouds (what FID is for images).",
        ),
        (
            "coral_distance",
            "CORAL distance",
            coral_distance,
            "Difference of the covariances alone: what CORAL alignment can remove. Compare it between "
            "sources, not "
            "with an absolute scale.",
        ),
    ]
    joined = np.concatenate([x, y])
    orders = [rng.permutation(len(joined)) for _ in range(RELABELLINGS)]
    for name, title, measure, meaning in measures:
        null = [measure(joined[order[: len(x)]], joined[order[len(x) :]]) for order in orders]
        out.append(_relabelled(name, title, measure(x, y), np.array(null), meaning))
    return out


def _relabelled(name: str, title: str, value: float, null: Array, meaning: str) -> Statistic:
    """A distance beside what it is when the domains are dealt out at random."""
    mean = float(null.mean())
    times = f" It is {value / mean:.1f} times what relabelled texts give." if mean > 0 else ""
    low, high = np.quantile(null, [0.025, 0.975])
    p_value = float((1 + (null >= value).sum()) / (1 + len(null)))
    return Statistic(
        name,
        title,
        value,
        (float(low), float(high)),
        "no shift",
        p_value,
        meaning + times,
        "embeddings",
        {"relabelled_mean": mean},
    )


def _energy(x: Array, y: Array, permutations: int, seed: int) -> Statistic:
    """The energy distance; its test is the MMD test with minus the distance as the kernel."""
    value = energy_distance(x, y)
    test = mmd_test(x, y, kernel=_minus_distance, permutations=permutations, seed=seed)
    bias = value**2 - test.value  # of counting each text's distance to itself, which the test leaves out
    low, high = (float(np.sqrt(max(end + bias, 0.0))) for end in test.interval)
    return Statistic(
        "energy_distance",
        "energy distance",
        value,
        (low, high),
        "no shift",
        test.p_value,
        "How much farther texts lie from the other domain than from their own, without a bandwidth to "
        "choose.",
        "embeddings",
        {"effect_size": test.effect_size},
    )


def _minus_distance(a: Any, b: Any) -> Any:
    import torch

    return -torch.cdist(a, b)


def _proxy_a(x: Array, y: Array, seed: int) -> Statistic:
    found = proxy_a_distance(x, y, seed=seed)
    right = 1 - found.error
    return Statistic(
        "proxy_a_distance",
        "proxy A-distance",
        found.value,
        found.interval,
        "value",
        None,
        f"A linear classifier tells unseen texts of the two domains apart in {100 * right:.0f} % of the "
        f"cases "
        "(0: cannot tell, 2: never wrong). Near 2 is usual for different products and no harm by itself.",
        "embeddings",
        {"domain_accuracy": right},
    )


def conditional_statistic(
    x: Array, labels_x: Array, y: Array, labels_y: Array, test: MMDResult, *, permutations: int, seed: int
) -> tuple[Statistic, ClassConditionalMMD] | None:
    """MMD within the classes that both domains have; None where no class has two rows on both sides.

    Args:
        x, labels_x: source rows and their classes.
        y, labels_y: target rows and their classes.
        test: of all texts, to compare with at the bandwidth used here.
        permutations: of the test.
        seed: of the permutations.
    """
    shared = [n for n in np.unique(labels_x) if min((labels_x == n).sum(), (labels_y == n).sum()) >= 2]
    if not shared:
        return None
    found = class_conditional_mmd(x, labels_x, y, labels_y, permutations=permutations, seed=seed)
    nearest = int(np.abs(np.log(test.bandwidths) - np.log(found.bandwidth or 1.0)).argmin())
    plain = float(test.values[nearest])
    classes = ", ".join(f"{name}: {value:.4f}" for name, value in found.by_class.items())
    statistic = Statistic(
        "class_conditional_mmd2",
        "class-conditional MMD²",
        found.value,
        None,
        "no shift",
        found.p_value,
        f"MMD² between texts of the same class ({classes}), beside {plain:.4f} for all texts at about the "
        f"same "
        "bandwidth. Far below that, the shift is a different mix of classes; else it is in how each class is "
        "written.",
        "labels",
        {"by_class": {str(name): value for name, value in found.by_class.items()}, "all_texts": plain},
    )
    return statistic, found


def label_shift_statistic(labels_x: Array, labels_y: Array, *, seed: int) -> Statistic:
    """Total variation between the class shares of two sets of labels, with a chi-squared test.

    The interval is a percentile bootstrap over rows.
    """
    from scipy.stats import chi2_contingency

    names = np.unique(np.concatenate([labels_x, labels_y]))
    counts = np.array([[(side == name).sum() for name in names] for side in (labels_x, labels_y)])
    shares = counts / counts.sum(1, keepdims=True)
    rng = np.random.default_rng(seed)
    drawn = [rng.multinomial(n, p, size=1000) / n for n, p in zip(counts.sum(1), shares, strict=True)]
    low, high = np.quantile(np.abs(drawn[0] - drawn[1]).sum(1) / 2, [0.025, 0.975])
    value = float(np.abs(shares[0] - shares[1]).sum() / 2)
    p_value = float(chi2_contingency(counts).pvalue) if len(names) > 1 else 1.0
    return Statistic(
        "label_shift",
        "label-proportion shift",
        value,
        (float(min(low, value)), float(max(high, value))),
        "value",
        p_value,
        f"{100 * value:.0f} % of the labels would have to change class for both domains to have the same "
        f"mix, counted "
        f"on {len(labels_y):,} target labels.",
        "labels",
        {"target_labels": len(labels_y)},
    )


def estimate_label_shares(
    x: Array, labels: Array, y: Array, *, seed: int, far_apart: bool = False
) -> tuple[Statistic, LabelShift]:
    """The target's class shares from its texts alone, by black-box shift estimation.

    The classifier is a ridge classifier on the source's embeddings; its own rows are predicted left out. The
    interval holds the error of sampling alone, not that of classes which are written differently in the two
    domains; ``far_apart`` says that this is to be expected.
    """
    names, numbers = np.unique(labels, return_inverse=True)
    centre = np.concatenate([x, y]).mean(0)
    scale = float(np.sqrt(((x - centre) ** 2).sum(1).mean())) or 1.0
    source, target = (
        np.hstack([(side - centre) / scale, np.ones((len(side), 1))]).astype(np.float64) for side in (x, y)
    )
    fit = fit_ridge(source, encode(numbers, len(names)))
    found = black_box_shift(numbers, predictions(fit.held_out), predictions(target @ fit.weights), seed=seed)
    change = found.target - found.source
    most = int(np.abs(change).argmax())
    low, high = found.interval[most] - found.source[most]
    ends = sorted((abs(float(low)), abs(float(high))))
    interval = (0.0 if low <= 0 <= high else ends[0], ends[1])
    doubt = " The classifier confuses classes too much to rely on it." if found.condition_number > 20 else ""
    if far_apart:
        doubt += " These domains lie far apart: take it as a hint, whatever its range says."
    shares = ", ".join(
        f"{name}: {100 * share:.0f} %" for name, share in zip(names, found.target, strict=True)
    )
    statistic = Statistic(
        "estimated_label_shift",
        "estimated label shift",
        float(abs(change[most])),
        interval,
        "value",
        None,
        f"Class shares of the target estimated from its texts alone ({shares}); the largest change against "
        f"the source "
        "is the value. Right only where a class is written alike in both domains." + doubt,
        "labels",
        {
            "condition_number": found.condition_number,
            "target": {str(name): float(share) for name, share in zip(names, found.target, strict=True)},
        },
    )
    return statistic, found
