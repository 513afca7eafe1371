"""A small captions model goes to TED talks and to the Koran: what transfer gains, and what it forgets.

For each target and 500, 2,000 and all of its training pairs: the model as it is (zero-shot), the same
architecture with a tokenizer of its own from random weights (scratch), full fine-tuning, frozen encoder
(cached states), LoRA, and full fine-tuning with 25 % captions among the rows. BLEU and chrF of greedy
translations of 300 test sentences, and of 300 captions of test_2016 before and after; differences with
paired bootstrap intervals.

Epochs are equal for all methods of one size, except that scratch gets twice as many and a learning rate of
its own. The best epoch is chosen by chrF on 100 validation sentences of the target, translated greedily.
Learning rates (`RATES`) were set beforehand and are the same for all cells of a method. Seconds are processor
seconds on one thread, from the data files to the trained model; peak memory is the process's own at the end
of training. The shift report of captions against both targets is made first.

    python benchmarks/translation_transfer.py --work DIR [--seeds 1 2] [--targets ted koran]

Finished cells are kept in DIR and taken from there. Figures of cells that are neither there nor asked for are
kept from the JSON, each with the processor that it was measured on.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

from common import RESULTS, machine, peak_rss, print_table, save

DATA = Path(os.environ.get("NLP_TRANSFER_DATA", "data")) / "translation"
MODEL = DATA.parent.parent / "models" / "marian-captions-de-en"
SIZES = {"500": 6, "2000": 3, "all": 2}
"""Training pairs, and epochs over them."""
MIXED = "full + 25 % captions"
RATES = {"full": 5e-4, "scratch": 1e-3, MIXED: 5e-4, "lora": 2e-3, "frozen encoder": 5e-4}
METHODS = tuple(RATES)
SCRATCH_LONGER = 2
TEST_ROWS, VALIDATION_ROWS, CHOICE_ROWS = 300, 200, 100
BATCH_TOKENS, LENGTH = 1024, 128
SCRATCH = {
    "vocab_size": 4000,
    "d_model": 192,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "heads": 4,
    "ffn_dim": 768,
    "positions": 128,
}
TASK = {"kind": "translation", "source_lang": "de", "target_lang": "en", "num_beams": 1}


def draw(path: Path, count: int | None, folder: Path) -> Path:
    """The first rows of the file in one shuffled order: smaller draws are part of larger ones."""
    lines = path.read_text("utf-8").splitlines()
    random.Random(0).shuffle(lines)
    out = folder / f"{path.name.split('.')[0]}-{path.name.split('.')[1]}-{count or 'all'}.jsonl"
    out.write_text("\n".join(lines[:count]) + "\n", "utf-8")
    return out


def test_sets(folder: Path) -> dict[str, Path]:
    """The test sentences of the old domain and of both targets."""
    files = {
        "captions": "captions/captions.test_2016_flickr",
        "ted": "ted/ted.test",
        "koran": "koran/koran.test",
    }
    return {name: draw(DATA / f"{file}.jsonl", TEST_ROWS, folder) for name, file in files.items()}


def pairs(path: Path) -> tuple[list[str], list[str]]:
    """German and English sides of a file."""
    rows = [json.loads(line)["translation"] for line in path.read_text("utf-8").splitlines()]
    return [row["de"] for row in rows], [row["en"] for row in rows]


def translations(model: Any, path: Path) -> list[str]:
    """Greedy translations of a file."""
    return [found["translation"] for found in model.predict(pairs(path)[0])]


def zero_shot(tests: dict[str, Path]) -> dict[str, list[str]]:
    """Translations of every test set by the model as it is."""
    from nlp_transfer.models.load import ModelOptions, load_config, load_tokenizer, locate
    from nlp_transfer.predict import TextModel
    from nlp_transfer.tasks import TASKS, TranslationOptions

    options = ModelOptions(name=str(MODEL), max_length=LENGTH)
    where = locate(options)
    tokenizer = load_tokenizer(where, options)
    task = TASKS["translation"][0](TranslationOptions(**TASK)).settle(tokenizer, load_config(where, options))
    model = TextModel(task.build_model(where, options).eval(), tokenizer, task)
    return {name: translations(model, path) for name, path in tests.items()}


def recipe(method: str, target: str, size: str, seed: int, work: Path) -> dict[str, Any]:
    """The recipe of a cell."""
    count = None if size == "all" else int(size)
    values: dict[str, Any] = {
        "task": {**TASK, "batch_tokens": BATCH_TOKENS, "eval_max_samples": CHOICE_ROWS},
        "model": {"name": str(MODEL), "max_length": LENGTH},
        "target": {
            "train": str(draw(DATA / target / f"{target}.train.jsonl", count, work)),
            "validation": str(draw(DATA / target / f"{target}.dev.jsonl", VALIDATION_ROWS, work)),
        },
        "strategy": {"kind": {"frozen encoder": "frozen", "lora": "lora"}.get(method, "full")},
        "shift": {"enabled": False},
        "training": {
            "num_train_epochs": SIZES[size] * (SCRATCH_LONGER if method == "scratch" else 1),
            "learning_rate": RATES[method],
            "seed": seed,
        },
        "output_dir": str(work / "run"),
    }
    if method == "scratch":
        values["model"] = {"init": "scratch", "scratch": SCRATCH, "max_length": LENGTH}
    if method == MIXED:
        values["source"] = {
            "train": str(DATA / "captions" / "captions.train.jsonl"),
            "validation": str(draw(DATA / "captions" / "captions.dev.jsonl", VALIDATION_ROWS, work)),
            "mode": "joint",
            "mix": 0.25,
        }
    return values


def fit(method: str, target: str, size: str, seed: int, work: Path, record: Path) -> None:
    """Train one cell, translate with it, and write its record."""
    from transformers import TrainerCallback

    from nlp_transfer import Recipe, load_model, train

    class Clock(TrainerCallback):
        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.seconds, self.memory = time.process_time() - started, peak_rss()

    os.environ["NLP_TRANSFER_CACHE"] = str(work / "cache")
    shutil.rmtree(work / "cache", ignore_errors=True)
    started, clock = time.process_time(), Clock()
    result = train(
        Recipe.from_dict(recipe(method, target, size, seed, work)), overwrite=True, callbacks=[clock]
    )
    tests = test_sets(work)
    model = load_model(result.output_dir)
    found = {name: translations(model, tests[name]) for name in ("captions", target)}
    history = [
        entry["eval_chrf"] for entry in result.metrics["phases"][-1]["history"] if "eval_chrf" in entry
    ]
    cell = {
        "method": method,
        "target": target,
        "size": size,
        "seed": seed,
        "learning_rate": RATES[method],
        "seconds": clock.seconds,
        "peak_memory_mib": clock.memory / 2**20,
        "cpu": machine()["cpu"],
        "trainable_parameters": result.trainable_parameters,
        "validation_chrf": history,
        "translations": found,
    }
    record.write_text(json.dumps(cell), "utf-8")


def record_of(method: str, target: str, size: str, seed: int, work: Path) -> Path:
    """The file of a finished cell."""
    name = method.replace(" ", "-").replace("%", "percent").replace("+", "and")
    return work / f"{name}.{target}.{size}.{seed}.json"


def cell(method: str, target: str, size: str, seed: int, work: Path) -> dict[str, Any]:
    """One cell of the study, in a process of its own; a finished one is read from the work folder."""
    record = record_of(method, target, size, seed, work)
    if record.exists() and json.loads(record.read_text("utf-8"))["learning_rate"] != RATES[method]:
        raise SystemExit(f"{record} is of another learning rate: delete it")
    if not record.exists():
        process = multiprocessing.get_context("fork").Process(
            target=fit, args=(method, target, size, seed, work, record)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{record.name} failed")
        print(f"{time.strftime('%H:%M:%S')} {record.name} done", flush=True)
    return json.loads(record.read_text("utf-8"))


def shift(work: Path) -> list[dict[str, Any]]:
    """The shift report of captions against both targets, before any training; the nearest target first."""
    record = work / "shift.json"
    if not record.exists():
        from nlp_transfer.shift.command import shift_of_files

        started = time.process_time()
        source = str(DATA / "captions" / "captions.dev.jsonl")
        targets = [str(DATA / name / f"{name}.train.jsonl") for name in ("ted", "koran")]
        reports = shift_of_files([source], targets, languages=("de", "en"), model=str(MODEL))
        seconds = time.process_time() - started
        found = [
            {
                "domain": report.target.name,
                "mmd": report.mmd["inhomogeneity"],
                "seconds": seconds,
                **report.translation.to_dict(),
            }
            for report in reports
        ]
        record.write_text(json.dumps(found), "utf-8")
    return json.loads(record.read_text("utf-8"))


def figures(found: list[str], path: Path, baseline: list[str]) -> dict[str, Any]:
    """BLEU and chrF, and their paired differences from the baseline's translations."""
    from nlp_transfer.tasks.translation_metrics import TranslationScorer

    report = TranslationScorer("en", ("bleu", "chrf")).report(found, pairs(path)[1], baseline=baseline)
    names = ("value", "low", "high")
    return {
        metric: {
            **{name: report[metric][name] for name in names},
            "gain": {name: report["against_baseline"][metric][name] for name in names},
        }
        for metric in ("bleu", "chrf")
    }


