"""What can go wrong while a model trains: signals, numbers that are not finite, disks, memory."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from nlp_transfer.console import is_main_process, warn
from nlp_transfer.errors import DataError, InterruptedTraining, NlpTransferError, OutputError, TrainingError
from nlp_transfer.models.attention import bf16_attention
from nlp_transfer.processes import rank, world_size
from nlp_transfer.training.checkpoints import remove_half_written

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import Trainer, TrainingArguments
    from transformers.trainer_utils import TrainOutput

    from nlp_transfer.tasks.pairs import TokenBatches
    from nlp_transfer.training.phases import Setup

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_WRITERS = ("PytorchStreamWriter", "inline_container", "SafetensorError", "File too large")
"""Words in the errors of torch and safetensors when a file cannot be written; they name no errno."""
_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


class StopOnSignal(TrainerCallback):
    """After SIGTERM or Ctrl-C: finish the step, write a checkpoint, and raise ``InterruptedTraining``.

    A second signal ends the process at once. On many processes all stop after the same step, whichever got
    the signal. At the end of an epoch the evaluation comes first, as it would without the signal, so that a
    resumed run does not miss it.

    Args:
        go_on: the command that goes on, for the message.
    """

    def __init__(self, go_on: str) -> None:
        self.go_on = go_on
        self.received = 0
        self.agreed = 0
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args, state, control, **kwargs):
        """Listen; only Python's main thread can."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)

    def on_train_end(self, args, state, control, **kwargs):
        """Leave the signals to whoever had them before."""
        self.release()

    def release(self) -> None:
        """Put the handlers back that were there before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number
        self.release()
        warn("stopping: a checkpoint is written after this step; once more stops at once")

    def on_step_end(self, args, state, control, **kwargs):
        """Agree with the other processes; save now, unless an evaluation comes first."""
        self.agreed = _largest(self.received, args.device)
        if self.agreed and not _ends_epoch(state):
            control.should_save = True

    def on_epoch_end(self, args, state, control, **kwargs):
        """Save what the step's end has left to the epoch's."""
        if self.agreed:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        """The checkpoint is complete: end.

        Raises:
            InterruptedTraining: after a signal.
        """
        if self.agreed:
            name = "Ctrl-C" if self.agreed == signal.SIGINT else signal.Signals(self.agreed).name
            raise InterruptedTraining(
                f"stopped by {name} after step {state.global_step} of {state.max_steps}, with a checkpoint",
                exit_code=128 + self.agreed,
                fix=f"go on with: {self.go_on}",
            )


def _ends_epoch(state: Any) -> bool:
    return abs(state.epoch - round(state.epoch)) < 1e-6


def _largest(number: int, device: torch.device) -> int:
    """The largest of all processes' numbers."""
    if world_size() == 1:
        return number
    shared = torch.tensor(number, device=device)
    torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX)
    return int(shared)


class FiniteWeights(TrainerCallback):
    """Look at the weights before they are scored or saved: a model with NaN in it is never written."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Check where a save or an evaluation follows."""
        self._check(control, state, model)

    on_epoch_end = on_step_end

    def on_train_end(self, args, state, control, model=None, **kwargs):
        """Check the weights that the run goes on with."""
        check_finite_weights(model, state.global_step)

    def _check(self, control: Any, state: Any, model: Any) -> None:
        if control.should_save or control.should_evaluate:
            check_finite_weights(model, state.global_step)


_CURE = (
    "lower training.learning_rate, or set training.max_grad_norm=1.0 and training.bf16=false; then go on "
    "from the last checkpoint with --resume"
)


def check_finite_weights(model: nn.Module, step: int) -> None:
    """Cost: one pass over the trainable weights.

    Raises:
        TrainingError: NaN or infinity among them.
    """
    finite = [torch.isfinite(p.detach()).all() for p in model.parameters() if p.requires_grad and p.numel()]
    if finite and not bool(torch.stack(finite).all()):
        raise TrainingError(
            f"the weights are no longer finite after step {step}: nothing of them was saved",
            expected="finite numbers",
            found="NaN or infinity",
            fix=_CURE,
        )


