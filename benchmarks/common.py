"""Small helpers that every benchmark script shares: the machine, tables, results, peers' environments."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "transformers", "numpy", "scipy", "scikit-learn")
TORCH = "torch==2.13.0"  # peers pin it: a looser requirement would bring gigabytes of CUDA packages


def machine() -> dict[str, Any]:
    """Processor, cores and versions: what a figure depends on. No host name and no path."""
    import torch

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print one table as GitHub Markdown; floats with three significant digits."""
    cells = [[str(column) for column in columns], *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    print(f"\n### {title}\n")
    for number, row in enumerate(cells):
        print("| " + " | ".join(value.ljust(width) for value, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def save(name: str, payload: dict[str, Any]) -> Path:
    """Write ``benchmarks/results/NAME.json`` with the machine beside the figures, whole or not at all."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    draft = path.with_suffix(".json.tmp")
    draft.write_text(json.dumps({"benchmark": name, "machine": machine(), **payload}, indent=1) + "\n")
    draft.replace(path)
    print(f"written: {path.relative_to(ROOT)}", flush=True)
    return path


def peer_python(name: str, requirements: Sequence[str], constraints: Path | None = None) -> Path:
    """The interpreter of a peer's own environment ``.venvs/NAME``, built on first use.

    Args:
        name: of the folder.
        requirements: for pip; `TORCH` is added when none of them names torch.
        constraints: a pip constraints file; default none.
    """
    wanted = [*requirements]
    if not any(requirement.startswith("torch") for requirement in wanted):
        wanted.append(TORCH)
    folder = ROOT / ".venvs" / name
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / "requirements.txt"
    text = "\n".join(wanted) + "\n"
    if not stamp.exists() or stamp.read_text() != text:
        print(f"building the environment of {name} ...", file=sys.stderr, flush=True)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        limit = ["-c", str(constraints)] if constraints else []
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *limit, *wanted], check=True)
        stamp.write_text(text)
    return python


def run_json(command: Sequence[str | Path], job: dict[str, Any]) -> Any:
    """Run a script with `job` as JSON on its standard input; return the JSON on its last output line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [str(part) for part in command],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_rss() -> int:
    """Most memory this process has held so far, in bytes (resident, mapped files included)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def timed(function: Callable[[], Any], repeats: int = 5, warm: int = 1) -> tuple[float, Any]:
    """Median wall seconds of `repeats` calls after `warm` uncounted ones, and the last result."""
    for _ in range(warm):
        function()
    seconds, result = [], None
    for _ in range(repeats):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), result


def gemm_gflops(dtype: str = "float32", n: int = 2048, repeats: int = 7) -> float:
    """Measured rate of an n x n matrix product, in 10^9 floating point operations a second (median run)."""
    import torch

    a = torch.randn(n, n, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    out = torch.empty_like(a)
    seconds, _ = timed(lambda: torch.mm(a, a, out=out), repeats, warm=2)
    return 2 * n**3 / seconds / 1e9