def scored(
    cells: list[dict[str, Any]], before: dict[str, list[str]], tests: dict[str, Path]
) -> list[dict[str, Any]]:
    """The cells with their figures in place of their translations; gains are against zero-shot."""
    lines = []
    for one in cells:
        target = one["target"]
        line = {key: value for key, value in one.items() if key != "translations"}
        line["target_test"] = figures(one["translations"][target], tests[target], before[target])
        line["captions_test"] = figures(
            one["translations"]["captions"], tests["captions"], before["captions"]
        )
        lines.append(line)
    return lines


PLACE = ("target", "size", "seed")


def with_known(
    fresh: list[dict[str, Any]], known: list[dict[str, Any]], keys: tuple[str, ...]
) -> list[dict[str, Any]]:
    """The fresh lines, and those of an earlier report that stand for other cells."""
    have = {tuple(line[key] for key in keys) for line in fresh}
    return fresh + [line for line in known if tuple(line[key] for key in keys) not in have]


def compared(cells: list[dict[str, Any]], tests: dict[str, Path]) -> list[dict[str, Any]]:
    """Full against scratch on the target's test sentences, with the paired interval."""
    lines = []
    for one in cells:
        if one["method"] != "full":
            continue
        same = {key: one[key] for key in PLACE}
        other = [two for two in cells if two["method"] == "scratch" and same.items() <= two.items()]
        if other:
            texts, theirs = (cell["translations"][one["target"]] for cell in (one, other[0]))
            lines.append(same | {"full_over_scratch": figures(texts, tests[one["target"]], theirs)})
    return lines


