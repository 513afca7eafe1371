"""Masking and span corruption: what is predicted, and that the text can be put together again."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nlp_transfer.adaptation.pretraining import corrupt_spans, mask_tokens
from nlp_transfer.data.labels import IGNORED_LABEL

END, FIRST_SENTINEL = 1, 1000


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 200), st.floats(0.01, 0.9), st.floats(1, 8), st.integers(0, 2**32 - 1), st.integers(1, 100)
)
def test_spans_and_labels_put_the_text_together(length, share, mean, seed, sentinels):
    ids = np.arange(10, 10 + length)
    marks = np.arange(FIRST_SENTINEL, FIRST_SENTINEL - sentinels, -1)
    inputs, labels = corrupt_spans(ids, marks, share, mean, END, np.random.default_rng(seed))
    assert inputs[-1] == labels[-1] == END
    used = [token for token in labels if token > FIRST_SENTINEL - sentinels]
    assert used == [token for token in inputs if token > FIRST_SENTINEL - sentinels]
    assert used == marks[: len(used)].tolist()
    spans = dict(zip(used, np.split(labels[:-1], np.flatnonzero(np.isin(labels, used)))[1:], strict=True))
    restored = [part for token in inputs[:-1] for part in (spans[token][1:] if token in spans else [token])]
    assert restored == ids.tolist()
    if length > 1:
        cut = len(labels) - 1 - len(used)
        assert cut == min(max(round(length * share), 1), length - 1)


def test_masked_tokens_are_shared_out_as_in_bert():
    rng = np.random.default_rng(0)
    ids = rng.integers(10, 500, 40_000)
    special = np.arange(len(ids)) % 10 == 0
    corrupted, labels = mask_tokens(ids, special, 0.15, 4, 500, rng)
    chosen = labels != IGNORED_LABEL
    assert not (chosen & special).any()
    assert np.array_equal(labels[chosen], ids[chosen])
    assert np.array_equal(corrupted[~chosen], ids[~chosen])
    assert abs(chosen.sum() / (~special).sum() - 0.15) < 0.01
    assert abs((corrupted[chosen] == 4).mean() - 0.8) < 0.02
    assert abs((corrupted[chosen] == ids[chosen]).mean() - 0.1) < 0.02


def test_short_texts_still_have_something_to_predict():
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, labels = mask_tokens(np.array([2, 7, 3]), np.array([True, False, True]), 0.01, 4, 500, rng)
        assert labels.tolist() == [IGNORED_LABEL, 7, IGNORED_LABEL]
    _, labels = mask_tokens(np.array([2, 3]), np.array([True, True]), 0.5, 4, 500, rng)
    assert (labels == IGNORED_LABEL).all()
