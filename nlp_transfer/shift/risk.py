"""The forecast: does this source lower target accuracy by more than a point, and what accuracy to expect.

A linear model over the figures of ``probe.py``, fitted on pairs of real data sets whose outcome was measured
(``calibrate.py``); its coefficients, and how well it did on targets it had not seen, stand in
``calibration.json``. Nothing is fitted here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nlp_transfer.errors import DataError, did_you_mean
from nlp_transfer.shift.labelled import Figure
from nlp_transfer.shift.probe import ProbeResult
from nlp_transfer.shift.studied import Evidence, beyond, choose, evidence, neighbours, with_forecast
from nlp_transfer.shift.wording import advice, caveats, reasons

Level = Literal["low", "moderate", "high"]
HURT = 0.01
"""A source hurts when it lowers target accuracy by more than this: one point."""
MODERATE, HIGH = 0.2, 0.5
"""Levels: below MODERATE low, from HIGH on high."""
DOUBT = 0.15
"""Without target labels, the share of belief kept for a label-function shift that no text can show."""
CALIBRATION = Path(__file__).with_name("calibration.json")
FINE_TUNING = Path(__file__).with_name("fine_tuning.json")
Z80 = 1.2816
"""Normal quantile of an 80 % interval."""


@dataclass(frozen=True)
class Risk:
    """A forecast of negative transfer. Accuracies and gains are fractions; intervals hold 80 %.

    Attributes:
        probability: that the source lowers target accuracy by more than one point, against training on the
            target labels alone. Without target labels: against training on about 100 of them.
        predicted_gain: accuracy with the source less accuracy without it.
        predicted_target_accuracy: of the model trained on source and target labels; without target labels,
            of the model trained on the source alone.
        level: low, moderate or high (see ``MODERATE`` and ``HIGH``).
        reasons: what speaks for and against, with figures.
        advice: what to do.
        caveats: what cannot be known from this input.
        evidence: what the forecast rests on.
    """

    probability: float
    predicted_gain: Figure
    predicted_target_accuracy: Figure
    level: Level
    reasons: tuple[str, ...]
    advice: str
    caveats: tuple[str, ...]
    evidence: Evidence

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def assess(
    probe: ProbeResult,
    statistics: Mapping[str, float] | None = None,
    *,
    strategy: Literal["frozen", "full", "lora"] = "frozen",
    n_target_labels: int | None = None,
    calibration: Mapping[str, Any] | None = None,
) -> Risk:
    """Forecast what the source does to the target.

    Args:
        probe: from ``run_probe``.
        statistics: further shift statistics by name, such as ``mmd``; used where the calibration knows them.
        strategy: how the model will be trained.
        n_target_labels: labels that training will have; default: those that the probe had.
        calibration: in place of the package's ``calibration.json``.

    Raises:
        DataError: an unknown strategy, or a calibration without any.
    """
    if strategy not in ("frozen", "full", "lora"):
        raise DataError(
            f"unknown strategy {strategy!r}", fix=did_you_mean(strategy, ["frozen", "full", "lora"])
        )
    known, own = choose(calibration or load_calibration(), strategy)
    count = probe.n_labels if n_target_labels is None else n_target_labels
    count = count if probe.n_labels else 0
    values = features(probe, statistics)
    mix = neighbours(known["levels"], count)
    own = own if count and probe.n_classes in known["classes"] else None
    if probe.n_classes in known["classes"]:
        found = _mixed([(forecast(entry, values), share) for entry, share in mix])
        if own is not None:
            values = with_forecast(values, found)
            found = forecast(own, values)
    else:
        found = _probe_alone(probe, known)
    hurt = sum(share * entry["figures"].get("hurt_share", 1.0) for entry, share in mix)
    outside = beyond(known, own, mix, probe, values, count, strategy)
    if not probe.n_labels:
        found["probability"] = (1 - DOUBT) * found["probability"] + DOUBT / 2
    probability = float(np.clip(found["probability"], 0.01, 0.99))
    level: Level = "low" if probability < MODERATE else "moderate" if probability < HIGH else "high"
    gain, accuracy = (
        Figure(*found["gain"]),
        Figure(*(float(np.clip(v, 0, 1)) for v in found["accuracy"])),
    )
    return Risk(
        probability=probability,
        predicted_gain=gain,
        predicted_target_accuracy=accuracy,
        level=level,
        reasons=reasons(probe, gain),
        advice=advice(probe, level, gain),
        caveats=caveats(probe, outside, hurt),
        evidence=evidence(known, own, mix, strategy, outside),
    )


@lru_cache(maxsize=1)
def load_calibration() -> Mapping[str, Any]:
    """The package's calibration: of the frozen encoder, and what fine-tuning changes."""
    table, other = (json.loads(path.read_text(encoding="utf-8")) for path in (CALIBRATION, FINE_TUNING))
    return {**table, "strategies": {**table["strategies"], **other["strategies"]}}


