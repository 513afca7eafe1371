"""Planted harm for the risk study: sources with a known fault, and a copy of the target."""

from __future__ import annotations

from typing import Any

import numpy as np
import risk_data
import risk_rows
from common import print_table

from nlp_transfer.shift.calibrate import Outcome, Table
from nlp_transfer.shift.probe import PreparedPair
from nlp_transfer.shift.risk import HURT, assess

LEVELS = (0, 20, 50, 100, 300)
REFERENCE = 100
"""Labels of the gain that a forecast without labels is held against."""
PLANTED_SOURCE = "uci_yelp"
PLANTED_TARGETS = ("amazon_kitchen", "amazon_airline", "sst2", "tweets", "fdu_apparel")


def planted(
    sets: dict[str, risk_data.DataSet], features: list[dict[str, float]], outcomes: list[Outcome]
) -> list[dict[str, Any]]:
    """Sources with a known fault, and a copy of the target: what the forecast says, and what then happened.

    Each target is judged by a calibration that saw no pair with it.
    """
    good = sets[PLANTED_SOURCE]
    rng = np.random.default_rng(0)
    german = risk_data.german()
    cases = {
        "flipped labels": (good.x, 1 - good.y),
        "40 % label noise": (good.x, np.where(rng.random(len(good.y)) < 0.4, 1 - good.y, good.y)),
        "German, random labels": (german, rng.integers(0, 2, len(german))),
        "shuffled words": risk_data.shuffled_words(PLANTED_SOURCE, len(good.x)),
        "none": (good.x, good.y),
    }
    table, out = Table.of(features, outcomes), []
    for name in PLANTED_TARGETS:
        target = sets[name]
        levels = [
            {**entry, "figures": {"rows": 0, "auroc": None}}
            for entry in table.fit(table.groups != risk_data.group(name))
        ]
        entry = {"study": {"name": "risk_study", "pairs": 0}, "classes": [2], "levels": levels}
        copy = (target.x[: target.pool], target.y[: target.pool])
        for case, source in {**cases, "copy of the target": copy}.items():
            out += _planted_levels(case, source, target, {"strategies": {"frozen": entry}})
    return out


def _planted_levels(
    case: str, source: tuple[np.ndarray, np.ndarray], target: risk_data.DataSet, calibration: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row for each draw and amount of labels; the gain is the mean over the draws."""
    pair = PreparedPair(*source, target.x[: target.pool])
    c = risk_rows.chosen_c(*source)
    base = risk_rows.fit(*source, c)
    out = []
    for level in LEVELS:
        measured = []
        for draw in range(risk_data.DRAWS):
            rows = target.draw(draw)[: level or REFERENCE]
            both = risk_rows.fit(
                np.vstack([source[0], target.x[rows]]), np.concatenate([source[1], target.y[rows]]), c, base
            )
            measured.append(risk_rows.score(both, target)[0] - risk_rows.alone(target, rows)[0])
        for draw in range(risk_data.DRAWS if level else 1):
            rows = target.draw(draw)[:level]
            risk = assess(pair.probe(target.x[rows], target.y[rows]), calibration=calibration)
            out.append(
                {
                    "case": case,
                    "target": target.name,
                    "labels": level,
                    "draw": draw,
                    "level": risk.level,
                    "probability": risk.probability,
                    "predicted_gain": risk.predicted_gain.estimate,
                    "gain": float(np.mean(measured)),
                }
            )
    return out


def show(rows: list[dict[str, Any]]) -> None:
    """Print one line for each fault and amount of labels."""
    cases = list(dict.fromkeys(item["case"] for item in rows))
    table = []
    for case in cases:
        for level in LEVELS:
            items = [item for item in rows if (item["case"], item["labels"]) == (case, level)]
            names = [item["level"] for item in items]
            table.append([
                case, level, *(names.count(word) for word in ("low", "moderate", "high")),
                float(np.mean([item["probability"] for item in items])),
                float(100 * np.mean([item["predicted_gain"] for item in items])),
                float(100 * np.mean([item["gain"] for item in items])),
                sum(item["gain"] < -HURT for item in items),
            ])  # fmt: skip
    print_table(
        f"Planted sources, {len(PLANTED_TARGETS)} targets and {risk_data.DRAWS} draws each (0 labels: one)",
        [
            "source",
            "labels",
            "low",
            "moderate",
            "high",
            "mean probability",
            "predicted gain",
            "gain",
            "truly hurt",
        ],
        table,
    )
