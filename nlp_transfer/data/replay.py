"""Source rows mixed in beside target rows, others in every epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray


class ReplayedRows:
    """All target rows and, in every epoch, ``each`` other rows of a pool of source rows.

    The same few source rows in every epoch would be learned by heart instead of keeping the source. A pool
    too small for that is gone through again, in another order. Within every epoch the drawn rows stand in the
    order of their lengths, so a place holds rows of about one length, and batches that were cut by length fit
    all epochs. Who is drawn is a function of seed and epoch alone.

    Args:
        rows: encoded, with ``length``: the pool first, then the rows that every epoch shows.
        pool: rows of the pool, at least 1.
        each: rows of the pool in one epoch.
        seed: of the draws.
    """

    def __init__(self, rows: Dataset, pool: int, each: int, seed: int) -> None:
        self.rows = rows
        rng, rounds = np.random.default_rng([seed, 0x7265706C]), -(-pool // each)
        drawn = np.concatenate([rng.permutation(pool) for _ in range(-(-rounds * each // pool))])
        drawn = drawn[: rounds * each].reshape(rounds, each)
        lengths = np.asarray(rows["length"][:])
        drawn = np.take_along_axis(drawn, np.argsort(lengths[drawn], axis=1, kind="stable"), axis=1)
        always = np.tile(np.arange(pool, len(rows)), (rounds, 1))
        self._places = np.concatenate([drawn, always], axis=1)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Draw the rows of an epoch."""
        self._index = self._places[epoch % len(self._places)]

    def largest(self, values: NDArray) -> NDArray:
        """Of figures of ``rows`` [n]: the largest that each place holds in any epoch [len(self)]."""
        return values[self._places].max(0)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, index: int | Sequence[int]) -> dict[str, Any]:
        return self.rows[self._index[index].tolist()]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Several rows at once, as torch's loader asks for them."""
        return self.rows.__getitems__(self._index[list(indices)].tolist())
