"""Does the guard find sources that hurt, and leave alone those that do not?

Frozen strategy: seven targets, each with planted sources (flipped labels, 40 % of the labels flipped, a far
domain) and harmless ones (more of the same domain, near domains), joint and sequential. LoRA: the same
plants, shortened runs at 48 tokens, judged against the same recipe without the source.

Whether a source hurt is measured on the target's other rows (700 to 1,600), which no run has seen: the
accuracy with the source less the accuracy without it, of the very models that the guard compares. A plant's
name says nothing: flipped labels do no harm in a sequential run, which learns how far to trust the source.

    NLP_TRANSFER_DATA=... python benchmarks/guard_study.py --work DIR [--lora] [--draws 3]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import risk_data
from common import print_table, save
from ranking_candidates import write_rows

TARGETS = (
    "amazon_books",
    "amazon_dvd",
    "amazon_kitchen",
    "amazon_electronics",
    "amazon_airline",
    "sst2",
    "tweets",
)
FAR = {"tweets": "amazon_books", "sst2": "amazon_airline", "amazon_airline": "sst2"}
"""A far domain for each target; tweets for the others."""
NEAR = {
    "amazon_books": "amazon_dvd",
    "amazon_dvd": "amazon_books",
    "amazon_kitchen": "amazon_electronics",
    "amazon_electronics": "amazon_kitchen",
    "amazon_airline": "uci_yelp",
    "sst2": "uci_imdb",
    "tweets": "sst2",
}
HURT = 0.01
"""A fall in accuracy from which on a source counts as harmful, as in ``risk_study.py``."""
HALF_POINT = 0.005


class Size(NamedTuple):
    """Rows of a run at most, and what goes into its recipe."""

    source: int
    train: int
    validation: int
    test: int
    max_length: int
    recipe: dict[str, Any]


FROZEN = Size(1200, 300, 300, 4000, risk_data.MAX_LENGTH, {"strategy": {"kind": "frozen"}})
LORA = Size(
    *(300, 100, 300, 400, 48),
    {
        "strategy": {"kind": "lora", "r": 8},
        "guard": {"baseline": "target_only"},
        "training": {
            "num_train_epochs": 2,
            "learning_rate": 3e-3,
            "per_device_train_batch_size": 16,
            "per_device_eval_batch_size": 64,
            "use_cpu": True,
            "report_to": "none",
        },
    },
)
HARMFUL = ("flipped labels", "40 % noise", "far domain")
HARMLESS = ("same domain", "near domain")
SHORT_TEXTS = ("sst2", "tweets", "amazon_airline", "amazon_kitchen")


class Case(NamedTuple):
    """One run of the study."""

    plant: str
    mode: str
    target: str
    draw: int

    def path(self, work: Path, kind: str) -> Path:
        """Where its finished cell lies."""
        words = [kind, self.plant.replace(" ", "-").replace("%", ""), self.mode, self.target]
        return work / f"{'.'.join(words)}.{self.draw}.json"


def frozen_cases(draws: int) -> Iterator[Case]:
    """All runs with the frozen strategy."""
    for draw in range(draws):
        for target in TARGETS:
            for plant in (*HARMFUL, *HARMLESS):
                yield Case(plant, "joint", target, draw)
            for plant in ("flipped labels", "far domain", "near domain") if draw == 0 else ():
                yield Case(plant, "sequential", target, draw)


def lora_cases() -> Iterator[Case]:
    """Eight runs with a harmful plant and eight with a harmless one."""
    for number, target in enumerate(SHORT_TEXTS):
        for plant in ("flipped labels", HARMFUL[1 + number % 2], *HARMLESS):
            yield Case(plant, "joint", target, 0)


def table(name: str, seed: int) -> list[dict[str, Any]]:
    """Rows of a data set in a random order."""
    texts, labels = risk_data.rows(name)
    order = np.random.default_rng(seed).permutation(len(texts))
    return [{"text": texts[i], "label": int(labels[i])} for i in order]


def source_rows(case: Case, rest: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The planted source; ``rest`` is the target's rows that a source of the same domain may take."""
    rng = np.random.default_rng([11, case.draw])
    if case.plant == "same domain":
        return rest
    name = FAR.get(case.target, "tweets") if case.plant == "far domain" else NEAR[case.target]
    rows = table(name, 5 + case.draw)[:most]
    if case.plant == "flipped labels":
        return [{**row, "label": 1 - row["label"]} for row in rows]
    if case.plant == "40 % noise":
        return [{**row, "label": 1 - row["label"]} if rng.random() < 0.4 else row for row in rows]
    return rows


