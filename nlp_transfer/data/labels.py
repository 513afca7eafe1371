"""What a label means: one spelling per class, label maps, stars; plain Python, no files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum

IGNORED_LABEL = -100
"""The number of a row or token whose loss does not count; transformers and torch do not count it either."""
_INTEGER = re.compile(r"([+-]?)(0|[1-9]\d*)(\.0*)?")
_DECIMAL = re.compile(r"[+-]?\d*\.\d+")
_STARS = re.compile(r"(\d+(?:\.\d+)?)(?:\s*stars?)?", re.IGNORECASE)
STARS = {
    "stars-binary": ("negative", None, "positive"),
    "stars-ternary": ("negative", "neutral", "positive"),
}


class Fate(IntEnum):
    """What becomes of a row because of its label."""

    KEEP = 0
    DROP = 1
    MISSING = 2
    UNMAPPED = 3
    NOT_A_NUMBER = 4
    NOT_STARS = 5


def canonical(value: object) -> str | None:
    """Spell a label in the one way in which labels of two domains can meet; None where it is missing.

    ``1``, ``1.0``, ``"1"`` and ``"1.0"`` are ``"1"``; booleans and ``"True"`` are ``"true"`` and ``"false"``;
    None, NaN and blank text are missing; any other text keeps its spelling without outer spaces.

    Example:
        >>> canonical(1.0), canonical("2.50"), canonical(" positive "), canonical(True), canonical("")
        ('1', '2.5', 'positive', 'true', None)
    """
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    text = str(value).strip()
    if text.lower() in ("", "nan"):
        return None
    if text.lower() in ("true", "false"):
        return text.lower()
    if match := _INTEGER.fullmatch(text):
        sign, digits, _ = match.groups()
        return ("-" if sign == "-" and digits != "0" else "") + digits
    if _DECIMAL.fullmatch(text):
        return repr(float(text))
    return text


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort class names: by number where all are numbers, else by text.

    Example:
        >>> natural_order(["10", "9"]), natural_order(["positive", "negative"])
        (['9', '10'], ['negative', 'positive'])
    """
    unique = set(names)
    try:
        return sorted(unique, key=float)
    except ValueError:
        return sorted(unique)


class LabelReader:
    """Turn raw labels into class names (classification) or numbers (regression).

    Args:
        label_map: as in :class:`DomainOptions`.
        objective: ``classification`` or ``regression``.
        names: class names of an integer column that has them (``datasets.ClassLabel``).
    """

    def __init__(
        self, label_map: Mapping | str | None, *, objective: str, names: list[str] | None = None
    ) -> None:
        self._stars = STARS[label_map] if isinstance(label_map, str) else None
        self.map: dict[str | None, object] | None = None
        if isinstance(label_map, Mapping):
            self.map = {canonical(key): value for key, value in label_map.items()}
        self._numeric, self.names = objective == "regression", names

    def read(self, value: object) -> tuple[Fate, str | float | None]:
        """Return what becomes of a row with the label ``value``, and its new label."""
        spellings = self._spellings(value)
        if not spellings:
            return Fate.MISSING, None
        if self.map is not None:
            hit = next((name for name in spellings if name in self.map), None)
            if hit is None:
                return Fate.UNMAPPED, None
            mapped = self.map[hit]
            if mapped is None:
                return Fate.DROP, None
            return self._finish(mapped)
        if self._stars is not None:
            return self._read_stars(spellings[0])
        return self._finish(spellings[0])

    def _spellings(self, value: object) -> list[str]:
        if self.names is None:
            name = canonical(value)
            return [] if name is None else [name]
        if not isinstance(value, int) or not 0 <= value < len(self.names):
            return []
        return [canonical(self.names[value]) or "", str(value)]

    def _finish(self, value: object) -> tuple[Fate, str | float | None]:
        if not self._numeric:
            return Fate.KEEP, canonical(value)
        try:
            number = float(str(value))
        except ValueError:
            return Fate.NOT_A_NUMBER, None
        return (Fate.KEEP, number) if math.isfinite(number) else (Fate.NOT_A_NUMBER, None)

    def _read_stars(self, name: str) -> tuple[Fate, str | None]:
        match = _STARS.fullmatch(name)
        stars = float(match.group(1)) if match else math.nan
        if not 0.5 <= stars <= 5:
            return Fate.NOT_STARS, None
        assert self._stars is not None
        new = self._stars[0 if stars < 3 else 1 if stars == 3 else 2]
        return (Fate.DROP, None) if new is None else (Fate.KEEP, new)


POLARITY = (("0", "-1", "negative", "neg", "false"), ("1", "positive", "pos", "true"))
"""Usual spellings of two classes."""


def same_polarity(name: str, others: set[str]) -> str | None:
    """The one of ``others`` that is another usual spelling of ``name``."""
    for spellings in POLARITY:
        if name.lower() in spellings:
            return next((other for other in others if other.lower() in spellings), None)
    return None
