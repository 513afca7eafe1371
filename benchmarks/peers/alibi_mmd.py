"""Runs alibi-detect's MMD test on prepared arrays; started in that package's own environment.

Standard input: {"pool": FILE.npy, "tests": FILE.npz, "permutations": B, "seed": S}. The arrays x0, y0, x1,
y1, ... of "tests" hold row numbers of the pool, one test per line. Standard output: for each pair of arrays
its p-values, values and seconds, and the peak memory of the process.
"""

import json
import resource
import sys
import time

import numpy as np
import torch
from alibi_detect.cd import MMDDrift


def main() -> None:
    """Run every test of the job and print one line of JSON."""
    job = json.load(sys.stdin)
    pool, tests = np.load(job["pool"]), np.load(job["tests"])
    torch.manual_seed(job["seed"])
    groups = []
    for index in range(len(tests.files) // 2):
        group = {"p_values": [], "values": [], "seconds": []}
        for rows, others in zip(tests[f"x{index}"], tests[f"y{index}"], strict=True):
            reference, sample = pool[rows], pool[others]
            started = time.perf_counter()
            detector = MMDDrift(
                reference, backend="pytorch", n_permutations=job["permutations"], device="cpu"
            )
            found = detector.predict(sample)["data"]
            group["seconds"].append(time.perf_counter() - started)
            group["p_values"].append(float(found["p_val"]))
            group["values"].append(float(found["distance"]))
        groups.append(group)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"groups": groups, "peak_rss": peak}))


if __name__ == "__main__":
    main()
