"""The loss against torch and naive loops, and its sums over micro-batches."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from torch.nn import functional

from nlp_transfer.tasks import SentimentOptions, SentimentTask


def task(weights=None, smoothing=0.0, loss="cross_entropy"):
    options = SentimentOptions(label_smoothing=smoothing, loss=loss)
    return SentimentTask(options, names=("a", "b", "c"), class_weights=weights)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 3, generator=generator, requires_grad=True)
    return logits, torch.randint(0, 3, (12,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(batch, smoothing):
    logits, labels = batch
    wanted = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(task(smoothing=smoothing).loss(logits, labels), wanted)


def test_weights_against_a_naive_loop(batch):
    logits, labels = batch
    class_weights, row_weights = (0.5, 1.0, 2.0), torch.linspace(0.1, 2, 12)
    total = 0.0
    for scores, label, weight in zip(logits.tolist(), labels.tolist(), row_weights.tolist(), strict=True):
        log_sum = math.log(sum(math.exp(score) for score in scores))
        losses = [log_sum - score for score in scores]
        smooth = sum(w * value for w, value in zip(class_weights, losses, strict=True)) / 3
        total += weight * (0.8 * class_weights[label] * losses[label] + 0.2 * smooth)
    found = task(class_weights, smoothing=0.2).loss(logits, labels, row_weights)
    assert found.item() == pytest.approx(total / 12, rel=1e-5)


@pytest.mark.parametrize("weights", ["balanced", [3.0, 1.0, 0.5], {"b": 1, "a": 7, "c": 2}])
def test_class_weights_over_the_training_data_are_torchs_weighted_mean(weights):
    """Dividing by the number of rows is dividing by the sum of the weights, since their mean is one."""
    labels = torch.tensor([0] * 5 + [1] * 20 + [2] * 10)
    logits = torch.randn(35, 3, generator=torch.Generator().manual_seed(1))
    rows = Dataset.from_dict({"text": ["x"] * 35, "label": ["abc"[label] for label in labels]})
    bound = SentimentTask(SentimentOptions(class_weights=weights)).bind({"target.train": rows})
    plain = {"balanced": [1 / 5, 1 / 20, 1 / 10]}.get(weights) if isinstance(weights, str) else None
    plain = plain or ([7.0, 1.0, 2.0] if isinstance(weights, dict) else weights)
    wanted = functional.cross_entropy(logits, labels, weight=torch.tensor(plain))
    torch.testing.assert_close(bound.loss(logits, labels), wanted)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_micro_batches_add_up(batch, loss, as_tensor):
    """Gradients of uneven micro-batches sum to the gradient of the whole window, whatever falls where."""
    logits, labels = batch
    if loss == "mse":
        logits, labels = logits[:, :1].detach().requires_grad_(), labels.float()
    learner = task((0.2, 1.0, 3.0) if loss == "cross_entropy" else None, loss=loss)
    weights = torch.linspace(0.5, 1.5, 12)
    whole = learner.loss(logits, labels, weights)
    (wanted,) = torch.autograd.grad(whole, logits)
    num_items = torch.tensor(12) if as_tensor else 12
    parts = [(0, 2), (2, 9), (9, 12)]
    sums = [learner.loss(logits[a:b], labels[a:b], weights[a:b], num_items) for a, b in parts]
    torch.testing.assert_close(sum(sums), whole)
    (found,) = torch.autograd.grad(sum(sums), logits)
    torch.testing.assert_close(found, wanted)


def test_repeated_count_of_data_parallel(batch):
    logits, labels = batch
    found = task().loss(logits, labels, num_items=torch.tensor([[12], [12]]))
    torch.testing.assert_close(found, functional.cross_entropy(logits, labels))


def test_left_out_rows(batch):
    logits, labels = batch
    labels[::2] = -100
    for smoothing in (0.0, 0.1):
        wanted = functional.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(task(smoothing=smoothing).loss(logits, labels), wanted)
    nothing = task().loss(logits, torch.full_like(labels, -100))
    assert nothing.item() == 0
    nothing.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("shape", [(6, 1), (6,)])
def test_mean_squared_error(shape):
    outputs, ratings = torch.arange(6.0).reshape(shape), torch.tensor([1.0, 1, 2, 5, 5, 4])
    assert task(loss="mse").loss(outputs, ratings).item() == pytest.approx((1 + 0 + 0 + 4 + 1 + 1) / 6)
    whole_numbers = task(loss="mse").loss(outputs, ratings.long())
    assert whole_numbers.item() == pytest.approx(7 / 6)


def test_half_precision_is_computed_in_float32(batch):
    logits, labels = batch
    half = logits.bfloat16()
    learner = task((0.5, 1.0, 2.0), smoothing=0.1)
    found = learner.loss(half, labels, torch.ones(12, dtype=torch.bfloat16))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, learner.loss(half.float(), labels))