def flatten(probe: ProbeResult) -> dict[str, float]:
    """All numbers of a probe by dotted name, such as ``labelled.gain.estimate``, without NaN and None."""
    out: dict[str, float] = {}

    def visit(prefix: str, value: Any) -> None:
        if hasattr(value, "__dataclass_fields__"):
            for item in fields(value):
                visit(f"{prefix}.{item.name}" if prefix else item.name, getattr(value, item.name))
        elif isinstance(value, (int, float)) and math.isfinite(value):
            out[prefix] = float(value)

    visit("", probe)
    return out


def features(
    probe: ProbeResult | Mapping[str, float], statistics: Mapping[str, float] | None = None
) -> dict[str, float]:
    """What the forecast looks at, by name; a figure that is unknown is left out.

    Args:
        probe: from ``run_probe``, or its ``flatten``.
        statistics: further figures, taken over by their name.
    """
    flat = flatten(probe) if isinstance(probe, ProbeResult) else probe
    out = dict(statistics or {})

    def put(name: str, plus: str, minus: str | None = None) -> None:
        if plus in flat and (minus is None or minus in flat):
            out[name] = flat[plus] - (flat[minus] if minus else 0.0)

    free, labelled, agreement = "label_free.", "labelled.", "labelled.agreement."
    domains = ("prior_shift", "domain_accuracy", "mean_distance")
    for name in ("source_accuracy", "doc_estimate", "atc_estimate", *domains):
        put(name, free + name)
    out["log_score_spread"] = math.log(max(flat[free + "score_spread"], 1e-3))
    out["log_effective_share"] = math.log(max(flat[free + "effective_share"], 1e-3))
    out["log_n_source"] = math.log(flat["n_source"])
    for name in ("gain", "combined"):
        put(name, f"{labelled}{name}.estimate")
        if name in out:
            spread = (flat[f"{labelled}{name}.high"] - flat[f"{labelled}{name}.low"]) / (2 * Z80)
            out[name + "_error"] = math.hypot(spread, 1 / flat["n_labels"])
    put("gain_weighted", labelled + "gain_weighted.estimate")
    put("gain_half", labelled + "combined_half", labelled + "target_half")
    put("gain_smooth", labelled + "smooth_combined", labelled + "smooth_target_only")
    put("gain_loss", labelled + "loss_target_only", labelled + "loss_combined")
    put("zero_shot_less_target", labelled + "zero_shot.estimate", labelled + "target_only.estimate")
    put("zero_shot_loss_gain", labelled + "loss_target_only", labelled + "loss_zero_shot")
    for name in ("evidence", "target_half", "smooth_zero_shot", "smooth_target_only", "smooth_combined"):
        put(name, labelled + name)
    for name in (
        "loss_zero_shot",
        "loss_target_only",
        "loss_combined",
        "sharp_target_only",
        "sharp_combined",
    ):
        put(name, labelled + name)
    put("gain_sharp", labelled + "sharp_combined", labelled + "sharp_target_only")
    put("gain_agreement", agreement + "halves_combined", agreement + "halves")
    put("gain_correlation", agreement + "combined_correlation", agreement + "halves_correlation")
    for name in ("zero_shot", "target_only", "weighted"):
        put(name, f"{labelled}{name}.estimate")
    for name in ("source_target", "source_combined", "target_combined", "halves", "halves_combined"):
        put("agree_" + name, agreement + name)
    for name in ("source_correlation", "halves_correlation", "combined_correlation", "label_function"):
        put(name, agreement + name)
    if flat.get(labelled + "class_balance", 1.0) < 0.95:
        expected = flat[free + "doc_estimate"]
        out["contradiction"] = contradiction(out["zero_shot"], flat["n_labels"], expected, flat["n_classes"])
    return out


def contradiction(right: float, labels: float, expected: float, classes: float) -> float:
    """Chance that the source alone is right on clearly fewer target rows than guessing (0.8 / classes).

    Args:
        right: share of the labelled target rows that it predicts rightly; ``labels`` their number.
        expected: accuracy expected without labels; counts like four labels (a beta prior).
        classes: in all.
    """
    grid = np.linspace(0.0005, 0.9995, 1000)
    log_density = (right * labels + 4 * expected - 1) * np.log(grid)
    log_density += ((1 - right) * labels + 4 * (1 - expected) - 1) * np.log1p(-grid)
    density = np.exp(log_density - log_density.max())
    return float(density[grid < 0.8 / classes].sum() / density.sum())


