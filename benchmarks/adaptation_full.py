"""Full fine-tuning of one pair by one method: the cells that ``adaptation_amazon.py`` collects."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from adaptation_data import Pair, split, texts
from common import machine

ROWS, LENGTH, BATCH, RATE, EPOCHS = 480, 64, 16, 2e-4, 1
SETTING = {"rows": ROWS, "length": LENGTH, "batch": BATCH, "rate": RATE, "epochs": EPOCHS}
METHODS: dict[str, list[dict[str, Any]] | None] = {
    "source-only": [],
    "target-trained": None,
    "mmd": [{"kind": "mmd"}],
    "deep_coral": [{"kind": "deep_coral"}],
    "dann": [{"kind": "dann"}],
    "cdan": [{"kind": "cdan"}],
    "pretraining": [{"kind": "pretraining", "epochs": 2}],
    "self_training": [{"kind": "self_training"}],
    "relational": [{"kind": "relational"}],
}


def settings(method: str) -> dict[str, Any]:
    """What a cell depends on beside its pair and seed; bfloat16 is taken where it pays."""
    from nlp_transfer.adaptation import ADAPTATIONS
    from nlp_transfer.models.precision import bf16_pays

    chosen = [ADAPTATIONS[one["kind"]][1](**one).model_dump() for one in METHODS[method] or []]
    return {**SETTING, "bf16": bf16_pays("cpu"), "methods": chosen}


def cell(work: Path, source: str, target: str, method: str, seed: int) -> dict[str, Any]:
    """Which test rows one run gets right, and its processor seconds; a finished cell is read from disk."""
    record = work / f"full.{source}.{target}.{method}.{seed}.json"
    if record.exists():
        found = json.loads(record.read_text("utf-8"))
        if found["settings"] != settings(method):
            raise SystemExit(f"{record} is of other settings: delete it")
        return found
    rows = {domain: texts(domain) for domain in (source, target)}
    pair = split(source, target, (len(rows[source][0]), len(rows[target][0])), seed, ROWS)
    folder = work / f"runs.{source}.{target}.{seed}"
    started = time.process_time()
    right = run(folder, pair, rows, method)
    found = {
        "source": source,
        "target": target,
        "method": method,
        "seed": seed,
        "settings": settings(method),
        "machine": machine(),
        "accuracy": float(right.mean()),
        "seconds": time.process_time() - started,
        "right": "".join("01"[int(value)] for value in right),
    }
    record.write_text(json.dumps(found), "utf-8")
    print(
        f"{source:12} {target:12} {method:15} {found['accuracy']:.3f} {found['seconds']:6.1f} s", flush=True
    )
    return found


def run(folder: Path, pair: Pair, rows: dict, method: str) -> np.ndarray:
    """Train, predict the test texts, and say which are right [k].

    The source-only run stays in the folder: it is the teacher of ``relational``.
    """
    from nlp_transfer import Recipe, load_model, train
    from nlp_transfer.models.precision import bf16_pays

    folder.mkdir(parents=True, exist_ok=True)
    (source_texts, source_labels), (target_texts, target_labels) = rows[pair.source], rows[pair.target]
    source = write(folder / "source.jsonl", source_texts, source_labels, pair.source_rows)
    pool = write(folder / "pool.jsonl", target_texts, target_labels, pair.pool)
    texts_alone = write(folder / "texts.jsonl", target_texts, None, pair.pool)
    teacher = folder / "source-only"
    values: dict[str, Any] = {
        "model": {"max_length": LENGTH},
        "target": {"unlabeled": texts_alone, "validation_fraction": 0},
        "source": {"train": source, "validation_fraction": 0},
        "strategy": {"kind": "full"},
        "shift": {"enabled": False},
        "training": {
            "num_train_epochs": EPOCHS,
            "learning_rate": RATE,
            "per_device_train_batch_size": BATCH,
            "eval_strategy": "no",
            "save_strategy": "no",
            "load_best_model_at_end": False,
            "bf16": bf16_pays("cpu"),
            "seed": pair.seed,
        },
        "output_dir": str(folder / method),
    }
    adaptation = METHODS[method]
    if adaptation is None:
        del values["source"]
        values["target"] = {"train": pool, "validation_fraction": 0}
    elif method == "relational":
        if not (teacher / "metrics.json").exists():
            run(folder, pair, rows, "source-only")
        values["adaptation"] = [{**adaptation[0], "teacher": str(teacher)}]
        values["source"]["mode"] = "joint"
    else:
        values["adaptation"] = adaptation
    train(Recipe.from_dict(values), overwrite=True)
    predicted = load_model(folder / method).predict([target_texts[row] for row in pair.test])
    if method != "source-only":
        shutil.rmtree(folder / method)
    given = np.array([str(row["label"] if isinstance(row, dict) else row) for row in predicted])
    return given == target_labels[pair.test].astype(str)


def write(path: Path, texts: list[str], labels: np.ndarray | None, chosen: np.ndarray) -> str:
    """The chosen rows as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for row in chosen:
            label = {} if labels is None else {"label": int(labels[row])}
            file.write(json.dumps({"text": texts[row], **label}) + "\n")
    return str(path)
