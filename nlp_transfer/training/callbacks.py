"""Callbacks of the engine: one progress line that ends cleanly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TaskID, TextColumn, TimeRemainingColumn
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from nlp_transfer.console import stderr

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class Progress(TrainerCallback):
    """A Rich progress bar with the latest loss and validation score; one plain line an epoch without a terminal."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Bar | None = None
        self.task: TaskID | None = None
        self.latest: dict[str, float] = {}

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
        self.task = self.bar.add_task(self.title, total=state.max_steps, completed=state.global_step, latest="")
        self.bar.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Move the bar."""
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs=None, **kwargs):
        """Show the newest loss and validation figures."""
        shown = {"loss": "loss", "eval_accuracy": "accuracy", "eval_mse": "mse", "eval_macro_f1": "macro F1"}
        self.latest |= {shown[key]: value for key, value in (logs or {}).items() if key in shown}
        text = "  ".join(f"{name} {value:.4f}" for name, value in self.latest.items())
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, latest=text)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Without a terminal, one line an evaluation."""
        if self.bar is None and state.is_world_process_zero:
            figures = "  ".join(f"{name} {value:.4f}" for name, value in self.latest.items())
            stderr().print(f"{self.title}: step {state.global_step}/{state.max_steps}  {figures}")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Close the bar."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def quiet_defaults(trainer: Trainer) -> None:
    """Take out the Trainer's own printing callbacks: :class:`Progress` stands in for them."""
    for kind in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(kind)
