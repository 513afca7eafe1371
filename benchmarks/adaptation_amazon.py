"""What each adaptation gains on real reviews: four Amazon domains and airline reviews, all 20 ordered pairs.

The target's labels are hidden, or 100 of them are given. Every method with a frozen form runs on all pairs;
full fine-tuning, which costs minutes a run, is shortened alike for all methods and covers the pairs that the
time allowed (480 rows a side, 64 tokens, one epoch, bf16 where it pays; ``adaptation_full.py``). Source-only
and target-trained stand in every table. Defaults were chosen on other pairs (``DEVELOPMENT``).

Gains carry 95 % intervals by a paired bootstrap over test rows, which pairs with one target share. A win or
loss counts where a pair's own interval leaves zero out. Seconds are processor seconds on one thread.

    python benchmarks/adaptation_amazon.py --work DIR [--seeds 0 1 2] [--full-pairs N] [--full-seeds 0 1]

What a run does not measure (``--only``, or seeds of full fine-tuning) is kept from the JSON that is there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import adaptation_frozen
import adaptation_full
import numpy as np
from adaptation_data import DEVELOPMENT, PAIRS
from common import RESULTS, machine, print_table, save

DRAWS = 1000
HURT = 0.01
"""Negative transfer: target accuracy lower than without the source by more than this."""
AVERAGED = ("accuracy", "gain", "low", "high", "seconds")
NAMES = {"source-only": "source and target labels"}
"""What the reference without a method is where the target has labels."""
Cell = dict[str, Any]


def right(entry: Cell) -> np.ndarray:
    """Which test rows were right, as 0 and 1."""
    return np.frombuffer(entry["right"].encode(), dtype=np.uint8).astype(float) - ord("0")


def compare(cells: list[Cell], method: str, reference: str) -> Cell:
    """A method beside a reference, over pairs (and seeds).

    Args:
        cells: {"source", "target", "seed", "methods": {name: {"accuracy", "seconds", "right"}}}.
        method, reference: names.
    """
    rng = np.random.default_rng(0)
    draws: dict[tuple, np.ndarray] = {}
    gains, resampled, wins = [], [], Counter()
    for cell in cells:
        difference = right(cell["methods"][method]) - right(cell["methods"][reference])
        key = (cell["target"], cell["seed"])
        if key not in draws:
            draws[key] = rng.multinomial(
                len(difference), np.full(len(difference), 1 / len(difference)), DRAWS
            )
        means = draws[key] @ difference / len(difference)
        low, high = np.quantile(means, [0.025, 0.975])
        gains.append(float(difference.mean()))
        wins["better" if difference.mean() > 0 else "worse" if difference.mean() < 0 else "equal"] += 1
        wins["win" if low > 0 else "loss" if high < 0 else "open"] += 1
        resampled.append(means)
    low, high = np.quantile(np.mean(resampled, axis=0), [0.025, 0.975])
    entries = [cell["methods"][method] for cell in cells]
    return {
        "accuracy": statistics.mean(entry["accuracy"] for entry in entries),
        "gain": statistics.mean(gains),
        "low": float(low),
        "high": float(high),
        "wins": wins["win"],
        "losses": wins["loss"],
        "better": wins["better"],
        "hurt": sum(gain < -HURT for gain in gains),
        "seconds": statistics.median(entry["seconds"] for entry in entries),
        "gains": gains,
    }


def collect(cells: list[Cell], reference: str) -> dict[str, Cell]:
    """Every method beside the reference, and its gain on near (Amazon) and far (airline) pairs."""
    found = {name: compare(cells, name, reference) for name in cells[0]["methods"]}
    far = ["airline" in (cell["source"], cell["target"]) for cell in cells]
    for entry in found.values():
        entry |= sides(entry["gains"], far)
    return found


def sides(gains: list[float], far: list[bool]) -> dict[str, float | None]:
    """The mean gain on near pairs (Amazon) and on far ones (airline)."""
    parts = {"amazon": False, "airline": True}
    found = {
        side: [g for g, flag in zip(gains, far, strict=True) if flag is is_far]
        for side, is_far in parts.items()
    }
    return {side: statistics.mean(part) if part else None for side, part in found.items()}


def show(title: str, found: dict[str, Cell], pairs: int, reference: str) -> None:
    """One table."""
    rows = []
    for name, entry in sorted(found.items(), key=lambda item: -item[1]["gain"]):
        interval = f"{100 * entry['gain']:+.1f} [{100 * entry['low']:+.1f}, {100 * entry['high']:+.1f}]"
        sides = [None if entry[key] is None else f"{100 * entry[key]:+.1f}" for key in ("amazon", "airline")]
        counts = [f"{entry['wins']} / {entry['losses']}", entry["hurt"]]
        row = [name, f"{100 * entry['accuracy']:.1f}", interval, *sides, *counts, f"{entry['seconds']:.1f}"]
        rows.append(row)
    columns = [
        "method",
        "accuracy",
        f"gain over {reference}",
        "Amazon",
        "airline",
        f"wins / losses of {pairs}",
        "hurt",
        "seconds",
    ]
    print_table(title, columns, rows)


def advice(cells: list[Cell]) -> list[Cell]:
    """For each advice of the shift report: on how many pairs it stood, and which methods hurt there.

    Hurt is against the 100 target labels alone, by more than a point.
    """
    out = []
    for text in sorted({cell["advice"] for cell in cells}):
        chosen = [cell for cell in cells if cell["advice"] == text]
        alone = [cell["methods"]["target-only"]["accuracy"] for cell in chosen]
        entry: Cell = {"advice": text, "pairs": len(chosen)}
        for name in (NAMES["source-only"], "density_ratio"):
            gains = [c["methods"][name]["accuracy"] - a for c, a in zip(chosen, alone, strict=True)]
            entry[name] = {"hurt": sum(gain < -HURT for gain in gains), "gain": statistics.mean(gains)}
        out.append(entry)
    return out


def frozen_cells(work: Path, seeds: list[int], *, run: bool) -> list[Cell]:
    """All pairs and seeds, or those whose cell is there."""
    wanted = [(*pair, seed) for seed in seeds for pair in PAIRS]
    if not run:
        wanted = [(s, t, seed) for s, t, seed in wanted if (work / f"frozen.{s}.{t}.{seed}.json").exists()]
    return [adaptation_frozen.cell(work, *one) for one in wanted]


def full_cells(work: Path, pairs: int, seed: int, *, run: bool) -> list[Cell]:
    """The pairs of full fine-tuning for which every method is there."""
    cells = []
    for source, target in PAIRS[:pairs]:
        names = [(work / f"full.{source}.{target}.{name}.{seed}.json") for name in adaptation_full.METHODS]
        if not run and not all(path.exists() for path in names):
            continue
        methods = {
            name: adaptation_full.cell(work, source, target, name, seed) for name in adaptation_full.METHODS
        }
        cells.append({"source": source, "target": target, "seed": seed, "methods": methods})
    return cells


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="keep finished cells here, go on from them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the frozen form")
    parser.add_argument("--full-pairs", type=int, default=len(PAIRS), help="pairs of full fine-tuning")
    parser.add_argument("--full-seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--only", choices=["frozen", "full"], help="leave the other form as it is")
    parser.add_argument("--finished", action="store_true", help="report the cells that are there already")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    known = RESULTS / "adaptation_amazon.json"
    found = json.loads(known.read_text("utf-8")) if known.exists() else {}
    if options.only != "full":
        found |= frozen_report(frozen_cells(options.work, options.seeds, run=not options.finished))
    if options.only != "frozen":
        before = found.get("full_by_seed", {})
        for seed in options.full_seeds:
            cells = full_cells(options.work, options.full_pairs, seed, run=not options.finished)
            if cells:
                before[str(seed)] = full_report(cells)
        if not before:
            raise SystemExit("full fine-tuning: no seed is finished for any pair")
        found |= {"full_by_seed": before, "full": pooled(list(before.values()))}
        cells = len(found["full"]["source-only"]["gains"])
        show(f"full fine-tuning, shortened, seeds {', '.join(before)}", found["full"], cells, "source-only")
    save(
        "adaptation_amazon",
        {key: value for key, value in found.items() if key not in ("benchmark", "machine")},
    )


def frozen_report(frozen: list[Cell]) -> dict[str, Any]:
    """Print the tables of the frozen form; what the JSON says of it."""
    modes = {}
    for mode in ("unlabelled", "few"):
        modes[mode] = [{**cell, "methods": cell[mode]} for cell in frozen]
    for cell in modes["few"]:
        cell["methods"] = {NAMES.get(name, name): entry for name, entry in cell["methods"].items()}
    unlabelled = collect(modes["unlabelled"], "source-only")
    few = collect(modes["few"], "target-only")
    show("frozen, no target labels", unlabelled, len(frozen), "source-only")
    show(f"frozen, {adaptation_frozen.FEW} target labels", few, len(frozen), "target-only")
    advised = advice(modes["few"])
    print_table(
        "the shift report's advice with 100 labels: pairs, and how many the source hurts",
        ["advice", "pairs", "unweighted", "density_ratio"],
        [
            [e["advice"], e["pairs"], e[NAMES["source-only"]]["hurt"], e["density_ratio"]["hurt"]]
            for e in advised
        ],
    )
    return {
        "pairs": [(cell["source"], cell["target"], cell["seed"]) for cell in frozen],
        "development_pairs": DEVELOPMENT,
        "threads": 1,
        "frozen_machine": machine(),
        "frozen_unlabelled": unlabelled,
        "frozen_few": few,
        "advice": advised,
    }


def full_report(cells: list[Cell]) -> dict[str, Any]:
    """Full fine-tuning with one seed."""
    first = cells[0]["methods"]["source-only"]
    return {
        "machine": first["machine"],
        "setting": {key: first["settings"][key] for key in (*adaptation_full.SETTING, "bf16")},
        "pairs": [(cell["source"], cell["target"]) for cell in cells],
        "methods": collect(cells, "source-only"),
    }


def pooled(seeds: list[dict[str, Any]]) -> dict[str, Cell]:
    """Means over the pairs of all seeds, and their counts together.

    The ends of an interval are averaged too. That is wide: it takes the seeds, whose test rows overlap, for
    one and the same draw.
    """
    together: dict[str, Cell] = {}
    for name in adaptation_full.METHODS:
        entries = [seed["methods"][name] for seed in seeds]
        sizes = [len(entry["gains"]) for entry in entries]
        gains = [gain for entry in entries for gain in entry["gains"]]
        far = ["airline" in pair for seed in seeds for pair in seed["pairs"]]
        together[name] = {
            **{key: statistics.fmean([entry[key] for entry in entries], sizes) for key in AVERAGED},
            **{key: sum(entry[key] for entry in entries) for key in ("wins", "losses", "better", "hurt")},
            **sides(gains, far),
            "gains": gains,
        }
    return together


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
