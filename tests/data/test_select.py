# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from nlp_transfer.data.checks import fingerprint, text_hashes
from nlp_transfer.data.domains import DomainData
from nlp_transfer.data.options import SelectOptions
from nlp_transfer.data.select import cross_entropy_difference, mixed_count, select_source, top_rows
from nlp_transfer.errors import DataError

KITCHEN = "pan pot lid knife oven spoon steel handle non-stick boil".split()  # noqa: SIM905
BOOKS = "novel plot author chapter hero reader story page twist prose".split()  # noqa: SIM905
SHARED = "the a it is was very not and I this good bad".split()  # noqa: SIM905


def texts(words: list[str], count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [
        " ".join(rng.choice(words if rng.random() < 0.4 else SHARED) for _ in range(rng.integers(5, 15)))
        for _ in range(count)
    ]


def domain(role: str, train: dict[str, list] | None = None, **more: Any) -> DomainData:
    parts = {"train": train, **more}
    tables = {split: Dataset.from_dict(rows) for split, rows in parts.items() if rows is not None}
    return DomainData(
        name=role,
        role=role,  # type: ignore[arg-type]
        objective="classification",
        **{split: tables.get(split) for split in ("train", "validation", "test", "unlabeled")},  # type: ignore[arg-type]
        fingerprints={split: fingerprint(rows) for split, rows in tables.items()},
        label_counts={"train": {"a": 1}},
        hashes={split: text_hashes(rows) for split, rows in tables.items()},
    )


def planted() -> tuple[DomainData, np.ndarray]:
    """A source in which every fourth row is about kitchens, as the target is."""
    inside, outside = texts(KITCHEN, 100, 1), texts(BOOKS, 300, 2)
    rows = [inside[n // 4] if n % 4 == 0 else outside[n - n // 4 - 1] for n in range(400)]
    truth = np.arange(400) % 4 == 0
    labels = ["positive" if n % 3 else "negative" for n in range(400)]
    return domain("source", {"text": rows, "label": labels}), truth


def bag(sentences: Sequence[str]) -> np.ndarray:
    """Counts of words as features."""
    return np.array([[text.split().count(word) for word in [*KITCHEN, *BOOKS]] for text in sentences], float)


@pytest.mark.parametrize(
    "options",
    [
        {"method": "moore_lewis"},
        {"method": "moore_lewis", "order": 1},
        {"method": "similarity"},
        {"method": "similarity", "neighbours": None},
    ],
)
def test_target_like_rows_are_kept(options: dict[str, Any]) -> None:
    source, truth = planted()
    target = domain("target", {"text": texts(KITCHEN, 150, 3), "label": ["positive"] * 150})
    chosen = select_source(source, target, SelectOptions(fraction=0.25, **options), seed=0, embed=bag)
    assert source.train is not None
    assert chosen.train is not None
    rows = [source.train["text"][:].index(text) for text in chosen.train["text"][:]]
    assert truth[rows].mean() > 0.9
    assert rows == sorted(rows)
    assert chosen.sizes == {"train": 100}
    assert chosen.train["label"][:] == [source.train["label"][row] for row in rows]
    assert sum(chosen.label_counts["train"].values()) == 100
    assert chosen.hashes["train"].tolist() == text_hashes(chosen.train).tolist()
    assert chosen.fingerprints["train"] != source.fingerprints["train"]
    assert (chosen.checks[-1].code, chosen.checks[-1].count, chosen.checks[-1].total) == (
        "selected",
        100,
        400,
    )


def test_unlabelled_target_texts_are_enough_and_test_texts_are_never_read() -> None:
    source, truth = planted()
    target = domain("target", unlabeled={"text": texts(KITCHEN, 150, 3)})
    chosen = select_source(source, target, SelectOptions(fraction=0.25), seed=0)
    assert chosen.train is not None
    assert len(set(chosen.train["text"][:]) & set(np.array(source.train["text"][:])[truth])) > 90  # type: ignore[index]
    with pytest.raises(DataError, match="needs target texts"):
        select_source(source, domain("target", test={"text": texts(KITCHEN, 9, 3)}), SelectOptions(), seed=0)
    with pytest.raises(DataError, match="needs source rows"):
        select_source(domain("source", unlabeled={"text": ["a", "b"]}), target, SelectOptions(), seed=0)


def test_both_sides_of_parallel_text_count() -> None:
    """Either side alone says nothing of half of the rows; their sum ranks all."""
    near, far, flat = texts(KITCHEN, 60, 4), texts(BOOKS, 60, 5), texts(SHARED, 240, 6)
    source = Dataset.from_dict(
        {"text": [*near, *flat[:60], *far, *flat[60:120]], "translation": [*flat[120:180], *near, *flat[180:], *far]}
    )  # fmt: skip
    target = Dataset.from_dict({"text": texts(KITCHEN, 200, 7), "translation": texts(KITCHEN, 200, 8)})
    scores = cross_entropy_difference(source, [target])
    assert (np.argsort(scores)[:120] < 120).mean() > 0.9
    alone = cross_entropy_difference(source, [target.remove_columns("translation")])
    assert (np.argsort(alone)[:120] < 120).mean() < 0.8


def test_rows_are_not_scored_by_a_model_that_has_seen_them() -> None:
    """All rows come from one distribution: those that models are fitted on score like the others."""
    words = [f"w{n}" for n in range(400)]
    rng = np.random.default_rng(0)
    lines = [" ".join(rng.choice(words, size=12)) for _ in range(900)]
    scores = cross_entropy_difference(
        Dataset.from_dict({"text": lines[300:]}), [Dataset.from_dict({"text": lines[:300]})], seed=1
    )
    assert abs(scores.mean()) < 0.1
    assert scores.std() < 0.3


def test_scores_do_not_depend_on_how_tables_are_cut() -> None:
    source, _ = planted()
    assert source.train is not None
    target = Dataset.from_dict({"text": texts(KITCHEN, 80, 3)})
    parts = [target.select(range(30)), target.select(range(30, 80))]
    whole = cross_entropy_difference(source.train, [target], seed=3)
    assert cross_entropy_difference(source.train, parts, seed=3).tolist() == whole.tolist()
    assert (
        cross_entropy_difference(concatenate_datasets([source.train]), [target], seed=3).tolist()
        == whole.tolist()
    )


def test_chinese_is_split_into_characters() -> None:
    weather = ["今天天气很好", "明天天气不好", "天气热"] * 20
    food = ["我喜欢吃苹果", "他在吃米饭", "菜很好吃"] * 20
    scores = cross_entropy_difference(
        Dataset.from_dict({"text": weather + food}),
        [Dataset.from_dict({"text": ["天气真好", "天气冷", "好天气"] * 9})],
    )
    assert scores[:60].max() < scores[60:].min()


def test_top_rows() -> None:
    assert top_rows(np.array([0.1, 0.9, 0.5, 0.9]), 0.5).tolist() == [1, 3]
    assert top_rows(np.array([0.1, 0.9]), 0.01).tolist() == [1]
    assert top_rows(np.zeros(4), 0.5).tolist() == [0, 1]


def test_mixed_count() -> None:
    for target, share in [(900, 0.25), (1000, 0.5), (300, 0.2)]:
        source = mixed_count(target, share)
        assert source / (source + target) == pytest.approx(share, abs=1e-3)
    assert mixed_count(1, 0.01) == 1
