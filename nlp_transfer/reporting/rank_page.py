"""The ranking of models as one HTML file that needs no network."""

from __future__ import annotations

import math
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from nlp_transfer.reporting import words
from nlp_transfer.reporting.page import page_parts, plain_text
from nlp_transfer.reporting.summary import human

if TYPE_CHECKING:
    from nlp_transfer.selection.rank import Candidate, Ranking

LABEL = 28
"""Most characters of a name in the picture."""
MEANINGS = {
    "linear_probe": "accuracy (R² for ratings) of a linear classifier on the features, cross-validated",
    "logme": "LogME: log evidence of the labels a row under a linear model of the features",
    "h_score": "variance between the classes in units of the whole, covariance shrunk",
    "n_leep": "log likelihood of the labels through a Gaussian mixture of the features",
    "knn": "leave-one-out accuracy (R² for ratings) of the five nearest neighbours",
}
COSTS = {
    "Parameters": "weights of the encoder, or of the translation model",
    "Disk": "size of its weight files",
    "Memory": "most memory that it added while it was loaded and worked here",
    "s / 1,000 texts": "wall seconds for 1,000 of the target's texts here, nothing cached",
}


def rank_page(ranking: Ranking) -> str:
    """The page: score against cost, the table, what failed, what the columns mean; all text escaped."""
    good = [candidate for candidate in ranking.candidates if candidate.error is None]
    titles = ranking.titles
    what = {"translation": "sentence pairs", "regression": "rated texts"}.get(
        ranking.objective, "labelled texts"
    )
    choice = any(candidate.optimism for candidate in good)
    note = f"Ordered by {titles[ranking.score]}; 95 % intervals below each score."
    if choice:
        note += " Each model is scored at its best layer, less what that choice adds by chance."
    return page_parts(
        "rank.html.j2",
        title=f"{ranking.target}: models ranked",
        data=[_picture(ranking, good, titles)] if good else [],
        target=ranking.target,
        lead=f"{len(ranking.candidates)} models, judged on {ranking.rows:,} {what}, without fine-tuning.",
        order_note=note,
        titles=list(titles.values()),
        rows=[_row(candidate, titles) for candidate in good],
        failed=[
            {"model": candidate.model, "error": candidate.error}
            for candidate in ranking.candidates
            if candidate.error is not None
        ],
        meanings=_meanings(ranking, titles),
    )


def _meanings(ranking: Ranking, titles: dict[str, str]) -> list[tuple[str, str]]:
    notes = MEANINGS
    if ranking.objective == "translation":
        from nlp_transfer.selection.rank_translation import NOTES

        notes = NOTES
    return [*((title, notes[name]) for name, title in titles.items()), *COSTS.items()]


def _row(candidate: Candidate, titles: dict[str, str]) -> dict[str, Any]:
    scores = [candidate.scores[name] for name in titles]
    assert candidate.parameters is not None
    return {
        "model": candidate.model,
        "pareto": candidate.pareto,
        "layer": "" if candidate.layer in ("last", "all") else candidate.layer,
        "scores": [
            {"value": words.number(score.value), "range": words.between((score.low, score.high))}
            for score in scores
        ],
        "parameters": human(candidate.parameters),
        "disk": words.number(candidate.disk_mb),
        "memory": words.number(candidate.memory_mb),
        "seconds": words.number(candidate.seconds_per_1000),
    }


def _picture(ranking: Ranking, good: list[Candidate], titles: dict[str, str]) -> dict[str, Any]:
    """What the script draws; the names of models are escaped, since Plotly reads its own markup."""
    points = []
    for candidate in good:
        score = candidate.scores[ranking.score]
        cost = _cost(candidate)
        name = candidate.model.rstrip("/").rpartition("/")[2]
        points.append(
            {
                "cost": cost,
                "score": score.value,
                "above": score.high - score.value,
                "below": score.value - score.low,
                "label": plain_text(shorten(name, LABEL, placeholder="…") if " " in name else name[:LABEL]),
                "hover": f"<b>{plain_text(candidate.model)}</b><br>{titles[ranking.score]} "
                f"{words.number(score.value)} ({words.between((score.low, score.high))})<br>"
                f"{words.number(cost)} s for 1,000 texts, {human(candidate.parameters or 0)} parameters",
                "pareto": candidate.pareto,
            }
        )
    costs = [math.log10(cost) for cost in map(_cost, good)]
    return {
        "points": points,
        "axes": ["seconds for 1,000 texts", titles[ranking.score]],
        "range": [min(costs) - 0.25, max(costs) + 0.4],
    }


def _cost(candidate: Candidate) -> float:
    """Seconds for 1,000 texts, above zero."""
    return max(float(candidate.seconds_per_1000 or 0), 1e-6)
