"""What two domains' words tell: unseen words, tokens per word, token frequencies and lengths."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from nlp_transfer.shift.statistics import Statistic

Array = np.ndarray
WORD = re.compile(r"\w+(?:['’]\w+)*")
SPLITS = 20
"""Random splits into halves behind the unseen words and their baseline."""
HALVINGS = 2
"""Of both domains, behind the divergence and behind each draw of its null."""


@dataclass(frozen=True, eq=False)
class Counts:
    """Words and tokens of texts.

    Attributes:
        words: counts of each word of a joint vocabulary in each text, sparse (n, V); words in lower case.
        tokens: counts of each token of the model, sparse (n, T).
    """

    words: sparse.csr_matrix
    tokens: sparse.csr_matrix

    @property
    def lengths(self) -> Array:
        """Words of each text (n,)."""
        return np.asarray(self.words.sum(1)).ravel()

    @property
    def token_lengths(self) -> Array:
        """Tokens of each text (n,)."""
        return np.asarray(self.tokens.sum(1)).ravel()


def count(sides: Sequence[Sequence[str]], tokenize: Callable[[list[str]], list[list[int]]]) -> list[Counts]:
    """Count words and tokens of several sets of texts over one vocabulary.

    Args:
        sides: texts of each domain.
        tokenize: texts to token numbers, without special tokens and without a limit on length.
    """
    vocabulary: dict[str, int] = {}
    words = [
        [
            [vocabulary.setdefault(word, len(vocabulary)) for word in WORD.findall(text.lower())]
            for text in side
        ]
        for side in sides
    ]
    tokens = [tokenize(list(side)) for side in sides]
    width = 1 + max((number for side in tokens for row in side for number in row), default=0)
    return [
        Counts(_matrix(side, max(len(vocabulary), 1)), _matrix(numbers, width))
        for side, numbers in zip(words, tokens, strict=True)
    ]


def vocabulary_statistics(
    source: Counts, target: Counts, *, permutations: int = 200, seed: int = 0
) -> list[Statistic]:
    """Unseen words, Jensen-Shannon divergence of tokens, tokens per word and length.

    Cost: O(permutations (tokens + vocabulary)) for the divergence: some seconds for thousands of reviews.
    """
    out = []
    if min(source.words.shape[0], target.words.shape[0]) >= 4:
        out += [
            _unseen(source, target, seed),
            token_divergence(source, target, permutations=permutations, seed=seed),
        ]
    return [*out, _tokens_per_word(source, target, permutations, seed), _length(source, target, seed)]


def _unseen(source: Counts, target: Counts, seed: int) -> Statistic:
    """Share of target words that the source lacks; half of the target against as much text of either."""
    rng = np.random.default_rng(seed)
    value, baseline = [], []
    half = target.words.shape[0] // 2
    for _ in range(SPLITS):
        order = rng.permutation(target.words.shape[0])
        judged, other = target.words[order[:half]], target.words[order[half:]]
        budget = min(other.sum(), source.words.sum())
        value.append(_unseen_rate(judged, _prefix(source.words, rng, budget)))
        baseline.append(_unseen_rate(judged, _prefix(other, rng, budget)))
    mean, own = float(np.mean(value)), float(np.mean(baseline))
    return Statistic(
        "unseen_word_rate",
        "unseen-word rate",
        mean,
        _range(value),
        "value",
        None,
        f"{100 * mean:.1f} % of the target's words never occur in the source; {100 * own:.1f} % never occur "
        f"in as "
        "much other text of the target itself. The difference is the shift.",
        "vocabulary",
        {"within_target": own},
    )


def _unseen_rate(judged: sparse.csr_matrix, reference: sparse.csr_matrix) -> float:
    seen = np.asarray(reference.sum(0)).ravel() > 0
    counts = np.asarray(judged.sum(0)).ravel()
    return float(counts[~seen].sum() / max(counts.sum(), 1))


def _prefix(words: sparse.csr_matrix, rng: np.random.Generator, budget: float) -> sparse.csr_matrix:
    """Random texts until ``budget`` words are reached; at least one."""
    order = rng.permutation(words.shape[0])
    total = np.cumsum(np.asarray(words.sum(1)).ravel()[order])
    return words[order[: int(np.searchsorted(total, budget)) + 1]]


def token_divergence(source: Counts, target: Counts, *, permutations: int = 200, seed: int = 0) -> Statistic:
    """Divergence of token frequencies between halves of the two domains, beside that of two halves of one.

    The null draws both sides anew from all texts and averages over as many halves as the value does, so
    that the p-value is that of a permutation test. Cost: O(permutations (tokens + vocabulary)).
    """
    rng = np.random.default_rng(seed)
    joined = sparse.vstack([source.tokens, target.tokens]).tocsr()
    joined = joined[:, np.flatnonzero(joined.getnnz(0))]
    total, n = joined.shape[0], source.tokens.shape[0]
    halves = _halves(joined, np.arange(total), n, rng)
    own = float(np.mean([divergence(*side) for sides in halves for side in sides]))
    value = _across(halves)
    null = [_across(_halves(joined, rng.permutation(total), n, rng)) for _ in range(permutations)]
    return Statistic(
        "token_jensen_shannon",
        "token divergence",
        value,
        _range(null),
        "no shift",
        float((1 + (np.array(null) >= value - 1e-12).sum()) / (1 + len(null))),
        f"Jensen-Shannon divergence of token frequencies, in bits (0: same, 1: nothing shared). Two halves "
        f"of one "
        f"domain already differ by {own:.3f}; across domains it is "
        f"{value / own if own else float('nan'):.1f} times "
        "that.",
        "vocabulary",
        {"within_domain": own, "excess": value - own},
    )


def _halves(
    joined: sparse.csr_matrix, order: Array, n: int, rng: np.random.Generator
) -> list[tuple[Array, Array]]:
    """Counts of random halves of two sides, all equally large: ``HALVINGS`` times (source's, target's).

    Args:
        joined: counts of all texts.
        order: text numbers, the source's ``n`` first.

    Returns: pairs of (2, T): two halves of the source, two of the target.
    """
    half = min(n, len(order) - n) // 2
    found = []
    for _ in range(HALVINGS):
        rows = np.concatenate([rng.permutation(side)[: 2 * half] for side in (order[:n], order[n:])])
        chosen = sparse.csr_matrix(
            (np.ones(4 * half), rows, np.arange(5) * half), shape=(4, len(order))
        )  # the texts that each half holds
        sums = (chosen @ joined).toarray()
        found.append((sums[:2], sums[2:]))
    return found


def _across(halves: Sequence[tuple[Array, Array]]) -> float:
    """Mean divergence of either half of one side from either of the other."""
    return float(np.mean([divergence(a, b) for ours, theirs in halves for a in ours for b in theirs]))


def divergence(p: Array, q: Array) -> float:
    """Jensen-Shannon divergence of two vectors of counts, in bits."""
    from nlp_transfer.numeric.divergence import jensen_shannon

    return jensen_shannon(p, q) if p.sum() and q.sum() else 0.0


def _tokens_per_word(source: Counts, target: Counts, permutations: int, seed: int) -> Statistic:
    rng = np.random.default_rng(seed)
    sides = [np.stack([side.token_lengths, side.lengths], 1).astype(float) for side in (source, target)]
    rates = [_rate(side) for side in sides]
    draws = [_rate(sides[1][rng.integers(len(sides[1]), size=len(sides[1]))]) for _ in range(500)]
    joined, n = np.concatenate(sides), len(sides[0])
    null = []
    for _ in range(permutations):
        order = rng.permutation(len(joined))
        null.append(abs(_rate(joined[order[n:]]) - _rate(joined[order[:n]])))
    p_value = float((1 + (np.array(null) >= abs(rates[1] - rates[0]) - 1e-12).sum()) / (1 + permutations))
    return Statistic(
        "tokens_per_word",
        "tokens per word",
        rates[1],
        _range(draws),
        "value",
        p_value,
        f"The model's tokenizer needs {rates[1]:.2f} tokens for a word of the target and {rates[0]:.2f} for "
        f"one of the "
        "source. More means words that its pretraining rarely saw.",
        "vocabulary",
        {"source": rates[0]},
    )


def _length(source: Counts, target: Counts, seed: int) -> Statistic:
    from scipy.stats import mannwhitneyu

    a, b = source.lengths, target.lengths
    rng = np.random.default_rng(seed)
    medians = [float(np.median(side)) for side in (a, b)]
    draws = [_ratio(np.median(rng.choice(b, len(b))), np.median(rng.choice(a, len(a)))) for _ in range(500)]
    value = _ratio(medians[1], medians[0])
    return Statistic(
        "length_ratio",
        "length ratio",
        value,
        _range(draws),
        "value",
        float(mannwhitneyu(a, b).pvalue) if len(np.unique(np.concatenate([a, b]))) > 1 else 1.0,
        f"A median text has {medians[1]:.0f} words in the target and {medians[0]:.0f} in the source.",
        "vocabulary",
        {"source_median": medians[0], "target_median": medians[1]},
    )


def _rate(rows: Array) -> float:
    tokens, words = rows.sum(0)
    return float(tokens / max(words, 1.0))


def _ratio(a: Any, b: Any) -> float:
    return float(a / max(float(b), 1.0))


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values), [0.025, 0.975])
    return float(low), float(high)


def _matrix(rows: Sequence[Sequence[int]], width: int) -> sparse.csr_matrix:
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    columns = np.fromiter(
        (number for row in rows for number in row), dtype=np.int64, count=int(lengths.sum())
    )
    starts = np.concatenate([[0], np.cumsum(lengths)])
    matrix = sparse.csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(rows), width))
    matrix.sum_duplicates()
    return matrix
