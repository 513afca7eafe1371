"""What a model costs, measured on this machine: memory, disk, seconds to encode and to train."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nlp_transfer.models.precision import bf16_pays
from nlp_transfer.models.weights import weight_files

if TYPE_CHECKING:
    from datasets import Dataset

    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions
    from nlp_transfer.models.source import ModelSource
    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks import SentimentTask

TIMED_TEXTS = 64
"""Texts on which the speed of encoding is measured."""
TIMED_STEPS = 3
"""Training steps that are timed, after one that is not."""
MIB = 2**20


@dataclass(frozen=True)
class EncodingCost:
    """Of an encoder.

    Attributes:
        parameters: number of weights.
        disk_mb: size of its weight files, in 10^6 bytes.
        memory_mb: most memory that it added while it was loaded and encoded, in 10^6 bytes.
        seconds_per_1000: for 1,000 texts, nothing of them known before.
    """

    parameters: int
    disk_mb: float
    memory_mb: float
    seconds_per_1000: float


@dataclass(frozen=True)
class TrainingCost:
    """Of a gradient strategy.

    Attributes:
        seconds_per_row: of a training step, for each of its rows.
        memory_mb: most memory of the whole process while it trained (of the GPU where there is one).
        trainable, parameters: numbers of weights.
    """

    seconds_per_row: float
    memory_mb: float
    trainable: int
    parameters: int


class Peak:
    """Most memory in use inside of a ``with peak_memory()`` block, in 10^6 bytes.

    Attributes:
        before: in use when the block began.
        most: most in use until it ended.
    """

    before = most = 0.0

    @property
    def added(self) -> float:
        """What the block added at most."""
        return max(self.most - self.before, 0.0)


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure a block's peak memory: of the GPU's allocator, else the process's resident memory.

    On systems other than Linux the process's peak cannot be set back: there a block counts only as far as it
    exceeds what came before it.
    """
    peak = Peak()
    gc.collect()
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        peak.before = torch.cuda.memory_allocated() / 1e6
    else:
        _return_freed_memory()
        with contextlib.suppress(OSError):  # "5" sets the peak back to what is in use now
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        peak.before = _resident()[0]
    try:
        yield peak
    finally:
        peak.most = torch.cuda.max_memory_allocated() / 1e6 if cuda else _resident()[1]


def _return_freed_memory() -> None:
    """Give freed memory back to the system, so that it counts when it is used again (glibc only)."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> tuple[float, float]:
    """Resident memory of this process now and at most, in 10^6 bytes."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        from nlp_transfer.training.artifacts import peak_memory_mib

        most = peak_memory_mib() * MIB / 1e6
        return most, most
    kib = {line.split(":")[0]: float(line.split()[1]) for line in lines if line.startswith("Vm")}
    return kib["VmRSS"] * 1024 / 1e6, kib["VmHWM"] * 1024 / 1e6


def disk_mb(source: ModelSource) -> float:
    """Size of a model's weight files, in 10^6 bytes."""
    return round(sum(path.stat().st_size for path in weight_files(source.folder)) / 1e6, 1)


def encoding_cost(
    source: ModelSource, options: ModelOptions, texts: Sequence[str], *, seed: int = 42
) -> EncodingCost:
    """Load an encoder anew and time it on some of the texts, without a cache.

    Args:
        source: a located model.
        options: how to load it.
        texts: those of the target.
        seed: of the draw.

    Raises:
        ModelError: it cannot be loaded.

    Cost: one load and a pass over 64 texts.
    """
    from nlp_transfer.models.embed import Embedder

    sample = list(dict.fromkeys(_drawn(texts, TIMED_TEXTS, seed)))
    with peak_memory() as peak:
        embedder = Embedder.load(source, options, cache_dir=False, progress=False)
        parameters = sum(parameter.numel() for parameter in embedder.encoder.parameters())
        seconds = seconds_per_text(embedder, sample)
    return EncodingCost(parameters, disk_mb(source), round(peak.added, 1), round(1000 * seconds, 3))


def seconds_per_text(embedder: Embedder, texts: Sequence[str]) -> float:
    """Wall seconds a text through an embedder that knows none of them, after a warm-up."""
    embedder.embed([f"{texts[0]} {texts[0]}"])
    started = time.perf_counter()
    embedder.embed(list(texts))
    return (time.perf_counter() - started) / len(texts)


def _drawn(texts: Sequence[str], count: int, seed: int) -> list[str]:
    rows = np.random.default_rng(seed).choice(len(texts), min(count, len(texts)), replace=False)
    return [texts[row] for row in rows]


def training_cost(
    strategy: Strategy,
    task: SentimentTask,
    source: ModelSource,
    options: ModelOptions,
    rows: Dataset,
    *,
    batch: int,
    seed: int = 42,
) -> TrainingCost:
    """Time a few training steps of a gradient strategy: forward, backward, AdamW.

    Rows are drawn at random and dealt out by length, as training does; the longest come first, uncounted, so
    that the memory is that of the largest batch.

    Args:
        strategy: full or lora.
        task: bound to the training data.
        source: the pretrained model.
        options: how to load it.
        rows: labelled raw rows like those of the training.
        batch: rows of a step.
        seed: of the draw.

    Raises:
        ModelError: the model cannot be loaded, or the strategy does not fit it.

    Cost: four steps.
    """
    from nlp_transfer.models.load import load_tokenizer, resolve_max_length
    from nlp_transfer.strategies.base import count_parameters

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(source, options)
    chosen = np.random.default_rng(seed).permutation(np.arange(batch * (TIMED_STEPS + 1)) % len(rows))
    with peak_memory() as peak, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = strategy.prepare(task.build_model(source, options))
        model.to(device).train()
        limit = resolve_max_length(tokenizer, model.config, options.max_length)
        encoded = task.encode(rows.select(chosen), tokenizer, limit)
        order = np.argsort([-length for length in encoded["length"][:]], kind="stable")
        columns = ["input_ids", "labels"]
        batches = [
            task.collator(tokenizer, model)(encoded.select_columns(columns).select(part).to_list())
            for part in np.array_split(order, TIMED_STEPS + 1)
        ]
        seconds = _steps(model, task, batches, strategy.default_learning_rate, device)
        trainable, total = count_parameters(model.parameters())
    return TrainingCost(seconds / (batch * TIMED_STEPS), round(peak.most, 1), trainable, total)


def _steps(model: Any, task: SentimentTask, batches: list[Any], rate: float, device: torch.device) -> float:
    """Seconds of all steps but the first."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate)
    low = bf16_pays(device.type)
    started = time.perf_counter()
    for number, batch in enumerate(batches):
        if number == 1:
            started = time.perf_counter()
        inputs = {name: value.to(device) for name, value in batch.items()}
        labels = inputs.pop("labels")
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            loss = task.loss(model(**inputs).logits, labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        float(loss.detach())  # waits for the device
    return time.perf_counter() - started
