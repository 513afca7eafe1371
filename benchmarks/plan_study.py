"""How often is the plan's choice the best, or within half a point of the best, of the choices it had?

Ten pairs of real sentiment data sets, 100 target labels, up to 600 source rows, texts cut at 64 tokens. Every
choice is trained by its own recipe, as a user would run it, and scored on at least 600 target rows that
neither the plan nor the training saw: a frozen encoder on the target alone, with the source, with the source
weighted; LoRA adapters on the target alone and with the source. Beside the plan stand rules without a look at
the data: always one of the choices.

    NLP_TRANSFER_DATA=... python benchmarks/plan_study.py --work DIR

Finished cells stay in DIR: a second call goes on. Some three minutes a pair on one thread.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import common
import numpy as np
import risk_data

PAIRS = (
    ("amazon_books", "amazon_kitchen"),
    ("amazon_airline", "amazon_books"),
    ("sst2", "tweets"),
    ("uci_yelp", "amazon_kitchen"),
    ("amazon_electronics", "fdu_toys_games"),
    ("tweets", "sst2"),
    ("amazon_dvd", "uci_imdb"),
    ("fdu_baby", "uci_amazon"),
    ("sst2", "uci_yelp"),
    ("amazon_kitchen", "amazon_airline"),
)
LABELS, SOURCE_ROWS, POOL, ROWS, TOKENS = 100, 600, 400, 1400, 64
CLOSE = 0.005
STRATEGIES = ("frozen", "lora")
CHOICES = (
    ("frozen", False, False),
    ("frozen", True, False),
    ("frozen", True, True),
    ("lora", False, False),
    ("lora", True, False),
)
"""Strategy, with the source, weighted."""
RARE = (("lora", True, True),)
"""Trained where the plan chose it."""


def name_of(strategy: str, source: bool, weighted: bool) -> str:
    way = "source weighted + target" if weighted else "source + target" if source else "target only"
    return f"{strategy}, {way}"


def write_files(work: Path, source: str, target: str) -> dict[str, str]:
    """The files of one pair: source rows, target labels and the target's test rows."""
    folder = work / f"{source}-{target}"
    folder.mkdir(parents=True, exist_ok=True)
    texts, labels = risk_data.rows(source)
    other, theirs = risk_data.rows(target)
    drawn = np.random.default_rng(7).permutation(POOL)[:LABELS]
    parts = {
        "source": (texts[:SOURCE_ROWS], labels[:SOURCE_ROWS]),
        "target": ([other[row] for row in drawn], theirs[drawn]),
        "test": (other[POOL:ROWS], theirs[POOL:ROWS]),
    }
    files = {}
    for part, (rows, classes) in parts.items():
        path = folder / f"{ {'source': source, 'target': target, 'test': 'test'}[part] }.jsonl"
        lines = [json.dumps({"text": t, "label": int(c)}) for t, c in zip(rows, classes, strict=True)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        files[part] = str(path)
    return files


def planned(files: dict[str, str]) -> dict[str, Any]:
    """What the plan says, its recipe's settings and the seconds it took."""
    from nlp_transfer import make_plan
    from nlp_transfer.models.options import ModelOptions

    begun = time.process_time()
    found = make_plan(
        [files["source"]],
        files["target"],
        model=ModelOptions(max_length=TOKENS),
        strategies=STRATEGIES,
        permutations=50,
    )
    values = found.to_dict()
    choice = values["choice"]
    values["name"] = name_of(choice["strategy"], choice["source"] is not None, choice["weighted"])
    expected = {}
    for option in values["options"]:
        key = name_of(option["strategy"], option["source"] is not None, option["weighted"])
        expected[key] = option["accuracy"]["estimate"]
    epochs = {
        str(option["source"] is not None): option["epochs"]
        for option in values["options"]
        if option["epochs"]
    }
    keys = ("name", "headline", "reasons")
    seconds = time.process_time() - begun
    return {key: values[key] for key in keys} | {
        "expected": expected,
        "epochs": epochs,
        "cpu_seconds": seconds,
    }


def outcome(
    files: dict[str, str], choice: tuple[str, bool, bool], epochs: dict[str, int], folder: Path
) -> dict[str, float]:
    """Train one choice and score it on the test rows."""
    from nlp_transfer import Recipe, train
    from nlp_transfer.selection.choices import BATCH, LEARNING_RATES

    strategy, source, weighted = choice
    training = {"per_device_train_batch_size": BATCH, "learning_rate": LEARNING_RATES.get(strategy)}
    training["num_train_epochs"] = epochs[str(source)]
    recipe: dict[str, Any] = {
        "model": {"max_length": TOKENS},
        "target": {"train": files["target"], "test": files["test"]},
        "strategy": {"kind": strategy},
        "shift": {"enabled": False},
        "guard": {"baseline": "none"},
        "training": {} if strategy == "frozen" else training,
        "output_dir": str(folder),
    }
    if source:
        recipe["source"] = {"train": files["source"], **({"mode": "joint"} if strategy == "frozen" else {})}
    if weighted:
        recipe["adaptation"] = [{"kind": "density_ratio"}]
    begun = time.process_time()
    result = train(Recipe.from_dict(recipe), overwrite=True)
    score = result.score("target", "test", "accuracy")
    shutil.rmtree(folder)
    return {"accuracy": score, "cpu_seconds": time.process_time() - begun}


def cell(work: Path, name: str, make: Any) -> Any:
    """A finished cell from the work folder, or a new one."""
    path = work / "cells" / f"{name}.json"
    if path.exists():
        return json.loads(path.read_text())
    value = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    print(name, {key: value[key] for key in ("name", "accuracy", "cpu_seconds") if key in value}, flush=True)
    return value


def pair_row(work: Path, source: str, target: str) -> dict[str, Any]:
    files = write_files(work, source, target)
    plan = cell(work, f"{source}-{target}-plan", lambda: planned(files))
    found = {}
    for choice in (*CHOICES, *(own for own in RARE if name_of(*own) == plan["name"])):
        name = name_of(*choice)
        run = work / "run"
        key = f"{source}-{target}-{name.replace(' ', '_').replace(',', '')}"
        found[name] = cell(work, key, lambda c=choice, r=run: outcome(files, c, plan["epochs"], r))
    accuracy = {name: value["accuracy"] for name, value in found.items()}
    best = max(accuracy.values())
    frozen = max(value for name, value in accuracy.items() if name.startswith("frozen"))
    return {
        "source": source,
        "target": target,
        "plan": plan["name"],
        "headline": plan["headline"],
        "reasons": plan["reasons"],
        "plan_cpu_seconds": plan["cpu_seconds"],
        "expected": plan["expected"],
        "accuracy": accuracy,
        "best": max(accuracy, key=accuracy.__getitem__),
        "regret": best - accuracy[plan["name"]],
        "frozen_regret": frozen - accuracy[best_frozen(plan["expected"])],
    }


def best_frozen(expected: dict[str, float]) -> str:
    """What the plan would take of the frozen choices: within half a point the plain or smaller one."""
    names = [name_of(*choice) for choice in CHOICES if choice[0] == "frozen"]
    top = max(expected[name] for name in names)
    return next(name for name in names if expected[name] >= top - CLOSE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(".plan_study"))
    parser.add_argument("--pairs", type=int, default=len(PAIRS))
    arguments = parser.parse_args()
    rows = []
    for source, target in PAIRS[: arguments.pairs]:
        rows.append(pair_row(arguments.work, source, target))
        report(rows)


def report(rows: list[dict[str, Any]]) -> None:
    """The table and the JSON, after every pair."""
    table = [
        [
            f"{row['source']} to {row['target']}",
            row["plan"],
            f"{100 * row['accuracy'][row['plan']]:.1f}",
            row["best"],
            f"{100 * max(row['accuracy'].values()):.1f}",
            f"{100 * row['regret']:.1f}",
        ]
        for row in rows
    ]
    rules = {"the plan": [row["regret"] for row in rows]}
    rules["the plan among frozen choices"] = [row["frozen_regret"] for row in rows]
    for choice in CHOICES:
        name = name_of(*choice)
        rules[f"always {name}"] = [max(row["accuracy"].values()) - row["accuracy"][name] for row in rows]
    summary = {
        name: {
            "best": sum(regret == 0 for regret in regrets),
            "within_half_a_point": sum(regret <= CLOSE for regret in regrets),
            "mean_regret_points": 100 * float(np.mean(regrets)),
            "largest_regret_points": 100 * max(regrets),
        }
        for name, regrets in rules.items()
    }
    common.print_table(
        "The plan's choice", ["pair", "plan", "accuracy", "best", "accuracy", "points lost"], table
    )
    lines = [
        [
            name,
            f"{v['best']} of {len(rows)}",
            f"{v['within_half_a_point']} of {len(rows)}",
            f"{v['mean_regret_points']:.1f}",
            f"{v['largest_regret_points']:.1f}",
        ]
        for name, v in summary.items()
    ]
    common.print_table(
        "Points lost", ["rule", "best", "within half a point", "mean points lost", "most"], lines
    )
    settings = {
        "labels": LABELS,
        "source_rows": SOURCE_ROWS,
        "tokens": TOKENS,
        "test_rows": f"{POOL} to {ROWS} of each data set",
        "strategies": STRATEGIES,
    }
    common.save("plan_study", {"settings": settings, "summary": summary, "pairs": rows})


if __name__ == "__main__":
    main()
