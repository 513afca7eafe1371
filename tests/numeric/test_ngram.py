from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nlp_transfer.numeric.ngram import NgramModel
from nlp_transfer.numeric.similarity import mean_similarity

Sentences = list[list[int]]


def flat(sentences: Sentences) -> tuple[np.ndarray, np.ndarray]:
    tokens = [token for sentence in sentences for token in sentence]
    return np.array(tokens, np.int64), np.array([len(sentence) for sentence in sentences], np.int64)


def draw(count: int, vocabulary: int, seed: int) -> Sentences:
    rng = np.random.default_rng(seed)
    return [(rng.zipf(1.6, size=rng.integers(0, 9)) % vocabulary).tolist() for _ in range(count)]


def naive(training: Sentences, history: tuple, word: object, order: int, vocabulary: int) -> float:
    """Witten-Bell by the book: one dictionary of n-grams, one recursion."""
    counts: Counter = Counter()
    for sentence in training:
        padded = ["<s>"] * (order - 1) + list(sentence) + ["</s>"]
        for place in range(order - 1, len(padded)):
            for size in range(order):
                counts[tuple(padded[place - size : place + 1])] += 1

    def probability(history: tuple, word: object) -> float:
        below = probability(history[1:], word) if history else 1 / (vocabulary + 1)
        after = {gram: n for gram, n in counts.items() if gram[:-1] == history}
        total, types = sum(after.values()), len(after)
        if not total:
            return below
        return (after.get((*history, word), 0) + types * below) / (total + types)

    return probability(history, word)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_probabilities_follow_the_formula(order: int) -> None:
    training, judged = draw(30, 6, 0), [*draw(6, 8, 1), []]
    model = NgramModel(8, order)
    model.update(*flat(training))
    found = iter(model.probabilities(*flat(judged)).tolist())
    nats = []
    for sentence in judged:
        padded = ["<s>"] * (order - 1) + sentence + ["</s>"]
        expected = [
            naive(training, tuple(padded[place - order + 1 : place]), padded[place], order, 8)
            for place in range(order - 1, len(padded))
        ]
        assert [next(found) for _ in expected] == pytest.approx(expected)
        nats.append(-np.log(expected).mean())
    assert model.cross_entropy(*flat(judged)) == pytest.approx(nats)


def test_probabilities_after_a_history_sum_to_one() -> None:
    model = NgramModel(5, 3)
    model.update(*flat(draw(40, 5, 2)))
    for history in ([], [1], [0, 1], [4, 4]):
        ends = [[*history, word] for word in range(5)]
        total = sum(model.probabilities(*flat([sentence]))[len(history)] for sentence in ends)
        total += model.probabilities(*flat([history]))[-1]
        assert total == pytest.approx(1)


def test_a_stream_counts_like_one_batch() -> None:
    sentences, judged = draw(60, 9, 3), flat(draw(9, 9, 4))
    whole, parts = NgramModel(9), NgramModel(9)
    whole.update(*flat(sentences))
    for start in range(0, 60, 7):
        parts.update(*flat(sentences[start : start + 7]))
        parts.cross_entropy(*judged)
    assert parts.cross_entropy(*judged).tolist() == whole.cross_entropy(*judged).tolist()


def test_without_counts_it_is_uniform() -> None:
    model = NgramModel(9, 2)
    assert model.probabilities(*flat([[3, 4]])) == pytest.approx([0.1] * 3)
    model.update(*flat([]))
    assert model.probabilities(*flat([[3, 4]])) == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(("vocabulary", "order"), [(0, 2), (5, 0), (3_000_000, 3)])
def test_what_does_not_fit(vocabulary: int, order: int) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        NgramModel(vocabulary, order)


def test_mean_similarity_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 5)), rng.normal(size=(17, 5))

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    expected = [np.mean(sorted(cosine(a, b) for b in y)[-4:]) for a in x]
    monkeypatch.setattr("nlp_transfer.numeric.similarity._TILE", 60)
    assert mean_similarity(x, y, 4) == pytest.approx(expected, abs=1e-5)
    everything = [np.mean([cosine(a, b) for b in y]) for a in x]
    assert mean_similarity(x, y, 99) == pytest.approx(everything, abs=1e-5)
    centre = np.mean([b / np.linalg.norm(b) for b in y], axis=0)
    assert mean_similarity(x, y, None) == pytest.approx([cosine(a, centre) for a in x], abs=1e-5)
