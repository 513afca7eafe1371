"""What can be told of a target without one of its labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nlp_transfer.shift.linear import (
    Array,
    RidgeFit,
    calibrated_slope,
    confidence,
    correct,
    encode,
    fit_ridge,
    votes,
)

RATIO_LIMIT = 10.0


@dataclass(frozen=True)
class LabelFree:
    """Figures from the labelled source and the target's texts; fractions.

    Attributes:
        source_accuracy: leave-one-out accuracy of the source probe on the source.
        source_loss: its leave-one-out squared error (labels are -1/+1).
        confidence_source, confidence_target: mean calibrated confidence of the source probe on each side.
        doc_estimate: accuracy on the target by difference of confidences (Guillory et al. 2021).
        atc_estimate: accuracy on the target by average thresholded confidence (Garg et al. 2022, equation 2).
        score_spread: standard deviation of the source probe's scores on the target over that on the source.
        prior_shift: half the sum of differences between predicted class shares on the target and class shares
            of the source.
        domain_accuracy: leave-one-out balanced accuracy of telling the domains apart.
        proxy_a_distance: 2 (1 - 2 (1 - domain_accuracy)), in [0, 2] (Ben-David et al. 2007).
        mean_distance: squared distance of the two means, the mean squared length of all rows being one.
        effective_share: effective sample size of the density-ratio weights over the source's rows (Kish).
    """

    source_accuracy: float
    source_loss: float
    confidence_source: float
    confidence_target: float
    doc_estimate: float
    atc_estimate: float
    score_spread: float
    prior_shift: float
    domain_accuracy: float
    proxy_a_distance: float
    mean_distance: float
    effective_share: float


def label_free_figures(source: Array, labels: Array, target: Array, fit: RidgeFit) -> tuple[LabelFree, Array]:
    """The figures, and the density-ratio weights of the source rows (mean one).

    The ratio comes from the domain classifier by Bayes' rule (Bickel et al. 2007), its scores being held out
    and its ends clipped to 10. Cost: O((n + m) d^2 + d^3).
    """
    classes = fit.held_out.shape[1] if fit.held_out.shape[1] > 1 else 2
    accuracy = float(correct(fit.held_out, labels).mean())
    on_target = target @ fit.weights
    slope = calibrated_slope(fit.held_out, labels)
    source_confidence, target_confidence = (confidence(scores, slope) for scores in (fit.held_out, on_target))
    threshold = np.quantile(source_confidence, 1 - accuracy) if accuracy < 1 else -np.inf
    predicted, actual = votes(on_target).mean(0), np.bincount(labels, minlength=classes) / len(labels)
    domain_accuracy, ratio = _domains(source, target)
    doc = accuracy - (source_confidence.mean() - target_confidence.mean())
    figures = LabelFree(
        source_accuracy=accuracy,
        source_loss=float(((fit.held_out - encode(labels, classes)) ** 2).mean()),
        confidence_source=float(source_confidence.mean()),
        confidence_target=float(target_confidence.mean()),
        doc_estimate=float(np.clip(doc, 0, 1)),
        atc_estimate=float((target_confidence >= threshold).mean()),
        score_spread=float(on_target.std() / max(fit.held_out.std(), 1e-12)),
        prior_shift=float(np.abs(predicted - actual).sum() / 2),
        domain_accuracy=domain_accuracy,
        proxy_a_distance=float(np.clip(2 * (2 * domain_accuracy - 1), 0, 2)),
        mean_distance=float(((source.mean(0) - target.mean(0)) ** 2).sum()),
        effective_share=float(ratio.sum() ** 2 / (ratio**2).sum() / len(ratio)),
    )
    return figures, ratio


def _domains(source: Array, target: Array) -> tuple[float, Array]:
    """Balanced held-out accuracy of the domain classifier, and the density ratio of the source rows."""
    n, m = len(source), len(target)
    rows, side = np.vstack([source, target]), np.concatenate([-np.ones(n), np.ones(m)])[:, None]
    balance = np.concatenate([np.full(n, (n + m) / (2 * n)), np.full(m, (n + m) / (2 * m))])
    scores = np.clip(fit_ridge(rows, side, balance).held_out[:, 0], -1 + 2 / 11, 1 - 2 / 11)
    shares = votes(scores[:, None])
    accuracy = (shares[:n, 0].mean() + shares[n:, 1].mean()) / 2
    ratio = np.clip((1 + scores[:n]) / (1 - scores[:n]), 1 / RATIO_LIMIT, RATIO_LIMIT)
    return float(accuracy), ratio / ratio.mean()
