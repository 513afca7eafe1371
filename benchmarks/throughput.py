"""Speed of training and embedding beside plain ``transformers.Trainer`` and ``sentence-transformers``.

Kitchen reviews, the embedded encoder, 128 tokens, batches of 32, one epoch without evaluations or
checkpoints, equal rows and seeds for all. *plain* is the text-classification example of transformers (every
text padded to 128 tokens, fp32); *tuned* is a plain Trainer with dynamic padding, length-grouped batches and
bf16 (where it pays). Each cell is a process of its own; the repetitions go round the methods in turns.

Seconds are processor seconds on one thread, inside ``Trainer.train`` or ``encode``; of two processes beside
two threads they are wall seconds, so that part wants an idle machine.

    python benchmarks/throughput.py [--parts training embedding account processes] [--work DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import print_table, run_json, save

LENGTH, BATCH = 128, 32
RATES = {"plain": 1e-4, "tuned": 1e-4, "full": 1e-4, "lora": 2e-3}
PEER_BATCHES = (8, 32)
GROUPS = {
    "linear layers": ("mm", "addmm"),
    "attention": ("bmm", "_softmax", "_softmax_backward_data", "_scaled_dot_product_flash_attention_for_cpu"),
    "dropout, norm, gelu": ("bernoulli_", "div_", "gelu", "gelu_backward", "native_layer_norm"),
    "type casts and copies": ("copy_",),
    "optimizer and clipping": ("_fused_adamw_", "linalg_vector_norm", "_foreach_norm", "_foreach_mul_"),
}


def sample(data: Path, split: str, count: int, seed: int) -> list[dict]:
    """Rows of kitchen, shuffled: the files are sorted by label."""
    lines = (data / f"kitchen.{split}.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    random.Random(seed).shuffle(rows)
    return rows[:count]


def write_rows(job: dict[str, Any], folder: str) -> dict[str, str]:
    """The rows of a job as files: {split: path}."""
    files = {}
    for split, count in (("train", job["rows"]), ("dev", 300)):
        rows = sample(Path(job["data"]), split, count, job["seed"])
        files[split] = f"{folder}/{split}.jsonl"
        Path(files[split]).write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return files


def clock() -> Any:
    """A callback that holds the processor and wall seconds of ``Trainer.train``, first step left out."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            now = time.process_time(), time.perf_counter()
            if state.global_step == 1:
                self.begin = now
            self.seconds, self.wall = (a - b for a, b in zip(now, self.begin, strict=True))

    return Clock()


def peer_training(job: dict[str, Any]) -> dict[str, float]:
    """One epoch of a plain Trainer."""
    import numpy as np
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    from nlp_transfer.models.load import ModelOptions, locate
    from nlp_transfer.models.precision import bf16_pays

    tuned = job["method"] == "tuned"
    set_seed(job["seed"])
    source = locate(ModelOptions()).folder
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=2)
    with tempfile.TemporaryDirectory() as folder:
        padding = False if tuned else "max_length"
        rows = load_dataset("json", data_files=write_rows(job, folder)).map(
            lambda batch: tokenizer(batch["text"], padding=padding, max_length=LENGTH, truncation=True),
            batched=True,
        )
        settings: dict[str, Any] = {"train_sampling_strategy": "group_by_length", "bf16": bf16_pays()}
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            learning_rate=RATES[job["method"]],
            per_device_train_batch_size=BATCH,
            save_strategy="no",
            seed=job["seed"],
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            dataloader_pin_memory=False,
            **(settings if tuned else {}),
        )
        timer = clock()
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=rows["train"],
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer) if tuned else None,
            callbacks=[timer],
        )
        trainer.train()
        predicted = trainer.predict(rows["dev"])
    accuracy = float((np.argmax(predicted.predictions, 1) == predicted.label_ids).mean())
    return {"seconds": timer.seconds, "wall": timer.wall, "accuracy": accuracy}


