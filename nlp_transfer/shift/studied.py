"""Which study a forecast rests on, and what of an input lies outside of it.

The calibration of the frozen encoder stands on its own: one entry for each amount of target labels. That of
a fine-tuning strategy is one correction of the frozen forecast for all amounts, since far fewer trainings
than probes can be paid for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nlp_transfer.errors import DataError
from nlp_transfer.reporting.words import MINUS, percent, points
from nlp_transfer.shift.probe import ProbeResult

FROZEN_ONLY = ("contradiction", "gain_error", "combined_error")
"""Figures by which ``risk.forecast`` goes over to what the frozen probe measured."""
SHOWN = 2
"""Figures outside of their studied range that are named; the others are counted."""
FIGURES = {
    "source_accuracy": ("accuracy of the source's probe in its own domain", "%"),
    "doc_estimate": ("target accuracy expected from confidences", "%"),
    "atc_estimate": ("target accuracy expected from confidences above a threshold", "%"),
    "prior_shift": ("difference between the source's class shares and those predicted on the target", "%"),
    "domain_accuracy": ("accuracy of telling the domains apart", "%"),
    "mean_distance": ("distance between the domains' mean embeddings", ""),
    "log_score_spread": (
        "spread of the source probe's scores on the target, as a multiple of the source",
        "",
    ),
    "log_effective_share": ("share of source texts that resemble the target's", "%"),
    "log_n_source": ("number of source texts", ""),
    "zero_shot": ("accuracy of the source alone on the target labels", "%"),
    "target_only": ("accuracy of the target labels alone", "%"),
    "combined": ("accuracy of source and target labels together", "%"),
    "weighted": ("accuracy with the source weighted by density ratio", "%"),
    "target_half": ("accuracy of half of the target labels", "%"),
    "smooth_zero_shot": ("accuracy of the source alone, read from margins", "%"),
    "smooth_target_only": ("accuracy of the target labels alone, read from margins", "%"),
    "smooth_combined": ("accuracy of source and target labels together, read from margins", "%"),
    "gain_smooth": ("gain from the source, read from margins", "points"),
    "loss_zero_shot": ("squared error of the source alone on the target labels", ""),
    "loss_target_only": ("squared error of the target labels alone", ""),
    "loss_combined": ("squared error of source and target labels together", ""),
    "sharp_target_only": ("mean confidence of the target labels' probe", "%"),
    "sharp_combined": ("mean confidence of the probe on source and target labels", "%"),
    "label_function": ("correlation of the source's and the target's way to label", ""),
    "halves_correlation": ("correlation of two probes on half of the target labels each", ""),
    "combined_correlation": ("correlation of two such probes, one with the source added", ""),
    "gain_correlation": ("change in the correlation of two half-label probes by the source", ""),
    "agree_source_combined": ("agreement of the source's probe with that on source and target labels", "%"),
    "agree_target_combined": ("agreement of the target's probe with that on source and target labels", "%"),
    "frozen_gain": ("gain forecast for a frozen encoder", "points"),
    "frozen_accuracy": ("accuracy forecast for a frozen encoder", "%"),
    "frozen_log_odds": ("log odds of harm forecast for a frozen encoder", ""),
}
"""Every figure with a studied range in words, and its unit: a share in percent, points, or a plain number."""
Mix = Sequence[tuple[Mapping[str, Any], float]]


@dataclass(frozen=True)
class Evidence:
    """What a forecast rests on.

    Attributes:
        study: name and short description of the study behind the calibration.
        strategy: the one that was studied: the asked one, or frozen where the forecast had to be borrowed.
        pairs: source-target pairs in the study.
        cases: outcomes measured in it: pairs times amounts of labels (of the frozen study, also draws).
        auroc: of the probability for "hurts by more than a point" on targets held out of the fit, at the
            nearest amount of labels; None where it could not be measured.
        labels: the amounts of target labels studied that this forecast lies between.
        outside: what about this input lies outside of what was studied; empty when nothing does.
    """

    study: str
    strategy: str
    pairs: int
    cases: int
    auroc: float | None
    labels: tuple[int, ...]
    outside: tuple[str, ...]


def choose(table: Mapping[str, Any], strategy: str) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The frozen encoder's calibration and the strategy's correction of it; None where it was not studied.

    Raises:
        DataError: a calibration without the frozen encoder.
    """
    strategies = table.get("strategies", {})
    if "frozen" not in strategies:
        raise DataError(
            "the calibration has no strategies", expected="strategies.frozen", fix="calibrate again"
        )
    return strategies["frozen"], None if strategy == "frozen" else strategies.get(strategy)


