"""The data sets, pairs and embeddings that the risk studies share.

Twenty binary sentiment data sets. ``$NLP_TRANSFER_DATA`` names the folder; embeddings are made by the
package's own ``Embedder`` and kept in its cache, so the first run pays for the encoder and later ones do
not.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MAX_LENGTH = 128
POOL_SHARE, POOL_ROWS = 0.4, 600
"""The pool is the first 40 % of the rows, 600 at most; all others are test rows."""
DRAWS = 5
"""Draws of labels that are probed."""
OUTCOME_DRAWS = 10
"""Draws whose mean is the outcome; the probed ones come first."""
SOURCE_ROWS = 1500
FILM = ("uci_imdb", "sst2", "fdu_imdb")
FDU = (
    "apparel",
    "baby",
    "books",
    "dvd",
    "electronics",
    "imdb",
    "kitchen_housewares",
    "music",
    "sports_outdoors",
    "toys_games",
)


def files() -> dict[str, tuple[list[str], int]]:
    """Files and rows used of each data set. Amazon's ``test`` is all of its rows."""
    table: dict[str, tuple[list[str], int]] = {}
    for name in ("yelp", "amazon", "imdb"):
        table[f"uci_{name}"] = ([f"uci/{name}.all.jsonl"], 1000)
    for name in ("books", "dvd", "kitchen", "electronics", "airline"):
        table[f"amazon_{name}"] = ([f"amazon/{name}.test.jsonl"], 1600 if name == "airline" else 2000)
    table["sst2"] = (["sst/sst2.train.jsonl", "sst/sst2.test.jsonl"], 4000)
    table["tweets"] = (["tweets/tweets.test.jsonl"], 4000)
    for name in FDU:
        table[f"fdu_{name}"] = ([f"fdu/{name}.train.jsonl", f"fdu/{name}.test.jsonl"], 2000)
    return table


def group(name: str) -> str:
    """Data sets that are not independent share a group: films, and the same shelf in two collections."""
    if name in FILM:
        return "film"
    collection, _, shelf = name.partition("_")
    if collection in ("amazon", "fdu") and shelf.split("_")[0] in ("books", "dvd", "electronics", "kitchen"):
        return shelf.split("_")[0]
    return name


def pairs() -> list[tuple[str, str]]:
    """All ordered pairs of data sets from different groups."""
    names = list(files())
    return [(source, target) for target in names for source in names if group(source) != group(target)]


def root() -> Path:
    """The folder of the data sets."""
    folder = os.environ.get("NLP_TRANSFER_DATA")
    if not folder:
        raise SystemExit(
            "set NLP_TRANSFER_DATA to the folder of the data sets (data/INDEX.md says what is in it)"
        )
    return Path(folder)


def rows(name: str) -> tuple[list[str], np.ndarray]:
    """Texts and labels, without exact duplicates (case and spaces aside), shuffled by a fixed seed."""
    paths, most = files()[name]
    seen, kept = set(), []
    for path in paths:
        with (root() / "sentiment" / path).open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                key = " ".join(row["text"].lower().split())
                if key and key not in seen:
                    seen.add(key)
                    kept.append(row)
    random.Random(0).shuffle(kept)
    kept = kept[:most]
    return [row["text"] for row in kept], np.array([int(row["label"]) for row in kept])


def embedder():
    """The embedded encoder at 128 tokens, vectors of length one."""
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions, locate

    options = ModelOptions(max_length=MAX_LENGTH, pooling="mean")
    return Embedder.load(locate(options), options, normalize=True, progress=False)


@dataclass
class DataSet:
    """One data set: embeddings (n, d) and labels (n,), the pool before the test rows."""

    name: str
    x: np.ndarray
    y: np.ndarray

    @property
    def pool(self) -> int:
        """Rows of the pool: label draws and unlabelled text come from it, test rows never do."""
        return min(int(POOL_SHARE * len(self.x)), POOL_ROWS)

    def draw(self, number: int) -> np.ndarray:
        """A random order of the pool: its first n rows are the labels, so larger n contain smaller."""
        return np.random.default_rng((7, number)).permutation(self.pool)


def load(names: list[str] | None = None) -> dict[str, DataSet]:
    """Embed the data sets (all of them by default)."""
    model = embedder()
    out = {}
    for name in names or list(files()):
        texts, labels = rows(name)
        out[name] = DataSet(name, model.embed(texts).features.astype(np.float64), labels)
    return out


def german(count: int = 1200) -> np.ndarray:
    """Embeddings of German image captions: a source in another language about something else."""
    with (root() / "translation/captions/captions.train.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["translation"]["de"] for line in lines]
    random.Random(0).shuffle(texts)
    return embedder().embed(texts[:count]).features.astype(np.float64)


def shuffled_words(name: str, count: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels of a data set's first texts with their words in random order."""
    texts, labels = rows(name)
    rng = random.Random(1)
    mixed = []
    for text in texts[:count]:
        words = text.split()
        rng.shuffle(words)
        mixed.append(" ".join(words))
    return embedder().embed(mixed).features.astype(np.float64), labels[:count]
