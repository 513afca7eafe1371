"""Accuracy and seconds of full, frozen and LoRA beside plain ``transformers.Trainer``, on real reviews.

Four review domains (train on ``train``, score on ``dev``), the embedded encoder, three seeds. The plain
Trainer is as in the text-classification example of transformers: every text padded to 128 tokens, fp32,
random batches, the checkpoint's own architecture. Epochs and batch size are equal for all, and the learning
rate for both kinds of full fine-tuning.

Seconds are processor seconds on one thread, from the data files to the dev accuracy (loading, tokenising,
training, saving, scoring), after a warm-up: they do not depend on what else the machine does.

    python benchmarks/sentiment_strategies.py [--domains books kitchen] [--seeds 1 2 3] [--work DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from common import print_table, save

EPOCHS, RATE, BATCH, LENGTH = 1, 1e-4, 32, 128


def plain_trainer(data: Path, domain: str, seed: int, epochs: float, *, freeze: bool = False) -> float:
    """Dev accuracy of the classification example's set-up."""
    import numpy as np
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from nlp_transfer.models.load import ModelOptions, locate

    set_seed(seed)
    folder = locate(ModelOptions()).folder
    files = {split: str(data / f"{domain}.{split}.jsonl") for split in ("train", "dev")}
    rows = load_dataset("json", data_files=files)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    if freeze:
        model.base_model.requires_grad_(False)
    encoded = rows.map(
        lambda batch: tokenizer(batch["text"], padding="max_length", max_length=LENGTH, truncation=True),
        batched=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            learning_rate=RATE,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=BATCH,
            eval_strategy="epoch",
            save_strategy="epoch",
            seed=seed,
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=encoded["train"],
            eval_dataset=encoded["dev"],
            processing_class=tokenizer,
            compute_metrics=lambda p: {
                "accuracy": float((np.argmax(p.predictions, 1) == p.label_ids).mean())
            },
        )
        trainer.train()
        return [entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry][-1]


def ours(data: Path, domain: str, seed: int, epochs: float, kind: str, cache: Path) -> float:
    """Dev accuracy of one of our strategies."""
    from nlp_transfer import Recipe, train

    rate = {"lora": 2e-3}.get(kind, RATE)
    training = {
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": BATCH,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NLP_TRANSFER_CACHE"] = str(cache)
        recipe = Recipe.from_dict(
            {
                "model": {"max_length": LENGTH},
                "target": {
                    "train": str(data / f"{domain}.train.jsonl"),
                    "validation": str(data / f"{domain}.dev.jsonl"),
                },
                "strategy": {"kind": kind},
                "training": training,
                "output_dir": f"{folder}/run",
            }
        )
        return train(recipe).score("target", "validation")


FROZEN_PEER = "plain Trainer, frozen encoder, 5 epochs"
METHODS = ("plain Trainer", "full", "lora", "frozen", "frozen, cached")


def run(method: str, data: Path, domain: str, seed: int, epochs: float, work: Path) -> dict:
    """One cell of the study; a finished cell is read from the work folder."""
    record = work / f"{method.replace(' ', '-').replace(',', '')}.{domain}.{seed}.json"
    if record.exists():
        return json.loads(record.read_text("utf-8"))
    cache = work / f"cache-{domain}-{seed}"
    if method == "frozen":
        shutil.rmtree(cache, ignore_errors=True)
    wall, processor = time.perf_counter(), time.process_time()
    if method.startswith("plain"):
        accuracy = plain_trainer(data, domain, seed, epochs, freeze="frozen" in method)
    else:
        accuracy = ours(data, domain, seed, epochs, method.split(",")[0], cache)
    seconds, wall = time.process_time() - processor, time.perf_counter() - wall
    print(f"seed {seed} {domain:12} {method:15} {accuracy:.4f}  {seconds:6.1f} s", flush=True)
    cell = {"domain": domain, "seed": seed, "accuracy": accuracy, "seconds": seconds, "wall": wall}
    record.write_text(json.dumps(cell), "utf-8")
    return cell


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--domains", nargs="+", default=["books", "dvd", "electronics", "kitchen"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    parser.add_argument("--work", type=Path, help="keep finished cells here and go on from them")
    options = parser.parse_args()
    data = Path(os.environ["NLP_TRANSFER_DATA"]) / "sentiment" / "amazon"
    runs: dict[str, list[dict]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        for method in METHODS:
            run(method, data, options.domains[0], 0, 0.02, work)
        for seed in options.seeds:
            for domain in options.domains:
                for method in METHODS:
                    runs[method].append(run(method, data, domain, seed, options.epochs, work))
        peers = [run(FROZEN_PEER, data, options.domains[0], options.seeds[0], 5, work)]
    report(runs, peers, options)


def report(runs: dict[str, list[dict]], peers: list[dict], options: argparse.Namespace) -> None:
    """Print the table and write the JSON."""
    plain = runs["plain Trainer"]
    rows, methods = [], {}
    for name, found in {**runs, FROZEN_PEER: peers}.items():
        accuracy = statistics.mean(cell["accuracy"] for cell in found)
        gap = 100 * statistics.mean(a["accuracy"] - b["accuracy"] for a, b in zip(found, plain, strict=False))
        seconds = statistics.median(cell["seconds"] for cell in found)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(found, plain, strict=False))
        rows.append([name, f"{accuracy:.4f}", f"{gap:+.2f}", f"{seconds:.1f}", f"{ratio:.3f}"])
        methods[name] = {
            "accuracy": accuracy,
            "gap_points": gap,
            "seconds": seconds,
            "ratio": ratio,
            "runs": found,
        }
    frozen = next(cell for cell in runs["frozen"] if cell["domain"] == peers[0]["domain"])
    speedup = peers[0]["seconds"] / frozen["seconds"]
    title = f"{', '.join(options.domains)}; {len(options.seeds)} seeds; {options.epochs:g} epoch(s)"
    print_table(
        title, ["method", "mean dev accuracy", "gap (points)", "median seconds", "seconds / plain"], rows
    )
    print(f"frozen is {speedup:.1f} times faster than 5 epochs of plain Trainer on a frozen encoder")
    save(
        "sentiment_strategies",
        {
            "domains": options.domains,
            "seeds": options.seeds,
            "epochs": options.epochs,
            "threads": 1,
            "methods": methods,
            "frozen_speedup": speedup,
        },
    )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
