"""Fit what fine-tuning changes: a small correction of the frozen encoder's forecast.

Trainings cost minutes where a probe costs milliseconds, so a study of them has tens of cases and not
thousands. The correction therefore sees two figures: the frozen forecast itself, and how far the source
labels as the target does. Gain and accuracy are ridge regressions on these. Its errors are not normal (a
contradicting source is far harder to foresee than an honest one), so the probability is the mean of the
normal chance and of a shrunken logistic regression. Error and interval come from targets left out of the fit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from nlp_transfer.shift.calibrate import Outcome, check_enough, held_apart, ranges, scores
from nlp_transfer.shift.regression import Part, Standardised, regress
from nlp_transfer.shift.risk import HURT, forecast

Array = np.ndarray
GAIN_FEATURES: tuple[str, ...] = ("frozen_gain", "label_function")
ACCURACY_FEATURES: tuple[str, ...] = ("frozen_accuracy",)
HURT_FEATURES: tuple[str, ...] = ("frozen_log_odds", "label_function")
HURT_PENALTY = 3.0
"""Of the logistic regression on standardised figures."""


def fit_correction(
    rows: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome], *, study: Mapping[str, Any]
) -> dict[str, Any]:
    """Fit one fine-tuning strategy's entry of the calibration, all amounts of labels together.

    Args:
        rows: ``risk.features`` of each probe with the frozen forecast (``studied.with_forecast``).
        outcomes: what was measured, one for each row.
        study: name, pairs, cases and whatever else says where the rows come from; copied into the entry.

    Returns: plain JSON values: the study, ``labels`` (the amounts studied), ``gain``, ``accuracy``
        and ``hurt`` (the logistic regression) in the form of a level of the frozen calibration, and
        ``figures`` on held-out targets.

    Raises:
        DataError: fewer than three groups of targets, or lengths that differ.
    """
    check_enough(rows, outcomes)
    return {
        "study": dict(study),
        "labels": sorted({item.labels for item in outcomes}),
        **fit(rows, outcomes),
        "figures": figures(outcomes, held_out(rows, outcomes)),
    }


def fit(rows: Sequence[Mapping[str, float]], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Gain, accuracy, probability and the ranges of the figures."""
    groups = np.array([item.group for item in outcomes])
    part = Part(groups, np.ones(len(rows)), np.ones(len(rows), dtype=bool))
    out: dict[str, Any] = {"range": {}}
    for name, names in (("gain", GAIN_FEATURES), ("accuracy", ACCURACY_FEATURES)):
        x = _columns(rows, names)
        out[name], _ = regress(x, np.array([getattr(o, name) for o in outcomes]), part, names, bends=False)
        out["range"] |= ranges(names, x)
    x = _columns(rows, HURT_FEATURES)
    out["hurt"] = _classify(x, np.array([item.gain for item in outcomes]) < -HURT)
    out["range"] |= ranges(HURT_FEATURES, x)
    return out


def _columns(rows: Sequence[Mapping[str, float]], names: Sequence[str]) -> Array:
    return np.array([[row.get(name, np.nan) for name in names] for row in rows])


def _classify(x: Array, hurt: Array) -> dict[str, Any]:
    """Shrunken logistic regression; the bare share where all or none hurt."""
    if hurt.all() or not hurt.any():
        share = (hurt.sum() + 0.5) / (len(hurt) + 1)
        return {"intercept": float(np.log(share / (1 - share))), "terms": {}}
    figures = Standardised.of(x, np.ones(len(x)), HURT_FEATURES, bends=False)
    model = LogisticRegression(C=1 / HURT_PENALTY).fit(figures.z, hurt)
    return {"intercept": float(model.intercept_[0]), "terms": figures.terms(model.coef_[0])}


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
    for judged, seen in held_apart(targets, sources, sources_too=sources_too):
        chosen = np.flatnonzero(seen).tolist()
        entry = fit([rows[i] for i in chosen], [outcomes[i] for i in chosen])
        for i in np.flatnonzero(judged).tolist():
            found = forecast(entry, rows[i])
            out[i] = (*found["gain"], found["accuracy"][0], found["probability"])
    return out


def figures(outcomes: Sequence[Outcome], predicted: Array) -> dict[str, float | None]:
    """How good predictions of :func:`held_out` are; see ``calibrate.scores``."""
    gain, accuracy = (np.array([getattr(item, name) for item in outcomes]) for name in ("gain", "accuracy"))
    return scores(gain, accuracy, predicted)
