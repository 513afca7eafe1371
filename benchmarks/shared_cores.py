"""Trainings that share the cores: what it costs when waiting OpenMP threads spin.

`nlp-transfer train sentiment/full` on the built-in sample, alone and twice at once, with libgomp's own spin
count (300,000 turns) and with the one that the command line sets (2,000). Wall seconds of the training alone,
as metrics.json has them; medians over the rounds, in which the settings take turns.

    python benchmarks/shared_cores.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import print_table, save

SPINS = {"libgomp's default": 300_000, "nlp-transfer": 2_000}
COMMAND = (
    "nlp_transfer.cli",
    "train",
    "sentiment/full",
    "shift.enabled=false",
    "training.num_train_epochs=2",
)


def seconds(count: int, spins: int, work: Path) -> float:
    """Mean training seconds of so many trainings at once."""
    environment = {**os.environ, "GOMP_SPINCOUNT": str(spins), "HF_HUB_OFFLINE": "1"}
    environment.pop("OMP_NUM_THREADS", None)
    folders = [work / str(number) for number in range(count)]
    commands = [[sys.executable, "-m", *COMMAND, f"output_dir={folder}", "--overwrite"] for folder in folders]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    running = [subprocess.Popen(command, env=environment, **quiet) for command in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("a training failed")
    found = [json.loads((folder / "metrics.json").read_text("utf-8")) for folder in folders]
    return statistics.mean(one["cost"]["training_seconds"] for one in found)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    times: dict[tuple[str, int], list[float]] = {(name, count): [] for name in SPINS for count in (1, 2)}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, count in times:
                times[name, count].append(seconds(count, SPINS[name], Path(folder)))
    medians = {key: statistics.median(values) for key, values in times.items()}
    rows = [[name, SPINS[name], medians[name, 1], medians[name, 2]] for name in SPINS]
    print_table("training seconds", ["waiting threads", "turns", "alone", "two at once"], rows)
    cells = [
        {"setting": name, "turns": SPINS[name], "at_once": count, "seconds": values}
        for (name, count), values in times.items()
    ]
    save("shared_cores", {"rounds": rounds, "cells": cells})


if __name__ == "__main__":
    main()
