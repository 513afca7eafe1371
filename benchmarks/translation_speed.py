"""Training beside plain ``Seq2SeqTrainer`` and ``predict`` beside plain ``generate``, in tokens per second.

The small captions model (de-en, 3.7 M parameters). Training: pairs of the captions training set, one epoch
without evaluation; the plain side is as in the translation example of transformers with its defaults: batches
of 8 pairs in random order, padded to the longest in the batch (pads ignored in the loss), float32, AdamW at
5e-5. Ours is a recipe with its defaults: batches of 4,096 padded tokens of pairs of like length. A row with
larger plain batches shows what the batch size alone does. Tokens are those of both sides without padding,
over the seconds between the Trainer's on_train_begin and on_train_end.

Translation: captions test_2016, 4 beams; plain is ``generate`` on batches of 8 in file order, tokenising
included on both sides. CTranslate2 is what ``export --format ctranslate2`` writes.

Seconds are processor seconds on one thread. Finished cells are kept in the work folder.

    python benchmarks/translation_speed.py [--pairs 1200] [--sentences 1000] [--work DIR] [--only CELL ...]
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import print_table, save

BEAMS, LENGTH, SEED = 4, 128, 1


def pairs_of(path: Path, count: int) -> list[dict[str, str]]:
    return [json.loads(line)["translation"] for line in path.read_text("utf-8").splitlines()[:count]]


def clock() -> Any:
    """A callback that takes the processor time of the training loop."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            self.started = time.process_time()

        def on_train_end(self, args, state, control, **kwargs):
            self.seconds, self.steps = time.process_time() - self.started, state.global_step

    return Clock()


def train_plain(options: argparse.Namespace, batch: int) -> dict[str, Any]:
    """The example script's Trainer."""
    from datasets import Dataset
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        set_seed,
    )

    set_seed(SEED)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForSeq2SeqLM.from_pretrained(options.model)
    rows = pairs_of(options.data / "captions.train.jsonl", options.pairs)

    def encode(batch: dict[str, list]) -> dict[str, list]:
        found = tokenizer(batch["de"], max_length=1024, truncation=True)
        found["labels"] = tokenizer(text_target=batch["en"], max_length=128, truncation=True)["input_ids"]
        return found

    encoded = Dataset.from_list(rows).map(encode, batched=True, remove_columns=["de", "en"])
    watch = clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=batch,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            report_to="none",
            seed=SEED,
        )
        Seq2SeqTrainer(
            model=model,
            args=arguments,
            train_dataset=encoded,
            processing_class=tokenizer,
            data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
            callbacks=[watch],
        ).train()
    tokens = sum(len(row["input_ids"]) + len(row["labels"]) for row in encoded)
    return {"seconds": watch.seconds, "tokens": tokens, "steps": watch.steps}


def train_ours(options: argparse.Namespace, bf16: bool) -> dict[str, Any]:
    """A recipe with its defaults."""
    from transformers import AutoTokenizer

    from nlp_transfer import Recipe, train

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = pairs_of(options.data / "captions.train.jsonl", options.pairs)
    watch = clock()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "train.jsonl"
        file.write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows), "utf-8")
        keep = {"identical": "keep", "duplicates": "keep"}
        recipe = Recipe.from_dict(
            {
                "task": {"kind": "translation", "source_lang": "de", "target_lang": "en"},
                "model": {"name": str(options.model), "max_length": LENGTH},
                "target": {"train": str(file), "filters": keep},
                "training": {"num_train_epochs": 1, "eval_strategy": "no", "bf16": bf16, "seed": SEED},
                "output_dir": f"{folder}/run",
            }
        )
        result = train(recipe, callbacks=[watch])
    phase = result.metrics["phases"][0]
    tokens = sum(
        len(tokenizer(row["de"])["input_ids"]) + len(tokenizer(text_target=row["en"])["input_ids"])
        for row in rows
    )
    return {
        "seconds": watch.seconds,
        "tokens": tokens,
        "steps": watch.steps,
        "padding_waste": phase.get("padding_waste"),
    }


def translated(
    options: argparse.Namespace, translate: Callable[[Any, list[str]], list[str]]
) -> dict[str, Any]:
    """Seconds and BLEU of one way to translate the test set."""
    from sacrebleu.metrics import BLEU
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    rows = pairs_of(options.data / "captions.test_2016_flickr.jsonl", options.sentences)
    texts, references = [row["de"] for row in rows], [row["en"] for row in rows]
    translate(tokenizer, texts[:16])
    begun = time.process_time()
    found = translate(tokenizer, texts)
    seconds = time.process_time() - begun
    scorer = BLEU()
    bleu = scorer.corpus_score(found, [references]).score
    tokens = sum(len(ids) for ids in tokenizer(text_target=found)["input_ids"])
    return {"seconds": seconds, "tokens": tokens, "bleu": bleu, "found": found}


