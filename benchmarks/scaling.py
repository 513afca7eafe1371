"""A cost model of a run, fitted here, checked on sizes that it did not see, and what it says about more data.

Encoding a token costs 2 P + 4 L t d floating point operations (P weights of the layers, L of them, d wide,
texts of t tokens), a training step three times as much with full fine-tuning and twice with LoRA. Fitted are
the shares of the machine's rate of matrix products that are reached, and seconds for each text besides;
reading, tokenising and indexing go by rows. The memory of a training process is fitted as a constant, bytes a
weight and bytes for each token, layer and unit of width in a batch.

The rates are fitted on small encoders with random weights and checked on a larger one (speed does not depend
on what the weights say). The simulation then multiplies a data set of 2,000 texts by 10, 1,000 and 100,000.

    python benchmarks/scaling.py [--tflops RATE_OF_ANOTHER_DEVICE] [--processes N]

About four minutes on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import gemm_gflops, print_table, save

FITTED = ((2, 128), (4, 256), (6, 384))
CHECKED = ((8, 512),)
"""Layers and width of the encoders."""
TOKENS, BATCH, VOCABULARY = (32, 128, 256), 16, 1000
KINDS = ("encode", "full", "lora")
FACTOR = {"encode": 1.0, "full": 3.0, "lora": 2.0}
BASE_TEXTS, TIMES = 2_000, (1, 10, 1_000, 100_000)
MODELS = {"MiniLM-L6": (6, 384, 30522), "base (BERT)": (12, 768, 30522), "large (BERT)": (24, 1024, 30522)}
EPOCHS, LENGTH = 3, 128
LINK = 10e9
"""Bytes a second between processes, for gradients that are added up."""


def layer_weights(layers: int, width: int) -> int:
    """Weights of the layers of a BERT-like encoder: attention and a feed-forward part four times as wide."""
    return 12 * layers * width**2


def operations(kind: str, layers: int, width: int, tokens: int) -> float:
    """Floating point operations for one text."""
    return FACTOR[kind] * tokens * (2 * layer_weights(layers, width) + 4 * layers * tokens * width)


def encoder(folder: Path, layers: int, width: int) -> str:
    """Save an encoder with random weights and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = folder / f"{layers}-{width}"
    words = {name: i for i, name in enumerate(["[PAD]", "[UNK]", *(f"w{n}" for n in range(VOCABULARY))])}
    plain = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]")
    shape = {"num_hidden_layers": layers, "hidden_size": width, "intermediate_size": 4 * width}
    config = BertConfig(vocab_size=len(words), num_attention_heads=width // 32, **shape)
    BertModel(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def texts(count: int, tokens: int, seed: int) -> list[str]:
    """Texts of equal length; no two are alike."""
    drawn = np.random.default_rng(seed).integers(VOCABULARY, size=(count, tokens))
    return [" ".join(f"w{word}" for word in row) for row in drawn]


def measure(name: str, layers: int, width: int) -> list[dict[str, Any]]:
    """Seconds a text and memory of a batch, for every length and kind of work."""
    from datasets import Dataset

    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions, locate
    from nlp_transfer.selection.cost import seconds_per_text, training_cost
    from nlp_transfer.strategies import STRATEGIES
    from nlp_transfer.tasks import SentimentTask

    found = []
    for tokens in TOKENS:
        options = ModelOptions(name=name, max_length=tokens, pooling="mean")
        place = locate(options)
        rows = Dataset.from_dict({"text": texts(4 * BATCH, tokens, 0), "label": ["a", "b"] * 2 * BATCH})
        task = SentimentTask().bind({"train": rows})
        facts = {"layers": layers, "width": width, "tokens": tokens}
        for kind in KINDS:
            seconds, memory, moving = [], 0.0, 0
            for turn in range(3):
                if kind == "encode":
                    embedder = Embedder.load(place, options, cache_dir=False, progress=False)
                    seconds.append(seconds_per_text(embedder, texts(2 * BATCH, tokens, turn + 1)))
                else:
                    strategy, its_options = STRATEGIES[kind]
                    cost = training_cost(strategy(its_options()), task, place, options, rows, batch=BATCH)
                    seconds.append(cost.seconds_per_row)
                    memory, moving = cost.memory_mb, cost.trainable
            record = {"kind": kind, "seconds": min(seconds), "memory_mb": memory, "trainable": moving}
            found.append(facts | record)
    return found


def fit(rows: list[dict[str, Any]], rate: float) -> dict[str, dict[str, float]]:
    """For each kind the share of the matrix rate that is reached, and the seconds a text besides."""
    from scipy.optimize import nnls

    found = {}
    for kind in KINDS:
        mine = [row for row in rows if row["kind"] == kind]
        work = np.array([operations(kind, row["layers"], row["width"], row["tokens"]) for row in mine])
        columns = np.stack([work / (rate * 1e9), np.ones(len(mine))], axis=1)
        seconds = np.array([row["seconds"] for row in mine])
        slope, constant = nnls(columns / seconds[:, None], np.ones(len(mine)))[0]
        found[kind] = {"share_of_matrix_rate": 1 / slope, "seconds_a_text": constant}
    return found


def fit_memory(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """For full and LoRA the bytes of a process: a constant, a weight's, and a unit of activation's."""
    from scipy.optimize import nnls

    found = {}
    for kind in KINDS[1:]:
        mine = [row for row in rows if row["kind"] == kind]
        columns = np.array([_sizes(row["layers"], row["width"], VOCABULARY, row["tokens"]) for row in mine])
        memory = np.array([1e6 * row["memory_mb"] for row in mine])
        known = nnls(columns / memory[:, None], np.ones(len(mine)))[0]
        found[kind] = dict(zip(("constant", "a_weight", "an_activation"), map(float, known), strict=True))
    return found


def _sizes(layers: int, width: int, vocabulary: int, tokens: int, batch: int = BATCH) -> list[float]:
    weights = layer_weights(layers, width) + vocabulary * width
    return [1.0, weights, batch * tokens * layers * width]


def memory_of(
    kind: str,
    layers: int,
    width: int,
    vocabulary: int,
    tokens: int,
    batch: int,
    model: dict[str, dict[str, float]],
) -> float:
    """Bytes of a training process, as the cost model says."""
    sizes = _sizes(layers, width, vocabulary, tokens, batch)
    return float(np.dot(sizes, list(model[kind].values())))


def seconds_a_text(
    kind: str, layers: int, width: int, tokens: int, model: dict[str, dict[str, float]], rate: float
) -> float:
    """What the cost model says."""
    known = model[kind]
    work = operations(kind, layers, width, tokens) / (rate * 1e9)
    return work / known["share_of_matrix_rate"] + known["seconds_a_text"]


def check(
    rows: list[dict[str, Any]],
    model: dict[str, dict[str, float]],
    memory: dict[str, dict[str, float]],
    rate: float,
) -> dict[str, dict[str, float | None]]:
    """Errors of seconds (median, largest) and bytes (largest), as shares of what was measured."""
    found: dict[str, dict[str, float | None]] = {}
    for kind in KINDS:
        seconds, sizes = [], []
        for row in (row for row in rows if row["kind"] == kind):
            shape = (row["layers"], row["width"])
            expected = seconds_a_text(kind, *shape, row["tokens"], model, rate)
            seconds.append(abs(expected / row["seconds"] - 1))
            if kind in memory:
                held = memory_of(kind, *shape, VOCABULARY, row["tokens"], BATCH, memory)
                sizes.append(abs(held / (1e6 * row["memory_mb"]) - 1))
        found[kind] = {"median_error": statistics.median(seconds), "largest_error": max(seconds)}
        found[kind]["largest_memory_error"] = max(sizes, default=None)
    return found


def measure_rows(folder: Path) -> dict[str, float]:
    """Seconds a million rows to read, to index for streaming, to tokenise; bytes a row of cache and index."""
    import datasets

    from nlp_transfer.data.domains import load_domain
    from nlp_transfer.data.options import DomainOptions

    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    count, file = 20_000, folder / "rows.jsonl"
    lines = (json.dumps({"text": t, "label": "ab"[n % 2]}) for n, t in enumerate(texts(count, LENGTH, 1)))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = {"file_bytes_a_row": file.stat().st_size / count}
    for name, streaming in (("copied", False), ("streamed", True)):
        options = DomainOptions(train=str(file), streaming=streaming, validation_fraction=0.0)
        started = time.perf_counter()
        domain = load_domain(options, role="target", objective="classification", seed=0, need=("train",))
        found[f"{name}_seconds_a_million"] = (time.perf_counter() - started) / count * 1e6
        table = domain.train if domain.stream is None else domain.stream.index
        found[f"{name}_bytes_a_row"] = table.data.nbytes / count
    return found


def simulate(
    model: dict[str, dict[str, float]],
    memory: dict[str, dict[str, float]],
    rate: float,
    processes: int,
    rows: dict[str, float],
) -> list[list[Any]]:
    """Hours, memory and disk for each model and amount of data."""
    table = []
    for name, (layers, width, vocabulary) in MODELS.items():
        weights = layer_weights(layers, width) + vocabulary * width
        for times in TIMES:
            count = BASE_TEXTS * times
            steps = EPOCHS * count / (32 * processes)
            exchange = 0.0 if processes == 1 else 2 * 4 * weights / LINK * steps
            hours = {
                kind: seconds_a_text(kind, layers, width, LENGTH, model, rate)
                * (1 if kind == "encode" else EPOCHS)
                * count
                / processes
                / 3600
                for kind in KINDS
            }
            hours["full"] += exchange / 3600
            disk = count * (2 * rows["copied_bytes_a_row"] + 12 * LENGTH) / 1e9
            index = count * rows["streamed_bytes_a_row"] / 1e9
            embeddings = 4 * width * count / 1e9
            held = [memory_of(k, layers, width, vocabulary, LENGTH, 32, memory) / 1e9 for k in memory]
            figures = [*hours.values(), *held, disk, index, embeddings]
            table.append([name, count, *figures])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tflops", type=float, help="matrix rate of another device, in 10^12 a second")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    from nlp_transfer.models.precision import bf16_pays

    kind = "bfloat16" if bf16_pays() else "float32"
    rate = gemm_gflops(kind)
    with tempfile.TemporaryDirectory() as folder:
        places = {shape: encoder(Path(folder), *shape) for shape in (*FITTED, *CHECKED)}
        seen = [row for shape in FITTED for row in measure(places[shape], *shape)]
        unseen = [row for shape in CHECKED for row in measure(places[shape], *shape)]
        by_row = measure_rows(Path(folder))
    report(seen, unseen, by_row, rate, kind, options)


def report(
    seen: list[dict[str, Any]],
    unseen: list[dict[str, Any]],
    by_row: dict[str, float],
    rate: float,
    kind: str,
    options: argparse.Namespace,
) -> None:
    """Fit, check, simulate; print the tables and write the JSON."""
    model, memory = fit(seen, rate), fit_memory(seen)
    errors = check(unseen, model, memory, rate)
    print(f"matrix products in {kind}: {rate:,.0f} x 10^9 a second")
    columns = ["work", "share of matrix rate", "ms a text besides", "median error (unseen)", "largest error"]
    columns.append("largest error of memory")
    print_table(
        "cost model, checked on an encoder that it was not fitted on",
        columns,
        [
            [kind, known["share_of_matrix_rate"], 1e3 * known["seconds_a_text"], *errors[kind].values()]
            for kind, known in model.items()
        ],
    )
    device = rate if options.tflops is None else options.tflops * 1e3
    print_table(
        "memory of a training process",
        ["work", "constant (GB)", "bytes a weight", "bytes a token, layer and unit of width"],
        [
            [kind, known["constant"] / 1e9, known["a_weight"], known["an_activation"]]
            for kind, known in memory.items()
        ],
    )
    table = simulate(model, memory, device, options.processes, by_row)
    columns = ["model", "texts", "encode (h)", "full, 3 epochs (h)", "lora, 3 epochs (h)"]
    columns += ["full, batch 32 (GB)", "lora, batch 32 (GB)"]
    columns += ["data cache (GB)", "streaming index (GB)", "embeddings (GB)"]
    where = f"{device:,.0f} x 10^9 operations a second, {options.processes} processes"
    print_table(f"texts of {LENGTH} tokens; {where}", columns, table)
    if options.tflops is None and options.processes == 1:
        payload = {
            "model": model,
            "memory": memory,
            "errors": errors,
            "rows": by_row,
            "measured": [*seen, *unseen],
        }
        simulated = {"columns": columns, "table": table}
        save("scaling", {"matrix_gflops": rate, "type": kind, **payload, "simulation": simulated})


if __name__ == "__main__":
    main()
