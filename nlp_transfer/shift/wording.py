"""The forecast in words: reasons, advice and caveats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nlp_transfer.reporting.words import percent, points, signed
from nlp_transfer.shift.labelled import Figure
from nlp_transfer.shift.probe import ProbeResult

if TYPE_CHECKING:
    from nlp_transfer.shift.risk import Risk
    from nlp_transfer.shift.rows import Sample
    from nlp_transfer.shift.translation import TranslationShift

FEW_TEXTS = 100
"""Fewer texts than this make every figure of a report rough."""
SELDOM = 0.02
"""A share of pairs that hurt below which a level is the same for all pairs."""


def reasons(probe: ProbeResult, gain: Figure) -> tuple[str, ...]:
    """What speaks for and against the source, with figures."""
    free, labelled, out = probe.label_free, probe.labelled, []
    out.append(
        f"predicted gain {points(gain.estimate)} points (80 %: {points(gain.low)} to {points(gain.high)})"
    )
    if labelled is not None:
        n = probe.n_labels
        text = f"on {n} target labels the source alone is right in {percent(labelled.zero_shot.estimate)}"
        if labelled.target_only is not None and labelled.gain is not None:
            text += (
                f", the target labels alone in {percent(labelled.target_only.estimate)}, both together in "
                f"{percent(labelled.combined.estimate)} ({points(labelled.gain.estimate)} points, 80 %: "
                f"{points(labelled.gain.low)} to {points(labelled.gain.high)})"
            )
        out.append(text)
        match = labelled.agreement.label_function
        if math.isfinite(match):
            word = "contradicts" if match < 0 else "hardly agrees with" if match < 0.3 else "agrees with"
            out.append(
                f"the source's way to label {word} the target's (correlation "
                f"{signed(match, 2).lstrip('+')}, noise corrected)"
            )
    else:
        out.append(
            f"without labels, the source probe is expected to be right in {percent(free.doc_estimate)} of "
            f"the target (difference of confidences); in its own domain in {percent(free.source_accuracy)}"
        )
    if free.source_accuracy < 0.65 and probe.n_classes == 2:
        out.append(f"the source hardly teaches itself: {percent(free.source_accuracy)} in its own domain")
    if free.prior_shift > 0.2:
        out.append(
            f"predicted class shares on the target differ by {percent(free.prior_shift)} from the source's"
        )
    out.append(f"a linear classifier tells the domains apart in {percent(free.domain_accuracy)} of the cases")
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


def caveats(probe: ProbeResult, outside: Sequence[str], hurt: float) -> tuple[str, ...]:
    """What this input cannot tell; ``hurt``: share of the studied pairs with as many labels that hurt."""
    out = list(probe.notes)
    if probe.n_labels and hurt < SELDOM:
        out.insert(
            0,
            f"Beside so few target labels a source hardly ever hurt ({percent(hurt)} of the studied pairs): "
            "the level says that, and nothing about this source.",
        )
    if not probe.n_labels:
        out.append(
            "The probability is drawn towards one half, because a shift in what the labels mean stays "
            "possible; gain and probability compare with training on about 100 target labels."
        )
    if outside:
        out.append(
            "Outside of what was studied: " + "; ".join(outside) + ". Take the forecast as a rough guide."
        )
    return tuple(out)


def report_caveats(
    ours: Sample,
    theirs: Sample,
    risk: Risk | None,
    translation: TranslationShift | None,
    cut: float,
    max_length: int,
) -> tuple[str, ...]:
    """What the figures of a report cannot say."""
    out = [*ours.notes, *theirs.notes]
    if translation is not None:
        out += translation.caveats(ours.name, theirs.name)
    elif ours.ratings:
        out.append(
            f"There is no forecast for ratings, such as the labels of {ours.name}: the texts are compared."
        )
    elif risk is None:
        out.append(
            f"{ours.name} has no usable labels: the texts are compared, and whether training on it helps "
            "cannot be forecast."
        )
    else:
        out += risk.caveats
    few = [sample for sample in (ours, theirs) if len(sample.texts) < FEW_TEXTS]
    out += [f"{sample.name} has {len(sample.texts)} texts only: all figures are rough." for sample in few]
    seen = {" ".join(text.casefold().split()) for text in ours.texts}
    shared = sum(" ".join(text.casefold().split()) in seen for text in theirs.texts)
    if shared:
        out.append(
            f"{shared:,} of the {len(theirs.texts):,} target texts are among the source's: the domains look "
            f"closer "
            "than they are, and scores on those texts would be too good."
        )
    if cut > 0.02:
        out.append(
            f"{100 * cut:.0f} % of the target's texts are longer than the {max_length} tokens that are read."
        )
    out.append(
        "How far apart texts are hardly tells by itself whether transfer hurts"
        + ("; the forecast weighs it beside what the probes show." if risk else ".")
    )
    return tuple(dict.fromkeys(out))
