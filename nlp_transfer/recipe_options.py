"""Keys of a recipe that belong to the run as a whole; imports nothing heavy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from nlp_transfer.options import Options


class EarlyStopping(Options):
    """Stop when the validation metric no longer improves."""

    patience: int = Field(default=3, ge=1)
    """Evaluations without an improvement before training stops."""
    threshold: float = Field(default=0.0, ge=0)
    """Smaller improvements do not count."""


class SearchRange(Options):
    """The values that ``nlp-transfer tune`` tries for one key: a range of numbers, or choices."""

    low: int | float | None = None
    """Smallest value; integers at both ends try integers alone."""
    high: int | float | None = None
    """Largest value."""
    log: bool = False
    """Draw evenly on a logarithmic scale."""
    step: int | float | None = Field(default=None, gt=0)
    """Distance of the values tried, from ``low`` on; null: any value between."""
    choices: list[bool | int | float | str] | None = Field(default=None, min_length=1)
    """In place of a range: the values."""

    @model_validator(mode="after")
    def _range_or_choices(self) -> SearchRange:
        if (self.choices is None) == (self.low is None and self.high is None):
            raise ValueError("expected low and high, or choices")
        if self.choices is not None:
            if self.log or self.step is not None:
                raise ValueError("log and step belong to low and high, not to choices")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"expected low below high, found {self.low} and {self.high}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs low above 0, and no step")
        return self

    @property
    def ends(self) -> list[bool | int | float | str]:
        """The values that stand for all: both ends, or every choice."""
        return list(self.choices) if self.choices is not None else [self.low or 0, self.high or 0]


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
