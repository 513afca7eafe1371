"""Tiny encoders, planted data and quick recipes for the engine's tests."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from nlp_transfer.recipe import Recipe
from tests.tiny import tiny_model, tiny_sentence_encoder

FILLER = [
    "the",
    "film",
    "was",
    "from",
    "start",
    "to",
    "end",
    "a",
    "book",
    "of",
    "this",
    "we",
    "cook",
    "story",
]
GOOD, BAD = ("great", "delight", "wonderful", "fair"), ("dull", "awful", "broke", "late")


def planted_rows(count: int, seed: int, *, longest: int = 12) -> list[dict]:
    """Texts of many lengths whose class is given away by one word."""
    generator = random.Random(seed)
    rows = []
    for number in range(count):
        words = generator.choices(FILLER, k=generator.randint(2, longest))
        words.insert(generator.randrange(len(words)), generator.choice((GOOD, BAD)[number % 2]))
        rows.append({"text": f"{' '.join(words)} {number}", "label": ("positive", "negative")[number % 2]})
    return rows


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory):
    """A tiny encoder that declares mean pooling: classifiers on it are pooled."""
    return tiny_sentence_encoder(tmp_path_factory.mktemp("models") / "encoder")


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    """A tiny BERT without declared pooling: classifiers on it have the stock head."""
    return tiny_model(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Planted source and target files: {"source.train": path, ...}."""
    folder = tmp_path_factory.mktemp("data")
    sizes = {"train": 32, "validation": 12, "test": 12}
    return {
        f"{role}.{split}": write_rows(folder / f"{role}.{split}.jsonl", planted_rows(size, seed + 10 * index))
        for index, (split, size) in enumerate(sizes.items())
        for role, seed in (("source", 1), ("target", 2))
    }


@pytest.fixture
def make_recipe(encoder, data, tmp_path):
    """A function to a quick recipe; dotted keyword paths go in as overrides."""

    def make(*overrides, source=False, name="run", **parts):
        values = {
            "model": {"name": str(encoder)},
            "target": {split: data[f"target.{split}"] for split in ("train", "validation", "test")},
            "training": {"num_train_epochs": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-3},
            "shift": {"enabled": False},
            "output_dir": str(tmp_path / name),
        }
        if source:
            own = {split: data[f"source.{split}"] for split in ("train", "validation", "test")}
            values["source"] = own if source is True else source
        return Recipe.from_dict(values | parts, overrides)

    return make


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All tensors that a run saved."""
    files = sorted((Path(run) / "model").glob("*.safetensors"))
    assert files
    return {f"{file.name}:{key}": value for file in files for key, value in load_file(file).items()}


def equal_weights(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Crash(Exception):
    """The planted crash."""


class CrashAfter(TrainerCallback):
    """Raise at the end of a step; in the ``phase``-th training, counted from 1."""

    def __init__(self, step: int, phase: int = 1) -> None:
        self.step, self.phase, self.seen = step, phase, 0

    def on_train_begin(self, args, state, control, **kwargs):
        self.seen += 1

    def on_step_end(self, args, state, control, **kwargs):
        if self.seen == self.phase and state.global_step == self.step:
            raise Crash


class Record(TrainerCallback):
    """Call a function with everything the Trainer passes at an event."""

    def __init__(self, **events) -> None:
        self.events = events

    def __getattribute__(self, name):
        events = object.__getattribute__(self, "events") if name.startswith("on_") else {}
        if name in events:
            return lambda args, state, control, **kwargs: events[name](args=args, state=state, **kwargs)
        return object.__getattribute__(self, name)


PEFT_ITSELF = "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
"""peft 0.21 reads this old name of transformers when it wraps a model; nothing here can change that."""


def pytest_collection_modifyitems(items):
    """Every deprecation warning fails the tests of this folder, whichever package gives it."""
    marker = pytest.mark.filterwarnings("error::FutureWarning", "error::DeprecationWarning", PEFT_ITSELF)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(marker)
