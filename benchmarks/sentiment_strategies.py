"""Accuracy and seconds of full, frozen and LoRA beside plain ``transformers.Trainer``, on real reviews.

Four review domains (train on ``train``, score on ``dev``), the embedded encoder, three seeds. The plain Trainer
is set up as in the text-classification example of transformers: every text padded to 128 tokens, fp32, random
batches, the checkpoint's own architecture. Learning rate, epochs and batch size are equal for both.

    python benchmarks/sentiment_strategies.py [--domains books kitchen] [--seeds 1 2 3] [--epochs 2]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from common import print_table, save

EPOCHS, RATE, BATCH, LENGTH = 2, 1e-4, 32, 128


def plain_trainer(data: Path, domain: str, seed: int, epochs: float, *, freeze: bool = False) -> tuple[float, float]:
    """Dev accuracy and training seconds of the classification example's set-up."""
    import numpy as np
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

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
        lambda batch: tokenizer(batch["text"], padding="max_length", max_length=LENGTH, truncation=True), batched=True
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
            compute_metrics=lambda p: {"accuracy": float((np.argmax(p.predictions, 1) == p.label_ids).mean())},
        )
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        return trainer.evaluate()["eval_accuracy"], seconds


def ours(data: Path, domain: str, seed: int, epochs: float, kind: str, cache: Path) -> tuple[float, float]:
    """Dev accuracy and training seconds of one of our recipes."""
    from nlp_transfer import Recipe, train

    rate = {"lora": 1e-3}.get(kind, RATE)
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
        result = train(recipe)
        return result.score("target", "validation"), result.training_seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--domains", nargs="+", default=["books", "dvd", "electronics", "kitchen"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    options = parser.parse_args()
    data = Path(os.environ["NLP_TRANSFER_DATA"]) / "sentiment" / "amazon"
    cache = Path(tempfile.mkdtemp())
    runs: dict[str, list[dict]] = {name: [] for name in ("plain Trainer", "full", "lora", "frozen", "frozen, cached")}
    for seed in options.seeds:
        for domain in options.domains:
            for name, found in runs.items():
                if name == "plain Trainer":
                    accuracy, seconds = plain_trainer(data, domain, seed, options.epochs)
                else:
                    fresh = Path(tempfile.mkdtemp()) if name == "frozen" else cache
                    if name == "frozen, cached":
                        fresh = last_cache
                    accuracy, seconds = ours(data, domain, seed, options.epochs, name.split(",")[0], fresh)
                    if name == "frozen":
                        last_cache = fresh
                    elif name == "frozen, cached":
                        shutil.rmtree(last_cache)
                found.append({"domain": domain, "seed": seed, "accuracy": accuracy, "seconds": seconds})
                print(f"seed {seed} {domain:12} {name:15} accuracy {accuracy:.4f}  {seconds:6.1f} s", flush=True)
    frozen_peer = [plain_trainer(data, domain, options.seeds[0], 5, freeze=True) for domain in options.domains[:2]]
    report(runs, frozen_peer, options)
    shutil.rmtree(cache)


def report(runs: dict[str, list[dict]], frozen_peer: list[tuple[float, float]], options: argparse.Namespace) -> None:
    """Print the table and write the JSON."""
    plain = runs["plain Trainer"]
    rows, payload = [], {}
    for name, found in runs.items():
        accuracy = statistics.mean(run["accuracy"] for run in found)
        gap = accuracy - statistics.mean(run["accuracy"] for run in plain)
        seconds = statistics.median(run["seconds"] for run in found)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(found, plain, strict=True))
        rows.append([name, f"{accuracy:.4f}", f"{100 * gap:+.2f}", f"{seconds:.1f}", f"{ratio:.3f}"])
        payload[name] = {"accuracy": accuracy, "gap_points": 100 * gap, "seconds": seconds, "time_ratio": ratio, "runs": found}
    peer_seconds = statistics.median(seconds for _, seconds in frozen_peer)
    peer_accuracy = statistics.mean(accuracy for accuracy, _ in frozen_peer)
    speedup = peer_seconds / payload["frozen"]["seconds"]
    rows.append(["plain Trainer, frozen encoder, 5 epochs", f"{peer_accuracy:.4f}", "", f"{peer_seconds:.1f}", ""])
    title = f"{', '.join(options.domains)}; {len(options.seeds)} seeds; {options.epochs} epochs"
    print_table(title, ["method", "mean dev accuracy", "gap (points)", "median seconds", "time / plain"], rows)
    print(f"frozen is {speedup:.1f} times faster than 5 epochs of plain Trainer on a frozen encoder")
    save(
        "sentiment_strategies",
        {
            "domains": options.domains,
            "seeds": options.seeds,
            "epochs": options.epochs,
            "methods": payload,
            "frozen_peer": {"accuracy": peer_accuracy, "seconds": peer_seconds, "speedup": speedup},
        },
    )


if __name__ == "__main__":
    main()
