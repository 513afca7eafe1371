"""Does a score without fine-tuning order pretrained models as fine-tuning does? Four targets.

The candidates are one encoder cut to fewer layers, with noise on its weights, with fresh weights, and
fine-tuned on other data (``ranking_candidates.py``). Every candidate is scored on 300 labelled rows of each
target and then fine-tuned on those rows; its accuracy on 400 other rows is what a score should have foretold.

Two coefficients, the mean over targets: Spearman's, and Kendall's weighted towards the top of the list.
Beside them transformer-ranker's scores from its own environment, on the same rows. Its ``lastlayer`` is the
first layer. Fine-tuned accuracy has noise of its own: one target is fine-tuned on again with another seed,
which bounds what any score can reach.

    NLP_TRANSFER_DATA=... python benchmarks/ranking_study.py --work DIR [--targets ...] [--no-peer]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import risk_data
from common import peer_python, print_table, run_json, save
from ranking_candidates import LENGTH, TUNING, build, write_rows
from scipy.stats import spearmanr, weightedtau

from nlp_transfer.numeric.transferability import DEFAULT_SCORE, SCORES

TARGETS = ("amazon_kitchen", "sst2", "tweets", "amazon_airline")
TRAIN, TEST = 300, 400
EPOCHS, RATE = 2, 2e-4
LAYERS = ("last", "mean", "best")
PEER_SCORES = 9
"""Scores that transformer-ranker's seconds of scoring are for."""
PEER = Path(__file__).resolve().parent / "peers" / "transformer_ranker_scores.py"


