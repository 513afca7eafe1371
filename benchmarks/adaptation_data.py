"""Domains, pairs and splits that the adaptation benchmarks share.

Four Amazon review domains and airline reviews (`risk_data.py` reads them, without duplicates). For a seed,
half of a target's rows are its pool, whose texts an adaptation may read, and the other half is its test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import risk_data

AMAZON = ("books", "dvd", "electronics", "kitchen")
PAIRS = [
    ("books", "kitchen"),
    ("airline", "kitchen"),
    ("kitchen", "books"),
    ("books", "airline"),
    ("dvd", "electronics"),
    ("electronics", "dvd"),
    ("airline", "books"),
    ("kitchen", "airline"),
    ("books", "electronics"),
    ("kitchen", "dvd"),
    ("electronics", "books"),
    ("dvd", "kitchen"),
    ("electronics", "airline"),
    ("airline", "dvd"),
    ("books", "dvd"),
    ("dvd", "books"),
    ("electronics", "kitchen"),
    ("kitchen", "electronics"),
    ("dvd", "airline"),
    ("airline", "electronics"),
]
"""All ordered pairs, so that every beginning of the list has near and far ones."""
DEVELOPMENT = [
    ("fdu_apparel", "fdu_toys_games"),
    ("fdu_baby", "tweets"),
    ("fdu_toys_games", "fdu_baby"),
    ("tweets", "fdu_apparel"),
    ("sst2", "fdu_baby"),
    ("fdu_apparel", "sst2"),
    ("uci_yelp", "fdu_toys_games"),
    ("fdu_baby", "uci_yelp"),
]
"""Pairs on which defaults were chosen: no data set of theirs is in `PAIRS`."""


@dataclass(frozen=True)
class Pair:
    """One source, one target: what each side gives.

    Attributes:
        source, target: names.
        seed: of the split.
        source_rows: row numbers of the source [n].
        pool: of the target, for training [m].
        test: of the target [k].
    """

    source: str
    target: str
    seed: int
    source_rows: np.ndarray
    pool: np.ndarray
    test: np.ndarray


def name_of(domain: str) -> str:
    """The domain's name in `risk_data`."""
    return f"amazon_{domain}" if domain in (*AMAZON, "airline") else domain


def split(source: str, target: str, sizes: tuple[int, int], seed: int, most: int | None = None) -> Pair:
    """Draw a pair's rows.

    Args:
        source, target: domains.
        sizes: rows of each.
        seed: of the draw; that of a target is the same whatever the source.
        most: at most so many source rows, pool rows and test rows; default all.
    """
    halves = np.random.default_rng([seed, 1]).permutation(sizes[1])
    middle = sizes[1] // 2
    chosen = np.random.default_rng([seed, 2]).permutation(sizes[0])
    return Pair(source, target, seed, chosen[:most], halves[:middle][:most], halves[middle:][:most])


def texts(domain: str) -> tuple[list[str], np.ndarray]:
    """Texts and labels of a domain."""
    return risk_data.rows(name_of(domain))
