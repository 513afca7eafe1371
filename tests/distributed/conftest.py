"""Launches of tiny runs through the launcher, each in processes of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import tiny_sentence_encoder
from tests.training.conftest import planted_rows, write_rows
from tests.translators import tiny_translator

ROOT = Path(__file__).parents[2]
WORKER = str(Path(__file__).with_name("worker.py"))


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A tiny encoder, and rows of uneven lengths; no evaluation size can be divided by two."""
    folder = tmp_path_factory.mktemp("distributed")
    found = {"encoder": str(tiny_sentence_encoder(folder / "encoder"))}
    found["translator"] = str(tiny_translator(folder / "translator"))
    for index, (split, size) in enumerate({"train": 32, "validation": 13, "test": 15}.items()):
        for role, seed in (("source", 1), ("target", 2)):
            name = f"{role}.{split}"
            rows = planted_rows(size, seed + 10 * index, longest=30)
            found[name] = write_rows(folder / f"{name}.jsonl", rows)
    return found


@pytest.fixture(scope="session")
def values(files):
    """A function to a recipe's values; ``batch`` rows and ``accumulation`` batches a process and step.

    With an ``adaptation`` the target's training rows lose their labels.
    """

    def make(output, *, strategy, batch=2, accumulation=4, source=False, translate=False, **parts):
        splits = ("train", "validation", "test")
        training = {"num_train_epochs": 2, "learning_rate": 1e-3, "load_best_model_at_end": False}
        training |= {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
        made = {
            "model": {"name": files["encoder"], "dropout": 0.0},
            "target": {split: files[f"target.{split}"] for split in splits},
            "strategy": strategy,
            "training": training,
            "shift": {"enabled": source, "permutations": 20},
            "output_dir": str(output),
        }
        if source:
            made["source"] = {split: files[f"source.{split}"] for split in splits}
        if translate:
            made |= translation(files["translator"], made["training"])
        if "adaptation" in parts:
            made["target"]["unlabeled"] = made["target"].pop("train")
        return made | parts

    return make


def translation(translator, training):
    """Parts of a recipe: a process's batch has up to 192 tokens; 12 batches, an even number, are an epoch."""
    training = {name: value for name, value in training.items() if name != "per_device_train_batch_size"}
    training["gradient_accumulation_steps"] //= 2
    return {
        "task": {"kind": "translation", "source_lang": "de", "target_lang": "en", "batch_tokens": 192},
        "model": {"name": translator, "max_length": 64, "dropout": 0.0},
        "target": {"dataset": "sample:travel", "max_samples": 32},
        "training": training,
    }


def launch_jobs(jobs: list[dict], folder: Path, *, prefix=(), **processes) -> subprocess.Popen:
    """Start the worker on the processes; returns at once."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    code = (
        "import sys; from nlp_transfer.cli import run_command; from nlp_transfer.launch import *\n"
        f"sys.exit(run_command(lambda: launch([{str(path)!r}], Processes(**{processes!r}), "
        f"program=[{WORKER!r}])))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [*prefix, sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=folder)