def linear(model: Mapping[str, Any], values: Mapping[str, float]) -> float:
    """Intercept plus slopes times standardised figures, each held within 4 standard deviations.

    A term is ``[mean, scale, slope]``, or with ``[..., knee, bend]`` more the slope changes above the knee.
    """
    total = float(model["intercept"])
    for name, (mean, scale, slope, *bent) in model["terms"].items():
        if name in values:
            z = float(np.clip((values[name] - mean) / scale, -4, 4))
            total += slope * z
            if bent:
                knee, bend = bent
                total += bend * max(z - knee, 0.0)
    return total


def forecast(entry: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
    """The forecast at one amount of labels: ``probability``; ``gain`` and ``accuracy`` (estimate, low, high).

    The probability is the normal chance that follows from the gain and its error; where the calibration has a
    logistic regression too (``hurt``), their mean.

    Inside of what was studied it is the calibration's. Outside, by a distance D (see :func:`distance`), the
    calibration's error counts 1 + D times and the estimate is averaged with what the probe measured, each
    weighted by the inverse of its squared error. By the chance that the source contradicts the target's
    labels (see :func:`contradiction`), the gain goes over to the measured one and the probability to one.
    A source that is harder to learn than any that was studied (noisy labels) is not called safe by the
    figures of the others: by as many widths of the range of ``source_accuracy`` as it lies below it, one at
    most, half of a low probability gives way to one half.

    Args:
        entry: one of the calibration's levels.
        values: from :func:`features`.
    """
    away = distance(entry["range"], values)
    out: dict[str, Any] = {}
    for name, measured in (("gain", "gain"), ("accuracy", "combined")):
        model = entry[name]
        centre, error = linear(model, values), model["error"] * (1 + away)
        if away and measured + "_error" in values:
            trust = error**-2 / (error**-2 + values[measured + "_error"] ** -2)
            centre = trust * centre + (1 - trust) * values[measured]
            error = (error**-2 + values[measured + "_error"] ** -2) ** -0.5
        wide = max(error / model["error"], 1.0)
        out[name] = (centre, centre + wide * model["low"], centre + wide * model["high"])
        if name == "gain":
            out["probability"] = 0.5 * math.erfc((HURT + centre) / error / math.sqrt(2))
    if "hurt" in entry:
        direct = 1 / (1 + math.exp(-float(np.clip(linear(entry["hurt"], values), -30, 30))))
        out["probability"] = (out["probability"] + direct) / 2
    low, high = entry["range"].get("source_accuracy", (0.0, 1.0))
    short = float(np.clip((low - values.get("source_accuracy", 1.0)) / max(high - low, 1e-9), 0, 1))
    out["probability"] += short / 2 * max(0.5 - out["probability"], 0.0)
    against = values.get("contradiction", 0.0)
    out["probability"] += (1 - out["probability"]) * against
    lower = min(values.get("gain", 0.0) - out["gain"][0], 0.0) * against
    out["gain"] = tuple(value + lower for value in out["gain"])
    return out


def distance(ranges: Mapping[str, Sequence[float]], values: Mapping[str, float]) -> float:
    """How far figures lie outside their ranges: in widths of the range, at most one each, summed."""
    total = 0.0
    for name, (low, high) in ranges.items():
        if name in values:
            excess = max(low - values[name], values[name] - high, 0.0)
            total += min(excess / max(high - low, 1e-9), 1.0)
    return total


def _probe_alone(probe: ProbeResult, known: Mapping[str, Any]) -> dict[str, Any]:
    """The probe's own figures with wide intervals, where the calibration does not reach."""
    first = known["levels"][0]
    if probe.labelled is None or probe.labelled.gain is None:
        doc = probe.label_free.doc_estimate
        base = float(first["figures"]["hurt_share"])
        return {"probability": base, "gain": (0.0, -0.1, 0.1), "accuracy": (doc, doc - 0.15, doc + 0.1)}
    gain, combined = probe.labelled.gain, probe.labelled.combined
    error = math.hypot((gain.high - gain.low) / (2 * Z80), 0.01)
    probability = 0.5 * math.erfc((gain.estimate + HURT) / error / math.sqrt(2))
    return {
        "probability": probability,
        "gain": (gain.estimate, gain.estimate - Z80 * error, gain.estimate + Z80 * error),
        "accuracy": (combined.estimate, combined.low, combined.high),
    }


def _mixed(parts: Sequence[tuple[dict[str, Any], float]]) -> dict[str, Any]:
    """Forecasts of neighbouring amounts of labels, weighted by their nearness."""
    return {
        "probability": sum(part["probability"] * share for part, share in parts),
        **{
            name: tuple(sum(part[name][i] * share for part, share in parts) for i in range(3))
            for name in ("gain", "accuracy")
        },
    }