def our_training(job: dict[str, Any]) -> dict[str, float]:
    """One epoch of a recipe."""
    from nlp_transfer import Recipe, train

    timer = clock()
    with tempfile.TemporaryDirectory() as folder:
        files = write_rows(job, folder)
        result = train(Recipe.from_dict(recipe(job, files, f"{folder}/run")), callbacks=[timer])
        accuracy = result.score("target", "validation")
    return {"seconds": timer.seconds, "wall": timer.wall, "accuracy": accuracy}


def recipe(job: dict[str, Any], files: dict[str, str], output: str) -> dict[str, Any]:
    """The recipe of a job."""
    return {
        "model": {"max_length": LENGTH},
        "target": {"train": files["train"], "validation": files["dev"]},
        "strategy": {"kind": job["method"]},
        "training": {
            "num_train_epochs": 1,
            "learning_rate": RATES[job["method"]],
            "per_device_train_batch_size": job.get("batch", BATCH),
            "seed": job["seed"],
            "eval_strategy": "no",
            "save_strategy": "no",
        },
        "output_dir": output,
    }


def embedding(job: dict[str, Any]) -> dict[str, float]:
    """Texts through the encoder: ours, or sentence-transformers with a batch size and a precision."""
    import numpy as np
    import torch

    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions, locate

    texts = [row["text"] for row in sample(Path(job["data"]), "train", job["rows"], job["seed"])]
    options = ModelOptions(max_length=LENGTH)
    exact = Embedder.load(locate(options), options, cache_dir=False, precision="fp32")
    warm = texts[:32]
    if job["method"] == "ours":
        encode = [Embedder.load(locate(options), options, cache_dir=False) for _ in range(2)]
        encode[0].embed(warm)
        encode[1].encoder  # noqa: B018 - the weights are loaded before the clock starts, as the peer's are
        started = time.process_time()
        found = encode[1].embed(texts).features
    else:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(locate(options).folder), device="cpu")
        model.to(getattr(torch, job["dtype"])).max_seq_length = LENGTH
        model.encode(warm)
        started = time.process_time()
        found = model.encode(texts, batch_size=job["batch"], convert_to_tensor=True).float().numpy()
    seconds = time.process_time() - started
    reference = exact.embed(texts[:64]).features
    cosine = np.einsum("nd,nd->n", reference, found[:64])
    cosine /= np.linalg.norm(reference, axis=1) * np.linalg.norm(found[:64], axis=1)
    return {"seconds": seconds, "texts_per_second": len(texts) / seconds, "least_cosine": float(cosine.min())}


