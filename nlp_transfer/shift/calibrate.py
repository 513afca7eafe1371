"""Fit the forecast of ``risk.py`` to pairs whose outcome was measured: the package's study, or your own
pairs.

The gain and the accuracy are each a ridge regression on the probe's figures, each figure with one bend. The
probability that a source hurts is the normal chance of it, from the predicted gain and its error. Errors
and intervals come from targets left out of the fit, never from the rows that were fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.errors import DataError
from nlp_transfer.shift.regression import Part, regress
from nlp_transfer.shift.risk import HURT, forecast

Array = np.ndarray
LABEL_FREE: tuple[str, ...] = (
    "source_accuracy",
    "doc_estimate",
    "atc_estimate",
    "prior_shift",
    "domain_accuracy",
    "mean_distance",
    "log_score_spread",
    "log_effective_share",
    "log_n_source",
)
"""Figures that need no target label."""
GAIN_FEATURES: tuple[str, ...] = (
    "domain_accuracy",
    "mean_distance",
    "log_effective_share",
    "target_half",
    "halves_correlation",
    "loss_target_only",
    "gain_correlation",
    "gain_smooth",
)
"""With labels: how far apart the domains are, how well the labels teach alone, what the source adds."""
GAIN_LABEL_FREE: tuple[str, ...] = (
    "domain_accuracy",
    "mean_distance",
    "log_effective_share",
    "source_accuracy",
    "doc_estimate",
    "log_n_source",
)
"""Without any."""
ACCURACY_FEATURES: tuple[str, ...] = (
    "zero_shot",
    "target_only",
    "combined",
    "weighted",
    "smooth_zero_shot",
    "smooth_target_only",
    "smooth_combined",
    "loss_zero_shot",
    "loss_target_only",
    "loss_combined",
    "label_function",
    "halves_correlation",
    "target_half",
    "sharp_target_only",
    "sharp_combined",
    "combined_correlation",
    "agree_target_combined",
    "agree_source_combined",
    *LABEL_FREE,
)


@dataclass(frozen=True)
class Outcome:
    """What became of one pair at one amount of labels.

    Attributes:
        labels: target labels of the probe; 0 for none.
        gain: accuracy with the source less accuracy without it (without labels: against 100 of them).
        accuracy: with the source (without labels: of the source alone).
        group: of the target; rows of one group are held out together.
        source_group: of the source, in the same names.
        weight: of the row in the fit.
        real: rows that count in errors, intervals and figures; others (planted harm) only shape the fit.
    """

    labels: int
    gain: float
    accuracy: float
    group: str
    source_group: str = ""
    weight: float = 1.0
    real: bool = True


def fit_calibration(
    rows: Sequence[Mapping[str, float]],
    outcomes: Sequence[Outcome],
    *,
    study: Mapping[str, Any],
    classes: Sequence[int] = (2,),
) -> dict[str, Any]:
    """Fit one strategy's entry of ``calibration.json``.

    Args:
        rows: ``risk.features`` of each probe.
        outcomes: what was measured, one for each row; all amounts of labels together.
        study: name, pairs and whatever else says where the rows come from; copied into the entry.
        classes: numbers of classes among the rows.

    Returns: ``{"study", "classes", "levels"}``, plain JSON values; each level with its figures on held-out
        targets.

    Raises:
        DataError: fewer than three groups of targets, or lengths that differ.

    Cost: some seconds for some thousand rows.
    """
    check_enough(rows, outcomes)
    table = Table.of(rows, outcomes)
    predicted = table.held_out()
    levels = table.fit(np.ones(len(rows), dtype=bool))
    for entry in levels:
        entry["figures"] = figures(table, predicted, entry["labels"])
    return {"study": dict(study), "classes": list(classes), "levels": levels}


def check_enough(rows: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome]) -> None:
    """Raise DataError where lengths differ, or there are fewer than three groups of targets."""
    groups = {item.group for item in outcomes if item.real}
    if len(rows) != len(outcomes) or len(groups) < 3:
        raise DataError(
            "too little to calibrate on",
            expected="one outcome for each row, and at least three groups of targets",
            found=f"{len(rows)} rows, {len(outcomes)} outcomes, {len(groups)} groups",
            fix="measure more pairs",
        )


def held_apart(targets: Array, sources: Array, *, sources_too: bool) -> Iterator[tuple[Array, Array]]:
    """The rows judged and the rows fitted (masks) of each fold, by the groups of targets and sources [n].

    Args:
        sources_too: nor may a row be fitted in which the fold's target or source took part on either side.
    """
    for target in np.unique(targets):
        ours = targets == target
        for source in np.unique(sources[ours]) if sources_too else [None]:
            if source is None:
                yield ours, ~ours
            else:
                apart = (target, source)
                yield ours & (sources == source), ~np.isin(targets, apart) & ~np.isin(sources, apart)


@dataclass(frozen=True)
class Table:
    """Rows and outcomes of all amounts of labels as arrays; NaN where a figure is unknown."""

    rows: tuple[Mapping[str, float], ...]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    x: tuple[Array, Array]
    labels: Array
    gain: Array
    accuracy: Array
    groups: Array
    sources: Array
    weights: Array
    real: Array

    @classmethod
    def of(
        cls,
        rows: Sequence[Mapping[str, float]],
        outcomes: Sequence[Outcome],
        gain_features: Sequence[str] = GAIN_FEATURES,
        gain_label_free: Sequence[str] = GAIN_LABEL_FREE,
    ) -> Table:
        """Gather the package's features, or others for the gain, with target labels and without any."""
        labels = np.array([item.labels for item in outcomes])
        with_labels, without = (gain_features, ACCURACY_FEATURES), (gain_label_free, LABEL_FREE)
        names = tuple(tuple(dict.fromkeys((*a, *b))) for a, b in zip(with_labels, without, strict=True))
        x = []
        for part, first, second in zip(names, with_labels, without, strict=True):
            columns = np.array([[row.get(name, np.nan) for name in part] for row in rows])
            for index, name in enumerate(part):
                unused = (labels > 0) & (name not in first) | (labels == 0) & (name not in second)
                columns[unused, index] = np.nan
            x.append(columns)
        return cls(
            tuple(rows),
            (names[0], names[1]),
            (x[0], x[1]),
            labels,
            np.array([item.gain for item in outcomes]),
            np.array([item.accuracy for item in outcomes]),
            np.array([item.group for item in outcomes]),
            np.array([item.source_group for item in outcomes]),
            np.array([item.weight for item in outcomes]),
            np.array([item.real for item in outcomes]),
        )

    def fit(self, rows: Array) -> list[dict[str, Any]]:
        """The calibration of these rows (a mask), one entry for each amount of labels."""
        return [self._fit(rows & (self.labels == labels)) for labels in np.unique(self.labels[rows])]

    def _fit(self, rows: Array) -> dict[str, Any]:
        """The entry of rows with one amount of labels."""
        part = Part(self.groups[rows], self.weights[rows], self.real[rows])
        gain, _ = regress(self.x[0][rows], self.gain[rows], part, self.names[0])
        accuracy, _ = regress(self.x[1][rows], self.accuracy[rows], part, self.names[1])
        spans: dict[str, list[float]] = {}
        for names, x in zip(self.names, self.x, strict=True):
            spans.update(ranges(names, x[rows][part.real]))
        return {
            "labels": int(self.labels[rows][0]),
            "gain": gain,
            "accuracy": accuracy,
            "range": spans,
        }

    def predict(self, levels: Sequence[Mapping[str, Any]], rows: Array) -> Array:
        """What ``assess`` would say of these rows: gain, its low and high, accuracy, probability."""
        out = []
        entries = {entry["labels"]: entry for entry in levels}
        for row in np.arange(len(self.rows))[rows]:
            found = forecast(entries[self.labels[row]], self.rows[row])
            out.append([*found["gain"], found["accuracy"][0], found["probability"]])
        return np.array(out)

    def held_out(self, *, sources_too: bool = False) -> Array:
        """Predictions of each row by a calibration that saw no pair with its target's group.

        Args:
            sources_too: nor any pair in which its target or its source took part on either side.
        """
        out = np.full((len(self.gain), 5), np.nan)
        for judged, seen in held_apart(self.groups, self.sources, sources_too=sources_too):
            out[judged] = self.predict(self.fit(seen), judged)
        return out


