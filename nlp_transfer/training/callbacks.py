"""Callbacks of the engine: the order of the rows, and one progress line that ends cleanly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from nlp_transfer.console import stderr
from nlp_transfer.numeric.weights import draw_by_weight

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class LengthGroupedOrder(TrainerCallback):
    """Make the order of length-grouped batches a function of the seed and the epoch alone.

    The Trainer draws it from torch's global generator. That generator is elsewhere when a run is resumed
    inside an epoch, and on several CPU processes (whose dropout draws from it too) it differs from process to
    process: some rows would be seen twice and others never.
    """

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Seed the sampler for this epoch."""
        sampler = length_grouped_sampler(train_dataloader)
        if sampler is not None:
            seed = args.seed if args.data_seed is None else args.data_seed
            epoch = int((state.epoch or 0.0) + 1e-6)
            # lengths are sorted within groups of this size: the same one for any split of a step's rows
            sampler.batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            sampler.generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)


def length_grouped_sampler(loader: Any) -> LengthGroupedSampler | None:
    """The sampler of length-grouped batches inside a data loader, or None where it has another."""
    batches: Any = getattr(loader, "batch_sampler", None)
    while hasattr(batches, "batch_sampler"):
        batches = batches.batch_sampler
    sampler = getattr(batches, "sampler", None)
    return sampler if isinstance(sampler, LengthGroupedSampler) else None


class WeightedLengthSampler(LengthGroupedSampler):
    """Rows drawn in proportion to their weights, anew each epoch, in batches of like length.

    Each row comes as often as its weight says, rounded up or down (systematic resampling).
    """

    def __init__(self, batch_size: int, lengths: Sequence[int], weights: Sequence[float]) -> None:
        super().__init__(batch_size, lengths=list(lengths))
        self.weights = np.asarray(weights)

    def __iter__(self) -> Iterator[int]:
        """Row numbers of one epoch."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        drawn = draw_by_weight(self.weights, np.random.default_rng(seed))
        lengths = [self.lengths[row] for row in drawn]
        order = get_length_grouped_indices(lengths, self.batch_size, generator=self.generator)
        return iter([int(drawn[index]) for index in order])


class StreamSampler(LengthGroupedSampler):
    """Every row once in an epoch, in batches of like length; 12 bytes a row, for very many rows.

    Rows are shuffled, and sorted by length within groups of ``GROUP`` batches.

    Args:
        batch_size: rows of a batch.
        lengths: (n,) length of each row, in any unit.
    """

    GROUP = 50

    def __init__(self, batch_size: int, lengths: np.ndarray) -> None:
        self.batch_size, self.generator = batch_size, None
        self.lengths: Any = lengths

    def __iter__(self) -> Iterator[int]:
        """Row numbers of one epoch."""
        seed = int(torch.randint(2**62, (), generator=self.generator))
        order = np.arange(len(self.lengths), dtype=np.int32 if len(self.lengths) < 2**31 else np.int64)
        np.random.default_rng(seed).shuffle(order)
        size = self.GROUP * self.batch_size
        for start in range(0, len(order), size):
            group = order[start : start + size]
            yield from group[np.argsort(-self.lengths[group], kind="stable")].tolist()


LINES = 20
"""About so many lines a training prints where there is no terminal."""
SHOWN = {
    "loss": ("loss", 4),
    "task_loss": ("task loss", 4),
    "eval_accuracy": ("accuracy", 4),
    "eval_macro_f1": ("macro F1", 4),
    "eval_mse": ("mse", 4),
    "eval_chrf": ("chrF", 1),
    "eval_bleu": ("BLEU", 1),
}
"""Figures of the log that the progress line shows: their names and digits."""


def shown(logs: Mapping[str, float]) -> dict[str, str]:
    """The figures of a log that tell how the training goes, by name; penalties and discriminators too."""
    known = {SHOWN[key][0]: f"{value:.{SHOWN[key][1]}f}" for key, value in logs.items() if key in SHOWN}
    others = {
        key.replace("_", " "): f"{value:.4f}"
        for key, value in logs.items()
        if key not in SHOWN
        and key.endswith(("_loss", "_accuracy"))
        and not key.startswith(("eval_", "train_"))
    }
    return known | others


class Progress(TrainerCallback):
    """A Rich progress bar with the latest figures; without a terminal, lines instead."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.latest: dict[str, str] = {}
        self.printed: int | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Open the bar at the step where training starts or resumes."""
        if not state.is_world_process_zero or not stderr().is_terminal:
            return
        self.bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[latest]}"),
            console=stderr(),
        )
        self.task = self.bar.add_task(
            self.title, total=state.max_steps, completed=state.global_step, latest=""
        )
        self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Move the bar."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **kwargs
    ):
        """Show the newest losses and validation figures."""
        self.latest |= shown(logs or {})
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, latest=self._figures())
        elif args.eval_strategy == "no":
            self._line(state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Without a terminal, a line."""
        if self.bar is None:
            self._line(state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _figures(self) -> str:
        return "  ".join(f"{name} {value}" for name, value in self.latest.items())

    def _line(self, state: TrainerState, control: TrainerControl) -> None:
        """One line, unless the one before is hardly older."""
        done, before = state.global_step, self.printed
        if not state.is_world_process_zero or done == before:
            return
        last = done >= state.max_steps or control.should_training_stop
        if before is None or last or done - before >= state.max_steps / LINES:
            self.printed = done
            stderr().print(f"{self.title}: step {done}/{state.max_steps}  {self._figures()}")


def drop_printing(trainer: Trainer) -> None:
    """Remove the Trainer's own output: ours is one line."""
    for printing in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printing)
