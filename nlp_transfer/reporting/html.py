"""The shift report as one HTML file that needs no network, and as a card in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from nlp_transfer.reporting import words
from nlp_transfer.reporting.page import environment, file_text, page_parts, plain_text

if TYPE_CHECKING:
    from nlp_transfer.shift.labelled import Figure
    from nlp_transfer.shift.pictures import Point
    from nlp_transfer.shift.report import DomainSummary, ShiftReport

GROUPS = {
    "translation": "Translation: the model as it is now",
    "embeddings": "Embeddings: what the texts mean",
    "vocabulary": "Words",
    "references": "Words of the references",
    "labels": "Labels",
}
HOVER_COLUMNS, HOVER_CHARACTERS = 36, 220
BINS = 24


def shift_page(reports: Sequence[ShiftReport]) -> str:
    """One page for one report, or for several sources of one target in their order.

    Every text is escaped; the data stand in the page as JSON without a single angle bracket.
    """
    views = [_view(report) for report in reports]
    names = " → ".join([views[0]["source"]["name"], views[0]["target"]["name"]])
    one_target = len({view["target"]["name"] for view in views}) == 1
    many = f"{len(views)} sources → {views[0]['target']['name']}"
    if not one_target:
        many = f"{views[0]['source']['name']} → {len(views)} targets"
    title = names if len(views) == 1 else many
    return page_parts(
        "shift.html.j2",
        title=f"{title}: domain shift",
        data=[_pictures(report) for report in reports],
        reports=views,
        one_target=one_target,
    )


def shift_card(report: ShiftReport) -> str:
    """The verdict and the figures, for a notebook."""
    css = Markup(str(file_text("report.css")).replace(":root", "&"))  # nested: the notebook stays as it is
    return environment().get_template("card.html.j2").render(r=_view(report), css=css)


def _view(report: ShiftReport) -> dict[str, Any]:
    """Everything that the template prints, as text."""
    risk, mmd = report.risk, report.mmd
    verdict = "differ beyond chance" if mmd["p_value"] < 0.05 else "may come from one domain"
    return {
        "source": _domain(report.source),
        "target": _domain(report.target),
        "level": risk.level if risk else "none",
        "level_word": f"{risk.level} ({100 * risk.probability:.0f} %)" if risk else "unknown",
        "headline": words.headline(report),
        "sentence": words.sentence(report),
        "advice": words.advice(report),
        "reasons": words.reasons(report),
        "accuracy": _accuracy(risk.predicted_target_accuracy) if risk else None,
        "accuracy_note": words.accuracy_note(report),
        "gain": _gain(risk.predicted_gain) if risk else None,
        "gain_note": words.gain_note(report),
        "zero_shot": _zero_shot(report),
        "test_note": (
            f"The texts {verdict} (p = {words.p_value(mmd['p_value'])}). If both samples came from one "
            f"domain, MMD² "
            "would fall where the grey bars are: there the texts were dealt out at random "
            f"{mmd['permutations']:,} times."
        ),
        "classes": report.classes,
        "classes_note": _classes_note(report),
        "within": any(item.mmd2 is not None for item in report.classes),
        "most_shifted": report.most_shifted,
        "groups": _groups(report),
        "caveats": report.caveats,
        "facts": _facts(report),
    }


def _domain(domain: DomainSummary) -> dict[str, str]:
    none = ", with ratings" if domain.ratings else ", no labels"
    labels = f", {domain.labels:,} with a label" if domain.labels else none
    labels = ", all with a label" if domain.labels == domain.used else labels
    size = (
        f"{domain.used:,} texts"
        if domain.used == domain.texts
        else f"{domain.used:,} of {domain.texts:,} texts"
    )
    return {"name": domain.name, "size": size + labels}


def _accuracy(figure: Figure) -> dict[str, Any]:
    return {
        "value": words.percent(figure.estimate),
        "range": words.accuracy_range(figure),
        "spoken": f"80 % interval from {words.percent(figure.low)} to {words.percent(figure.high)}",
        "zero": None,
        "scale": ("0 %", "100 %"),
        **_track(figure, 0.0, 1.0),
    }


def _gain(figure: Figure) -> dict[str, Any]:
    reach = max(0.05, 1.15 * max(abs(figure.low), abs(figure.high)))
    return {
        "value": f"{words.points(figure.estimate)} points",
        "range": words.gain_range(figure),
        "spoken": f"80 % interval from {words.points(figure.low)} to {words.points(figure.high)} points",
        "zero": 50.0,
        "scale": ("hurts", "helps"),
        **_track(figure, -reach, reach),
    }


def _zero_shot(report: ShiftReport) -> list[dict[str, Any]]:
    """chrF of the model as it is, on both domains."""
    if report.translation is None:
        return []
    from nlp_transfer.shift.labelled import Figure

    sides = ((report.source.name, report.translation.source), (report.target.name, report.translation.target))
    cards = []
    for name, side in sides:
        low, value, high = (float(side.chrf[end] or 0) for end in ("low", "value", "high"))
        ends = f"95 % interval {low:.1f} to {high:.1f}"
        cards.append(
            {
                "title": f"chrF on {name}, before training",
                "value": f"{value:.1f}",
                "range": ends,
                "spoken": ends,
                "zero": None,
                "scale": ("0", "100"),
                "note": f"Greedy translations of {side.rows} pairs ({side.split}); BLEU "
                f"{side.bleu['value']:.1f}, loss {side.loss['value']:.2f} nats per token.",
                **_track(Figure(value, low, high), 0.0, 100.0),
            }
        )
    return cards


def _track(figure: Figure, start: float, end: float) -> dict[str, float]:
    low, dot, high = (
        float(np.clip(100 * (value - start) / (end - start), 0, 100))
        for value in (figure.low, figure.estimate, figure.high)
    )
    return {"left": round(low, 2), "width": round(max(high - low, 0.5), 2), "dot": round(dot, 2)}


def _classes_note(report: ShiftReport) -> str:
    if report.target.labels:
        return (
            "The mix of classes on both sides and, striped, the target's as estimated from its texts alone: "
            "a hint, for it supposes that a class is written alike in both domains."
        )
    return (
        "The source's mix of classes, and, striped, the target's mix as estimated from its texts alone. "
        "Without target "
        "labels this cannot be checked: it supposes that a class is written alike in both domains."
    )


def _groups(report: ShiftReport) -> list[dict[str, Any]]:
    groups = []
    for key, title in GROUPS.items():
        rows = [
            {
                "title": item.title,
                "name": item.name,
                "value": words.number(item.value),
                "interval": words.between(item.interval),
                "interval_of": "no shift" if item.interval and item.interval_of == "no shift" else "",
                "p_value": words.p_value(item.p_value),
                "meaning": item.meaning,
            }
            for item in report.statistics
            if item.group == key
        ]
        if rows:
            groups.append({"title": title, "rows": rows})
    return groups


def _facts(report: ShiftReport) -> list[tuple[str, str]]:
    mmd, encoder = report.mmd, report.encoder
    facts = [
        (side, f"{domain.name}: {_domain(domain)['size']}; SHA-256 {domain.fingerprint[:16]}")
        for side, domain in (("Source", report.source), ("Target", report.target))
    ]
    facts += [
        ("Encoder", f"{report.model}, {encoder['pooling']} pooling, first {encoder['max_length']} tokens"),
        (
            "Two-sample test",
            f"unbiased MMD² with an {mmd['kernel']} kernel over bandwidths "
            f"{', '.join(words.number(width) for width in mmd['bandwidths'])}; {mmd['permutations']} "
            f"permutations, "
            f"seed {report.seed}",
        ),
        ("Method", f"{mmd['method']}: {mmd['method_reason']}"),
    ]
    if report.risk is not None:
        facts.append(("Forecast", f"from linear probes on the frozen encoder. {words.study(report)}"))
    parts = ", ".join(f"{name.replace('_', ' ')} {value:.1f} s" for name, value in report.timings.items())
    return [*facts, ("Time", f"{report.seconds:.1f} s: {parts}")]


def _pictures(report: ShiftReport) -> dict[str, Any]:
    """What the scripts draw."""
    picture = report.embedding_map
    return {
        "source": report.source.name,
        "target": report.target.name,
        "map": {
            "source": _places(picture.source, report.source.name),
            "target": _places(picture.target, report.target.name),
            "axes": [
                f"principal component {axis} ({100 * share:.0f} % of the variance)"
                for axis, share in enumerate(picture.explained, 1)
            ],
        },
        "permutations": _histogram(report),
        "classes": _class_bars(report),
        "within": _within(report),
    }


def _within(report: ShiftReport) -> dict[str, list[Any]]:
    """MMD squared of all texts and of each class, at one bandwidth."""
    item = report.statistic("class_conditional_mmd2")
    pairs = [(row.name, row.mmd2) for row in report.classes if row.mmd2 is not None]
    if item is not None:
        pairs.insert(0, ("all texts", item.detail["all_texts"]))
    return {
        "classes": [plain_text(name) for name, _ in pairs],
        "value": [value for _, value in pairs],
        "label": [words.number(value) for _, value in pairs],
    }


def _places(points: Sequence[Point], name: str) -> dict[str, list[Any]]:
    def hover(point: Point) -> str:
        head = f"{name} · {point.label}" if point.label else name
        text = point.text if len(point.text) <= HOVER_CHARACTERS else point.text[:HOVER_CHARACTERS] + " …"
        return "<br>".join(
            [f"<b>{plain_text(head)}</b>", *(plain_text(line) for line in wrap(text, HOVER_COLUMNS))]
        )

    return {
        "x": [point.x for point in points],
        "y": [point.y for point in points],
        "hover": [hover(point) for point in points],
        "text": [point.text for point in points],
    }


def _histogram(report: ShiftReport) -> dict[str, Any]:
    """Bars of the permutations and the observed value; the axis is cut where it lies far out."""
    null, value = np.asarray(report.null), float(report.mmd["value"])
    low, high = float(null.min()), float(null.max())
    span = max(high - low, 1e-12)
    counts, edges = np.histogram(null, bins=BINS, range=(low, low + span))
    cut = value > high + 2 * span
    shown = high + 0.9 * span if cut else value
    left, right = min(low, shown) - 0.15 * span, max(high, shown) + 0.25 * span
    label = f"observed {words.number(value)}"
    if cut:
        label += f"<br>{report.mmd['effect_size']:.0f} standard deviations out:<br>beyond this axis →"
    return {
        "x": ((edges[:-1] + edges[1:]) / 2).tolist(),
        "width": float(edges[1] - edges[0]),
        "count": counts.tolist(),
        "hover": [
            f"{count} of {len(null)} permutations<br>{words.number(a)} to {words.number(b)}"
            for count, a, b in zip(counts.tolist(), edges[:-1], edges[1:], strict=True)
        ],
        "shown": shown,
        "cut": cut,
        "range": [left, right],
        "label": label,
        "anchor": "right" if shown > (left + right) / 2 else "left",
        "axis": "MMD² of relabelled texts",
    }


def _class_bars(report: ShiftReport) -> dict[str, Any]:
    names = [plain_text(item.name) for item in report.classes]
    bars = [
        _bar("source", f"{report.source.name} (labels)", names, [item.source for item in report.classes]),
        _bar("target", f"{report.target.name} (labels)", names, [item.target for item in report.classes]),
    ]
    estimated = [item.estimated for item in report.classes]
    bar = _bar("estimated", f"{report.target.name} (estimated)", names, estimated)
    spans = [
        (None, None)
        if item.estimated is None or item.low is None or item.high is None
        else (max(item.high - item.estimated, 0), max(item.estimated - item.low, 0))
        for item in report.classes
    ]
    bar |= {"above": [span[0] for span in spans], "below": [span[1] for span in spans], "label": None}
    bars = [item for item in [*bars, bar] if any(share is not None for share in item["share"])]
    ends = [item.high or 0 for item in report.classes] + [
        share or 0 for item in bars for share in item["share"]
    ]
    return {"bars": bars, "count": len(names), "most": min(1.1 * max([0.1, *ends]), 1.08)}


def _bar(kind: str, name: str, classes: list[str], shares: list[float | None]) -> dict[str, Any]:
    texts = ["" if share is None else f"{100 * share:.0f} %" for share in shares]
    return {
        "kind": kind,
        "name": plain_text(name),
        "classes": classes,
        "share": shares,
        "label": texts,
        "hover": [f"{plain_text(name)}<br>{cls}: {text}" for cls, text in zip(classes, texts, strict=True)],
    }