def neighbours(levels: Sequence[Mapping[str, Any]], count: int) -> list[tuple[Mapping[str, Any], float]]:
    """The studied amounts of labels on both sides of ``count`` and their shares, linear in log labels."""
    if count == 0:
        return [(next(entry for entry in levels if entry["labels"] == 0), 1.0)]
    known = sorted((entry for entry in levels if entry["labels"] > 0), key=lambda entry: entry["labels"])
    below = [entry for entry in known if entry["labels"] <= count]
    above = [entry for entry in known if entry["labels"] > count]
    if not below or not above:
        return [(below[-1] if below else above[0], 1.0)]
    low, high = below[-1], above[0]
    share = math.log(count / low["labels"]) / math.log(high["labels"] / low["labels"])
    return [(low, 1 - share), (high, share)] if share else [(low, 1.0)]


def with_forecast(values: Mapping[str, float], found: Mapping[str, Any]) -> dict[str, float]:
    """A correction's figures: those of the probe and the frozen encoder's forecast.

    Fine-tuning unlearns a part of what a contradicting source does to a frozen encoder, so the probe's own
    gain must not stand in for the forecast's.
    """
    probability = min(max(found["probability"], 0.01), 0.99)
    kept = {name: value for name, value in values.items() if name not in FROZEN_ONLY}
    return {
        **kept,
        "frozen_gain": found["gain"][0],
        "frozen_accuracy": found["accuracy"][0],
        "frozen_log_odds": math.log(probability / (1 - probability)),
    }


def evidence(
    known: Mapping[str, Any], own: Mapping[str, Any] | None, mix: Mix, strategy: str, outside: tuple[str, ...]
) -> Evidence:
    """What a forecast by ``known`` (frozen), corrected by ``own`` where there is one, rests on."""
    nearest = max(mix, key=lambda item: item[1])[0]
    if own is None:
        cases = sum(int(entry["figures"]["rows"]) for entry in known["levels"])
        labels, figures = tuple(int(entry["labels"]) for entry, _ in mix), nearest["figures"]
    else:
        cases, labels, figures = int(own["study"]["cases"]), tuple(own["labels"]), own["figures"]
    study = (own or known)["study"]
    return Evidence(
        study=study["name"],
        strategy="frozen" if own is None else strategy,
        pairs=int(study["pairs"]),
        cases=cases,
        auroc=figures.get("auroc"),
        labels=labels,
        outside=outside,
    )


def beyond(
    known: Mapping[str, Any],
    own: Mapping[str, Any] | None,
    mix: Mix,
    probe: ProbeResult,
    values: Mapping[str, float],
    count: int,
    strategy: str,
) -> tuple[str, ...]:
    """What lies outside of what was studied, in words."""
    out = []
    if strategy != "frozen" and own is None:
        what = f"strategy {strategy}" if count else f"strategy {strategy} without target labels"
        out.append(f"{what} was not studied: the forecast is the one for a frozen encoder")
    if probe.n_classes not in known["classes"]:
        studied = ", ".join(str(item) for item in known["classes"])
        out.append(f"{probe.n_classes} classes (studied: {studied}): the forecast rests on the probe alone")
    amounts = own["labels"] if own else [entry["labels"] for entry in known["levels"] if entry["labels"]]
    if count and not min(amounts) <= count <= max(amounts):
        trained = "" if count == probe.n_labels else " to train on"
        out.append(f"{count} target labels{trained} (studied: {min(amounts)} to {max(amounts)})")
    ranges = {**mix[0][0]["range"], **(own["range"] if own else {})}
    far = {
        name: max(low - values[name], values[name] - high) / max(high - low, 1e-9)
        for name, (low, high) in ranges.items()
        if name in values and not low - _slack(name) <= values[name] <= high + _slack(name)
    }
    farthest = sorted(far, key=lambda name: -far[name])
    out += [_range_text(name, values[name], *ranges[name]) for name in farthest[:SHOWN]]
    if len(far) > SHOWN:
        more = len(far) - SHOWN
        out.append(f"and {more} more figure{'s' * (more > 1)}")
    return tuple(out)


def _slack(name: str) -> float:
    """How far outside of the studied range counts as inside: a quarter of a count, nothing of a share."""
    return math.log(1.25) if name.startswith("log_") else 0.0


def _range_text(name: str, value: float, low: float, high: float) -> str:
    """A figure beside its studied range, in its own unit: those fitted as logarithms are turned back."""
    if name.startswith("log_"):
        value, low, high = math.exp(value), math.exp(low), math.exp(high)
    words, unit = FIGURES.get(name, (name.replace("_", " "), ""))
    if unit == "%":
        low, high = max(low, 0.0), min(high, 1.0)
    ends = [_in_unit(number, unit, large=high >= 100) for number in (value, low, high)]
    return f"{words} {ends[0]} (studied: {ends[1]} to {ends[2]})"


def _in_unit(number: float, unit: str, *, large: bool) -> str:
    if unit == "%":
        return percent(number)
    if unit == "points":
        return f"{points(number)} points"
    return f"{number:{',.0f' if large else '.3g'}}".replace("-", MINUS)
