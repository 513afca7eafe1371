"""Signs in a run's figures that the training went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.reporting.words import percent

if TYPE_CHECKING:
    from nlp_transfer.shift.report import ShiftReport

FEW_ROWS = 10
"""So many rows of other classes must be there: of fewer, a good model may miss all."""
CURES = {"frozen": "try another model, layer or C"}
CURE = "train longer or with another learning rate"


def doubts(scores: dict[str, dict[str, Any]], shift: ShiftReport | None, strategy: str) -> list[str]:
    """What should make a user look again, in words; of the target's test set, else of its validation rows.

    Args:
        scores: reports by role and split.
        shift: the report made before the training of the scored model, if any.
        strategy: full, frozen or lora.
    """
    target = scores.get("target", {})
    split = "test" if "test" in target else "validation"
    report = target.get(split)
    if report is None or "confusion_matrix" not in report:
        return []
    name, cure, found = f"target.{split}", CURES.get(strategy, CURE), []
    names, counts = report["confusion_matrix"]["names"], np.asarray(report["confusion_matrix"]["counts"])
    predicted = np.flatnonzero(counts.sum(0))
    if len(predicted) == 1 and report["rows"] - counts[predicted[0]].sum() >= FEW_ROWS:
        found.append(
            f"the model calls all {report['rows']:,} rows of {name} {names[predicted[0]]!r}: it does not "
            f"tell the classes apart; {cure}, or set task.class_weights=balanced"
        )
    forecast = None if shift is None else shift.own_forecast
    if forecast is not None:
        expected, reached = forecast.predicted_target_accuracy, report["accuracy"]
        if reached["high"] is not None and reached["high"] < expected.low:
            found.append(
                f"accuracy on {name} is {percent(reached['value'])}, below what was foretold for a training "
                f"that works ({100 * expected.low:.1f} to {100 * expected.high:.1f} %): {cure}"
            )
    return found
