"""The trainings of the fine-tuning study: each source once, then each target after it and alone.

Every training is the package's own ``train`` with the learning rates and the batch size of the shipped
recipes, only shorter: 64 tokens, 960 source rows, one epoch of them. A source phase is trained once for each
strategy and taken over by the runs on all its targets, in the way that a resumed run takes over a finished
phase. Finished runs are kept, one line each, so that a second call goes on from there; their order is such
that a study that is stopped early has all pairs at 100 labels first.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import risk_data

STRATEGIES = ("full", "lora")
MAX_LENGTH, BATCH = 64, 16
RATES = {"full": 1e-4, "lora": 1e-3}
SOURCE_ROWS, SOURCE_EPOCHS = 960, 1
EPOCHS = {50: 7, 100: 4, 300: 2}
"""Epochs on the target by its labels (28, 28 and 38 steps): at 100 as many as in the recipe ``full``."""
POOL_ROWS, TEST_ROWS = 390, 400
"""A target's first rows, which give labels and unlabelled texts, and the rows after them."""
SEED, SECOND_SEED = 1, 2
"""Training on the target alone stands against all its sources, so it is repeated with a second seed."""
NOISE = 0.4
SOURCES = (
    "amazon_books", "sst2", "tweets", "uci_yelp",
    "uci_yelp:flipped", "tweets:flipped", "sst2:noise", "uci_yelp:noise", "tweets:shuffled",
)  # fmt: skip
TARGETS = ("uci_amazon", "sst2", "tweets", "uci_yelp", "uci_imdb", "amazon_kitchen")
ROUNDS = (
    *((name, 100) for name in TARGETS[:-1]),
    ("tweets", 50), ("uci_amazon", 300), ("amazon_kitchen", 100), ("sst2", 300), ("uci_yelp", 50),
    ("uci_imdb", 300), ("uci_amazon", 50), ("tweets", 300), ("sst2", 50), ("uci_yelp", 300), ("uci_imdb", 50),
)  # fmt: skip
"""Targets and labels in the order in which they are run; long texts late, for they cost most."""
FIRST_ROUNDS = 6
"""After these every training on the target alone so far is repeated, and after each later one."""


class Case(NamedTuple):
    """One source (None: the target alone), target, amount of target labels and strategy."""

    strategy: str
    source: str | None
    target: str
    labels: int
    seed: int = SEED


def base_of(source: str) -> str:
    """The data set that a source was made from."""
    return source.partition(":")[0]


def sources_of(target: str) -> list[str]:
    """The sources from other groups of data sets."""
    return [name for name in SOURCES if risk_data.group(base_of(name)) != risk_data.group(target)]


def plan() -> list[Case]:
    """All runs in their order: both strategies keep step."""
    out: list[Case] = []
    repeats: list[Case] = []
    for number, (target, labels) in enumerate(ROUNDS, 1):
        for source in (None, *sources_of(target)):
            out += [Case(kind, source, target, labels) for kind in STRATEGIES]
        repeats += [Case(kind, None, target, labels, SECOND_SEED) for kind in STRATEGIES]
        if number >= FIRST_ROUNDS:
            out, repeats = out + repeats, []
    return out


def source_rows(name: str) -> tuple[list[str], np.ndarray]:
    """Texts and labels of a source; by its name with flipped or noisy labels, or with mixed-up words."""
    base, _, fault = name.partition(":")
    texts, labels = risk_data.rows(base)
    texts, labels = texts[:SOURCE_ROWS], labels[:SOURCE_ROWS]
    if fault == "flipped":
        labels = 1 - labels
    elif fault == "noise":
        labels = np.where(np.random.default_rng(0).random(len(labels)) < NOISE, 1 - labels, labels)
    elif fault == "shuffled":
        rng, words = random.Random(1), [text.split() for text in texts]
        for text in words:
            rng.shuffle(text)
        texts = [" ".join(text) for text in words]
    return texts, labels


def target_rows(name: str) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Texts, labels, the pool in the order in which it gives labels, and the test rows."""
    texts, labels = risk_data.rows(name)
    order = np.random.default_rng(7).permutation(POOL_ROWS)
    return texts, labels, order, np.arange(POOL_ROWS, POOL_ROWS + TEST_ROWS)


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The finished runs."""
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            yield from map(json.loads, lines)


def collect(work: Path, minutes: float) -> None:
    """Train what is not in ``work/runs.jsonl`` yet, until the minutes are used up."""
    work.mkdir(parents=True, exist_ok=True)
    path, started = work / "runs.jsonl", time.monotonic()
    done = {tuple(row["case"]) for row in read(path)}
    todo = [case for case in plan() if case not in done]
    for number, case in enumerate(todo, 1):
        if time.monotonic() - started > 60 * minutes:
            return
        begun = time.process_time()
        accuracy = run(case, work)
        row = {"case": case, "accuracy": accuracy, "seconds": round(time.process_time() - begun, 1)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{number} of {len(todo)}: {' '.join(map(str, case))}: {accuracy:.3f}", flush=True)


def run(case: Case, work: Path) -> float:
    """Test accuracy on the target of one training."""
    from nlp_transfer import Recipe, train
    from nlp_transfer.training.artifacts import RunFolder

    texts, labels, order, test = target_rows(case.target)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        values: dict[str, Any] = {
            "model": {"max_length": MAX_LENGTH},
            "target": {
                "train": _write(folder / "train.jsonl", texts, labels, order[: case.labels]),
                "test": _write(folder / "test.jsonl", texts, labels, test),
            },
            "strategy": {"kind": case.strategy},
            "shift": {"enabled": False},
            "guard": {"baseline": "none"},
            "training": {
                "seed": case.seed,
                "learning_rate": RATES[case.strategy],
                "per_device_train_batch_size": BATCH,
                "num_train_epochs": EPOCHS[case.labels],
                "eval_strategy": "no",
                "save_strategy": "no",
                "use_cpu": True,
                "bf16": True,
            },
            "output_dir": str(folder / "run"),
        }
        if case.source is None:
            return train(Recipe.from_dict(values)).score()
        phase = work / "phases" / case.strategy / case.source.replace(":", "-")
        rows, answers = source_rows(case.source)
        values["source"] = {"train": _write(folder / "source.jsonl", rows, answers, range(len(rows)))}
        if not phase.exists():
            first = values | {
                "target": {"train": _write(folder / "few.jsonl", texts, labels, order[:BATCH])},
                "training": values["training"] | {"num_train_epochs": SOURCE_EPOCHS},
                "output_dir": str(folder / "first"),
            }
            train(Recipe.from_dict(first))
            shutil.copytree(folder / "first" / "checkpoints" / "source", phase.with_suffix(".part"))
            phase.with_suffix(".part").rename(phase)
        recipe = Recipe.from_dict(values)
        RunFolder(folder / "run").start(recipe.dump())
        shutil.copytree(phase, folder / "run" / "checkpoints" / "source")
        return train(recipe, resume=True).score()


def _write(path: Path, texts: list[str], labels: np.ndarray, rows: Any) -> str:
    lines = [json.dumps({"text": texts[i], "label": int(labels[i])}) for i in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)
