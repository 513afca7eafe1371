"""The report's numbers against closed forms, SciPy and planted shifts."""

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.spatial.distance import jensenshannon
from scipy.stats import binom

from nlp_transfer.numeric.mmd import mmd_test
from nlp_transfer.shift.statistics import (
    conditional_statistic,
    distances,
    estimate_label_shares,
    label_shift_statistic,
    mmd_statistic,
)
from nlp_transfer.shift.vocabulary import Counts, count, divergence, token_divergence, vocabulary_statistics


def by_name(items):
    return {item.name: item for item in items}


def normal(shift, rows=150, width=6, seed=0):
    return np.random.default_rng(seed).normal(shift, 1, size=(rows, width)).astype(np.float32)


@pytest.fixture(scope="module")
def apart():
    return by_name(distances(normal(0), normal(1, seed=1), permutations=99, seed=0))


@pytest.fixture(scope="module")
def alike():
    return by_name(distances(normal(0, seed=2), normal(0, seed=3), permutations=99, seed=0))


NAMES = ["energy_distance", "sliced_wasserstein", "frechet_distance", "coral_distance"]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_shift_the_value_lies_in_its_range(alike, name):
    low, high = alike[name].interval
    assert alike[name].interval_of == "no shift"
    assert 0.8 * low < alike[name].value < 1.2 * high
    assert alike[name].p_value > 0.05


def test_p_values_hold_their_level():
    sides = [[normal(0, rows=40, width=2, seed=2 * seed + side) for side in (0, 1)] for seed in range(40)]
    found = [by_name(distances(x, y, permutations=39, seed=0)) for x, y in sides]
    for name in NAMES:
        p_values = np.array([items[name].p_value for items in found])
        assert (p_values <= 0.05).sum() <= 5, name  # of 40; more happens once in 70 times
        assert 0.35 < p_values.mean() < 0.65, name


@pytest.mark.parametrize("name", NAMES[:3])
def test_a_planted_shift_lies_outside_of_the_range(apart, name):
    assert apart[name].value > 1.5 * apart[name].interval[1]
    assert apart[name].p_value <= 1 / 40


def test_a_change_of_spread_alone_shows_in_coral():
    x, y = normal(0), 2 * normal(0, seed=1)
    found = by_name(distances(x, y, permutations=39, seed=0))
    assert found["coral_distance"].p_value == 1 / 40


def test_distances_agree_with_closed_forms(apart):
    # The mean moves by 1 in each of 6 columns, the covariance not at all.
    assert apart["frechet_distance"].value == pytest.approx(6, rel=0.3)
    assert apart["sliced_wasserstein"].value == pytest.approx(1, rel=0.25)
    # The best linear classifier errs in Phi(-sqrt(6) / 2) = 11 % of the cases.
    assert apart["proxy_a_distance"].value == pytest.approx(2 * (1 - 2 * 0.11), abs=0.25)
    low, high = apart["proxy_a_distance"].interval
    assert low < apart["proxy_a_distance"].value < high


def test_the_energy_range_is_on_the_scale_of_the_value():
    # scipy's energy distance in one dimension, of relabelled rows.
    from scipy.stats import energy_distance

    x, y = normal(0, rows=60, width=1), normal(0.5, rows=60, width=1, seed=3)
    found = by_name(distances(x, y, permutations=199, seed=0))["energy_distance"]
    joined, rng = np.concatenate([x, y])[:, 0], np.random.default_rng(5)
    null = []
    for _ in range(400):
        rng.shuffle(joined)
        null.append(energy_distance(joined[:60], joined[60:]))
    assert found.value == pytest.approx(energy_distance(x[:, 0], y[:, 0]), rel=1e-4)
    assert found.interval == pytest.approx(np.quantile(null, [0.025, 0.975]), rel=0.2)


def test_sides_of_fewer_than_ten_rows_have_no_proxy_a_distance():
    found = by_name(distances(normal(0, rows=4), normal(0, rows=4, seed=1), permutations=19))
    assert "proxy_a_distance" not in found
    assert "energy_distance" in found


def test_mmd_says_what_it_found():
    item = mmd_statistic(mmd_test(normal(0), normal(1, seed=1), permutations=50))
    assert "beyond chance" in item.meaning
    item = mmd_statistic(mmd_test(normal(0, seed=2), normal(0, seed=3), permutations=50))
    assert "may come from one domain" in item.meaning


def test_class_conditional_mmd_sees_through_a_different_mix_of_classes():
    rng = np.random.default_rng(0)

    def side(share):
        labels = np.where(rng.random(300) < share, "b", "a")
        return (rng.normal(size=(300, 3)) + 5 * (labels == "b")[:, None]).astype(np.float32), labels

    (x, of_x), (y, of_y) = side(0.2), side(0.8)
    test = mmd_test(x, y, permutations=20)
    item, _ = conditional_statistic(x, of_x, y, of_y, test, permutations=99, seed=0)
    assert item.value < 0.1 * item.detail["all_texts"]
    assert item.p_value > 0.05
    assert set(item.detail["by_class"]) == {"a", "b"}


def test_class_conditional_mmd_needs_a_shared_class():
    x, test = normal(0, rows=4), mmd_test(normal(0, rows=4), normal(0, rows=4), permutations=5)
    ours, theirs = np.array(list("aabb")), np.array(list("ccdd"))
    assert conditional_statistic(x, ours, x, theirs, test, permutations=9, seed=0) is None