def run(case: Case, size: Size, known_alone: float | None) -> dict[str, Any]:
    """The guard's verdict, and the accuracy of both models on rows that no run has seen.

    Args:
        case: what to run.
        size: of its data, and the recipe.
        known_alone: accuracy of the run without the source, where another case has measured it.
    """
    from nlp_transfer import Recipe, train

    started = time.process_time()
    rows = table(case.target, 100 + case.draw)
    same = min(300, len(rows) // 6)
    ends = np.cumsum([size.train, size.validation, same, size.test])
    known, validation, rest, test = (rows[start:end] for start, end in zip([0, *ends], ends, strict=False))
    with tempfile.TemporaryDirectory() as place:
        tables = {"known": known, "validation": validation, "test": test}
        tables["source"] = source_rows(case, rest, size.source)
        files = {name: write_rows(Path(place) / f"{name}.jsonl", part) for name, part in tables.items()}
        values = {
            "model": {"max_length": size.max_length, "pooling": "mean"},
            "source": {"train": files["source"], "mode": case.mode},
            "target": {"train": files["known"], "validation": files["validation"], "test": files["test"]},
            "shift": {"enabled": False},
            **size.recipe,
            "output_dir": f"{place}/run",
        }
        found = train(Recipe.from_dict(values))
        if known_alone is None:
            without = {key: value for key, value in values.items() if key not in ("source", "guard")}
            known_alone = train(Recipe.from_dict(without | {"output_dir": f"{place}/alone"})).score()
    guard = found.metrics["guard"]
    return {
        **case._asdict(),
        **{key: guard[key] for key in ("verdict", "gain", "brier_gain", "rows")},
        "with_source": found.score(),
        "target_only": known_alone,
        "test_rows": len(test),
        "seconds": time.process_time() - started,
    }


def figures(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """How often the guard was right, and what ``fallback`` would have shipped."""
    truth = np.array([cell["with_source"] - cell["target_only"] for cell in runs])
    called = np.array([cell["verdict"] == "hurt" for cell in runs])
    by_accuracy = np.array([cell["gain"]["high"] < 0 for cell in runs])
    worse = np.array([min(cell["gain"]["value"], cell["brier_gain"]["value"]) < 0 for cell in runs])
    shipped = np.where(worse, 0.0, truth)
    hurt, harmless = truth < -HURT, truth >= 0

    def share(flags: np.ndarray, among: np.ndarray) -> float | None:
        return float(flags[among].mean()) if among.any() else None

    return {
        "runs": len(runs),
        "measured_gain_points": float(100 * truth.mean()),
        "hurt": int(hurt.sum()),
        "called_hurt": int(called.sum()),
        "detected": share(called, hurt),
        "detected_by_accuracy_alone": share(by_accuracy, hurt),
        "detected_by_size": {
            name: [int((called & band).sum()), int(band.sum())]
            for name, band in {
                "1 to 2 points": (truth < -0.01) & (truth >= -0.02),
                "2 to 5 points": (truth < -0.02) & (truth >= -0.05),
                "over 5 points": truth < -0.05,
            }.items()
        },
        "harmless": int(harmless.sum()),
        "false_alarms": share(called, harmless),
        "fallback_gain_points": float(100 * shipped.mean()),
        "fallback_worst_points": float(100 * shipped.min()),
        "fallback_below_half_a_point": int((shipped < -HALF_POINT).sum()),
        "fallback_forgone_points": float(100 * np.where(worse, np.maximum(truth, 0), 0).mean()),
    }


def report(runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print the tables and write the JSON."""
    results: dict[str, Any] = {}
    rows, sizes = [], []
    for kind, cells in runs.items():
        groups = {"all": cells}
        for cell in cells:
            groups.setdefault(f"{cell['plant']}, {cell['mode']}", []).append(cell)
        results[kind] = {name: figures(group) for name, group in groups.items()}
        for name, found in results[kind].items():
            rows.append([
                kind, name, found["runs"], found["measured_gain_points"], found["hurt"], found["called_hurt"],
                found["detected"], found["detected_by_accuracy_alone"], found["harmless"],
                found["false_alarms"], found["fallback_worst_points"], found["fallback_below_half_a_point"],
            ])  # fmt: skip
        sizes.append([kind, *(f"{a} of {b}" for a, b in results[kind]["all"]["detected_by_size"].values())])
    columns = ["strategy", "source", "runs", "measured gain", "truly hurt", "called hurt", "detected"]
    columns += ["by accuracy alone", "harmless", "false alarms", "fallback, worst", "fallback below -0.5"]
    title = "Harm is measured: more than a point of accuracy below target-only on unseen rows"
    print_table(title, columns, rows)
    print_table("Detected, by the size of the harm", ["strategy", "1-2 points", "2-5", "over 5"], sizes)
    settings = {"frozen": FROZEN._asdict(), "lora": LORA._asdict(), "hurt": HURT}
    save("guard_study", {"settings": settings, "results": results, "runs": runs})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="keep finished cells here")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), help="compute these; all are shown")
    parser.add_argument("--draws", type=int, default=3, help="of the frozen runs")
    parser.add_argument("--lora", action="store_true", help="run LoRA too; finished cells are always shown")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    alone: dict[tuple[str, str, int], float] = {}
    plans = (
        ("frozen", FROZEN, frozen_cases(options.draws), True),
        ("lora", LORA, lora_cases(), options.lora),
    )
    for kind, size, cases, computes in plans:
        for case in cases:
            path = case.path(options.work, kind)
            if not path.exists() and computes and case.target in options.targets:
                cell = run(case, size, alone.get((kind, case.target, case.draw)))
                path.write_text(json.dumps(cell), "utf-8")
                gain = cell["with_source"] - cell["target_only"]
                print(f"{path.stem}: {cell['verdict']}, measured {100 * gain:+.1f}", flush=True)
            if path.exists():
                cell = json.loads(path.read_text("utf-8"))
                alone[kind, case.target, case.draw] = cell["target_only"]
                runs.setdefault(kind, []).append(cell)
    report(runs)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
