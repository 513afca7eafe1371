"""The rule behind the verdict: figures of rows against scikit-learn, false alarms under a null, power."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from nlp_transfer.numeric.paired import look_confidence, paired_gain
from nlp_transfer.tasks import SentimentOptions, SentimentTask
from nlp_transfer.training.guard import _outcome
from nlp_transfer.training.row_figures import class_figures

TASK = SentimentTask(SentimentOptions(), names=("negative", "positive"))


def draw(rng, count, models, *, blur=1.0):
    """Logits [models, n, 2] of equally good models, and labels; ``blur`` flattens those of the first.

    The log-odds are those of the true probabilities: 2 * 1.2 * own / (1.5^2 + 1).
    """
    truth = rng.integers(0, 2, count)
    signal = 1.2 * (2 * truth - 1) + rng.normal(0, 1.5, count)
    own = signal + rng.normal(0, 1.0, (models, count))
    own[0] *= blur
    odds = 2 * 1.2 / (1.5**2 + 1) * own
    return np.stack([-odds, odds], axis=-1) / 2, truth


def judge(logits, truth, confidence=0.95):
    ours, theirs = (class_figures(TASK, one, truth) for one in logits)
    gain, *finer = (paired_gain(a, b, confidence=confidence) for a, b in zip(ours, theirs, strict=True))
    return gain, _outcome(gain, finer, like=True)


def test_row_figures_add_up_to_accuracy_and_the_brier_score():
    (logits, *_), truth = draw(np.random.default_rng(0), 80, 1)
    right, brier = class_figures(TASK, logits, truth)
    odds = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert right.mean() == ((odds > 0.5) == truth).mean()
    assert -brier.mean() == pytest.approx(brier_score_loss(truth, odds))
    ratings = class_figures(SentimentTask(SentimentOptions(loss="mse")), np.array([[2.0], [3.0]]), [1, 3])
    assert ratings.tolist() == [[-1.0, -0.0]]


def test_harmless_sources_are_accused_in_one_run_of_twenty_at_most():
    rng = np.random.default_rng(1)
    called = [judge(*draw(rng, 100, 2))[1] for _ in range(160)]
    assert called.count("hurt") / 160 <= 0.05
    assert called.count("helped") / 160 <= 0.05


def test_repeated_looks_and_the_verdict_together_keep_that_bound():
    """Four checkpoints as good as the baseline, each looked at; the one that looks best is judged last."""
    rng, false = np.random.default_rng(2), 0
    for _ in range(80):
        logits, truth = draw(rng, 100, 5)
        figures = [class_figures(TASK, one, truth) for one in logits]
        looks = [
            paired_gain(figures[k][0], figures[0][0], confidence=look_confidence(k)) for k in range(1, 5)
        ]
        best = 1 + int(np.argmax([look.value for look in looks]))
        _, verdict = judge(logits[[best, 0]], truth, confidence=0.975)
        false += verdict == "hurt" or any(look.high < 0 for look in looks)
    assert false / 80 <= 0.05


def test_flattened_probabilities_are_found_where_few_classes_change():
    """Half of a model's certainty is lost, and a little of its accuracy: accuracy alone does not show it."""
    rng, found, by_accuracy = np.random.default_rng(3), 0, 0
    for _ in range(30):
        logits, truth = draw(rng, 300, 2, blur=0.15)
        wrong = rng.random(300) < 0.02
        logits[0][wrong] *= -1
        gain, verdict = judge(logits, truth)
        found += verdict == "hurt"
        by_accuracy += gain.high < 0
    assert found >= 2 * max(by_accuracy, 1)
