"""Distillation against naive loops, and the choice of pseudo-labels."""

import math

import numpy as np
import pytest
import torch

from nlp_transfer.adaptation.penalties import Rows
from nlp_transfer.adaptation.self_training import SelfTraining, SelfTrainingOptions
from nlp_transfer.adaptation.teaching import (
    LogitDistillation,
    RelationalDistillation,
    angles,
    scaled_distances,
)


def huber(a, b):
    difference = abs(a - b)
    return 0.5 * difference**2 if difference < 1 else difference - 0.5


def drawn(rows, size, seed):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def test_logit_distillation_is_scaled_divergence():
    student, teacher = drawn(5, 3, 0), drawn(5, 3, 1)
    rows = Rows(student, {}, torch.zeros(()), {"teacher_logits": teacher})
    value, _ = LogitDistillation(0.5, 4.0)(rows)
    p, q = ((values / 4).softmax(1).numpy() for values in (teacher, student))
    assert value.item() == pytest.approx(0.5 * 16 * (p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    same = Rows(teacher, {}, torch.zeros(()), {"teacher_logits": teacher})
    assert LogitDistillation(0.5, 4.0)(same)[0].item() == pytest.approx(0, abs=1e-7)


def test_relational_loss_by_loops():
    """Park et al. 2019: distances over their mean, angles of triplets, Huber losses."""
    student, teacher = drawn(5, 3, 0), drawn(5, 7, 1)

    def relations(rows):
        points = rows.double().numpy()
        n = range(len(points))
        lengths = np.array([[np.linalg.norm(points[i] - points[j]) for j in n] for i in n])
        cosines = np.zeros((len(points),) * 3)
        for i in n:
            for j in n:
                for k in n:
                    if lengths[i, j] and lengths[i, k]:
                        a, b = points[i] - points[j], points[i] - points[k]
                        cosines[i, j, k] = a @ b / (lengths[i, j] * lengths[i, k])
        return lengths / lengths[lengths > 0].mean(), cosines

    (d, a), (dt, at) = relations(student), relations(teacher)
    distance = np.mean([huber(x, y) for x, y in zip(d.ravel(), dt.ravel(), strict=True)])
    angle = np.mean([huber(x, y) for x, y in zip(a.ravel(), at.ravel(), strict=True)])
    rows = Rows(torch.zeros(5, 2), {None: student}, torch.zeros(()), {"teacher_features": teacher})
    value, figures = RelationalDistillation(2.0, 3.0)(rows)
    assert figures["distance"].item() == pytest.approx(distance, rel=1e-4)
    assert figures["angle"].item() == pytest.approx(angle, rel=1e-4)
    assert value.item() == pytest.approx(2 * distance + 3 * angle, rel=1e-4)


def test_relations_do_not_change_under_rotation_scale_and_shift():
    rows = drawn(6, 4, 2)
    turn, _ = torch.linalg.qr(drawn(4, 4, 3))
    moved = 7 * rows @ turn + 2
    torch.testing.assert_close(scaled_distances(moved), scaled_distances(rows), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(angles(moved), angles(rows), rtol=1e-3, atol=1e-4)


def test_equal_rows_and_few_rows_have_finite_gradients():
    for student in (drawn(3, 4, 0).repeat(2, 1), torch.ones(4, 4), drawn(1, 4, 0), drawn(2, 4, 0)):
        student = student.clone().requires_grad_(True)
        teacher = {"teacher_features": drawn(len(student), 5, 1)}
        value, _ = RelationalDistillation(25.0, 50.0)(
            Rows(student, {None: student}, torch.zeros(()), teacher)
        )
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(student.grad).all()
        assert student.grad.abs().max() < 1e4


def choose(probabilities, **options):
    return SelfTraining(SelfTrainingOptions(**options)).choose(np.array(probabilities))


def test_confident_rows_are_chosen_class_by_class():
    shares = [[0.95, 0.05], [0.92, 0.08], [0.99, 0.01], [0.4, 0.6], [0.05, 0.95], [0.2, 0.8]]
    rows, labels = choose(shares)
    assert rows.tolist() == [2, 4], "one of each class: the surest"
    assert labels.tolist() == [0, 1]
    rows, labels = choose(shares, balanced=False)
    assert rows.tolist() == [0, 1, 2, 4]
    assert choose(shares, threshold=0.995)[0].tolist() == []
    rows, labels = choose([[0.99, 0.01], [0.97, 0.03], [0.5, 0.5]])
    assert (rows.tolist(), labels.tolist()) == ([0, 1], [0, 0]), "a class that nothing is sure of is left out"


def test_threshold_is_inclusive():
    assert choose([[0.9, 0.1]], threshold=0.9)[0].tolist() == [0]
    assert choose([[math.nextafter(0.9, 0), 0.1]], threshold=0.9)[0].tolist() == []