def rows(target: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Training and test rows of a target."""
    texts, labels = risk_data.rows(target)
    found = [{"text": text, "label": int(label)} for text, label in zip(texts, labels, strict=True)]
    return found[:TRAIN], found[TRAIN : TRAIN + TEST]


def kept(path: Path, compute: Callable[[], dict[str, Any]], computes: bool) -> dict[str, Any] | None:
    """A finished cell, or the one computed now; None where it is not there and must not be computed."""
    if not path.exists() and computes:
        started = time.process_time()
        found = compute()
        found["cell_seconds"] = time.process_time() - started
        path.write_text(json.dumps(found), "utf-8")
        print(path.stem, json.dumps(found)[:150], flush=True)
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def tune(folder: Path, target: str, seed: int) -> dict[str, Any]:
    """Test accuracy after fine-tuning all weights."""
    from nlp_transfer import Recipe, train

    training, test = rows(target)
    with tempfile.TemporaryDirectory() as place:
        recipe = Recipe.from_dict(
            {
                "model": {"name": str(folder), "max_length": LENGTH, "pooling": "mean"},
                "target": {
                    "train": write_rows(Path(place) / "train.jsonl", training),
                    "test": write_rows(Path(place) / "test.jsonl", test),
                },
                "strategy": {"kind": "full"},
                "training": {**TUNING, "num_train_epochs": EPOCHS, "learning_rate": RATE, "seed": seed},
                "output_dir": f"{place}/run",
            }
        )
        return {"accuracy": train(recipe).score()}


def score(folder: Path, target: str) -> dict[str, Any]:
    """Every score of the package on three choices of layer, and processor seconds."""
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions, locate

    training, _ = rows(target)
    labels = np.array([row["label"] for row in training])
    options = ModelOptions(name=str(folder), max_length=LENGTH, pooling="mean")
    started = time.process_time()
    embedder = Embedder.load(locate(options), options, layer="all", cache_dir=False, progress=False)
    layers = np.asarray(embedder.embed([row["text"] for row in training]).features)
    embedding = time.process_time() - started
    by_layer = [
        SCORES[DEFAULT_SCORE].compute(layers[:, i], labels, "classification") for i in range(layers.shape[1])
    ]
    views = {"last": layers[:, -1], "mean": layers.mean(1), "best": layers[:, int(np.argmax(by_layer))]}
    found, seconds = {}, {}
    for name, item in SCORES.items():
        for layer, features in views.items():
            started = time.process_time()
            found[f"{name} {layer}"] = item.compute(features, labels, "classification")
            seconds[f"{name} {layer}"] = time.process_time() - started
    return {"scores": found, "seconds": seconds, "embed_seconds": embedding, "layers": by_layer}


def peer(folders: dict[str, Path], target: str) -> dict[str, Any]:
    """transformer-ranker's scores of all candidates."""
    python = peer_python("transformer_ranker", ["transformer-ranker==0.2.0", "transformers==4.57.1"])
    training, _ = rows(target)
    job = {
        "models": [str(folder) for folder in folders.values()],
        "texts": [row["text"] for row in training],
        "labels": [row["label"] for row in training],
    }
    return dict(zip(folders, run_json([python, PEER], job), strict=True))


def agreement(scores: list[float], accuracy: list[float]) -> tuple[float, float]:
    """Spearman's rho and weighted Kendall's tau of scores with accuracies."""
    if min(scores) == max(scores):
        return 0.0, 0.0
    return float(spearmanr(scores, accuracy)[0]), float(weightedtau(scores, accuracy)[0])


def report(cells: dict[str, dict[str, Any]], targets: list[str], names: list[str]) -> None:
    """Print the tables and write the JSON; targets without all of their cells are left out."""
    whole = [t for t in targets if all("accuracy" in cells[f"{t}|{name}"] for name in names)]
    of = {target: [cells[f"{target}|{name}"] for name in names] for target in whole}
    accuracy = {target: [cell["accuracy"][0] for cell in found] for target, found in of.items()}
    scores = {
        f"{score} {layer}": [[cell["scores"][f"{score} {layer}"] for cell in of[t]] for t in whole]
        for score in SCORES
        for layer in LAYERS
    }
    seconds = {
        name: [cell["embed_seconds"] + cell["seconds"][name] for t in whole for cell in of[t]]
        for name in scores
    }
    if all("peer" in cell for found in of.values() for cell in found):
        for name in of[whole[0]][0]["peer"]["scores"]:
            title = f"transformer-ranker {name}"
            theirs = [[cell["peer"] for cell in of[t]] for t in whole]
            scores[title] = [[peer["scores"][name] for peer in found] for found in theirs]
            seconds[title] = [
                peer["embed_seconds"] + peer["score_seconds"] / PEER_SCORES
                for found in theirs
                for peer in found
            ]
    results = {}
    for name, by_target in scores.items():
        both = [agreement(found, accuracy[t]) for found, t in zip(by_target, whole, strict=True)]
        results[name] = {
            "spearman": [pair[0] for pair in both],
            "weighted_kendall": [pair[1] for pair in both],
            "mean_spearman": float(np.mean([pair[0] for pair in both])),
            "mean_weighted_kendall": float(np.mean([pair[1] for pair in both])),
            "seconds": float(np.mean(seconds[name])),
        }
    again = {
        t: agreement([cell["accuracy"][1] for cell in of[t]], accuracy[t])
        for t in whole
        if all(len(cell["accuracy"]) > 1 for cell in of[t])
    }
    results_rows = sorted(results.items(), key=lambda item: -item[1]["mean_spearman"])
    print_table(
        f"{len(names)} encoders: agreement of scores with fine-tuned accuracy, mean over targets",
        ["score, layers", "Spearman", "weighted Kendall", "processor seconds", *whole],
        [
            [name, r["mean_spearman"], r["mean_weighted_kendall"], r["seconds"], *r["spearman"]]
            for name, r in results_rows
        ],
    )
    print_table(
        "Accuracy after fine-tuning",
        ["encoder", *whole],
        [[name, *(accuracy[t][n] for t in whole)] for n, name in enumerate(names)],
    )
    for target, (rho, tau) in again.items():
        print(
            f"fine-tuned again with another seed on {target}: Spearman {rho:.2f}, weighted Kendall {tau:.2f}"
        )
    settings = {"train": TRAIN, "test": TEST, "epochs": EPOCHS, "rate": RATE, "tokens": LENGTH}
    payload = {"targets": whole, "candidates": names, "settings": settings, "default": DEFAULT_SCORE}
    save("ranking_study", payload | {"results": results, "another_seed": again, "cells": cells})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--work", type=Path, required=True, help="keep models and finished cells here")
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--again", nargs="*", default=["sst2"], help="targets to fine-tune on twice")
    parser.add_argument("--no-peer", action="store_true")
    parser.add_argument("--report-only", action="store_true", help="show what is finished, compute nothing")
    options = parser.parse_args()
    folders = build(options.work)
    cells: dict[str, dict[str, Any]] = {f"{t}|{name}": {} for t in options.targets for name in folders}
    computes = not options.report_only
    for target in options.targets:
        if not options.no_peer:
            theirs = kept(options.work / f"peer.{target}.json", partial(peer, folders, target), computes)
            for name in folders if theirs else ():
                cells[f"{target}|{name}"]["peer"] = theirs[name]
        for name, folder in folders.items():
            cell = cells[f"{target}|{name}"]
            path = options.work / f"score.{target}.{folder.name}.json"
            cell |= kept(path, partial(score, folder, target), computes) or {}
    for seed in (0, 1):
        for target in options.targets if seed == 0 else options.again:
            for name, folder in folders.items():
                path = options.work / f"tune.{target}.{folder.name}.{seed}.json"
                found = kept(path, partial(tune, folder, target, seed), computes)
                if found:
                    cell = cells[f"{target}|{name}"]
                    cell.setdefault("accuracy", []).append(found["accuracy"])
                    cell.setdefault("tune_seconds", []).append(found["cell_seconds"])
    report(cells, options.targets, list(folders))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
