"""Terms of the training loss that draw source and target together, as modules with their own weights.

Imports torch: ``discrepancy.py`` and ``adversarial.py`` hold the options and import this when training
starts.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from nlp_transfer.numeric.kernels import kernel_matrix
from nlp_transfer.numeric.mmd import batch_bandwidths, mmd2

Layer = int | None
"""A hidden layer (0 = embeddings, -1 = the last), pooled; None: the input of the head."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One batch as the penalties see it: paired rows are source, target, source, target, ...

    Attributes:
        logits: [n, classes].
        layers: pooled vectors [n, d] of every layer that a penalty asked for.
        progress: share of the training that is done, from 0 to 1, a scalar.
        teacher: columns that a teacher wrote: ``teacher_logits`` [n, classes], ``teacher_features`` [n, k].
    """

    logits: Tensor
    layers: Mapping[Layer, Tensor]
    progress: Tensor
    teacher: Mapping[str, Tensor] = field(default_factory=dict)


def halves(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The source rows and the target rows of a paired batch."""
    return rows[0::2], rows[1::2]


def full(values: Tensor) -> Tensor:
    """In float32 at least."""
    return values if values.dtype == torch.float64 else values.float()


class Penalty(nn.Module, ABC):
    """A term of the loss.

    Attributes:
        layers: what ``forward`` needs in ``Rows.layers``.
        adversarial: its loss is a discriminator's, so its size says nothing about the task's share.
        rate: factor on the learning rate of this module's own weights.
    """

    layers: tuple[Layer, ...] = (None,)
    adversarial = False
    rate = 1.0

    @abstractmethod
    def forward(self, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted term of the loss (a scalar), and figures to log, detached."""


def ramp(progress: Tensor) -> Tensor:
    """2 / (1 + exp(-10 p)) - 1: from 0 to 1 (Ganin et al. 2016, section 5.2.2)."""
    return 2.0 / (1.0 + torch.exp(-10.0 * progress)) - 1.0


def coral_distance(source: Tensor, target: Tensor) -> Tensor:
    """Squared distance of the covariances, ||C_s - C_t||_F^2 / (4 d^2) (Sun & Saenko 2016, equation 1).

    Args:
        source: rows [n, d]; half precision is raised to float32.
        target: rows [m, d].

    A side of one row has no covariance: it counts as zero. Cost: O((n + m) d^2).
    """
    with torch.autocast(source.device.type, enabled=False):
        difference = _covariance(source) - _covariance(target)
        return difference.square().sum() / (4.0 * source.shape[1] ** 2)


def _covariance(rows: Tensor) -> Tensor:
    centred = full(rows) - full(rows).mean(0)
    return centred.T @ centred / max(len(rows) - 1, 1)


class Alignment(Penalty):
    """A distance between source and target, on one layer or several.

    Args:
        weight: factor on the distance.
        schedule: constant, or ramp (from 0 to ``weight``).
        layers: see ``Layer``; distances of several are summed.
    """

    def __init__(
        self, weight: float, schedule: Literal["constant", "ramp"], layers: Sequence[Layer] = (None,)
    ) -> None:
        super().__init__()
        self.weight, self.schedule, self.layers = weight, schedule, tuple(layers)

    @abstractmethod
    def distance(self, rows: Rows) -> Tensor:
        """The unweighted distance, a scalar."""

    def forward(self, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """``weight * schedule * distance``; logs the distance."""
        value = self.distance(rows)
        factor = self.weight * (ramp(rows.progress) if self.schedule == "ramp" else 1.0)
        return factor * value, {"distance": value.detach()}


class Mmd(Alignment):
    """Maximum mean discrepancy by the function of the shift report, ``numeric.mmd.mmd2``.

    Summed over layers as in DAN (Long et al. 2015), or, ``joint``, of the product of the layers' kernels and
    of one on the class probabilities, which sees their joint distribution (JAN, Long et al. 2017, eq. 9).
    """

    def __init__(
        self,
        weight: float,
        schedule: Literal["constant", "ramp"],
        layers: Sequence[Layer] = (None,),
        *,
        kernel: str = "rbf",
        bandwidths: Sequence[float] | None = None,
        joint: bool = False,
    ) -> None:
        super().__init__(weight, schedule, layers)
        self.kernel, self.bandwidths, self.joint = kernel, bandwidths, joint

    def distance(self, rows: Rows) -> Tensor:
        """MMD^2, unbiased: around zero, sometimes below, where the domains are alike."""
        parts = [rows.layers[layer] for layer in self.layers]
        if self.joint:
            return joint_mmd2([*parts, full(rows.logits).softmax(-1)], self.kernel, self.bandwidths)
        total = rows.logits.new_zeros((), dtype=torch.float32)
        for part in parts:
            total = total + mmd2(*halves(part), kernel=self.kernel, bandwidths=self.bandwidths)
        return total


def joint_mmd2(
    parts: Sequence[Tensor], kernel: str = "rbf", bandwidths: Sequence[float] | None = None
) -> Tensor:
    """MMD^2 with the product of one kernel a part; rows are paired (see ``Rows``).

    Bandwidths left out are set for each part by the median distance of its rows, as ``mmd2`` does it.
    """
    sizes = [part.shape[1] for part in parts]
    with torch.autocast(parts[0].device.type, enabled=False):
        parts = [full(part) for part in parts]
        widths = [
            list(bandwidths) if bandwidths else batch_bandwidths(*halves(part), kernel) for part in parts
        ]

        def product(a: Tensor, b: Tensor) -> Tensor:
            pieces = zip(a.split(sizes, 1), b.split(sizes, 1), widths, strict=True)
            return math.prod((kernel_matrix(x, y, kernel, w) for x, y, w in pieces), start=a.new_ones(()))

        return mmd2(*halves(torch.cat(parts, 1)), kernel=product)


class Coral(Alignment):
    """Deep CORAL: the distance of the covariances (Sun & Saenko 2016).

    Args:
        standardize: divide by the standard deviation within the two domains, one number. The same weight then
            fits encoders of every scale. The gradient goes through it: were it a constant, shrinking the
            vectors would always pay, and they would shrink until the head sees nothing.
    """

    def __init__(
        self,
        weight: float,
        schedule: Literal["constant", "ramp"],
        layers: Sequence[Layer] = (None,),
        *,
        standardize: bool = True,
    ) -> None:
        super().__init__(weight, schedule, layers)
        self.standardize = standardize

    def distance(self, rows: Rows) -> Tensor:
        """The sum over the layers."""
        total = rows.logits.new_zeros((), dtype=torch.float32)
        for layer in self.layers:
            source, target = halves(full(rows.layers[layer]))
            if self.standardize:
                within = torch.cat([source - source.mean(0), target - target.mean(0)])
                spread = within.square().mean().clamp_min(1e-12).sqrt()
                source, target = source / spread, target / spread
            total = total + coral_distance(source, target)
        return total


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return -factor.to(gradients[0].dtype) * gradients[0], None


def reverse_gradient(values: Tensor, factor: Tensor | float) -> Tensor:
    """``values`` themselves, whose gradient is multiplied by ``-factor`` (Ganin et al. 2016, section 4.2)."""
    factor = factor if isinstance(factor, Tensor) else torch.tensor(factor, device=values.device)
    return _Reverse.apply(values, factor)


class Dann(Penalty):
    """A discriminator of the domains, whose reversed gradient teaches the encoder to confuse it.

    The loss that is added is the discriminator's own cross-entropy; ``weight`` scales only what goes back
    into the encoder.

    Args:
        size: columns of the features.
        weight: the largest factor of the reversed gradient (lambda).
        schedule: constant, or ramp.
        hidden: units of the discriminator's two hidden layers.
        rate: factor on the learning rate of the discriminator.
    """

    adversarial = True

    def __init__(
        self, size: int, weight: float, schedule: Literal["constant", "ramp"], hidden: int, rate: float
    ) -> None:
        super().__init__()
        self.weight, self.schedule, self.rate = weight, schedule, rate
        self.discriminator = nn.Sequential(
            nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )

    def forward(self, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the discriminator; logs its accuracy."""
        factor = self.factor(rows)
        scores = self.scores(reverse_gradient(self.inputs(rows), factor))
        truth = torch.arange(len(scores), device=scores.device) % 2 == 1
        losses = functional.binary_cross_entropy_with_logits(scores, truth.to(scores.dtype), reduction="none")
        weights = self.row_weights(rows, factor)
        value = losses.mean() if weights is None else (weights * losses).sum() / weights.detach().sum()
        accuracy = ((scores > 0) == truth).float().mean()
        return value, {"accuracy": accuracy}

    def factor(self, rows: Rows) -> Tensor:
        """The factor of the reversed gradient, a scalar."""
        return self.weight * (
            ramp(rows.progress) if self.schedule == "ramp" else torch.ones_like(rows.progress)
        )

    def scores(self, inputs: Tensor) -> Tensor:
        """Log-odds of the target, [n], in float32."""
        dtype = next(self.discriminator.parameters()).dtype
        return full(self.discriminator(inputs.to(dtype)).squeeze(1))

    def inputs(self, rows: Rows) -> Tensor:
        """What the discriminator sees, [n, size]."""
        return rows.layers[None]

    def row_weights(self, rows: Rows, factor: Tensor) -> Tensor | None:
        """Weights [n] of the rows in the discriminator's loss, or None."""
        return None


class Cdan(Dann):
    """A discriminator that sees features and predicted classes together (Long et al. 2018).

    Its input is the outer product of features and class probabilities (equation 6); where that has more
    than ``MAX_PRODUCT`` columns, a random multilinear map of as many (equation 7). As in the authors' code
    the probabilities are constants there. With ``entropy``, rows of which the classifier is sure count up
    to twice (CDAN+E, 1 + exp(-H), each domain scaled to an equal share).

    Args:
        size: columns of the features.
        classes: columns of the logits.
        weight, schedule, hidden, rate: see ``Dann``.
        entropy: weigh rows by how sure the classifier is.
    """

    MAX_PRODUCT = 4096
    map_features: Tensor
    map_classes: Tensor

    def __init__(
        self,
        size: int,
        classes: int,
        weight: float,
        schedule: Literal["constant", "ramp"],
        hidden: int,
        rate: float,
        *,
        entropy: bool = True,
    ) -> None:
        width = min(size * classes, self.MAX_PRODUCT)
        super().__init__(width, weight, schedule, hidden, rate)
        self.entropy = entropy
        self.projected = size * classes > self.MAX_PRODUCT
        if self.projected:
            self.register_buffer("map_features", torch.randn(size, width))
            self.register_buffer("map_classes", torch.randn(classes, width))

    def inputs(self, rows: Rows) -> Tensor:
        """The multilinear map [n, size]."""
        features, classes = full(rows.layers[None]), full(rows.logits.detach()).softmax(-1)
        if self.projected:
            product = (features @ self.map_features.to(features.dtype)) * (
                classes @ self.map_classes.to(features.dtype)
            )
            return product / math.sqrt(product.shape[1])
        return (classes[:, :, None] * features[:, None, :]).flatten(1)

    def row_weights(self, rows: Rows, factor: Tensor) -> Tensor | None:
        """1 + exp(-entropy), each domain scaled to a sum of one; its gradient is reversed too."""
        if not self.entropy:
            return None
        logs = full(rows.logits).log_softmax(-1)
        entropy = reverse_gradient(-(logs.exp() * logs).sum(-1), factor)
        weights = 1.0 + torch.exp(-entropy)
        totals = torch.stack([half.detach().sum() for half in halves(weights)])
        return weights / totals.repeat(len(weights) // 2)