def check_finite_loss(loss: Tensor, inputs: dict[str, Any], step: int) -> None:
    """Name the step and the batch of a loss that is not finite; the batch by the hash of its token ids.

    Raises:
        TrainingError: NaN or infinity.
    """
    if torch.isfinite(loss).all():
        return
    ids = next(value for value in (inputs.get("input_ids"), inputs["labels"]) if value is not None).cpu()
    fingerprint = hashlib.sha256(ids.numpy().tobytes()).hexdigest()[:12]
    raise TrainingError(
        f"the loss of step {step} is not finite: training stops before it reaches the weights",
        expected="a finite loss",
        found=f"{float(loss.detach().float().mean())} on batch {fingerprint} "
        f"({ids.shape[0]} rows of up to {ids.shape[1]} tokens, rank {rank()})",
        fix=_CURE,
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's or the CPU's allocator has given up."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY)


def smaller_batch(error: BaseException, arguments: TrainingArguments) -> dict[str, int]:
    """The fields of ``TrainingArguments`` that take less memory for the same effective batch; says so.

    Raises:
        TrainingError: the batch cannot be smaller, or other processes would have to follow.
    """
    size, accumulation = arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps
    part = next((n for n in (2, 3, 5, 7) if size % n == 0), size)
    fields = {
        "per_device_train_batch_size": size // part,
        "gradient_accumulation_steps": accumulation * part,
        "per_device_eval_batch_size": max(1, arguments.per_device_eval_batch_size // 2),
    }
    if size == 1:
        raise _too_large("row", error) from error
    if world_size() > 1:
        changes = " ".join(f"training.{name}={value}" for name, value in fields.items())
        raise TrainingError(
            f"out of memory with {size} rows at a time on rank {rank()}",
            fix=f"the same effective batch in less memory, from the last checkpoint on: {changes} --resume",
        ) from error
    warn(
        f"out of memory with {size} rows at a time: going on with {size // part} and "
        f"{accumulation * part} accumulation steps, the same effective batch"
    )
    return fields


def _too_large(unit: str, error: BaseException) -> TrainingError:
    """What is said where the smallest step does not fit."""
    return TrainingError(
        f"out of memory with one {unit} at a time",
        found=str(error).partition("\n")[0][:200],
        fix="lower model.max_length, set training.gradient_checkpointing=true, or use "
        "strategy.kind=lora or a smaller model",
    )


def more_parts(error: BaseException, batches: TokenBatches, parts: int) -> int:
    """Twice the parts in which each batch by tokens is computed; says so.

    The batches, their order and the steps stay as they are, so that a run goes on exactly where its last
    checkpoint is, and the gradient of a step is the same sum.

    Raises:
        TrainingError: the largest batch cannot be split further, or other processes would have to follow.
    """
    largest = max(len(rows) for rows in batches.batches)
    if parts >= largest:
        raise _too_large("pair", error) from error
    if world_size() > 1:
        half = max(32, batches.budget // 2)
        raise TrainingError(
            f"out of memory with batches of {batches.budget:,} tokens on rank {rank()}",
            fix=f"start again with about the same effective batch in less memory: task.batch_tokens={half} "
            "and twice the training.gradient_accumulation_steps",
        ) from error
    warn(
        f"out of memory with batches of {batches.budget // parts:,} tokens: going on with "
        f"{batches.budget // parts // 2:,} and {2 * parts} passes for each, the same effective batch"
    )
    return 2 * parts


@contextlib.contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Say clearly what a full disk, a folder that cannot be written or a vanished file are.

    Raises:
        OutputError, DataError: in place of the library's own error.
    """
    try:
        yield
    except NlpTransferError:
        raise
    except Exception as error:
        explained = _explained(error, folder)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, folder: Path) -> NlpTransferError | None:
    number = getattr(error, "errno", None)
    text = f"{type(error).__name__}: {error}"
    for code in (*_FULL, *_FORBIDDEN):
        if number is None and (f"os error {code})" in text or os.strerror(code) in text):
            number = code
    if number is None and any(word in text for word in _WRITERS):
        number = errno.ENOSPC
    if number == errno.ENOENT and getattr(error, "filename", None):
        return DataError(
            f"{error.filename} has vanished",  # type: ignore[attr-defined]
            expected="the files of the run to stay until it ends",
            fix="put the file back, and go on from the last checkpoint with --resume",
        )
    if number not in (*_FULL, *_FORBIDDEN):
        return None
    return OutputError(
        f"{folder} cannot be written: {os.strerror(number)}; complete checkpoints there are intact",
        expected="space and permission to write",
        found=f"{_free_mib(folder):,} MiB free",
        fix="free space or make the folder writable, then go on from the last checkpoint with --resume",
    )


def _free_mib(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free >> 20
    except OSError:
        return 0


def train_safely(trainer: Trainer, folder: Path, checkpoint: Path | None) -> TrainOutput:
    """Train from a checkpoint or from the start, with clear errors, and leave nothing half-written.

    Raises:
        OutputError: the disk is full or the folder cannot be written.
        InterruptedTraining: SIGTERM or Ctrl-C, after a checkpoint was written.
    """
    model: Any = trainer.model
    try:
        with clear_errors(folder), bf16_attention(model, trainer.args.bf16):
            return trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except OutputError:
        if is_main_process():
            remove_half_written(folder)
        raise
    finally:
        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, StopOnSignal):
                callback.release()


def guards(setup: Setup) -> list[TrainerCallback]:
    """What watches every training: signals, and weights that are no longer finite."""
    recipe, count = setup.folder.path / "recipe.yaml", world_size()
    command = f"launch {recipe} --processes {count}" if count > 1 else f"train {recipe}"
    return [StopOnSignal(f"nlp-transfer {command} --resume"), FiniteWeights()]
