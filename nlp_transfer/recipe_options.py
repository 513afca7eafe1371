"""Keys of a recipe that belong to the run as a whole; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from nlp_transfer.options import Options


class EarlyStopping(Options):
    """Stop when the validation metric no longer improves."""

    patience: int = Field(default=3, ge=1)
    """Evaluations without an improvement before training stops."""
    threshold: float = Field(default=0.0, ge=0)
    """Smaller improvements do not count."""


class ShiftOptions(Options):
    """The shift summary that stands before training when there are a source and a target."""

    enabled: bool = True
    """Compute it and show it."""
    max_samples: int = Field(default=2000, ge=2)
    """Texts drawn from each domain, by seed."""
    permutations: int = Field(default=200, ge=1)
    """Permutations of the two-sample test."""


class GuardOptions(Options):
    """Whether the source helped or hurt, judged against a model that never saw it."""

    baseline: Literal["probe", "target_only", "none"] = "probe"
    """What to compare with, on the target's held-out rows. probe: a linear head on the untrained encoder,
    from the target's labels alone (for strategy frozen that is the model without the source), and for
    translation the pretrained model as it is; target_only: the same recipe without the source and its
    adaptation, which costs its training; none: judge nothing."""
    on_negative_transfer: Literal["warn", "stop", "fallback"] = "warn"
    """warn: say so; stop: also end training once harm is sure, in its second half; fallback: also ship the
    baseline unless the transferred model scores at least as well in every figure."""
