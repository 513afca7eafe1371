"""Source rows mixed in, others in every epoch."""

import numpy as np
import pytest
from datasets import Dataset

from nlp_transfer.data.replay import ReplayedRows, epoch_draws
from nlp_transfer.tasks.pairs import TokenBatches

POOL, TARGET = 40, 12


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 30, POOL + TARGET)
    return Dataset.from_dict(
        {
            "row": range(POOL + TARGET),
            "length": 2 * lengths,
            "labels": [[1] * n for n in lengths],
            "input_ids": [[1] * n for n in lengths],
        }
    )


def shown(rows, epoch):
    rows.set_epoch(epoch)
    return [rows[place]["row"] for place in range(len(rows))]


def test_every_epoch_shows_the_target_and_other_source_rows(rows):
    drawn = epoch_draws(POOL, 4, 10, seed=1)
    replayed = ReplayedRows(rows, drawn, POOL)
    epochs = [shown(replayed, epoch) for epoch in range(10)]
    for found, numbers in zip(epochs, drawn, strict=True):
        assert len(found) == len(replayed) == 4 + TARGET
        assert sorted(found[:4]) == sorted(numbers)
        assert found[4:] == list(range(POOL, POOL + TARGET))
    assert sorted(row for found in epochs for row in found[:4]) == list(range(POOL))
    assert shown(replayed, 10) == epochs[0]
    assert [row["row"] for row in replayed.__getitems__([15, 0])] == [epochs[0][15], epochs[0][0]]


@pytest.mark.parametrize(("source", "each"), [(40, 4), (100, 80), (7, 7), (7, 3), (1, 1)])
def test_draws(source, each):
    """No row twice in an epoch; all before one comes again, but for a remainder; no epoch like another."""
    drawn = epoch_draws(source, each, 30, seed=0)
    assert drawn.shape == (30, each)
    assert all(len(set(epoch)) == each for epoch in drawn.tolist())
    rounds = source // each
    for start in range(0, 30 - rounds, rounds):
        assert len(set(drawn[start : start + rounds].ravel())) == rounds * each
    if source > 7:
        assert len({tuple(sorted(epoch)) for epoch in drawn.tolist()}) > 28
    assert (epoch_draws(source, each, 7, seed=0) == drawn[:7]).all(), "more epochs change no earlier one"
    if source > 1:
        assert (epoch_draws(source, each, 30, seed=1) != drawn).any()


def test_batches_by_tokens_keep_their_budget_in_every_epoch(rows):
    replayed, budget = ReplayedRows(rows, epoch_draws(POOL, 4, 12, seed=0), POOL), 120
    batches = TokenBatches(replayed, budget, seed=0)
    lengths = np.asarray(rows["length"][:]) // 2
    for epoch in range(12):
        replayed.set_epoch(epoch)
        seen = []
        for number in range(len(batches)):
            batch = [row["row"] for row in batches[number]]
            seen += batch
            assert len(batch) == 1 or len(batch) * 2 * lengths[batch].max() <= budget
        assert sorted(seen) == sorted(shown(replayed, epoch))
