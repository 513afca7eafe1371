"""Fit the forecast of ``risk.py`` to pairs whose outcome was measured: the package's study, or your own
pairs.

The gain and the accuracy are each a ridge regression on the probe's figures. The probability that a source
hurts is the mean of two: a logistic function of the predicted gain in units of its error, and a logistic
regression on the figures themselves. Penalties, errors and intervals come
from targets left out of the fit, never from the rows that were fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nlp_transfer.errors import DataError
from nlp_transfer.shift.regression import LABEL_FREE, Part, classify, logistic, regress
from nlp_transfer.shift.risk import HURT, NORMAL_SLOPE, forecast

Array = np.ndarray
GAIN_FEATURES: tuple[str, ...] = (
    "gain",
    "gain_smooth",
    "gain_loss",
    "gain_half",
    "gain_sharp",
    "gain_agreement",
    "gain_correlation",
    "gain_weighted",
    "zero_shot_less_target",
    "zero_shot_loss_gain",
    "evidence",
    "label_function",
    "source_correlation",
    "halves_correlation",
    "smooth_target_only",
    "target_half",
    "loss_target_only",
    *LABEL_FREE,
)
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

    Cost: a minute for some thousand rows.
    """
    groups = {item.group for item in outcomes if item.real}
    if len(rows) != len(outcomes) or len(groups) < 3:
        raise DataError(
            "too little to calibrate on",
            expected="one outcome for each row, and at least three groups of targets",
            found=f"{len(rows)} rows, {len(outcomes)} outcomes, {len(groups)} groups",
            fix="measure more pairs",
        )
    table = Table.of(rows, outcomes)
    predicted = table.held_out()
    levels = table.fit(np.ones(len(rows), dtype=bool))
    for entry in levels:
        entry["figures"] = figures(table, predicted, entry["labels"])
    return {"study": dict(study), "classes": list(classes), "levels": levels}


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
    ) -> Table:
        """Gather the package's features, or others for the gain; without labels only ``LABEL_FREE`` count."""
        names = (tuple(gain_features), ACCURACY_FEATURES)
        labels = np.array([item.labels for item in outcomes])
        x = []
        for part in names:
            columns = np.array([[row.get(name, np.nan) for name in part] for row in rows])
            columns[np.ix_(labels == 0, [name not in LABEL_FREE for name in part])] = np.nan
            x.append(columns)
        return cls(
            tuple(rows),
            names,
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
        gain, apart = regress(self.x[0][rows], self.gain[rows], part, self.names[0])
        accuracy, _ = regress(self.x[1][rows], self.accuracy[rows], part, self.names[1])
        hurt = self.gain[rows] < -HURT
        z = np.clip((-HURT - apart[part.real]) / gain["error"], -8, 8)
        slope, intercept = logistic(
            z[:, None],
            hurt[part.real],
            part.weights[part.real],
            start=np.array([NORMAL_SLOPE, 0.0]),
            precision=np.array([4.0, 1.0]),
        )
        spans: dict[str, list[float]] = {}
        for names, x in zip(self.names, self.x, strict=True):
            spans.update(_spans(names, x[rows][part.real]))
        direct = classify(self.x[0][rows], hurt, part, self.names[0])
        return {
            "labels": int(self.labels[rows][0]),
            "gain": gain,
            "accuracy": accuracy,
            "hurt": {"intercept": float(intercept), "slope": max(float(slope), 0.1), "direct": direct},
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
        for group in np.unique(self.groups):
            ours = self.groups == group
            for source in np.unique(self.sources[ours]) if sources_too else [None]:
                judged = ours if source is None else ours & (self.sources == source)
                seen = self.groups != group
                if source is not None:
                    seen = ~np.isin(self.groups, (group, source)) & ~np.isin(self.sources, (group, source))
                out[judged] = self.predict(self.fit(seen), judged)
        return out


def figures(table: Table, predicted: Array, labels: int) -> dict[str, float | None]:
    """How good held-out predictions are, on the real rows with this amount of labels; see :func:`judged`."""
    real = table.real & (table.labels == labels)
    return judged(table.gain[real], table.accuracy[real], predicted[real])


def judged(gains: Array, accuracies: Array, predicted: Array) -> dict[str, float | None]:
    """How good predictions are.

    Args:
        gains, accuracies: what was measured (n,).
        predicted: gain, its low and high, accuracy and probability of each (n, 5).

    Returns:
        ``hurt_share``; ``auroc``; ``brier`` and ``brier_skill`` (against always saying hurt_share);
        ``gain_mae`` and ``accuracy_mae`` in points; ``coverage`` of the gain's interval; ``rows``.
    """
    gain, low, high, accuracy, probability = predicted.T
    hurt = gains < -HURT
    share = float(hurt.mean())
    brier = float(((probability - hurt) ** 2).mean())
    return {
        "rows": len(gains),
        "hurt_share": share,
        "auroc": auroc(hurt, probability),
        "brier": brier,
        "brier_skill": 1 - brier / (share * (1 - share)) if 0 < share < 1 else None,
        "gain_mae": float(100 * np.abs(gain - gains).mean()),
        "accuracy_mae": float(100 * np.abs(accuracy - accuracies).mean()),
        "coverage": float(((gains >= low) & (gains <= high)).mean()),
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


def _spans(names: Sequence[str], x: Array) -> dict[str, list[float]]:
    """Range of each figure that is known, a tenth wider at both ends."""
    out = {}
    for index, name in enumerate(names):
        known = x[:, index][~np.isnan(x[:, index])]
        if len(known):
            low, high = float(known.min()), float(known.max())
            out[name] = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
    return out