def predict_plain(options: argparse.Namespace) -> dict[str, Any]:
    """``generate`` on batches of 8 in file order."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(options.model).eval()

    def translate(tokenizer: Any, texts: list[str]) -> list[str]:
        found: list[str] = []
        with torch.inference_mode():
            for start in range(0, len(texts), 8):
                chunk = texts[start : start + 8]
                batch = tokenizer(chunk, padding=True, truncation=True, return_tensors="pt")
                output = model.generate(**batch, num_beams=BEAMS, max_new_tokens=LENGTH - 2)
                found += tokenizer.batch_decode(output, skip_special_tokens=True)
        return found

    return translated(options, translate)


def predict_ours(options: argparse.Namespace, bf16: bool) -> dict[str, Any]:
    """What ``predict`` runs."""
    from transformers import AutoModelForSeq2SeqLM

    from nlp_transfer.models import seq2seq

    model = AutoModelForSeq2SeqLM.from_pretrained(options.model).eval()

    def translate(tokenizer: Any, texts: list[str]) -> list[str]:
        return seq2seq.translate(model, tokenizer, texts, max_length=LENGTH, num_beams=BEAMS, bf16=bf16)

    return translated(options, translate)


def predict_ctranslate2(options: argparse.Namespace, quantization: str) -> dict[str, Any]:
    """What the export writes."""
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    from nlp_transfer.models import ct2

    model = AutoModelForSeq2SeqLM.from_pretrained(options.model).eval()
    model.generation_config.num_beams = BEAMS
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = AutoTokenizer.from_pretrained(options.model)
        settings = ct2.convert(model, tokenizer, folder, quantization=quantization)
        size = (folder / "model.bin").stat().st_size / 1e6

        def translate(tokenizer: Any, texts: list[str]) -> list[str]:
            return ct2.translate(
                folder, tokenizer, texts, settings, quantization=quantization, max_length=LENGTH
            )

        return translated(options, translate) | {"megabytes": size}


TRAINING = {
    "Seq2SeqTrainer, batches of 8": lambda options: train_plain(options, 8),
    "Seq2SeqTrainer, batches of 64": lambda options: train_plain(options, 64),
    "full, float32": lambda options: train_ours(options, False),
    "full, bfloat16": lambda options: train_ours(options, True),
}
PREDICTION = {
    "generate, batches of 8": predict_plain,
    "predict, float32": lambda options: predict_ours(options, False),
    "predict, bfloat16": lambda options: predict_ours(options, True),
    "CTranslate2, float32": lambda options: predict_ctranslate2(options, "float32"),
    "CTranslate2, int8": lambda options: predict_ctranslate2(options, "int8"),
}


def run(name: str, options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """One cell; a finished one is read from the work folder."""
    record = work / f"{name.replace(',', '').replace(' ', '-')}.json"
    if record.exists():
        return json.loads(record.read_text("utf-8"))
    cell = (TRAINING | PREDICTION)[name](options)
    cell["tokens_per_second"] = cell["tokens"] / cell["seconds"]
    record.write_text(json.dumps(cell, ensure_ascii=False), "utf-8")
    print(f"{name:32} {cell['seconds']:7.1f} s  {cell['tokens_per_second']:7.0f} tokens/s", flush=True)
    return cell


def report(cells: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Print both tables and write the JSON."""
    first = cells[next(iter(TRAINING))]["tokens_per_second"]
    rows = []
    for name in TRAINING:
        cell = cells[name]
        cell["speedup"] = cell["tokens_per_second"] / first
        rows.append([name, cell["steps"], round(cell["seconds"], 1), cell["tokens_per_second"]])
        rows[-1].append(f"{cell['speedup']:.2f}")
    print_table(
        f"training, {options.pairs:,} pairs", ["", "steps", "seconds", "tokens/s", "times plain"], rows
    )
    plain = cells[next(iter(PREDICTION))]
    rows = []
    for name in PREDICTION:
        cell = cells[name]
        cell["same"] = sum(a == b for a, b in zip(cell["found"], plain["found"], strict=True))
        cell["speedup"] = plain["seconds"] / cell["seconds"]
        rows.append([name, f"{cell['bleu']:.2f}", cell["same"], round(cell["seconds"], 2)])
        rows[-1] += [cell["tokens_per_second"], f"{cell['speedup']:.2f}"]
    print_table(
        f"translating {options.sentences:,} sentences with {BEAMS} beams",
        ["", "BLEU", "as plain", "seconds", "tokens/s", "times plain"],
        rows,
    )
    figures = {name: {k: v for k, v in cell.items() if k != "found"} for name, cell in cells.items()}
    save(
        "translation_speed",
        {
            "model": options.model.name,
            "pairs": options.pairs,
            "sentences": options.sentences,
            "beams": BEAMS,
            "threads": 1,
            "training": {name: figures[name] for name in TRAINING},
            "prediction": {name: figures[name] for name in PREDICTION},
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=1200, help="of training")
    parser.add_argument("--sentences", type=int, default=1000, help="translated")
    parser.add_argument("--work", type=Path, help="keep finished cells here and go on from them")
    parser.add_argument("--only", nargs="+", default=[], help="run these cells, and report nothing")
    parser.add_argument("--model", type=Path, help="default: models/marian-captions-de-en beside the data")
    options = parser.parse_args()
    shared = Path(os.environ["NLP_TRANSFER_DATA"])
    options.data = shared / "translation" / "captions"
    options.model = options.model or shared.parent / "models" / "marian-captions-de-en"
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        cells = {name: run(name, options, work) for name in options.only or [*TRAINING, *PREDICTION]}
    if not options.only:
        report(cells, options)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
