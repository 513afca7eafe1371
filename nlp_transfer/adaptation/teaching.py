"""Terms of the loss that hold a student to a teacher's outputs; imports torch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nlp_transfer.adaptation.penalties import Penalty, Rows

MOST_ANGLE_ROWS = 64


class LogitDistillation(Penalty):
    """Kullback-Leibler divergence from the teacher's softened probabilities to the student's, times T^2."""

    layers = ()

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def forward(self, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the rows (Hinton et al. 2015, section 2)."""
        student = (rows.logits.float() / self.temperature).log_softmax(-1)
        teacher = (rows.teacher["teacher_logits"].float() / self.temperature).log_softmax(-1)
        divergence = functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
        value = divergence * self.temperature**2
        return self.weight * value, {}


class RelationalDistillation(Penalty):
    """Huber losses on scaled distances between pairs and on angles in triplets."""

    def __init__(self, distance_weight: float, angle_weight: float) -> None:
        super().__init__()
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum; logs both parts."""
        student, teacher = rows.layers[None].float(), rows.teacher["teacher_features"].float()
        distance = functional.smooth_l1_loss(scaled_distances(student), scaled_distances(teacher))
        step = -(-len(student) // MOST_ANGLE_ROWS)
        angle = functional.smooth_l1_loss(angles(student[::step]), angles(teacher[::step]))
        value = self.distance_weight * distance + self.angle_weight * angle
        return value, {"distance": distance.detach(), "angle": angle.detach()}


def _differences(rows: Tensor) -> tuple[Tensor, Tensor]:
    """x_i - x_j [n, n, d] and their lengths [n, n]: 0, and without a gradient, for (nearly) equal rows."""
    difference = rows[:, None] - rows[None]
    square = difference.square().sum(-1)
    apart = square.detach() > 1e-8 * square.detach().mean()
    length = torch.where(apart, torch.where(apart, square, torch.ones_like(square)).sqrt(), 0.0)
    return difference, length


def scaled_distances(rows: Tensor) -> Tensor:
    """Distances [n, n], divided by the mean of those above zero (Park et al. 2019, equation 6)."""
    _, length = _differences(rows)
    mean = length.sum() / (length > 0).sum().clamp_min(1)
    return length / torch.where(mean > 0, mean, torch.ones_like(mean))


def angles(rows: Tensor) -> Tensor:
    """Cosines [n, n, n] of the angle that rows j and k span at row i (Park et al. 2019, equation 7)."""
    difference, length = _differences(rows)
    apart = (length > 0)[..., None]
    unit = torch.where(apart, difference / torch.where(length > 0, length, 1.0)[..., None], 0.0)
    return unit @ unit.transpose(1, 2)
