"""Runs alibi-detect's MMD test on prepared arrays; started in that package's own environment.

Standard input: {"pool": FILE.npy, "x": FILE.npy, "y": FILE.npy, "permutations": B, "seed": S}, where x and
y hold row numbers of the pool, one test per line. Standard output: p-values, values and seconds.
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
    pool, x, y = (np.load(job[name]) for name in ("pool", "x", "y"))
    torch.manual_seed(job["seed"])
    p_values, values, seconds = [], [], []
    for rows, others in zip(x, y, strict=True):
        reference, sample = pool[rows], pool[others]
        started = time.perf_counter()
        detector = MMDDrift(reference, backend="pytorch", n_permutations=job["permutations"], device="cpu")
        found = detector.predict(sample)["data"]
        seconds.append(time.perf_counter() - started)
        p_values.append(float(found["p_val"]))
        values.append(float(found["distance"]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"p_values": p_values, "values": values, "seconds": seconds, "peak_rss": peak}))


if __name__ == "__main__":
    main()
