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
from nlp_transfer.shift.labelled import INTERVAL
from nlp_transfer.shift.risk import HURT, NORMAL_SLOPE, forecast

Array = np.ndarray
PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
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
HURT_PENALTY = 3.0
"""Of the logistic regression on standardised figures."""
LABEL_FREE_PENALTY = 10.0
"""Label-free figures are shrunk this much more: they vary with the pair and not with the labels, so there are
only as many different values as pairs, and chance relations with a domain easily pass for rules."""
GAIN_FEATURES: tuple[str, ...] = (
    "gain",
    "gain_smooth",
    "gain_loss",
    "gain_half",
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
        outcomes: what was measured, one for each row; amounts of labels are fitted apart.
        study: name, pairs and whatever else says where the rows come from; copied into the entry.
        classes: numbers of classes among the rows.

    Returns: ``{"study", "classes", "levels"}``, plain JSON values; each level with its figures on held-out
        targets.

    Raises:
        DataError: fewer than three groups of targets, or lengths that differ.

    Cost: seconds for some thousand rows.
    """
    groups = {item.group for item in outcomes if item.real}
    if len(rows) != len(outcomes) or len(groups) < 3:
        raise DataError(
            "too little to calibrate on",
            expected="one outcome for each row, and at least three groups of targets",
            found=f"{len(rows)} rows, {len(outcomes)} outcomes, {len(groups)} groups",
            fix="measure more pairs",
        )
    levels = []
    for labels in sorted({item.labels for item in outcomes}):
        chosen = [i for i, item in enumerate(outcomes) if item.labels == labels]
        table = Table.of([rows[i] for i in chosen], [outcomes[i] for i in chosen])
        entry = table.fit(np.ones(len(chosen), dtype=bool))
        entry["figures"] = figures(table, table.held_out())
        levels.append(entry)
    return {"study": dict(study), "classes": list(classes), "levels": levels}


@dataclass(frozen=True)
class Table:
    """Rows and outcomes of one amount of labels as arrays; NaN where a figure is unknown."""

    labels: int
    rows: tuple[Mapping[str, float], ...]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    x: tuple[Array, Array]
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
        gain_features: Sequence[str] | None = None,
    ) -> Table:
        """Gather the features that this amount of labels uses, or others for the gain."""
        labels = outcomes[0].labels
        names = (GAIN_FEATURES, ACCURACY_FEATURES) if labels else (LABEL_FREE, LABEL_FREE)
        names = (names[0] if gain_features is None else tuple(gain_features), names[1])
        x = tuple(np.array([[row.get(name, np.nan) for name in part] for row in rows]) for part in names)
        return cls(
            labels,
            tuple(rows),
            names,
            (x[0], x[1]),
            np.array([item.gain for item in outcomes]),
            np.array([item.accuracy for item in outcomes]),
            np.array([item.group for item in outcomes]),
            np.array([item.source_group for item in outcomes]),
            np.array([item.weight for item in outcomes]),
            np.array([item.real for item in outcomes]),
        )

    def fit(self, rows: Array) -> dict[str, Any]:
        """The calibration of these rows (a mask)."""
        real, groups, weights = self.real[rows], self.groups[rows], self.weights[rows]
        gain, gain_apart = _regress(self.x[0][rows], self.gain[rows], weights, groups, real, self.names[0])
        accuracy, _ = _regress(self.x[1][rows], self.accuracy[rows], weights, groups, real, self.names[1])
        z = np.clip((-HURT - gain_apart[real]) / gain["error"], -8, 8)
        slope, intercept = (
            float(value)
            for value in _logistic(
                z[:, None],
                self.gain[rows][real] < -HURT,
                weights[real],
                start=np.array([NORMAL_SLOPE, 0.0]),
                precision=np.array([4.0, 1.0]),
            )
        )
        direct = _classify(self.x[0][rows], self.gain[rows] < -HURT, weights, self.names[0])
        spans = {}
        for names, x in zip(self.names, self.x, strict=True):
            for index, name in enumerate(names):
                column = x[rows][real][:, index]
                low, high = np.nanmin(column), np.nanmax(column)
                spans[name] = [float(low - 0.1 * (high - low)), float(high + 0.1 * (high - low))]
        return {
            "labels": self.labels,
            "gain": gain,
            "accuracy": accuracy,
            "hurt": {"intercept": intercept, "slope": max(slope, 0.1), "direct": direct},
            "range": spans,
        }

    def predict(self, entry: Mapping[str, Any], rows: Array) -> Array:
        """What ``assess`` would say of these rows: gain, its low and high, accuracy, probability."""
        out = []
        for row in np.arange(len(self.rows))[rows]:
            found = forecast(entry, self.rows[row])
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


def figures(table: Table, predicted: Array) -> dict[str, float | None]:
    """How good held-out predictions are, on the real rows.

    Returns:
        ``hurt_share``; ``auroc``; ``brier`` and ``brier_skill`` (against always saying hurt_share);
        ``gain_mae`` and ``accuracy_mae`` in points; ``coverage`` of the gain's interval; ``rows``.
    """
    real = table.real
    gain, low, high, accuracy, probability = predicted[real].T
    hurt = table.gain[real] < -HURT
    share = float(hurt.mean())
    brier = float(((probability - hurt) ** 2).mean())
    return {
        "rows": int(real.sum()),
        "hurt_share": share,
        "auroc": auroc(hurt, probability),
        "brier": brier,
        "brier_skill": 1 - brier / (share * (1 - share)) if 0 < share < 1 else None,
        "gain_mae": float(100 * np.abs(gain - table.gain[real]).mean()),
        "accuracy_mae": float(100 * np.abs(accuracy - table.accuracy[real]).mean()),
        "coverage": float(((table.gain[real] >= low) & (table.gain[real] <= high)).mean()),
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


def _moments(x: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean and standard deviation of each column, NaN left out; 1 for a constant column."""
    known = ~np.isnan(x)
    total = np.maximum((known * weights[:, None]).sum(0), 1e-12)
    mean = (np.nan_to_num(x) * weights[:, None]).sum(0) / total
    scale = np.sqrt((np.where(known, x - mean, 0.0) ** 2 * weights[:, None]).sum(0) / total)
    return mean, np.where(scale > 1e-9, scale, 1.0)


def _penalties(names: Sequence[str]) -> Array:
    return np.array([LABEL_FREE_PENALTY if name in LABEL_FREE else 1.0 for name in names])


def _standardise(x: Array, mean: Array, scale: Array) -> Array:
    return np.nan_to_num(np.clip((x - mean) / scale, -4, 4))


def _regress(
    x: Array, y: Array, weights: Array, groups: Array, real: Array, names: Sequence[str]
) -> tuple[dict[str, Any], Array]:
    """Ridge regression, its penalty by leave-one-group-out error; the model and the left-out predictions."""
    mean, scale = _moments(x, weights)
    z = np.hstack([_standardise(x, mean, scale), np.ones((len(x), 1))])
    shrink = np.diag(np.append(_penalties(names), 1e-6))
    parts = {group: groups == group for group in np.unique(groups)}
    grams = {group: (z[rows].T * weights[rows]) @ z[rows] for group, rows in parts.items()}
    moments = {group: (z[rows].T * weights[rows]) @ y[rows] for group, rows in parts.items()}
    gram, moment = sum(grams.values()), sum(moments.values())
    best: tuple[float, float, Array] | None = None
    for penalty in PENALTIES:
        apart = np.empty(len(y))
        for group, rows in parts.items():
            apart[rows] = z[rows] @ np.linalg.solve(
                gram - grams[group] + penalty * shrink, moment - moments[group]
            )
        error = float(np.average((apart - y)[real] ** 2, weights=weights[real]))
        if best is None or error < best[0]:
            best = (error, penalty, apart)
    assert best is not None
    error, penalty, apart = best
    solution = np.linalg.solve(gram + penalty * shrink, moment)
    low, high = np.quantile((y - apart)[real], [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    model = {
        "intercept": float(solution[-1]),
        "terms": {
            name: [float(mean[i]), float(scale[i]), float(solution[i])] for i, name in enumerate(names)
        },
        "penalty": penalty,
        "error": max(float(np.sqrt(error)), 1e-4),
        "low": float(min(low, 0.0)),
        "high": float(max(high, 0.0)),
    }
    return model, apart


def _classify(x: Array, truth: Array, weights: Array, names: Sequence[str]) -> dict[str, Any]:
    """Logistic regression on the figures, with a fixed penalty."""
    mean, scale = _moments(x, weights)
    share = float(np.clip(np.average(truth, weights=weights), 0.005, 0.995))
    start = np.append(np.zeros(len(names)), np.log(share / (1 - share)))
    precision = np.append(HURT_PENALTY * _penalties(names), 1e-3)
    beta = _logistic(_standardise(x, mean, scale), truth, weights, start, precision)
    terms = {name: [float(mean[i]), float(scale[i]), float(beta[i])] for i, name in enumerate(names)}
    return {"intercept": float(beta[-1]), "terms": terms}


def _logistic(z: Array, truth: Array, weights: Array, start: Array, precision: Array) -> Array:
    """Coefficients and, last, intercept by Newton's method, drawn towards ``start`` with this precision."""
    design = np.hstack([z, np.ones((len(z), 1))])
    beta = start.copy()
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        gradient = design.T @ (weights * (truth - p)) - precision * (beta - start)
        step = np.linalg.solve((design.T * (weights * p * (1 - p))) @ design + np.diag(precision), gradient)
        beta = beta + step
        if np.abs(step).max() < 1e-8:
            break
    return beta
