"""What the page shows beside numbers: a map of the embeddings, and the texts that differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nlp_transfer.numeric.witness import witness
from nlp_transfer.shift.rows import Sample

Array = np.ndarray
MAP_POINTS = 500
"""Texts of a side on the map."""
MAP_CHARACTERS = 400
SHOWN_TEXTS = 5
SHOWN_CHARACTERS = 500


@dataclass(frozen=True)
class Point:
    """A text on the map."""

    x: float
    y: float
    text: str
    label: str | None


@dataclass(frozen=True)
class EmbeddingMap:
    """Principal components of both domains' embeddings.

    Attributes:
        source, target: points drawn from each side.
        explained: share of the variance along the two axes.
    """

    source: tuple[Point, ...]
    target: tuple[Point, ...]
    explained: tuple[float, float]


@dataclass(frozen=True)
class ShiftedText:
    """A text and its value of the witness function: above 0 where the source is denser than the target."""

    text: str
    value: float


def embedding_map(x: Array, y: Array, source: Sample, target: Sample, *, seed: int) -> EmbeddingMap:
    """Project both sides on their first two principal components. Cost: O((n + m) d^2 + d^3)."""
    joined = np.concatenate([x, y]).astype(np.float64)
    joined -= joined.mean(0)
    values, vectors = np.linalg.eigh(joined.T @ joined)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(np.take_along_axis(axes, np.abs(axes).argmax(0)[None], 0) < 0, -1.0, 1.0)
    if axes.shape[1] < 2:
        axes = np.hstack([axes, np.zeros((len(axes), 1))])
    explained = np.append(values[::-1][:2] / max(float(values.sum()), 1e-12), [0.0, 0.0])
    places = joined @ axes
    rng = np.random.default_rng(seed)
    points = (_points(places[: len(x)], source, rng), _points(places[len(x) :], target, rng))
    return EmbeddingMap(*points, (float(explained[0]), float(explained[1])))


def _points(places: Array, sample: Sample, rng: np.random.Generator) -> tuple[Point, ...]:
    rows = np.sort(rng.choice(len(places), min(len(places), MAP_POINTS), replace=False))
    known = dict(zip(sample.labelled, sample.labels.tolist(), strict=True))
    return tuple(
        Point(
            round(float(places[row, 0]), 5),
            round(float(places[row, 1]), 5),
            clip(sample.texts[row], MAP_CHARACTERS),
            known.get(sample.texts[row]),
        )
        for row in rows
    )


def most_shifted(
    x: Array, y: Array, source: Sequence[str], target: Sequence[str]
) -> dict[str, tuple[ShiftedText, ...]]:
    """The texts of each side that are least like the other side, each text once."""
    found = witness(x, y)
    return {
        "source": _distinct(source, found.x, found.most_x_like(4 * SHOWN_TEXTS)),
        "target": _distinct(target, found.y, found.most_y_like(4 * SHOWN_TEXTS)),
    }


def _distinct(texts: Sequence[str], values: Array, order: Array) -> tuple[ShiftedText, ...]:
    chosen: dict[str, ShiftedText] = {}
    for row in order.tolist():
        shown = clip(texts[row], SHOWN_CHARACTERS)
        chosen.setdefault(shown, ShiftedText(shown, float(values[row])))
    return tuple(list(chosen.values())[:SHOWN_TEXTS])


def clip(text: str, most: int) -> str:
    """The text on one line, cut at a word where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[:most].rsplit(" ", 1)[0] + " …"
