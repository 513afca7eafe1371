"""What the tests compare with: naive loops and made-up data."""

from __future__ import annotations

import numpy as np


def naive_calibration_error(probabilities, labels, bins=15):
    """Guo et al. (2017), equation 3, one bin and one row at a time."""
    total = 0.0
    for low, high in zip(np.linspace(0, 1, bins + 1)[:-1], np.linspace(0, 1, bins + 1)[1:], strict=True):
        confidence, correct = [], []
        for row, label in zip(probabilities, labels, strict=True):
            if low < max(row) <= high:
                confidence.append(max(row))
                correct.append(float(np.argmax(row) == label))
        if confidence:
            total += len(confidence) / len(labels) * abs(np.mean(correct) - np.mean(confidence))
    return total


def random_scores(n, classes, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(classes), n)
    labels = np.where(rng.random(n) < 0.6, scores.argmax(axis=1), rng.integers(0, classes, n))
    return scores, labels
