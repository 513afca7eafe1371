"""N-gram language models over token numbers: counted as a stream, smoothed by Witten and Bell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class NgramModel:
    """An interpolated n-gram model with Witten-Bell smoothing.

    p(w | h) = (c(hw) + T(h) p(w | h')) / (c(h) + T(h)), where h' is h without its first token, T(h) the
    number of different tokens seen after h, and the uniform distribution stands below the unigrams. Unlike
    Kneser-Ney it has no discount to estimate, so that it works on a few hundred sentences; on large ones
    Kneser-Ney has a lower perplexity, which matters little for the difference of two models.

    Args:
        vocabulary: tokens are numbers from 0 to ``vocabulary`` - 1; the end of a sentence is one more.
        order: longest n-gram; ``(vocabulary + 2) ** order`` must stay below 2^63.

    Source: Witten & Bell (1991), The Zero-Frequency Problem; Chen & Goodman (1999), equation 16.

    Example:
        >>> model = NgramModel(3, order=2)
        >>> model.update(np.array([0, 1, 0, 1]), np.array([2, 2]))
        >>> seen, unseen = model.cross_entropy(np.array([0, 1, 2, 2]), np.array([2, 2]))
        >>> bool(seen < unseen)
        True
    """

    def __init__(self, vocabulary: int, order: int = 3) -> None:
        self.vocabulary, self.order = vocabulary, order
        self._base = vocabulary + 2  # the end of a sentence, and its beginning (as a history alone)
        if vocabulary < 1 or order < 1 or self._base**order >= 1 << 63:
            raise ValueError(f"vocabulary {vocabulary} with order {order}: n-grams do not fit into 64 bits")
        self._counts = [(np.zeros(0, np.int64), np.zeros(0, np.int64)) for _ in range(order)]
        self._tables: list[_Table] | None = None

    def update(self, tokens: Ints, lengths: Ints) -> None:
        """Count sentences.

        Args:
            tokens: all sentences one after the other.
            lengths: tokens of each sentence, [n].

        Cost: O(t log t) for t tokens and the n-grams known so far; 16 bytes for each different n-gram.
        """
        stream = self._stream(tokens, lengths)
        for size in range(1, self.order + 1):
            known, counts = self._counts[size - 1]
            keys, new = np.unique(self._keys(stream, size), return_counts=True)
            merged, place = np.unique(np.concatenate([known, keys]), return_inverse=True)
            sums = np.bincount(place, weights=np.concatenate([counts, new]), minlength=len(merged))
            self._counts[size - 1] = merged, sums.astype(np.int64)
        self._tables = None

    def cross_entropy(self, tokens: Ints, lengths: Ints) -> NDArray[np.float64]:
        """Cross-entropy of each sentence in nats per token, its end counted as one; [n].

        Args:
            tokens, lengths: as for :meth:`update`.
        """
        nats = -np.log(self.probabilities(tokens, lengths))
        ends = np.cumsum(np.asarray(lengths) + 1)
        sums = np.diff(np.concatenate([[0.0], np.cumsum(nats)[ends - 1]]))
        return sums / (np.asarray(lengths) + 1)

    def probabilities(self, tokens: Ints, lengths: Ints) -> NDArray[np.float64]:
        """Probability of each token, and of the end of each sentence after its tokens; [t + n]."""
        if self._tables is None:
            self._tables = [_Table(keys, counts, self._base) for keys, counts in self._counts]
        stream = self._stream(tokens, lengths)
        found = np.full(len(tokens) + len(lengths), 1.0 / (self.vocabulary + 1))
        for size, table in enumerate(self._tables, 1):
            found = table.interpolate(self._keys(stream, size), found)
        return found

    def _stream(self, tokens: Ints, lengths: Ints) -> tuple[Ints, Ints]:
        """Sentences with their beginnings and ends, and the places of what is predicted."""
        tokens, lengths = np.asarray(tokens, np.int64), np.asarray(lengths, np.int64)
        pad = self.order - 1
        n = len(lengths)
        stream = np.full(len(tokens) + n * (pad + 1), self.vocabulary + 1, np.int64)
        sentence = np.repeat(np.arange(n), lengths)
        stream[np.arange(len(tokens)) + sentence * (pad + 1) + pad] = tokens
        stream[np.cumsum(lengths) + np.arange(n) * (pad + 1) + pad] = self.vocabulary
        return stream, np.flatnonzero(stream <= self.vocabulary)

    def _keys(self, stream: tuple[Ints, Ints], size: int) -> Ints:
        """The n-gram that ends at each place, as one number; its last token in the lowest digit."""
        tokens, places = stream
        keys = np.zeros(len(places), np.int64)
        for back in range(size - 1, -1, -1):
            keys = keys * self._base + tokens[places - back]
        return keys


class _Table:
    """Counts of one order, ready to be looked up."""

    def __init__(self, keys: Ints, counts: Ints, base: int) -> None:
        self.keys, self.counts, self.base = keys, counts, base
        histories = keys // base
        starts = np.flatnonzero(np.diff(histories, prepend=-1))
        self.histories = histories[starts]
        self.totals = np.add.reduceat(counts, starts) if len(starts) else counts
        self.types = np.diff(np.append(starts, len(keys)))

    def interpolate(self, keys: Ints, lower: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of n-grams, given those of their shorter endings."""
        count = _look_up(keys, self.keys, self.counts)
        histories = keys // self.base
        total = _look_up(histories, self.histories, self.totals)
        types = _look_up(histories, self.histories, self.types)
        seen = total > 0
        return np.where(seen, (count + types * lower) / np.where(seen, total + types, 1), lower)


def _look_up(wanted: Ints, keys: Ints, values: Ints) -> Ints:
    """Values at sorted ``keys``; zero where one is not there."""
    if not len(keys):
        return np.zeros(len(wanted), np.int64)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
