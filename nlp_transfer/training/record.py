"""What ``metrics.json`` says about one training phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nlp_transfer.plain_json import plain

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import Trainer
    from transformers.trainer_utils import TrainOutput


def phase_record(
    trainer: Trainer, outcome: TrainOutput, name: str, rows: int, checkpoint: Path | None
) -> dict[str, Any]:
    """What ``metrics.json`` says about a training: rows, steps, seconds, losses and the log."""
    state = trainer.state
    record = {
        "phase": name,
        "rows": rows,
        "steps": outcome.global_step,
        "resumed_at": None if checkpoint is None else int(checkpoint.name.rpartition("-")[2]),
        "seconds": round(outcome.metrics["train_runtime"], 3),
        "samples_per_second": _speed(outcome.metrics, rows, trainer.train_dataset),
        "training_loss": outcome.training_loss,
        "bf16": trainer.args.bf16,
        "best_metric": state.best_metric,
        "best_step": state.best_global_step,
        "kept": "best" if trainer.args.load_best_model_at_end else "last",
        "history": state.log_history,
    }
    return plain(record)


def _speed(figures: dict[str, float], rows: int, batches: Any) -> float:
    """Rows a second; the Trainer counts what it draws, which may be whole batches."""
    return round(figures["train_samples_per_second"] * rows / len(batches), 3)
