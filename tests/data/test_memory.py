"""The anonymous memory of a process that loads a large file must not grow with the file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import sys, threading, time
from pathlib import Path
import datasets, numpy, pyarrow.compute
from nlp_transfer.data import columns, load, split
from nlp_transfer.data.domains import DomainOptions, load_domain

datasets.config.HF_DATASETS_CACHE = Path(sys.argv[3])

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def load_file(path):
    return load_domain(DomainOptions(train=path), role="source", objective="classification", seed=0).sizes

load_file(sys.argv[1])
peak = start = anonymous()
done = threading.Event()
def watch():
    global peak
    while not done.wait(0.01):
        peak = max(peak, anonymous())
thread = threading.Thread(target=watch)
thread.start()
sizes = load_file(sys.argv[2])
done.set()
thread.join()
print(sum(sizes.values()), peak - start)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_file(tmp_path: Path, cache: Path) -> None:
    words = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor " * 4
    for name, count in (("small.jsonl", 30_000), ("large.jsonl", 300_000)):
        with (tmp_path / name).open("w") as file:
            for number in range(count):
                file.write(f'{{"text": "{number} {words}", "label": {number % 2}}}\n')
    paths = [str(tmp_path / name) for name in ("small.jsonl", "large.jsonl")]
    command = [sys.executable, "-c", CODE, *paths, str(cache)]
    rows, growth = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(rows) == 300_000
    assert (tmp_path / "large.jsonl").stat().st_size > 90e6
    assert float(growth) < 45  # MiB
