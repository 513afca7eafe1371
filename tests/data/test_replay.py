"""Source rows mixed in, others in every epoch."""

from collections import Counter

import numpy as np
import pytest
from datasets import Dataset

from nlp_transfer.data.replay import ReplayedRows
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
    replayed = ReplayedRows(rows, POOL, 4, seed=1)
    epochs = [shown(replayed, epoch) for epoch in range(10)]
    for found in epochs:
        assert len(found) == len(replayed) == 4 + TARGET
        assert found[4:] == list(range(POOL, POOL + TARGET))
    assert sorted(row for found in epochs for row in found[:4]) == list(range(POOL))
    assert shown(replayed, 10) == epochs[0]
    assert shown(ReplayedRows(rows, POOL, 4, seed=1), 3) == epochs[3]
    assert shown(ReplayedRows(rows, POOL, 4, seed=2), 3) != epochs[3]
    assert [row["row"] for row in replayed.__getitems__([15, 0])] == [epochs[0][15], epochs[0][0]]


def test_a_small_pool_is_gone_through_evenly(rows):
    replayed = ReplayedRows(rows.select(range(POOL - 7, POOL + TARGET)), 7, 5, seed=0)
    drawn = Counter(row for epoch in range(2) for row in shown(replayed, epoch)[:5])
    assert sorted(drawn.values()) == [1, 1, 1, 1, 2, 2, 2]
    whole = ReplayedRows(rows.select(range(POOL - 7, POOL + TARGET)), 7, 7, seed=0)
    assert set(shown(whole, 0)[:7]) == set(shown(whole, 1)[:7]) == set(range(POOL - 7, POOL))


def test_batches_by_tokens_keep_their_budget_in_every_epoch(rows):
    replayed, budget = ReplayedRows(rows, POOL, 4, seed=0), 120
    batches = TokenBatches(replayed, budget, seed=0)
    lengths = np.asarray(rows["length"][:]) // 2
    for epoch in range(10):
        replayed.set_epoch(epoch)
        seen = []
        for number in range(len(batches)):
            batch = [row["row"] for row in batches[number]]
            seen += batch
            assert len(batch) == 1 or len(batch) * 2 * lengths[batch].max() <= budget
        assert sorted(seen) == sorted(shown(replayed, epoch))
