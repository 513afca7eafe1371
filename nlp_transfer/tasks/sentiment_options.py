"""What a recipe says about sentiment: classes or ratings, their names and weights."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from nlp_transfer.data.labels import canonical
from nlp_transfer.errors import did_you_mean
from nlp_transfer.options import Options


class SentimentOptions(Options):
    """Classify the sentiment of texts, or predict their ratings."""

    kind: Literal["sentiment"] = "sentiment"
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    """cross_entropy: labels are classes; mse: labels are ratings (numbers)."""
    labels: list[str] | None = None
    """Class names in order; default: those found in the training data, sorted. They are matched with the
    labels by name; where the names are words and the data holds 0, 1, ..., by position."""
    class_weights: Literal["balanced"] | list[float] | dict[str, float] | None = None
    """Weight of each class in the loss, by order or by name; only their ratio matters.
    balanced: inversely to how often each class occurs."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each target that is spread evenly over all classes."""

    @field_validator("labels", mode="before")
    @classmethod
    def _label_names(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        names = [canonical(item) for item in value]
        if len(names) < 2 or None in names or len(set(names)) < len(names):
            raise ValueError(f"expected two or more different class names, found {list(value)}")
        return names

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights(cls, value: Any) -> Any:
        if value is None or value == "balanced":
            return value
        if not isinstance(value, (list, tuple, dict)):
            raise ValueError(
                f"expected balanced, a list of numbers or a mapping of class to number, found {value!r}"
            )
        numbers = list(value.values()) if isinstance(value, dict) else list(value)
        if not all(_is_weight(number) for number in numbers) or not any(numbers):
            raise ValueError(f"expected numbers of 0 or more, at least one of them above 0, found {value!r}")
        return (
            {canonical(name): number for name, number in value.items()}
            if isinstance(value, dict)
            else numbers
        )

    @model_validator(mode="after")
    def _ratings_have_no_classes(self) -> SentimentOptions:
        classes = {"labels": self.labels, "class_weights": self.class_weights}
        given = [name for name, value in classes.items() if value is not None]
        given += ["label_smoothing"] if self.label_smoothing else []
        if self.loss == "mse" and given:
            raise ValueError(f"loss mse predicts ratings and has no classes: leave out {', '.join(given)}")
        return self

    @model_validator(mode="after")
    def _weights_fit_labels(self) -> SentimentOptions:
        if self.labels is None or not isinstance(self.class_weights, (list, dict)):
            return self
        if isinstance(self.class_weights, dict):
            for name in self.class_weights:
                if name not in self.labels:
                    hint = did_you_mean(name, self.labels)
                    raise ValueError(f"class_weights names {name!r}, which is no label: {hint}")
        if len(self.class_weights) != len(self.labels):
            raise ValueError(f"found {len(self.class_weights)} class_weights for {len(self.labels)} labels")
        return self


def _is_weight(value: Any) -> bool:
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    )
