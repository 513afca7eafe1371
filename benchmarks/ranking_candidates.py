"""The candidates of ``ranking_study.py``: one small encoder, damaged and tuned in known ways."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import risk_data
import torch

LENGTH = 48
"""Tokens of a text that are read, everywhere in the study."""
TUNING = {
    "num_train_epochs": 2,
    "learning_rate": 1e-4,
    "per_device_train_batch_size": 16,
    "eval_strategy": "no",
    "use_cpu": True,
    "report_to": "none",
}


def pretrained() -> Path:
    """Folder of the embedded encoder."""
    from nlp_transfer.models.load import ModelOptions, locate

    return Path(locate(ModelOptions()).folder)


def _cut(layers: int) -> Any:
    from transformers import AutoModel

    return AutoModel.from_pretrained(pretrained(), num_hidden_layers=layers)


def _noise(share: float) -> Any:
    """Gaussian noise on every matrix of the layers, in shares of that matrix's own deviation."""
    model, generator = _cut(6), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.encoder.parameters():
            if weight.ndim == 2:
                weight += share * weight.std() * torch.randn(weight.shape, generator=generator)
    return model


def _random(keep_embeddings: bool) -> Any:
    """Fresh layers, with the pretrained word embeddings or with fresh ones."""
    from transformers import AutoConfig, AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.from_pretrained(pretrained()))
    if keep_embeddings:
        model.embeddings.load_state_dict(_cut(6).embeddings.state_dict())
    return model


def _tuned(read: Callable[[], list[dict[str, Any]]]) -> Any:
    """The encoder fine-tuned on other rows, without its head."""
    from nlp_transfer import Recipe, train
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions, locate

    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe.from_dict(
            {
                "model": {"name": str(pretrained()), "max_length": LENGTH, "pooling": "mean"},
                "target": {"train": write_rows(Path(folder) / "rows.jsonl", read())},
                "strategy": {"kind": "full"},
                "training": TUNING,
                "output_dir": f"{folder}/run",
            }
        )
        options = ModelOptions(name=str(train(recipe).output_dir / "model"))
        return Embedder.load(locate(options), options).encoder


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    """Rows as a JSON Lines file; its path."""
    import json

    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _sentiment(name: str, count: int = 800) -> list[dict[str, Any]]:
    texts, labels = risk_data.rows(name)
    return [{"text": text, "label": int(label)} for text, label in zip(texts, labels, strict=True)][:count]


def _shuffled(name: str) -> list[dict[str, Any]]:
    rows = _sentiment(name)
    labels = [row["label"] for row in rows]
    random.Random(0).shuffle(labels)
    return [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]


def _topics() -> list[dict[str, Any]]:
    """Which shelf a review is from: another question about the same kind of text."""
    rows = [
        {"text": row["text"], "label": shelf}
        for shelf in ("fdu_baby", "fdu_toys_games", "fdu_apparel")
        for row in _sentiment(shelf, 270)
    ]
    random.Random(0).shuffle(rows)
    return rows


CANDIDATES: dict[str, Callable[[], Any]] = {
    "6 layers": partial(_cut, 6),
    "4 layers": partial(_cut, 4),
    "3 layers": partial(_cut, 3),
    "2 layers": partial(_cut, 2),
    "1 layer": partial(_cut, 1),
    "noise 0.5": partial(_noise, 0.5),
    "noise 1": partial(_noise, 1.0),
    "random layers": partial(_random, True),
    "all random": partial(_random, False),
    "tuned on restaurants": partial(_tuned, partial(_sentiment, "uci_yelp")),
    "tuned on electronics": partial(_tuned, partial(_sentiment, "amazon_electronics")),
    "tuned on shuffled labels": partial(_tuned, partial(_shuffled, "amazon_electronics")),
    "tuned on topics": partial(_tuned, _topics),
}


def build(work: Path) -> dict[str, Path]:
    """Folder of each candidate; those that are there already are left alone."""
    from transformers import AutoTokenizer

    folders = {}
    for name, make in CANDIDATES.items():
        folder = work / "models" / name.replace(" ", "-").replace(".", "")
        folders[name] = folder
        if (folder / "config.json").exists():
            continue
        print(f"building {name}", flush=True)
        draft = folder.with_suffix(".part")
        make().save_pretrained(draft)
        tokenizer = AutoTokenizer.from_pretrained(pretrained())
        tokenizer.model_max_length = LENGTH
        tokenizer.save_pretrained(draft)
        os.replace(draft, folder)
    return folders