def kept_by_mixing(means: list[dict[str, Any]], captions: float) -> dict[str, Any]:
    """By target and size: the captions BLEU that full loses, and the share of it that mixing keeps."""
    by = {(row["target"], row["size"], row["method"]): row["captions_bleu"] for row in means}
    kept = {}
    for target, size in dict.fromkeys((row["target"], row["size"]) for row in means):
        full, mixed = by.get((target, size, "full")), by.get((target, size, MIXED))
        if full is not None and mixed is not None:
            lost = captions - full
            share = 1 - (captions - mixed) / lost if lost > 0 else None
            kept[f"{target} {size}"] = {"lost_by_full": lost, "share_kept": share}
    return kept


def verdicts(
    reports: list[dict[str, Any]],
    means: list[dict[str, Any]],
    pairwise: list[dict[str, Any]],
    kept: dict[str, Any],
) -> dict[str, Any]:
    """Whether what the shift report said before training came true.

    Its ranking holds at a size where the target that it puts first ends with the higher chrF after full
    fine-tuning. Its advice (start from this model; mix captions in, for they can be lost) holds where the
    interval of full over scratch lies above zero, full loses captions BLEU, and mixing keeps some of it.
    """
    chrf = {(row["target"], row["size"], row["method"]): row["chrf"] for row in means}
    order = [one["domain"] for one in reports]
    ranking, advice = {}, {}
    for size in SIZES:
        found = [chrf.get((target, size, "full")) for target in order]
        if len(found) > 1 and None not in found:
            ranking[size] = found == sorted(found, reverse=True)
    for line in pairwise:
        place = f"{line['target']} {line['size']}"
        if place in kept:
            better = line["full_over_scratch"]["bleu"]["gain"]["low"] > 0
            advice[place] = better and (kept[place]["share_kept"] or 0) > 0
    return {"order_said": order, "ranking_held": ranking, "advice_held": advice}