def test_label_shift_is_the_total_variation_distance():
    item = label_shift_statistic(np.array(["a", "b"] * 200), np.array(["a"] * 90 + ["b"] * 10), seed=0)
    assert item.value == pytest.approx(0.4)
    assert item.interval[0] < 0.4 < item.interval[1]
    assert item.p_value < 0.001
    same = label_shift_statistic(np.array(["a", "b"] * 50), np.array(["b", "a"] * 50), seed=0)
    assert same.value == 0
    assert same.p_value == 1


def test_label_shares_of_a_target_without_labels_are_recovered():
    rng = np.random.default_rng(0)

    def side(share, rows):
        labels = np.where(rng.random(rows) < share, "pos", "neg")
        return (rng.normal(size=(rows, 4)) + 1.2 * (labels == "pos")[:, None]).astype(np.float32), labels

    x, labels = side(0.5, 800)
    y, truth = side(0.85, 800)
    item, found = estimate_label_shares(x, labels, y, seed=0)
    share = (truth == "pos").mean()
    assert found.classes.tolist() == [0, 1]
    assert item.detail["target"]["pos"] == pytest.approx(share, abs=0.06)
    assert item.value == pytest.approx(share - (labels == "pos").mean(), abs=0.08)
    assert item.interval[0] < share - (labels == "pos").mean() < item.interval[1]
    assert "hint" in estimate_label_shares(x, labels, y, seed=0, far_apart=True)[0].meaning


# Words


def letters(texts):
    """A tokenizer that makes every letter a token."""
    return [[ord(letter) for letter in text if letter != " "] for text in texts]


def texts(words, count_, length=8, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(words, length)) for _ in range(count_)]


def test_divergence_is_the_squared_jensen_shannon_distance_of_scipy():
    rng = np.random.default_rng(0)
    p, q = rng.integers(0, 9, 50), rng.integers(0, 9, 50)
    assert divergence(p, q) == pytest.approx(jensenshannon(p, q, base=2) ** 2)


def test_words_that_the_source_lacks_are_counted():
    source, target = texts(["book", "page"], 40), texts(["book", "page", "oven", "pan"], 40, seed=1)
    found = by_name(vocabulary_statistics(*count([source, target], letters), permutations=50))
    item = found["unseen_word_rate"]
    assert item.value == pytest.approx(0.5, abs=0.08)
    assert item.interval[0] <= item.value <= item.interval[1]
    assert item.detail["within_target"] == 0


def test_token_divergence_stands_beside_its_baseline():
    source, target = texts(["aab", "abb"], 60), texts(["ccd", "cdd"], 60, seed=1)
    item = by_name(vocabulary_statistics(*count([source, target], letters), permutations=50))[
        "token_jensen_shannon"
    ]
    assert item.value == pytest.approx(1)
    assert item.p_value == 1 / 51
    assert item.detail["within_domain"] < 0.02

    same = texts(["aab", "abb"], 60, seed=2)
    item = by_name(vocabulary_statistics(*count([source, same], letters), permutations=50))[
        "token_jensen_shannon"
    ]
    assert item.p_value > 0.05
    assert item.value == pytest.approx(item.detail["within_domain"], abs=0.01)


def test_p_values_of_the_token_divergence_are_uniform_without_a_shift():
    """Of 150 pairs from one domain, a share of q has p <= q: within the 99.9 % range of a binomial."""
    shares = np.random.default_rng(0).dirichlet(np.full(60, 0.3))
    found = []
    for seed in range(150):
        rng = np.random.default_rng([1, seed])
        sides = [csr_matrix(rng.multinomial(15, shares, size=size)) for size in (14, 19)]
        found.append(token_divergence(*(Counts(side, side) for side in sides), permutations=19, seed=seed))
    p_values = np.array([item.p_value for item in found])
    for level in (0.05, 0.1, 0.25, 0.5, 0.75, 0.9):
        low, high = binom.interval(0.999, 150, level)
        assert low <= (p_values <= level + 1e-9).sum() <= high, level
    inside = sum(item.interval[0] <= item.value <= item.interval[1] for item in found)
    # The range ends between the first and the second of 19 draws: 1 to 2 in 20 lie beyond either end.
    assert binom.interval(0.999, 150, 0.8)[0] <= inside <= binom.interval(0.999, 150, 0.9)[1]


def test_tokens_per_word_and_lengths():
    source, target = texts(["ab", "cd"], 50, length=10), texts(["abcd", "efgh"], 50, length=5, seed=1)
    found = by_name(vocabulary_statistics(*count([source, target], letters), permutations=50))
    assert found["tokens_per_word"].value == 4
    assert found["tokens_per_word"].detail["source"] == 2
    assert found["tokens_per_word"].p_value == 1 / 51
    assert found["length_ratio"].value == 0.5
    assert found["length_ratio"].p_value < 1e-6


def test_texts_without_words_and_tiny_sides_do_not_break():
    found = by_name(vocabulary_statistics(*count([["!", "?"], ["...", "ok"]], letters), permutations=5))
    assert set(found) == {"tokens_per_word", "length_ratio"}
    assert all(np.isfinite(item.value) for item in found.values())