def account(job: dict[str, Any]) -> dict[str, Any]:
    """Where the time of a training step goes, by the profiler, against the measured matrix-product rate."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import TrainerCallback

    from nlp_transfer import Recipe, train
    from nlp_transfer.models.precision import bf16_pays

    facts: dict[str, float] = {}

    class Profile(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 2:
                self.profiler = profile(activities=[ProfilerActivity.CPU], record_shapes=True)
                self.profiler.__enter__()
                self.started = time.process_time()
            if state.global_step == 2 + job["steps"]:
                facts["seconds"] = time.process_time() - self.started
                self.profiler.__exit__(None, None, None)
                control.should_training_stop = True

    watch = Profile()
    with tempfile.TemporaryDirectory() as folder:
        files = write_rows(job, folder)
        train(Recipe.from_dict(recipe(job, files, f"{folder}/run")), callbacks=[watch])
    events = watch.profiler.key_averages()
    inside = {event.key.removeprefix("aten::"): event.self_cpu_time_total / 1e6 for event in events}
    shapes = watch.profiler.key_averages(group_by_input_shape=True)
    rate = product_rate(torch.bfloat16 if bf16_pays() else torch.float32)
    ideal = sum(_products(event) for event in shapes) / rate
    total = sum(inside.values())
    parts = {
        name: sum(seconds for key, seconds in inside.items() if key.removesuffix("_backward") in keys) / total
        for name, keys in GROUPS.items()
    }
    parts["loader, python, rest"] = 1 - sum(parts.values())
    return {
        "shares": parts,
        "gemm_gflops": rate / 1e9,
        "threads": torch.get_num_threads(),
        "seconds_a_step": facts["seconds"] / job["steps"],
        "products_at_measured_rate": ideal / facts["seconds"],
    }


def product_rate(dtype: Any) -> float:
    """Floating point operations a processor second in the largest product of a step of 3,000 tokens."""
    import torch

    left, right = torch.randn(3000, 384).to(dtype), torch.randn(384, 1536).to(dtype)
    seconds = []
    for _ in range(20):
        started = time.process_time()
        torch.mm(left, right)
        seconds.append(time.process_time() - started)
    return 2.0 * 3000 * 384 * 1536 / statistics.median(seconds)


def _products(event: Any) -> float:
    """Floating point operations of a matrix product in the profile, all its calls together."""
    shapes = [shape for shape in event.input_shapes if len(shape) >= 2]
    if event.key not in ("aten::mm", "aten::addmm", "aten::bmm") or len(shapes) < 2:
        return 0.0
    left, right = shapes[-2:]
    batch = left[0] if len(left) == 3 else 1
    return 2.0 * event.count * batch * left[-2] * left[-1] * right[-1]


def processes(job: dict[str, Any]) -> dict[str, float]:
    """Wall seconds of training on two cores: one process with two threads, or two processes with one."""
    import subprocess

    import yaml

    two = job["method"] == "two processes"
    with tempfile.TemporaryDirectory() as folder:
        files = write_rows(job, folder)
        settings = recipe(
            {**job, "method": "full", "batch": BATCH // (2 if two else 1)}, files, f"{folder}/r"
        )
        Path(f"{folder}/recipe.yaml").write_text(yaml.safe_dump(settings), "utf-8")
        environment = {**os.environ, "OMP_NUM_THREADS": "1" if two else "2"}
        command = ["launch", "--cpu", "--processes", "2"] if two else ["train"]
        main = "from nlp_transfer.cli import main; main()"
        subprocess.run(
            [sys.executable, "-c", main, *command[:1], f"{folder}/recipe.yaml", *command[1:]],
            check=True,
            env=environment,
            stdout=sys.stderr,
        )
        found = json.loads(Path(f"{folder}/r/metrics.json").read_text("utf-8"))
    return {"wall": found["cost"]["training_seconds"]}


CELLS = {
    "plain": peer_training,
    "tuned": peer_training,
    "full": our_training,
    "lora": our_training,
    "embedding": embedding,
    "account": account,
    "processes": processes,
}


def cell(kind: str, job: dict[str, Any], work: Path) -> dict[str, Any]:
    """One cell in a process of its own; a finished one is read from the work folder."""
    name = "-".join(str(value) for key, value in job.items() if key != "data").replace(" ", "-")
    record = work / f"{kind}-{name}.json"
    if not record.exists():
        found = run_json([sys.executable, __file__, "--cell", kind], job)
        record.write_text(json.dumps(found), "utf-8")
        print(f"{record.stem:44} {json.dumps(found)[:150]}", flush=True)
    return json.loads(record.read_text("utf-8"))


def training_part(options: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any]:
    """Plain, tuned, full and LoRA in turns."""
    runs: dict[str, list[dict]] = {method: [] for method in RATES}
    for seed in range(1, options.repeats + 1):
        for method in RATES:
            runs[method].append(cell(method, {**job, "method": method, "seed": seed}, options.work))
    rows, found = [], {}
    for method, cells in runs.items():
        facts = {
            "rows_per_second": (job["rows"] - BATCH) / statistics.median(c["seconds"] for c in cells),
            "accuracy": statistics.mean(c["accuracy"] for c in cells),
        }
        for peer in ("plain", "tuned"):
            ratios = (a["seconds"] / b["seconds"] for a, b in zip(runs[peer], cells, strict=True))
            facts[f"times_{peer}"] = statistics.median(ratios)
        rows.append([method, *facts.values()])
        found[method] = {**facts, "runs": cells}
    title = f"Training, {job['rows']} reviews, {options.repeats} repetitions"
    print_table(title, ["", "reviews/s", "dev accuracy", "times plain", "times tuned"], rows)
    return found


def embedding_part(options: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any]:
    """Ours beside sentence-transformers at each of its settings, in turns; its best one counts."""
    settings = {
        f"{dtype}, batch {size}": (dtype, size) for dtype in ("float32", "bfloat16") for size in PEER_BATCHES
    }
    runs: dict[str, list[dict]] = {name: [] for name in ("ours", *settings)}
    for seed in range(1, options.repeats + 1):
        for name in runs:
            dtype, size = settings.get(name, (None, None))
            method = "ours" if name == "ours" else "sentence-transformers"
            one = {**job, "seed": seed, "method": method, "dtype": dtype, "batch": size}
            runs[name].append(cell("embedding", one, options.work))
    ours = runs["ours"]
    rows, found = [], {}
    for name, cells in runs.items():
        speed = statistics.median(c["texts_per_second"] for c in cells)
        ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(ours, cells, strict=True))
        cosine = min(c["least_cosine"] for c in cells)
        rows.append([name if name == "ours" else f"sentence-transformers, {name}", speed, ratio, cosine])
        found[name] = {
            "texts_per_second": speed,
            "ours_is_times": ratio,
            "least_cosine": cosine,
            "runs": cells,
        }
    print_table("Embedding", ["", "texts/s", "ours is times", "least cosine to fp32"], rows)
    return found


def account_part(options: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any]:
    """The step of full and LoRA taken apart."""
    found = {
        method: cell("account", {**job, "method": method, "seed": 1, "steps": 6}, options.work)
        for method in ("full", "lora")
    }
    rows = [[name, *(one["shares"][name] for one in found.values())] for name in found["full"]["shares"]]
    rows.append(["products at the measured rate", *(o["products_at_measured_rate"] for o in found.values())])
    rows.append(["seconds a step", *(one["seconds_a_step"] for one in found.values())])
    print_table("Share of a step's time", ["", *found], rows)
    return found


def processes_part(options: argparse.Namespace, job: dict[str, Any]) -> dict[str, Any]:
    """Two processes on two cores beside two threads."""
    runs: dict[str, list[float]] = {"two threads": [], "two processes": []}
    for seed in range(1, options.repeats + 1):
        for method, walls in runs.items():
            walls.append(cell("processes", {**job, "method": method, "seed": seed}, options.work)["wall"])
    ratio = statistics.median(a / b for a, b in zip(runs["two threads"], runs["two processes"], strict=True))
    rows = [[method, statistics.median(walls)] for method, walls in runs.items()]
    print_table("Two cores, full", ["", "wall seconds"], [*rows, ["speed of processes / threads", ratio]])
    return {**runs, "ratio": ratio, "load": os.getloadavg()[0]}


PARTS = {
    "training": training_part,
    "embedding": embedding_part,
    "account": account_part,
    "processes": processes_part,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cell", choices=CELLS)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", type=Path, help="keep finished cells here and go on from them")
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(CELLS[options.cell](json.load(sys.stdin))))
        return
    with tempfile.TemporaryDirectory() as scratch:
        options.work = options.work or Path(scratch)
        options.work.mkdir(parents=True, exist_ok=True)
        data = str(Path(os.environ["NLP_TRANSFER_DATA"]) / "sentiment" / "amazon")
        job = {"data": data, "rows": options.rows}
        found = {part: PARTS[part](options, job) for part in options.parts}
    save("throughput", {"rows": options.rows, "repeats": options.repeats, "threads": 1, **found})


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    main()
