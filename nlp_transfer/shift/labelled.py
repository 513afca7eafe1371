"""What target labels tell: cross-validated probes with and without the source, and how they agree."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nlp_transfer.shift.linear import (
    PENALTIES,
    Array,
    Fitted,
    Prior,
    RidgeFit,
    calibrated_slope,
    confidence,
    correct,
    encode,
    margins,
    plain_prior,
    predictions,
    stratified_folds,
)

INTERVAL = 0.8
"""Coverage of every interval here and in the forecast."""
MIN_AGREEMENT_ROWS = 30
"""Below this many unlabelled rows, agreement is judged on held-out labelled rows instead."""


@dataclass(frozen=True)
class Figure:
    """An estimate between the ends of its 80 % interval; accuracies and gains are fractions, not points."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How probes agree on target texts nobody labelled; fractions or correlations, NaN where unknown.

    Attributes:
        source_target: the same prediction by source-only and target-only probe.
        source_combined, target_combined: the same with the probe trained on both.
        halves: two target-only probes, each trained on half of the labels.
        halves_combined: a probe trained on the source and one half with a target-only probe trained on the
            other: above ``halves`` where the source brings the probe nearer to what other labels say.
        source_correlation: of source-only with target-only scores.
        halves_correlation: of the scores of the two halves: how far the labels settle the target's
            classifier. combined_correlation: of the scores behind ``halves_combined``.
        label_function: source_correlation corrected for the noise of few labels (Spearman 1904): near 1 where
            source and target label alike, near or below 0 where they contradict each other.
    """

    source_target: float
    source_combined: float
    target_combined: float
    halves: float
    halves_combined: float
    source_correlation: float
    halves_correlation: float
    combined_correlation: float
    label_function: float


@dataclass(frozen=True)
class Labelled:
    """What the target labels tell.

    Attributes:
        zero_shot: accuracy of the source-only probe on the labelled target rows. target_only, combined,
        weighted: cross-validated accuracy of the probe trained on the target labels, on
            source and target, on density-ratio weighted source and target.
        gain: combined less target-only on the same rows and folds. gain_weighted: weighted less target-only.
        target_half, combined_half: accuracy when trained with half of the labels.
        extrapolated: target-only accuracy expected with twice the labels: the half's step once more,
        halved. smooth_zero_shot, smooth_target_only, smooth_combined: chance of a right prediction from the
        size of the
            held-out margins: the same accuracies with less noise and some bias. loss_zero_shot,
        loss_target_only, loss_combined: held-out squared error of the scores (labels are -1/+1).
        sharp_target_only, sharp_combined: mean confidence on the further rows, its scale fitted to the
            held-out labels: what the probe itself expects to get right there.
        evidence: log marginal likelihood per label with the source less without it. Above 0: the labels are
            what one would expect from the source.
        class_balance: share of the most frequent class.
    """

    zero_shot: Figure
    target_only: Figure | None
    combined: Figure
    weighted: Figure
    gain: Figure | None
    gain_weighted: Figure | None
    target_half: float
    combined_half: float
    extrapolated: float
    smooth_zero_shot: float
    smooth_target_only: float
    smooth_combined: float
    loss_zero_shot: float
    loss_target_only: float
    loss_combined: float
    sharp_target_only: float
    sharp_combined: float
    evidence: float
    class_balance: float
    agreement: Agreement


def labelled_figures(
    rows: Array,
    labels: Array,
    further: Array,
    *,
    plain: RidgeFit,
    reweighted: RidgeFit,
    further_white: Array,
    classes: int,
    seed: int,
) -> Labelled:
    """Fit the four probes and read their held-out scores.

    Args:
        rows: labelled target rows, placed (n, d); ``labels`` their class numbers.
        further: target rows without a label (m, d); ``further_white`` is ``further @ plain.whiten``.
        plain, reweighted: the source's classifiers.
        classes: in all.
        seed: of folds, halves and bootstrap.
    """
    y, n = encode(labels, classes), len(rows)
    columns = y.shape[1]
    priors = {
        "combined": plain.prior(rows, further, further_white),
        "weighted": reweighted.prior(rows, further[:0]),
    }
    fits = {name: Fitted.of(prior, y) for name, prior in priors.items()}
    candidates = [Fitted.of(plain_prior(rows, further, penalty, columns), y) for penalty in PENALTIES]
    fits["target"] = max(candidates, key=lambda fit: fit.evidence)
    zero = priors["combined"].mean
    right = {"zero": correct(zero, labels)}
    for name, fit in fits.items():
        right[name] = _cross_validate(fit, labels, seed)
    figures = _bootstrap(right, seed)
    halves = _halves(fits["target"].prior, priors["combined"], y, labels, seed)
    alone = fits["target"].leave_one_out() if n > 1 else np.full_like(y, np.nan)
    together = fits["combined"].leave_one_out()
    target_only = figures["target"] if n > 1 else None
    now, half = right["target"].mean(), halves["target_half"]
    return Labelled(
        zero_shot=figures["zero"],
        target_only=target_only,
        combined=figures["combined"],
        weighted=figures["weighted"],
        gain=figures["combined-target"] if n > 1 else None,
        gain_weighted=figures["weighted-target"] if n > 1 else None,
        target_half=half,
        combined_half=halves["combined_half"],
        extrapolated=float(np.clip(now + max(now - half, 0.0) / 2, 0, 1)) if n > 3 else float("nan"),
        smooth_zero_shot=_smooth(zero, labels),
        smooth_target_only=_smooth(alone, labels),
        smooth_combined=_smooth(together, labels),
        loss_zero_shot=float(((y - zero) ** 2).mean()),
        loss_target_only=float(((y - alone) ** 2).mean()),
        loss_combined=float(((y - together) ** 2).mean()),
        sharp_target_only=_sharp(alone, labels, fits["target"].further()),
        sharp_combined=_sharp(together, labels, fits["combined"].further()),
        evidence=fits["combined"].evidence - fits["target"].evidence,
        class_balance=float(np.bincount(labels).max() / n),
        agreement=_agreement(fits, priors["combined"], halves),
    )


def _cross_validate(fit: Fitted, labels: Array, seed: int) -> Array:
    """Share of repeats in which each row, left out with its fold, is predicted rightly (n,)."""
    n = len(labels)
    if n < 2:
        return correct(fit.prior.mean, labels)
    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    folds = min(10, n) if smallest >= 10 or len(np.unique(labels)) == 1 else min(max(smallest, 2), n)
    repeats = int(np.clip(1000 // n, 2, 20))
    rng = np.random.default_rng(seed)
    right = np.zeros(n)
    for _ in range(repeats):
        for fold in stratified_folds(labels, folds, rng):
            right[fold] += correct(fit.held_out(fold), labels[fold])
    return right / repeats


def _halves(alone: Prior, together: Prior, y: Array, labels: Array, seed: int) -> dict[str, float]:
    """Probes trained on random halves of the labels: accuracy on the other half, agreement on further rows.

    Without further rows, a fifth of the labels takes their place.
    """
    n = len(labels)
    names = ("target_half", "combined_half", "agree", "correlation", "agree_combined", "correlation_combined")
    out: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(seed + 1)
    apart = len(alone.further) < MIN_AGREEMENT_ROWS
    for _ in range(int(np.clip(1000 // max(n, 1), 2, 8)) if n >= 4 else 0):
        parts = list(stratified_folds(labels, 5 if apart and n >= 50 else 2, rng))
        if len(parts) == 5:
            judged, a, b = parts[0], np.concatenate(parts[1:3]), np.concatenate(parts[3:])
        else:
            judged, (a, b) = np.arange(0), parts
        scores: dict[str, list[Array]] = {"target": [], "combined": []}
        for train, rest in ((a, b), (b, a)):
            for name, prior in (("target", alone), ("combined", together)):
                inside, outside = prior.predict(y, train, np.concatenate([rest, judged]))
                out[name + "_half"].append(_accuracy(inside[: len(rest)], labels[rest]))
                scores[name].append(inside[len(rest) :] if len(judged) else outside)
        out["agree"].append(_same(*scores["target"]))
        out["correlation"].append(_correlation(*scores["target"]))
        for one, other in zip(scores["combined"], reversed(scores["target"]), strict=True):
            out["agree_combined"].append(_same(one, other))
            out["correlation_combined"].append(_correlation(one, other))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in out.items()}


def _agreement(fits: dict[str, Fitted], source: Prior, halves: dict[str, float]) -> Agreement:
    """Agreement on the further rows; on the labelled rows, held out, where there are too few of those."""
    if len(source.further_mean) >= MIN_AGREEMENT_ROWS:
        zero, alone, together = source.further_mean, fits["target"].further(), fits["combined"].further()
    else:
        zero, alone, together = source.mean, fits["target"].leave_one_out(), fits["combined"].leave_one_out()
    correlation, reliability = _correlation(zero, alone), halves["correlation"]
    whole = 2 * reliability / (1 + reliability) if reliability > 0 else float("nan")
    corrected = (
        float(np.clip(correlation / np.sqrt(max(whole, 0.05)), -1.2, 1.2)) if whole == whole else float("nan")
    )
    return Agreement(
        source_target=_same(zero, alone),
        source_combined=_same(zero, together),
        target_combined=_same(alone, together),
        halves=halves["agree"],
        halves_combined=halves["agree_combined"],
        source_correlation=correlation,
        halves_correlation=reliability,
        combined_correlation=halves["correlation_combined"],
        label_function=corrected,
    )


def _bootstrap(right: dict[str, Array], seed: int, draws: int = 500) -> dict[str, Figure]:
    """Means over rows with percentile intervals; the rows are resampled together: differences are paired."""
    n = len(right["zero"])
    table = np.stack(
        [*right.values(), right["combined"] - right["target"], right["weighted"] - right["target"]]
    )
    counts = np.random.default_rng(seed + 2).multinomial(n, np.full(n, 1 / n), size=draws)
    means = counts @ table.T / n
    low, high = np.quantile(means, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    names = [*right, "combined-target", "weighted-target"]
    centre = table.mean(1)
    return {
        name: Figure(float(centre[i]), float(min(low[i], centre[i])), float(max(high[i], centre[i])))
        for i, name in enumerate(names)
    }


def _smooth(scores: Array, labels: Array) -> float:
    """Mean logistic function of the held-out margins, in units of their mean size."""
    margin = margins(scores, labels)
    size = float(np.abs(margin).mean())
    if not np.isfinite(size):
        return float("nan")
    return float((1 / (1 + np.exp(-np.clip(2.5 * margin / max(size, 1e-12), -30, 30)))).mean())


def _sharp(held_out: Array, labels: Array, further: Array) -> float:
    """Mean confidence on the further rows; on the labelled ones, held out, where there are too few."""
    if not np.isfinite(held_out).all():
        return float("nan")
    scores = further if len(further) >= MIN_AGREEMENT_ROWS else held_out
    return float(confidence(scores, calibrated_slope(held_out, labels)).mean())


def _accuracy(scores: Array, labels: Array) -> float:
    return float(correct(scores, labels).mean()) if len(labels) else float("nan")


def _same(a: Array, b: Array) -> float:
    return float((predictions(a) == predictions(b)).mean()) if len(a) else float("nan")


def _correlation(a: Array, b: Array) -> float:
    """Correlation of all score columns together, each centred; 0 where one of them does not vary."""
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    a, b = a - a.mean(0), b - b.mean(0)
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 1e-12 else 0.0
