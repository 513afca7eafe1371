"""What the methods gained on real reviews, for ``nlp-transfer recipes list``.

Points of target accuracy over training on the source alone, without target labels, with 95 % intervals: means
over the pairs of ``benchmarks/adaptation_amazon.py``. A test holds them against its JSON.
"""

from __future__ import annotations

from typing import NamedTuple


class Gain(NamedTuple):
    """A mean gain and its interval, in points."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """One remark: a gain counts where its interval leaves zero out."""
        if self.low > 0:
            return f"{self.mean:+.1f} points"
        return f"does not beat source-only ({self.mean:+.1f})"


FROZEN: dict[str, Gain] = {}
FULL: dict[str, Gain] = {}


def remark(kind: str) -> str:
    """What was measured of a method; empty where nothing was."""
    found = FROZEN.get(kind) or FULL.get(kind)
    return str(found) if found else ""