def mean_cells(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds of what the table shows."""
    rows: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        rows.setdefault((line["target"], line["size"], line["method"]), []).append(line)
    return [
        {
            "target": target,
            "size": size,
            "method": method,
            "bleu": statistics.mean(one["target_test"]["bleu"]["value"] for one in same),
            "chrf": statistics.mean(one["target_test"]["chrf"]["value"] for one in same),
            "captions_bleu": statistics.mean(one["captions_test"]["bleu"]["value"] for one in same),
            "seconds": statistics.mean(one["seconds"] for one in same),
            "peak_memory_mib": max(one["peak_memory_mib"] for one in same),
            "trainable_parameters": same[0]["trainable_parameters"],
        }
        for (target, size, method), same in rows.items()
    ]


def show(means: list[dict[str, Any]], start: dict[str, Any], options: argparse.Namespace) -> None:
    """The table."""
    captions = f"{start['captions']['bleu']['value']:.1f}"
    table = [
        [name, "0", "zero-shot", *(f"{start[name][key]['value']:.1f}" for key in ("bleu", "chrf")), captions]
        + [""] * 3
        for name in options.targets
    ]
    table += [
        [
            row["target"],
            row["size"],
            row["method"],
            f"{row['bleu']:.1f}",
            f"{row['chrf']:.1f}",
            f"{row['captions_bleu']:.1f}" if row["method"] != "scratch" else "-",
            f"{row['seconds']:.0f}",
            f"{row['peak_memory_mib']:.0f}",
            f"{row['trainable_parameters'] / 1e6:.2f} M",
        ]
        for row in means
    ]
    columns = ["target", "pairs", "method", "BLEU", "chrF", "captions BLEU", "seconds", "MiB", "trained"]
    print_table(f"{TEST_ROWS} test sentences, greedy", columns, table)


def report(
    cells: list[dict[str, Any]],
    before: dict[str, list[str]],
    tests: dict[str, Path],
    reports: list[dict[str, Any]],
    options: argparse.Namespace,
) -> None:
    """Print the table and write the JSON."""
    path = RESULTS / "translation_transfer.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    for line in known.get("cells", []):
        line.setdefault("cpu", known["machine"]["cpu"])
    lines = with_known(scored(cells, before, tests), known.get("cells", []), ("method", *PLACE))
    order = list(METHODS)
    lines.sort(
        key=lambda line: (
            list(SIZES).index(line["size"]),
            line["target"] != "ted",
            order.index(line["method"]),
        )
    )
    means = mean_cells(lines)
    pairwise = with_known(compared(cells, tests), known.get("full_over_scratch", []), PLACE)
    start = {name: figures(found, tests[name], found) for name, found in before.items()}
    captions = start["captions"]["bleu"]["value"]
    show(means, start, options)
    kept = kept_by_mixing(means, captions)
    said = verdicts(reports, means, pairwise, kept)
    for place, one in kept.items():
        share = "-" if one["share_kept"] is None else f"{one['share_kept']:.0%}"
        print(f"{place}: full loses {one['lost_by_full']:.1f} captions BLEU; mixing keeps {share} of that")
    for line in pairwise:
        gain = line["full_over_scratch"]["bleu"]["gain"]
        print(
            f"{line['target']} {line['size']}: full over scratch {gain['value']:+.1f} BLEU "
            f"[{gain['low']:.1f}, {gain['high']:.1f}]"
        )
    for place, one in enumerate(reports, 1):
        print(f"shift, place {place}: {one['domain']}: {one['headline']}; {one['advice']}")
    print(f"the ranking held: {said['ranking_held']}; the advice held: {said['advice_held']}")
    save(
        "translation_transfer",
        {
            "seeds": sorted({line["seed"] for line in lines}),
            "epochs": SIZES,
            "scratch_epochs_factor": SCRATCH_LONGER,
            "learning_rates": RATES,
            "test_rows": TEST_ROWS,
            "search": "greedy",
            "threads": 1,
            "zero_shot": {
                name: {
                    metric: {k: v for k, v in value.items() if k != "gain"} for metric, value in one.items()
                }
                for name, one in start.items()
            },
            "means": means,
            "captions_kept_by_mixing": kept,
            "full_over_scratch": pairwise,
            "shift": reports,
            "shift_verdicts": said,
            "cells": lines,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--work", type=Path, required=True, help="keep finished cells here and go on from them"
    )
    parser.add_argument("--targets", nargs="+", default=["ted", "koran"])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1])
    parser.add_argument("--finished", action="store_true", help="report on finished cells alone")
    options = parser.parse_args()
    work = options.work
    work.mkdir(parents=True, exist_ok=True)
    reports, tests, start = shift(work), test_sets(work), work / "zero-shot.json"
    if not start.exists():
        start.write_text(json.dumps(zero_shot(tests)), "utf-8")
    before = json.loads(start.read_text("utf-8"))
    plan = [
        (method, target, size, seed)
        for seed in options.seeds
        for size in options.sizes
        for target in options.targets
        for method in options.methods
    ]
    cells = [cell(*one, work) for one in plan if not options.finished or record_of(*one, work).exists()]
    report(cells, before, tests, reports, options)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
