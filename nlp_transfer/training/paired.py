"""Source and target rows side by side: one dataset, one collator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import Dataset as TorchDataset
from transformers import TrainerCallback

from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.numeric.weights import draw_by_weight

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor


class PairedRows(TorchDataset):
    """Pairs of an encoded source row and an encoded target row.

    An epoch shows every row of the longer side once. The shorter side is gone through as often as that takes,
    each time in another order, so its rows come up equally often, give or take one. Who meets whom is a
    function of seed and epoch alone. Batches are drawn at random, never grouped by length: a penalty compares
    the domains, not short texts with long ones.

    Args:
        source: encoded rows with labels; a column ``draw`` says how often each comes, 1 being the mean.
        target: encoded rows; without ``labels`` theirs do not count.
        seed: of the pairing.
    """

    def __init__(self, source: Dataset, target: Dataset, seed: int) -> None:
        self.source, self.target, self.seed = source, target, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the pairs of an epoch."""
        rng = np.random.default_rng([self.seed, epoch])
        count = len(self)
        self._source, self._target = (_cycle(side, count, rng) for side in (self.source, self.target))

    def __len__(self) -> int:
        return max(len(self.source), len(self.target))

    def __getitem__(self, index: int) -> tuple[dict, dict]:
        return self.source[int(self._source[index])], self.target[int(self._target[index])]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[dict, dict]]:
        """Several pairs at once, as torch's loader asks for them."""
        sides: Any = (
            side.__getitems__(order[list(indices)].tolist())
            for side, order in ((self.source, self._source), (self.target, self._target))
        )
        return list(zip(*sides, strict=True))


def _cycle(side: Dataset, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` row numbers: one shuffled round after another."""
    weights = np.asarray(side["draw"]) if "draw" in side.column_names else None
    rounds = []
    for _ in range(-(-count // len(side))):
        drawn = len(side) if weights is None else draw_by_weight(weights, rng)
        rounds.append(rng.permutation(drawn))
    return np.concatenate(rounds)[:count]


class PairedCollator:
    """Lay pairs out as source, target, source, target, ... and pad them together.

    Args:
        collate: the task's collator.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]]) -> None:
        self.collate = collate

    def __call__(self, pairs: Sequence[tuple[dict, dict] | dict]) -> dict[str, Tensor]:
        """A batch of twice as many rows; single rows, as in an evaluation, stay single.

        Rows without a label get one that does not count.
        """
        rows = [row for pair in pairs for row in (pair if isinstance(pair, tuple) else (pair,))]
        defaults: dict[str, Any] = {"labels": IGNORED_LABEL}
        if any("weight" in row for row in rows):
            defaults["weight"] = 1.0
        return self.collate(
            [{**defaults, **{key: value for key, value in row.items() if key != "draw"}} for row in rows]
        )


class EpochSeed(TrainerCallback):
    """Tell a dataset which epoch begins, so that what it draws depends on seed and epoch alone."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs):
        """Set the epoch."""
        self.dataset.set_epoch(int((state.epoch or 0.0) + 1e-6))
