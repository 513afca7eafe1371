"""Fit what fine-tuning changes: a small correction of the frozen encoder's forecast.

Trainings cost minutes where a probe costs milliseconds, so a study of them has tens of cases and not
thousands. The correction therefore sees few figures: the frozen forecast itself, and how far the source
labels as the target does. Gain and accuracy are ridge regressions on these; the probability is the mean of
the normal chance that follows from the predicted gain and its error, and of a shrunken logistic regression.
Penalty, error and interval come from targets left out of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from nlp_transfer.errors import DataError
from nlp_transfer.shift.calibrate import Outcome, judged
from nlp_transfer.shift.regression import HURT_PENALTY, Part, Standardised, regress
from nlp_transfer.shift.risk import HURT, NORMAL_SLOPE, forecast

Array = np.ndarray
PENALTIES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
GAIN_FEATURES: tuple[str, ...] = ("frozen_gain", "label_function")
ACCURACY_FEATURES: tuple[str, ...] = ("frozen_accuracy",)
HURT_FEATURES: tuple[str, ...] = ("frozen_log_odds", "label_function")


def fit_correction(
    rows: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome], *, study: Mapping[str, Any]
) -> dict[str, Any]:
    """Fit one fine-tuning strategy's entry of the calibration, all amounts of labels together.

    Args:
        rows: ``risk.features`` of each probe with the frozen forecast (``studied.with_forecast``).
        outcomes: what was measured, one for each row.
        study: name, pairs, cases and whatever else says where the rows come from; copied into the entry.

    Returns: plain JSON values: the study, ``labels`` (the amounts studied), ``gain``, ``accuracy`` and
        ``hurt`` in the form of a level of the frozen calibration, and ``figures`` on held-out targets.

    Raises:
        DataError: fewer than three groups of targets, or lengths that differ.
    """
    groups = {item.group for item in outcomes}
    if len(rows) != len(outcomes) or len(groups) < 3:
        raise DataError(
            "too little to calibrate on",
            expected="one outcome for each row, and at least three groups of targets",
            found=f"{len(rows)} rows, {len(outcomes)} outcomes, {len(groups)} groups",
            fix="measure more pairs",
        )
    return {
        "study": dict(study),
        "labels": sorted({item.labels for item in outcomes}),
        **fit(rows, outcomes),
        "figures": figures(outcomes, held_out(rows, outcomes)),
    }


def fit(rows: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Gain, accuracy, probability and the ranges of the figures."""
    n = len(outcomes)
    part = Part(np.array([item.group for item in outcomes]), np.ones(n), np.ones(n, dtype=bool))
    gain = np.array([item.gain for item in outcomes])
    accuracy = np.array([item.accuracy for item in outcomes])
    spans = {}
    for name in dict.fromkeys((*GAIN_FEATURES, *ACCURACY_FEATURES, *HURT_FEATURES)):
        column = _columns(rows, (name,))
        low, high = float(np.nanmin(column)), float(np.nanmax(column))
        spans[name] = [low - 0.1 * (high - low), high + 0.1 * (high - low)]
    gains, _ = regress(_columns(rows, GAIN_FEATURES), gain, part, GAIN_FEATURES, PENALTIES)
    accurate, _ = regress(_columns(rows, ACCURACY_FEATURES), accuracy, part, ACCURACY_FEATURES, PENALTIES)
    direct = _classify(_columns(rows, HURT_FEATURES), gain < -HURT, HURT_FEATURES, part)
    return {
        "gain": gains,
        "accuracy": accurate,
        "hurt": {"intercept": 0.0, "slope": NORMAL_SLOPE, "direct": direct},
        "range": spans,
    }


def held_out(
    rows: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome], *, sources_too: bool = False
) -> Array:
    """Gain, its low and high, accuracy and probability of each row, by a fit without its target's group.

    Args:
        sources_too: nor any case in which its target or its source took part on either side.
    """
    targets = np.array([item.group for item in outcomes])
    sources = np.array([item.source_group for item in outcomes])
    out = np.empty((len(rows), 5))
    for target, source in {(item.group, item.source_group if sources_too else None) for item in outcomes}:
        judged, seen = targets == target, targets != target
        if source is not None:
            judged = judged & (sources == source)
            apart = (target, source)
            seen = ~np.isin(targets, apart) & ~np.isin(sources, apart)
        chosen = np.flatnonzero(seen).tolist()
        entry = fit([rows[i] for i in chosen], [outcomes[i] for i in chosen])
        for i in np.flatnonzero(judged).tolist():
            found = forecast(entry, rows[i])
            out[i] = (*found["gain"], found["accuracy"][0], found["probability"])
    return out


def figures(outcomes: Sequence[Outcome], predicted: Array) -> dict[str, float | None]:
    """How good predictions of :func:`held_out` are; see ``calibrate.judged``."""
    gains, accuracies = (
        np.array([getattr(item, name) for item in outcomes]) for name in ("gain", "accuracy")
    )
    return judged(gains, accuracies, predicted)


def _columns(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> Array:
    return np.array([[row.get(name, np.nan) for name in names] for row in rows])


def _classify(x: Array, hurt: Array, names: Sequence[str], part: Part) -> dict[str, Any]:
    """Shrunken logistic regression; the bare share where all or none hurt.

    By scikit-learn, which stops a trace short of the optimum of ``regression.logistic``: the shipped
    calibration is its fit.
    """
    if hurt.all() or not hurt.any():
        share = (hurt.sum() + 0.5) / (len(hurt) + 1)
        return {"intercept": float(np.log(share / (1 - share))), "terms": {}}
    figures = Standardised.of(x, part.weights, names)
    model = LogisticRegression(C=1 / HURT_PENALTY).fit(figures.z, hurt)
    return {"intercept": float(model.intercept_[0]), "terms": figures.terms(model.coef_[0])}
