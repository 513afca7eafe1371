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
        if self.high < 0:
            return f"worse than source-only ({self.mean:+.1f})"
        return f"does not beat source-only ({self.mean:+.1f})"


FROZEN: dict[str, Gain] = {
    "label_propagation": Gain(3.6, 3.0, 4.2),
    "subspace_alignment": Gain(2.0, 1.5, 2.4),
    "optimal_transport": Gain(1.3, 0.8, 1.7),
    "coral": Gain(1.2, 0.7, 1.6),
    "tca": Gain(1.2, 0.7, 1.7),
    "kliep": Gain(0.3, 0.0, 0.6),
    "density_ratio": Gain(0.0, -0.4, 0.3),
    "feature_selection": Gain(-0.1, -0.4, 0.2),
    "kmm": Gain(-0.5, -0.8, -0.1),
    "label_shift": Gain(-3.4, -3.8, -2.9),
}
FULL: dict[str, Gain] = {
    "mmd": Gain(0.6, -0.4, 1.5),
    "deep_coral": Gain(0.0, -0.9, 0.9),
    "dann": Gain(0.0, -0.8, 0.9),
    "cdan": Gain(-0.1, -0.9, 0.8),
    "self_training": Gain(-0.3, -1.4, 0.7),
    "pretraining": Gain(-1.1, -1.8, -0.3),
    "relational": Gain(-1.1, -2.0, -0.3),
}
"""In full fine-tuning, shortened alike for all: 480 rows a side, one epoch."""


def remark(kind: str) -> str:
    """What was measured of a method; empty where nothing was."""
    found = FROZEN.get(kind) or FULL.get(kind)
    return str(found) if found else ""
