"""Ways to train: the accuracy to expect of each, its cost, and which to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from nlp_transfer.errors import DataError
from nlp_transfer.selection.trials import Trial
from nlp_transfer.shift.labelled import Figure
from nlp_transfer.shift.risk import Z80, assess, load_calibration

if TYPE_CHECKING:
    from nlp_transfer.selection.cost import TrainingCost
    from nlp_transfer.shift.report import ShiftReport

StrategyName = Literal["frozen", "lora", "full"]
STRATEGIES: tuple[StrategyName, ...] = ("frozen", "lora", "full")
CLOSE = 0.005
"""Accuracies within half a point count as equal; the cheaper option is taken."""
BATCH, STEPS, EPOCHS = 16, 60, (3, 10)
"""Rows of a step; steps that fine-tuning takes at least, within these bounds of epochs."""
LEARNING_RATES = {"full": 1e-4, "lora": 1e-3}
"""Those of the shipped recipes."""
VALIDATION = 0.1
"""Share of the target rows that fine-tuning holds out."""
FINE_TUNING = {
    "full": {16: -0.002, 128: 0.066, 1700: 0.079},
    "lora": {16: -0.001, 128: 0.062, 1700: 0.087},
}
"""Accuracy of a fine-tuned model less that of a frozen encoder by the number of labelled rows: means over the
data sets of benchmarks/few_shot.py and benchmarks/sentiment_strategies.py (MiniLM-L6). Between them a line in
log rows is supposed, beyond them no change."""
FINE_TUNING_ERROR = 0.035
"""Standard deviation of that difference between data sets."""
WEIGHTING_SPREAD = 0.01
"""Standard deviation of what weighting changes, before anything is known: one point."""


@dataclass(frozen=True)
class Option:
    """One way to train. Accuracies and gains are fractions.

    Attributes:
        strategy: frozen, lora or full.
        source: name of the source; None: the target alone.
        weighted: source rows weighted by how much they look like the target.
        accuracy: expected on the target, with its 80 % interval.
        gain: expected over the same strategy without a source; None without one, or without target labels.
        epochs: of fine-tuning; None for frozen.
        minutes: of the run on this machine.
        memory_gb: most memory of the process (of the GPU where there is one), in 10^9 bytes.
        why_not: what rules it out; None: it can be taken.
    """

    strategy: StrategyName
    source: str | None
    weighted: bool
    accuracy: Figure
    gain: Figure | None
    epochs: int | None
    minutes: float
    memory_gb: float
    why_not: str | None = None


@dataclass(frozen=True)
class Known:
    """What all options are judged by: one report and one trial of each kind a source, and the costs."""

    reports: list[ShiftReport]
    trials: list[Trial]
    rows: list[int]
    labels: int
    costs: dict[str, TrainingCost]
    text_seconds: float
    frozen_memory: float
    calibrated: dict[tuple[int, str], Figure]
    """By source and strategy, where a study of that strategy is there: gain from the source."""


def calibrated_forecasts(
    reports: Sequence[ShiftReport], strategies: Sequence[StrategyName], labels: int
) -> dict[tuple[int, str], Figure]:
    """Forecasts of the gain for the strategies that were studied with about so many target labels."""
    studied = load_calibration().get("strategies", {})
    found: dict[tuple[int, str], Figure] = {}
    for number, report in enumerate(reports):
        for name in strategies:
            known = name != "frozen" and name in studied and labels >= min(studied[name]["labels"])
            if known and report.probe is not None:
                risk = assess(report.probe, strategy=name, n_target_labels=labels)
                found[number, name] = risk.predicted_gain
    return found


def expected(
    known: Known, strategy: StrategyName, number: int | None, weighted: bool
) -> tuple[Figure, Figure | None]:
    """Accuracy on the target and gain from the source, each with its 80 % interval.

    Frozen, target alone: the cross-validated accuracy. With a source: that plus the forecast's gain; without
    target labels, the forecast's accuracy. Weighted: plus the cross-validated difference that weighting
    makes, shrunk towards none by its error. Fine-tuned: plus what fine-tuning adds to a frozen encoder with
    so many target labels; the gain from a source is that of the strategy's own study where the calibration
    has one, else that of the frozen encoder, with the source's rows counted as far as they carry over.
    """
    risk = None if number is None else known.reports[number].risk
    gain, rows = None if risk is None else risk.predicted_gain, known.labels
    if number is not None and strategy != "frozen":
        if (number, strategy) in known.calibrated:
            gain = known.calibrated[number, strategy]
        else:
            rows += round(carried_over(known.reports[number]) * known.rows[number])
    if known.trials:
        right = known.trials[0].right
        error = Z80 * math.sqrt(max(right.mean() * (1 - right.mean()), 0.01) / len(right))
        accuracy = _around(float(right.mean()), error)
        if gain is not None:
            accuracy = _shifted(accuracy, gain)
    else:
        assert risk is not None  # `plan` refuses a source that cannot be judged
        accuracy = risk.predicted_target_accuracy
    if strategy != "frozen":
        accuracy = _shifted(accuracy, _around(fine_tuning_gain(strategy, rows), Z80 * FINE_TUNING_ERROR))
    if weighted and number is not None:
        extra = _around(weighting_gain(known.trials, number), 0.0)
        accuracy = _shifted(accuracy, extra)
        gain = None if gain is None else _shifted(gain, extra)
    bounded = Figure(
        *(float(np.clip(value, 0, 1)) for value in (accuracy.estimate, accuracy.low, accuracy.high))
    )
    return bounded, gain if known.trials else None


def carried_over(report: ShiftReport) -> float:
    """Share of what the source teaches about itself that holds on the target: how much its rows count.

    (accuracy of the source's probe on the labelled target rows - chance) / (in its own domain - chance), from
    0 to 1; 1 without target labels.
    """
    probe = report.probe
    if probe is None or probe.labelled is None:
        return 1.0
    chance = 1 / max(probe.n_classes, 2)
    own = max(probe.label_free.source_accuracy - chance, 0.01)
    return float(np.clip((probe.labelled.zero_shot.estimate - chance) / own, 0, 1))


def fine_tuning_gain(strategy: str, rows: int) -> float:
    """What fine-tuning adds to the accuracy of a frozen encoder with this many labelled rows."""
    known = FINE_TUNING[strategy]
    return float(np.interp(np.log(max(rows, 1)), np.log(list(known)), list(known.values())))


def weighting_gain(trials: Sequence[Trial], number: int) -> float:
    """What weighting the source's rows adds, shrunk towards nothing, and a trace less."""
    pair = {trial.weighted: trial for trial in trials if trial.source == number}
    if not pair:
        return -1e-6
    difference, error = pair[True].gain_over(pair[False])
    return difference * WEIGHTING_SPREAD**2 / (WEIGHTING_SPREAD**2 + error**2) - 1e-6


def _around(value: float, error: float) -> Figure:
    return Figure(value, value - error, value + error)


def _shifted(figure: Figure, by: Figure) -> Figure:
    """The sum of two independent figures."""
    centre = figure.estimate + by.estimate
    low = math.hypot(figure.estimate - figure.low, by.estimate - by.low)
    high = math.hypot(figure.high - figure.estimate, by.high - by.estimate)
    return Figure(centre, centre - low, centre + high)


def all_options(known: Known, strategies: Sequence[StrategyName]) -> list[Option]:
    """Every strategy on the target alone and with each source, plain and weighted."""
    found = []
    for name in strategies:
        if known.labels and known.trials:
            found.append(_option(known, name, None, False))
        for number in range(len(known.reports)):
            found += [_option(known, name, number, weighted) for weighted in (False, True)]
    return found


def _option(known: Known, strategy: StrategyName, number: int | None, weighted: bool) -> Option:
    name = None if number is None else known.reports[number].source.name
    accuracy, gain = expected(known, strategy, number, weighted)
    rows = known.labels + (0 if number is None else known.rows[number])
    seconds = known.text_seconds * rows
    epochs = None
    if strategy == "frozen":
        memory = known.frozen_memory
    else:
        cost = known.costs[strategy]
        epochs = int(np.clip(math.ceil(STEPS * BATCH / rows), *EPOCHS))
        held_out = VALIDATION * known.labels * known.text_seconds
        seconds = epochs * (cost.seconds_per_row * rows + held_out)
        memory = cost.memory_mb
    if number is not None:
        report = known.reports[number]
        seconds += report.seconds - report.timings["embedding"]
    return Option(
        strategy, name, weighted, accuracy, gain, epochs, round(seconds / 60, 2), round(memory / 1000, 2)
    )


def limited(option: Option, budget_minutes: float | None, memory_gb: float | None) -> Option:
    """The option with fewer epochs where the budget wants it, or with what rules it out."""
    if memory_gb is not None and option.memory_gb > memory_gb:
        return replace(
            option, why_not=f"{option.memory_gb:.1f} GB of memory, over the limit of {memory_gb:g} GB"
        )
    if budget_minutes is None or option.minutes <= budget_minutes:
        return option
    if option.epochs is not None:
        for epochs in range(option.epochs - 1, 0, -1):
            minutes = option.minutes * epochs / option.epochs
            if minutes <= budget_minutes:
                return replace(option, epochs=epochs, minutes=round(minutes, 2))
    least = option.minutes / (option.epochs or 1)
    spent = "one epoch takes" if option.epochs else "it takes"
    return replace(option, why_not=f"{spent} {least:.1f} minutes, over the budget of {budget_minutes:g}")


def choose(options: Sequence[Option]) -> Option:
    """The cheapest of the options that are as good as the best.

    Raises:
        DataError: none fits the limits.
    """
    able = [option for option in options if option.why_not is None]
    if not able:
        cheapest = min(options, key=lambda option: option.minutes)
        raise DataError(
            "no way to train fits the limits",
            found=f"{cheapest.strategy}: {cheapest.why_not}",
            fix="raise --budget-minutes or --memory-gb, or give fewer rows",
        )
    best = max(option.accuracy.estimate for option in able)
    close = [option for option in able if option.accuracy.estimate >= best - CLOSE]
    return min(close, key=lambda option: (option.minutes, option.weighted, -option.accuracy.estimate))
