"""Two made-up domains with a planted sentiment, and an encoder that counts words."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np

TOPICS = {"books": ["book", "page", "author", "plot"], "pans": ["pan", "oven", "lid", "handle"]}
MOODS = {"positive": ["great", "lovely", "superb"], "negative": ["awful", "broken", "dull"]}


def rows(
    topic: str, count: int, *, seed: int = 0, flipped: bool = False, share: float = 0.5
) -> list[dict[str, str]]:
    """Labelled texts; ``flipped`` calls good texts negative; ``share`` of them are positive."""
    rng = np.random.default_rng([seed, len(topic)])
    out = []
    for number in range(count):
        mood = "positive" if rng.random() < share else "negative"
        words = [*rng.choice(TOPICS[topic], 4), *rng.choice(MOODS[mood], 2)]
        if rng.random() < 0.25:
            words.append(rng.choice(MOODS["negative" if mood == "positive" else "positive"]))
            words.append(rng.choice(MOODS["negative" if mood == "positive" else "positive"]))
        rng.shuffle(words)
        label = {"positive": "negative", "negative": "positive"}[mood] if flipped else mood
        out.append({"text": f"{' '.join(words)} {number}", "label": label})
    return out


def write(path: Path, rows_: list[dict[str, str]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_), encoding="utf-8")
    return str(path)


class WordEncoder:
    """Embeds a text as a random projection of its word counts; has what the report needs of an Embedder."""

    max_length = 64

    def __init__(self) -> None:
        self.asked: list[str] = []
        words = [word for part in (TOPICS, MOODS) for group in part.values() for word in group]
        rng = np.random.default_rng(0)
        self._vectors = {word: rng.normal(size=16) for word in words}

    def embed(self, texts: list[str]) -> SimpleNamespace:
        self.asked += texts
        zero = np.full(16, 0.01)
        found = np.array(
            [sum((self._vectors.get(w, zero) for w in text.split()), np.zeros(16)) for text in texts]
        )
        features = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
        how = {"model": "words", "revision": None, "pooling": "mean", "normalize": True}
        return SimpleNamespace(features=features, max_length=self.max_length, precision="fp32", **how)

    def tokenizer(self, texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[ord(letter) for letter in text] for text in texts]}
