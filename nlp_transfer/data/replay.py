"""Source rows mixed in beside target rows, others in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray


def epoch_draws(source: int, each: int, epochs: int, seed: int) -> NDArray[np.int64]:
    """Numbers of the source rows that each epoch shows, [epochs, each], without repeats within an epoch.

    The source is gone through in a random order, and in another one when fewer than ``each`` rows are left.
    An epoch's rows depend on nothing but its number, the seed, ``source`` and ``each``.

    Args:
        source: rows there are.
        each: rows of one epoch, at most ``source``.
        epochs: how many are drawn.
        seed: of the draws.
    """
    rounds = source // each
    cycles = range(-(-epochs // rounds))
    orders = (np.random.default_rng([seed, cycle]).permutation(source) for cycle in cycles)
    return np.concatenate([order[: rounds * each].reshape(rounds, each) for order in orders])[:epochs]


class ReplayedRows:
    """Rows of which some come in every epoch and others, at its beginning, take turns.

    The same few source rows in every epoch would be learned by heart instead of keeping the source. Within
    every epoch the drawn rows stand in the order of their lengths, so a place holds rows of about one length,
    and batches that were cut by length fit all epochs.

    Args:
        rows: encoded, with ``length``: a pool of source rows, then the rows that every epoch shows.
        drawn: numbers of the pool's rows, for each epoch [epochs, each]; after the last the first follows.
        pool: rows of the pool.
    """

    def __init__(self, rows: Dataset, drawn: NDArray[np.int64], pool: int) -> None:
        self.rows, self.pool = rows, pool
        lengths = np.asarray(rows["length"][:])
        order = np.argsort(lengths[drawn], axis=1, kind="stable")
        self._drawn = np.take_along_axis(drawn, order, axis=1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Show the rows of an epoch."""
        always = np.arange(self.pool, len(self.rows))
        self._index = np.concatenate([self._drawn[epoch % len(self._drawn)], always])

    def largest(self, values: NDArray) -> NDArray:
        """Of figures of ``rows`` [n]: the largest that each place holds in any epoch [len(self)]."""
        return np.concatenate([values[self._drawn].max(0), values[self.pool :]])

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int | Sequence[int]) -> dict[str, Any]:
        return self.rows[self._index[index].tolist()]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once, as torch's loader asks for them."""
        return self.rows.__getitems__(self._index[list(indices)].tolist())
