"""The forecast in words: reasons, advice and caveats."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nlp_transfer.shift.labelled import Figure
from nlp_transfer.shift.probe import ProbeResult


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} points"


def reasons(probe: ProbeResult, gain: Figure) -> tuple[str, ...]:
    """What speaks for and against the source, with figures."""
    free, labelled, out = probe.label_free, probe.labelled, []
    out.append(f"predicted gain {_points(gain.estimate)} (80 %: {_points(gain.low)} to {_points(gain.high)})")
    if labelled is not None:
        n = probe.n_labels
        text = f"on {n} target labels the source alone is right in {_percent(labelled.zero_shot.estimate)}"
        if labelled.target_only is not None and labelled.gain is not None:
            text += (
                f", the target labels alone in {_percent(labelled.target_only.estimate)}, both together in "
                f"{_percent(labelled.combined.estimate)} ({_points(labelled.gain.estimate)}, 80 %: "
                f"{_points(labelled.gain.low)} to {_points(labelled.gain.high)})"
            )
        out.append(text)
        match = labelled.agreement.label_function
        if math.isfinite(match):
            word = "contradicts" if match < 0 else "hardly agrees with" if match < 0.3 else "agrees with"
            out.append(
                f"the source's way to label {word} the target's (correlation {match:.2f}, noise corrected)"
            )
    else:
        out.append(
            f"without labels, the source probe is expected to be right in {_percent(free.doc_estimate)} of "
            f"the target (difference of confidences); in its own domain in {_percent(free.source_accuracy)}"
        )
    if free.source_accuracy < 0.65 and probe.n_classes == 2:
        out.append(f"the source hardly teaches itself: {_percent(free.source_accuracy)} in its own domain")
    if free.prior_shift > 0.2:
        out.append(
            f"predicted class shares on the target differ by {_percent(free.prior_shift)} from the source's"
        )
    out.append(
        f"a linear classifier tells the domains apart in {_percent(free.domain_accuracy)} of the cases"
    )
    return tuple(out)


def advice(probe: ProbeResult, level: str, gain: Figure) -> str:
    """What to do, as an imperative."""
    labelled = probe.labelled
    if labelled is None:
        if level == "high":
            return "pick another source, or collect 100 target labels and ask again"
        return "use it only after a check: collect 100 target labels and ask again"
    more = 50 if probe.n_labels < 50 else 100 if probe.n_labels < 100 else 300
    if level == "high":
        if probe.n_labels < 50:
            return f"pick another source, or collect {more} labels and fine-tune on the target only"
        return "fine-tune on the target only, or pick another source"
    if level == "moderate":
        if probe.n_labels < 300:
            return f"collect {more} labels and ask again; until then compare with training on the target only"
        return "train both with and without it and compare on held-out target labels"
    weighted = labelled.gain_weighted
    if (
        weighted is not None
        and labelled.gain is not None
        and weighted.estimate > labelled.gain.estimate + 0.015
    ):
        return "use it weighted by density ratio"
    if gain.estimate < 0.003 and probe.n_labels >= 300:
        return "use it or leave it: the target labels alone do as well"
    return "use it"


def caveats(probe: ProbeResult, outside: Sequence[str]) -> tuple[str, ...]:
    """What this input cannot tell."""
    out = list(probe.notes)
    if not probe.n_labels:
        out.append(
            "The probability is drawn towards one half, because a shift in what the labels mean stays "
            "possible; gain and probability compare with training on about 100 target labels."
        )
    if outside:
        out.append(
            "Outside of what was studied: " + "; ".join(outside) + ". Take the figures as a rough guide."
        )
    return tuple(out)
