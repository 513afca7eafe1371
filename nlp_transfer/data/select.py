"""Which source rows to train on: the most target-like part, and how many of them beside the target's."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nlp_transfer.data.checks import Finding, fingerprint, label_counts
from nlp_transfer.data.options import SelectOptions
from nlp_transfer.errors import DataError
from nlp_transfer.numeric.ngram import NgramModel
from nlp_transfer.numeric.similarity import mean_similarity

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from nlp_transfer.data.domains import DomainData

Embed = Callable[[Sequence[str]], "NDArray[np.float32]"]
"""Texts to features [n, d]."""

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
_BATCH = 10_000
_RARE = 2
_MAX_VOCABULARY = 100_000


def select_source(
    source: DomainData,
    target: DomainData,
    options: SelectOptions,
    *,
    seed: int,
    embed: Embed | None = None,
) -> DomainData:
    """Keep the most target-like ``options.fraction`` of the source's training rows, in their order.

    Args:
        source: with training rows.
        target: its training and unlabelled texts say what is target-like; nothing else of it is read.
        options: what the recipe says under ``source.select``.
        seed: of the samples that models are fitted on.
        embed: the encoder; for ``method: similarity``.

    Returns:
        The source with fewer training rows; its ``checks`` say how many.

    Raises:
        DataError: the source has no training rows, or the target no texts to compare with.
    """
    from nlp_transfer.data.load import take_rows

    if source.train is None:
        raise DataError("source.select needs source rows to select from", fix="give source.train")
    wanted = [rows for rows in (target.train, target.unlabeled) if rows is not None and len(rows)]
    if not wanted:
        raise DataError(
            "source.select needs target texts to compare the source with",
            expected="target.train or target.unlabeled",
            fix="give one of them, or leave source.select out",
        )
    if options.method == "similarity":
        if embed is None:
            raise ValueError("method similarity needs an encoder")
        near = np.concatenate([embed(rows["text"][:]) for rows in wanted])
        scores: NDArray = mean_similarity(embed(source.train["text"][:]), near, options.neighbours)
    else:
        scores = -cross_entropy_difference(source.train, wanted, order=options.order, seed=seed)
    keep = top_rows(scores, options.fraction)
    train = take_rows(source.train, keep)
    count, total = len(keep), len(scores)
    message = f"train: the {count:,} of {total:,} rows that are most like the target are used"
    counts = label_counts(train)
    return replace(
        source,
        train=train,
        fingerprints={**source.fingerprints, "train": fingerprint(train)},
        label_counts={**source.label_counts, "train": counts} if counts else source.label_counts,
        hashes={**source.hashes, "train": source.hashes["train"][keep]},
        translation_hashes={
            split: hashes[keep] if split == "train" else hashes
            for split, hashes in source.translation_hashes.items()
        },
        checks=[*source.checks, Finding("info", "selected", count, total, f"{message} ({options.method})")],
    )


def top_rows(scores: NDArray, fraction: float) -> NDArray[np.int64]:
    """Sorted numbers of the rows with the highest scores: ``fraction`` of them, at least one."""
    count = max(1, round(fraction * len(scores)))
    return np.sort(np.argsort(-scores, kind="stable")[:count])


def mixed_count(target: int, share: float, length: float = 1.0) -> int:
    """How many source rows make up ``share`` of a training set with ``target`` target rows; at least one.

    Args:
        target: target rows.
        share: of the source in the mixed set, above 0 and below 1.
        length: of a target row in source rows, where the share is one of the text.

    Example:
        >>> mixed_count(300, 0.25), mixed_count(300, 0.25, length=2.0)
        (100, 200)
    """
    return max(1, round(target * length * share / (1 - share)))


def mean_length(pairs: Dataset) -> float:
    """Characters of a pair of parallel text, both sides, on average."""
    import pyarrow.compute as pc

    table = pairs.select_columns(["text", "translation"]).with_format("arrow")[:]
    return sum(pc.mean(pc.utf8_length(table[name])).as_py() for name in table.column_names)


def cross_entropy_difference(
    source: Dataset, target: Sequence[Dataset], *, order: int = 3, seed: int = 0
) -> NDArray[np.float64]:
    """Cross-entropy of each source row under a model of the target less that under one of the source; [n].

    Low values are target-like. The models are interpolated word n-gram models over the words that the target
    has at least twice. The source's is fitted on as many rows as the target has, drawn at random; rows that
    are among them are scored by a second model of other rows, so that none is scored by a model that has seen
    it. Of parallel text the differences of both sides are added.

    Args:
        source: rows with ``text``, and ``translation`` where there is one.
        target: tables with the same columns; those without ``translation`` count for ``text`` alone.
        order: of the n-grams.
        seed: of the draw.

    Cost: about 20 s per million short sentences and side.

    Source: Moore & Lewis (2010), Intelligent Selection of Language Model Training Data; Axelrod, He & Gao
    (2011) for both sides.
    """
    total = np.zeros(len(source))
    for column in ("text", "translation"):
        parts = [table for table in target if column in table.column_names]
        if column in source.column_names and parts:
            total += _difference(source, parts, column, order, seed)
    return total


def _difference(
    source: Dataset, target: Sequence[Dataset], column: str, order: int, seed: int
) -> NDArray[np.float64]:
    counts: Counter[str] = Counter()
    for words in _sentences(target, column):
        counts.update(words)
    frequent = [word for word, count in counts.most_common(_MAX_VOCABULARY) if count >= _RARE]
    numbers = {word: number for number, word in enumerate(frequent, 1)}  # 0 is any other word
    size = sum(len(table) for table in target)
    inside = NgramModel(len(numbers) + 1, order)
    for tokens, lengths in _batches(target, column, numbers):
        inside.update(tokens, lengths)
    group = _groups(len(source), size, seed)
    general = [NgramModel(len(numbers) + 1, order) for _ in range(2)]
    start = 0
    for tokens, lengths in _batches([source], column, numbers):
        rows = group[start : start + len(lengths)]
        for number, model in enumerate(general):
            model.update(tokens[np.repeat(rows == number, lengths)], lengths[rows == number])
        start += len(lengths)
    out, start = np.empty(len(source)), 0
    for tokens, lengths in _batches([source], column, numbers):
        end = start + len(lengths)
        first, second = (model.cross_entropy(tokens, lengths) for model in general)
        unseen = np.where(group[start:end] == 0, second, first)
        out[start:end] = inside.cross_entropy(tokens, lengths) - unseen
        start = end
    return out


def _groups(rows: int, size: int, seed: int) -> NDArray[np.int8]:
    """0 and 1 for the rows that the two models of the source are fitted on, 2 for the others."""
    size = max(1, min(size, rows // 2))
    order = np.random.default_rng(seed).permutation(rows)
    group = np.full(rows, 2, np.int8)
    group[order[:size]] = 0
    group[order[size : 2 * size]] = 1
    return group


def _sentences(tables: Sequence[Dataset], column: str) -> Iterator[list[str]]:
    for table in tables:
        for batch in table.select_columns([column]).iter(_BATCH):
            for text in batch[column]:
                yield _WORD.findall(text.casefold())


def _batches(
    tables: Sequence[Dataset], column: str, numbers: dict[str, int]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Token numbers and sentence lengths, some thousand sentences at a time."""
    for table in tables:
        for batch in table.select_columns([column]).iter(_BATCH):
            rows = [_WORD.findall(text.casefold()) for text in batch[column]]
            lengths = np.array([len(words) for words in rows], np.int64)
            tokens = (numbers.get(word, 0) for words in rows for word in words)
            yield np.fromiter(tokens, np.int64, int(lengths.sum())), lengths
