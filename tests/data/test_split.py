from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nlp_transfer.data.split import sample, split_off


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_split_is_stratified() -> None:
    strata = np.repeat([0, 1, 2], [700, 250, 50])
    rest, held = split_off(np.arange(1000), strata, 0.1, rng())
    assert Counter(strata[held].tolist()) == {0: 70, 1: 25, 2: 5}
    assert sorted([*rest, *held]) == list(range(1000))
    assert not np.array_equal(held, split_off(np.arange(1000), strata, 0.1, rng(1))[1])
    np.testing.assert_array_equal(held, split_off(np.arange(1000), strata, 0.1, rng())[1])


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), min_size=1, max_size=200), st.floats(0.01, 0.9)
)
def test_groups_stay_together_and_nothing_is_lost(rows: list[tuple[int, int]], fraction: float) -> None:
    groups, strata = (np.array(column) for column in zip(*rows, strict=True))
    rest, held = split_off(groups, strata, fraction, rng())
    assert sorted([*rest, *held]) == list(range(len(rows)))
    assert not set(groups[rest].tolist()) & set(groups[held].tolist())
    first = dict(reversed(rows))
    sizes = Counter(first.values())
    taken = Counter(first[group] for group in set(groups[held].tolist()))
    for stratum, size in sizes.items():
        assert min(1, size - 1) <= taken[stratum] <= max(size - 1, 0)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=300), st.integers(1, 320))
def test_sample_is_in_proportion(strata: list[int], count: int) -> None:
    chosen = sample(np.array(strata), count, rng())
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(strata))
    assert chosen.tolist() == sorted(chosen.tolist())
    taken = Counter(np.array(strata)[chosen].tolist())
    for stratum, size in Counter(strata).items():
        assert abs(taken[stratum] - min(count, len(strata)) * size / len(strata)) < 1


def test_sample_of_a_sorted_file_is_not_its_head() -> None:
    chosen = sample(np.repeat([0, 1], 500), 16, rng())
    assert Counter((chosen >= 500).tolist()) == {True: 8, False: 8}
    assert chosen.max() - 500 > 100
