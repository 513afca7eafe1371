"""How fast the MMD test is, how much memory it takes and how it grows, beside alibi-detect 0.13.

Every timing runs in its own process, so that its peak memory is its own. Both sides get the same arrays
from the same files and the same number of permutations. Run: python benchmarks/mmd_speed.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import gemm_gflops, machine, peak_rss, peer_python, print_table, run_json, save, timed

PERMUTATIONS = 200
PEER = "alibi-detect==0.13.0"


def worker() -> None:
    """One job from standard input: time `mmd_test` on two files, print one line of JSON."""
    job = json.load(sys.stdin)
    from nlp_transfer.numeric.mmd import mmd_test

    x, y = (np.load(job[side], mmap_mode="r") for side in ("x", "y"))
    warm = np.random.default_rng(0).normal(size=(64, x.shape[1]))
    mmd_test(warm, warm + 1, permutations=5)  # loads the libraries that the first product needs
    before = peak_rss()
    options = {"permutations": PERMUTATIONS, **job["options"]}
    rates, all_seconds = [], []
    for turn in range(-job["warm"], job["repeats"]):
        # The rate of the machine at that moment: on a shared one it changes from second to second.
        rate = gemm_gflops("float32", repeats=1) if options["method"] == "exact" else 0.0
        seconds, result = timed(lambda: mmd_test(x, y, **options), repeats=1, warm=0)
        if turn >= 0:
            rates.append(rate)
            all_seconds.append(seconds)
    seconds = statistics.median(all_seconds)
    bands = max(1, len(result.bandwidths))
    found = {
        "n_x": len(x),
        "n_y": len(y),
        "columns": x.shape[1],
        "method": result.method,
        "bandwidths": bands,
        "seconds": seconds,
        "all_seconds": all_seconds,
        "peak_rss_gb": peak_rss() / 1e9,
        "extra_gb": (peak_rss() - before) / 1e9,
        "p_value": result.p_value,
        "value": result.value,
    }
    if result.method == "exact":
        # What the result needs and no more: each pair once, its product of rows and, at each bandwidth, one
        # multiply-add a labelling. Diagonal tiles computed whole, row sums, exponentials and everything
        # before and after count as time alone.
        pairs = (len(x) + len(y)) ** 2 / 2
        found["gflops"] = pairs * 2 * (x.shape[1] + bands * (PERMUTATIONS + 1)) / seconds / 1e9
        found["gemm_gflops"] = statistics.median(rates)
    print(json.dumps(found))


def write(path: Path, rows: int, columns: int, shift: float, seed: int) -> str:
    """A .npy file of normal float32 rows, written in pieces."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, columns))
    rng = np.random.default_rng(seed)
    for start in range(0, rows, 65_536):
        piece = out[start : start + 65_536]
        piece[:] = rng.standard_normal(piece.shape, dtype=np.float32) + np.float32(shift)
    out.flush()
    return str(path)


def ours(files: tuple[str, str], repeats: int, warm: int = 1, **options: Any) -> dict[str, Any]:
    job = {"x": files[0], "y": files[1], "repeats": repeats, "warm": warm, "options": options}
    return run_json([sys.executable, __file__, "--worker"], job)


def peer(folder: Path, files: tuple[str, str], repeats: int) -> dict[str, Any]:
    """alibi-detect on the same two files, `repeats` times over in one process; the first run is not
    counted."""
    x, y = (np.load(file) for file in files)
    np.save(folder / "pool.npy", np.concatenate([x, y]))
    rows = np.tile(np.arange(len(x) + len(y)), (repeats + 1, 1))
    np.savez(folder / "tests.npz", x0=rows[:, : len(x)], y0=rows[:, len(x) :])
    job = {"pool": str(folder / "pool.npy"), "tests": str(folder / "tests.npz")}
    python = peer_python("alibi-detect", [PEER])
    script = Path(__file__).parent / "peers" / "alibi_mmd.py"
    answer = run_json([python, script], {**job, "permutations": PERMUTATIONS, "seed": 0})
    found = answer["groups"][0]
    return {
        "seconds": statistics.median(found["seconds"][1:]),
        "all_seconds": found["seconds"],
        "peak_rss_gb": answer["peak_rss"] / 1e9,
        "value": found["values"][0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows: to see that it runs")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker()
        return
    cut = 10 if arguments.quick else 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def files(n_x: int, n_y: int, columns: int) -> tuple[str, str]:
            return (
                write(folder / "x.npy", n_x // cut, columns, 0.0, 1),
                write(folder / "y.npy", n_y // cut, columns, 0.01, 2),
            )

        rows, records = [], {}

        def add(label: str, found: dict[str, Any], other: float | None = None) -> None:
            records[label] = found
            share = found["gflops"] / found["gemm_gflops"] if "gflops" in found else None
            ratio = other / found["seconds"] if other else None
            size = f"{found['n_x']:,} + {found['n_y']:,} x {found['columns']}"
            rows.append(
                [label, size, found["seconds"], found["peak_rss_gb"], found["extra_gb"], share, other, ratio]
            )
            print(f"done: {label}", file=sys.stderr, flush=True)

        small = files(2000, 2000, 384)
        alibi = peer(folder, small, repeats=5)
        add("exact, 3 bandwidths", ours(small, repeats=15, warm=3, method="exact"), alibi["seconds"])
        width = float(np.sqrt(2 * 384))
        one = ours(small, repeats=15, warm=3, method="exact", bandwidth=width)
        add("exact, 1 bandwidth", one, alibi["seconds"])
        wide = files(7207, 93_070, 79)
        add("exact, large", ours(wide, repeats=1, warm=0, method="exact"))
        add("auto, large", ours(wide, repeats=1, warm=0, method="auto"))
        for size in (10_000, 100_000, 1_000_000):
            streamed = files(size, size, 384)
            add(f"linear, {size:,}", ours(streamed, repeats=3, warm=0, method="linear"))
        add("auto, 1,000,000", ours(streamed, repeats=1, warm=0, method="auto"))
    titles = [
        "what",
        "rows",
        "seconds",
        "peak RSS GB",
        "of that, test GB",
        "share of GEMM rate",
        "alibi s",
        "times faster",
    ]
    print_table(
        f"MMD test, {PERMUTATIONS} permutations ({machine()['cpu']}, {machine()['cores']} cores)",
        titles,
        rows,
    )
    linear = [records[f"linear, {size:,}"]["seconds"] for size in (10_000, 100_000, 1_000_000)]
    growth = [linear[1] / linear[0], linear[2] / linear[1]]
    print(f"linear path: ten times the rows take {growth[0]:.1f} and {growth[1]:.1f} times as long")
    kernel_gb = (7207 + 93_070) ** 2 * 4 / 1e9
    print(f"alibi-detect is not run on the large case: its kernel matrix alone would take {kernel_gb:.0f} GB")
    if not arguments.quick:
        save(
            "mmd_speed",
            {
                "permutations": PERMUTATIONS,
                "ours": records,
                "alibi_detect_0_13": alibi,
                "linear_growth": growth,
            },
        )


if __name__ == "__main__":
    main()