def figures(table: Table, predicted: Array, labels: int) -> dict[str, float | None]:
    """How good held-out predictions are, on the real rows with this amount of labels; see :func:`scores`."""
    real = table.real & (table.labels == labels)
    return scores(table.gain[real], table.accuracy[real], predicted[real])


def scores(gain: Array, accuracy: Array, predicted: Array) -> dict[str, float | None]:
    """How good predictions (n, 5) of :meth:`Table.held_out` are of measured gains and accuracies [n].

    Returns:
        ``hurt_share``; ``auroc``; ``brier`` and ``brier_skill`` (against always saying hurt_share);
        ``gain_mae`` and ``accuracy_mae`` in points; ``coverage`` of the gain's interval; ``rows``.
    """
    centre, low, high, expected, probability = predicted.T
    hurt = gain < -HURT
    share, brier = float(hurt.mean()), float(((probability - hurt) ** 2).mean())
    return {
        "rows": len(gain),
        "hurt_share": share,
        "auroc": auroc(hurt, probability),
        "brier": brier,
        "brier_skill": 1 - brier / (share * (1 - share)) if 0 < share < 1 else None,
        "gain_mae": float(100 * np.abs(centre - gain).mean()),
        "accuracy_mae": float(100 * np.abs(expected - accuracy).mean()),
        "coverage": float(((gain >= low) & (gain <= high)).mean()),
    }


def auroc(truth: Array, score: Array) -> float | None:
    """Area under the ROC curve by ranks (ties count half); None with one class only."""
    truth = np.asarray(truth, dtype=bool)
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return None
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def rounded(value: Any, digits: int = 5) -> Any:
    """The same structure with every float at this many significant digits: shorter and readable JSON."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    return [rounded(item, digits) for item in value] if isinstance(value, list | tuple) else value


def ranges(names: Sequence[str], x: Array) -> dict[str, list[float]]:
    """Range of each figure that is known, a tenth wider at both ends."""
    out = {}
    for index, name in enumerate(names):
        known = x[:, index][~np.isnan(x[:, index])]
        if len(known):
            low, high = float(known.min()), float(known.max())
            out[name] = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
    return out
