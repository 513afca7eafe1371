"""transformer-ranker's scores of one model; runs in its own environment, called by ``ranking_study.py``.

Standard input: {"models" (folders), "texts", "labels"}. Last line of standard output: for each model,
{"scores": {"hscore lastlayer": ..., ...}, "seconds": processor seconds of embedding and scoring}.

The texts go through the model once, by its Embedder; ``lastlayer`` is the layer that it takes for it
(``layer_ids="0"``, the first above the word embeddings).
"""

from __future__ import annotations

import contextlib
import json
import sys
import time

import torch
from transformer_ranker.embedder import Embedder
from transformer_ranker.estimators import HScore, LogME, NearestNeighbors

ESTIMATORS = {"hscore": HScore, "logme": LogME, "knn": NearestNeighbors}


def scores(model: str, texts: list[str], labels: torch.Tensor) -> dict:
    """Every estimator with every way to take layers."""
    started = time.process_time()
    embedder = Embedder(model, sentence_pooling="mean", device="cpu")
    layers = torch.stack(embedder.embed(texts, show_progress=False))
    embedding = time.process_time() - started
    found = {}
    for name, estimator in ESTIMATORS.items():
        by_layer = [
            estimator(regression=False).fit(embeddings=layers[:, i], labels=labels)
            for i in range(layers.shape[1])
        ]
        mean = estimator(regression=False).fit(embeddings=layers.mean(1), labels=labels)
        found |= {f"{name} lastlayer": by_layer[0], f"{name} bestlayer": max(by_layer)}
        found[f"{name} layermean"] = mean
    return {
        "scores": found,
        "embed_seconds": embedding,
        "score_seconds": time.process_time() - started - embedding,
    }


def main() -> None:
    job = json.load(sys.stdin)
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        found = [scores(model, job["texts"], torch.tensor(job["labels"])) for model in job["models"]]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
