"""Numbers and verdicts of a shift report in words, shared by the terminal and the page."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from nlp_transfer.shift.labelled import Figure
    from nlp_transfer.shift.report import ShiftReport

MINUS = "\u2212"
METRIC_NAMES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "length_ratio": "length ratio",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "matthews_correlation": "Matthews",
    "expected_calibration_error": "calibration error",
    "loss": "loss",
    "mse": "mean squared error",
    "mae": "mean absolute error",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
ERRORS = {"ter", "expected_calibration_error", "loss", "mse", "mae"}
"""Metrics of which less is better."""
STRATEGIES = {"frozen": "a frozen encoder", "full": "full fine-tuning", "lora": "LoRA fine-tuning"}
SKILL = 0.55
"""An AUROC below it tells nothing apart."""
SUPERSCRIPT = str.maketrans(
    "-0123456789", "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
)


def number(value: float | None) -> str:
    """Three or four digits that matter; a dash for nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 100:
        text = f"{value:,.0f}"
    elif size >= 10:
        text = f"{value:.1f}"
    elif size >= 0.1:
        text = f"{value:.3f}"
    elif size >= 0.001:
        text = f"{value:.4f}"
    elif size == 0:
        text = "0"
    else:
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}"
    return text.replace("-", MINUS)


def between(interval: tuple[float, float] | None) -> str:
    """Both ends of an interval."""
    return "–" if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def p_value(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def percent(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares in points, signed; what rounds to zero has no sign."""
    return signed(100 * value, 1)


def signed(value: float, digits: int) -> str:
    """A number with its sign, so many digits behind the point; what rounds to zero has no sign."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text[1:]


def accuracy_range(figure: Figure) -> str:
    """The 80 % interval of an accuracy."""
    return f"80 % interval {100 * figure.low:.1f} to {100 * figure.high:.1f}"


def gain_range(figure: Figure) -> str:
    """The 80 % interval of a gain."""
    return f"80 % interval {points(figure.low)} to {points(figure.high)}"


def headline(report: ShiftReport) -> str:
    """The verdict in a few words."""
    if report.translation is not None:
        return report.translation.headline
    if report.source.ratings:
        return "No forecast: there is none for ratings"
    if report.risk is None:
        return "No forecast: the source has no usable labels"
    return f"{report.risk.level.capitalize()} risk of negative transfer"


def sentence(report: ShiftReport) -> str:
    """The verdict in a sentence."""
    source, target = report.source.name, report.target.name
    if report.translation is not None:
        return report.translation.sentence
    compared = f"The texts of {source} and {target} are compared below."
    if report.source.ratings:
        return f"{compared} Whether training on {source} helps is forecast for classes, not for ratings."
    if report.risk is None:
        return (
            f"{compared} Whether training on {source} helps cannot be told without usable labels of the "
            "source."
        )
    against = "the target labels alone" if has_labels(report) else "about 100 target labels"
    return (
        f"The chance that {source} lowers accuracy on {target} by more than one point, against training on "
        f"{against}, "
        f"is {100 * report.risk.probability:.0f} %."
    )


def advice(report: ShiftReport) -> str | None:
    """What to do; None without a forecast."""
    if report.translation is not None:
        return report.translation.advice
    return report.risk.advice if report.risk else None


def reasons(report: ShiftReport) -> tuple[str, ...]:
    """The forecast's reasons, without the predicted gain: that stands above them as a figure."""
    if report.translation is not None:
        return report.translation.reasons
    found = report.risk.reasons if report.risk else ()
    return tuple(reason for reason in found if not reason.startswith("predicted gain"))


def has_labels(report: ShiftReport) -> bool:
    """Whether the forecast rests on target labels."""
    return report.probe is not None and report.probe.n_labels > 0


def accuracy_note(report: ShiftReport) -> str:
    """What the predicted accuracy is an accuracy of."""
    if has_labels(report):
        return f"Of a model trained on {report.source.name} and the target labels ({report.strategy})."
    return f"Of a model trained on {report.source.name} alone ({report.strategy})."


def gain_note(report: ShiftReport) -> str:
    """What the predicted gain compares."""
    if has_labels(report):
        return "Of accuracy, against training on the target labels alone."
    return "Of accuracy, against training on about 100 target labels and no source."


def study(report: ShiftReport) -> str:
    """The study behind the forecast and its size; empty without a forecast."""
    if report.risk is None:
        return ""
    evidence = report.risk.evidence
    text = (
        "The forecast corrects the probes' figures by what such figures led to in "
        f"{evidence.cases:,} measured outcomes of {evidence.pairs:,} pairs, {STRATEGIES[evidence.strategy]} "
        f"({evidence.study})"
    )
    if evidence.auroc is not None and evidence.auroc < SKILL:
        text += f"; no skill on targets left out of the fit (AUROC {evidence.auroc:.2f})"
    elif evidence.auroc is not None:
        text += f"; AUROC {evidence.auroc:.2f} on targets left out of the fit"
        text += ", planted faults included" * (evidence.strategy != "frozen")
    if evidence.strategy != report.strategy:
        text += f"; borrowed: there is no study of {STRATEGIES[report.strategy]} for this input"
    return text + "."


def foretold(report: ShiftReport | None, scores: dict[str, Any]) -> str | None:
    """The forecast of a run's accuracy beside what it reached; None without one of either for its strategy.

    Args:
        report: made before the training.
        scores: the target's reports by split.
    """
    split = "test" if "test" in scores else "validation"
    reached = scores.get(split, {}).get("accuracy")
    forecast = None if report is None else report.own_forecast
    if forecast is None or reached is None:
        return None
    accuracy = forecast.predicted_target_accuracy
    return (
        f"accuracy foretold: {percent(accuracy.estimate)} ({accuracy_range(accuracy)}); reached on target "
        f"{split}: {percent(reached['value'])}"
    )


def change(name: str, difference: dict[str, Any]) -> str:
    """A paired difference with its interval, in the metric's own unit: points of shares, else plain."""
    value, low, high = (_signed(name, difference[end]) for end in ("value", "low", "high"))
    unit = " points" if name == "accuracy" else ""
    return f"{value}{unit} [{low}, {high}]" + (", less is better" if name in ERRORS else "")


def against_baselines(domains: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each scored split that has a baseline; the source's are the ledger's."""
    lines = []
    for role, splits in domains.items():
        for split, report in splits.items():
            if role == "source" or not isinstance(report, dict) or "against_baseline" not in report:
                continue
            parts = [
                f"{METRIC_NAMES.get(name, name)} {change(name, found)}"
                for name, found in report["against_baseline"].items()
            ]
            place = f"{role} {split}: ".lstrip(" :")
            lines.append(f"{place}against {report['baseline']}: {', '.join(parts)}")
    return lines


def ledger(forgetting: dict[str, Any] | None) -> list[str]:
    """What became of the old domain, one line a split."""
    return [
        f"source {split}, before and after the training on the target: "
        + "; ".join(_before_and_after(name, row) for name, row in metrics.items())
        for split, metrics in (forgetting or {}).items()
    ]


def _before_and_after(name: str, row: dict[str, Any]) -> str:
    before, after = (
        percent(row[end]) if name == "accuracy" else number(row[end]) for end in ("before", "after")
    )
    return f"{METRIC_NAMES.get(name, name)} {before} before, {after} after ({change(name, row['change'])})"


def _signed(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name == "accuracy":
        return points(value)
    digits = 1 if name in ("bleu", "chrf", "ter") else 3
    return signed(value, digits)
