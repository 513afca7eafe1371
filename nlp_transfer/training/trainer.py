"""The bridge between a task, a strategy and ``transformers.Trainer``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import RandomSampler
from transformers import EarlyStoppingCallback, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from nlp_transfer.console import notice
from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.data.replay import ReplayedRows
from nlp_transfer.errors import Problem, RecipeError
from nlp_transfer.models.load import resolve_max_length
from nlp_transfer.processes import from_main, gather
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.tasks.encoding import EncodedStream
from nlp_transfer.tasks.pairs import TokenBatches, split_batch
from nlp_transfer.training.adapt import make_ready
from nlp_transfer.training.arguments import chooses_checkpoint, training_arguments
from nlp_transfer.training.callbacks import (
    LengthGroupedOrder,
    Progress,
    StreamSampler,
    WeightedLengthSampler,
    drop_printing,
    length_grouped_sampler,
)
from nlp_transfer.training.checkpoints import last_checkpoint, read_state
from nlp_transfer.training.faults import (
    check_finite_loss,
    clear_errors,
    guards,
    is_out_of_memory,
    more_parts,
    smaller_batch,
    train_safely,
)
from nlp_transfer.training.paired import EpochSeed, PairedRows
from nlp_transfer.training.penalty_log import Figures, split_loss
from nlp_transfer.training.record import phase_record
from nlp_transfer.training.resume import keep_phase, load_phase, stopped_early
from nlp_transfer.training.together import AdaptedModel, Together

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer
    from torch.utils.data import DataLoader
    from transformers import EvalPrediction, TrainingArguments
    from transformers.trainer_utils import TrainOutput

    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks.base import Task
    from nlp_transfer.training.adapt import Ready, Step
    from nlp_transfer.training.phases import Setup


class TransferTrainer(Trainer):
    """A Trainer whose loss is the task's and whose parameter groups are the strategy's.

    Everything else, from resume to FSDP and trackers, is the Trainer's own.
    """

    def __init__(
        self,
        *args: Any,
        task: Task,
        strategy: Strategy,
        figures: Callable[[], dict[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.task, self.strategy, self.figures = task, strategy, figures
        self.penalty_figures, self.parts = Figures(), 1
        self._row_weights: Tensor | None = None
        kwargs["compute_loss_func"] = self._task_loss
        rows = kwargs.get("train_dataset")
        rows = rows.rows if isinstance(rows, TokenBatches) else rows
        if isinstance(rows, (PairedRows, ReplayedRows)):  # first: other callbacks see the rows of the epoch
            kwargs["callbacks"] = [EpochSeed(rows), *(kwargs.get("callbacks") or [])]
        super().__init__(*args, **kwargs)

    def _task_loss(
        self, outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        weights = self._row_weights
        if "penalty" not in outputs:
            return self.task.loss(outputs["logits"], labels, weights=weights, num_items=num_items_in_batch)
        known = labels != IGNORED_LABEL
        weights = None if weights is None else weights[known]
        count = known.sum()
        window = count if num_items_in_batch is None else num_items_in_batch
        task_loss = self.task.loss(outputs["logits"][known], labels[known], weights=weights, num_items=window)
        return split_loss(outputs, count / window, task_loss, self.penalty_figures)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Keep the column ``weight`` from the model; the task's loss takes it.

        Weights have a mean of one over the training rows and the loss is divided by rows, not by weights, so
        that micro-batches and processes add up to the loss of the whole.
        """
        self._row_weights = inputs.pop("weight", None)
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "weight" not in columns:
            columns.append("weight")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the penalties' figures to the training loss."""
        super().log(
            {**logs, **self.penalty_figures.take(self.accelerator)} if "loss" in logs else logs, start_time
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Random order for pairs; rows with a column ``draw`` come in proportion to it; else the order of the
        Trainer, also for rows whose lengths it cannot read."""
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        if isinstance(rows, PairedRows):
            return RandomSampler(rows)
        if "draw" in getattr(rows, "column_names", ()):
            return WeightedLengthSampler(self.args.train_batch_size, rows["length"][:], rows["draw"][:])
        if isinstance(rows, ReplayedRows) and self.args.train_sampling_strategy == "group_by_length":
            lengths = rows.largest(np.asarray(rows.rows["length"][:])).tolist()
            return LengthGroupedSampler(self.args.train_batch_size, lengths=lengths)
        if isinstance(rows, EncodedStream) and self.args.train_sampling_strategy == "group_by_length":
            return StreamSampler(self.args.train_batch_size, rows.lengths)
        return super()._get_train_sampler(rows)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """The Trainer's, with one order of length-grouped rows for all evaluations and processes."""
        loader = super().get_eval_dataloader(eval_dataset)
        sampler = length_grouped_sampler(loader)
        if sampler is not None:
            sampler.generator = torch.Generator().manual_seed(self.args.seed)
            self.evaluation_order = np.fromiter(sampler, dtype=np.int64)
            sampler.generator.manual_seed(self.args.seed)
        else:
            self.evaluation_order = np.arange(self.num_examples(loader))
        return loader

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The Trainer's step, in parts where memory is short; ends training at a loss that is not finite."""
        step = super().training_step
        losses = [step(model, part, num_items_in_batch) for part in split_batch(inputs, self.parts)]
        loss = torch.stack(losses).sum()
        check_finite_loss(loss, inputs, self.state.global_step + 1)
        return loss

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The Trainer's loop over logits, or the task's own figures where it has some.

        The loss is the mean over the rows; the Trainer's own is over padded batches of all processes.
        """
        if self.figures is not None:
            own = {f"{metric_key_prefix}_{name}": value for name, value in self.figures().items()}
            return EvalLoopOutput([], None, own, len(self.eval_dataset))  # type: ignore[arg-type]
        found = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        logits, labels = found.predictions, found.label_ids
        if isinstance(logits, np.ndarray) and logits.dtype.kind == "f" and isinstance(labels, np.ndarray):
            loss = self.task.loss(torch.from_numpy(logits), torch.from_numpy(labels))
            assert found.metrics is not None
            found.metrics[f"{metric_key_prefix}_loss"] = float(loss)
        return found

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Split the Trainer's parameter groups by the strategy's learning-rate scales."""
        if self.optimizer is not None:
            return super().create_optimizer(model)
        optimizer = super().create_optimizer(model)
        module: Any = self.model if model is None else model
        adapted = isinstance(module, AdaptedModel)
        inner = module.model if adapted else module
        scales = self.strategy.learning_rate_scales(inner)
        if scales is None and not adapted:
            return optimizer
        by_parameter = {
            id(parameter): scales[name] if scales else 1.0 for name, parameter in inner.named_parameters()
        }
        by_parameter |= module.learning_rate_scales() if adapted else {}
        groups = []
        for group in optimizer.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            for scale in sorted({by_parameter[id(parameter)] for parameter in group["params"]}, reverse=True):
                members = [parameter for parameter in group["params"] if by_parameter[id(parameter)] == scale]
                groups.append({**options, "params": members, "lr": options["lr"] * scale})
        optimizer.param_groups.clear()
        for group in groups:
            optimizer.add_param_group(group)
        return optimizer


def fit_phase(
    model: nn.Module, setup: Setup, phase: Step, *, keep: bool, fresh: Callable[[], nn.Module]
) -> tuple[nn.Module, dict[str, Any]]:
    """Train the model on one encoded phase.

    Args:
        model: prepared by the strategy.
        setup: of the run.
        phase: with encoded rows.
        keep: store the outcome, so that a later phase can be resumed without repeating this one.
        fresh: makes the model again as it was before this phase.

    Returns:
        The model with the best checkpoint's weights: the same object, except under FSDP, which cannot give it
        back whole. And what ``metrics.json`` says about the phase; of a resumed phase, seconds, samples per
        second and training loss are those since ``resumed_at``.

    Raises:
        RecipeError: fields under ``training`` that contradict each other.
        TrainingError: a loss that is not finite, or not enough memory for one row.
        InterruptedTraining: SIGTERM or Ctrl-C, after a checkpoint was written.
        OutputError: the disk is full or the folder cannot be written.
    """
    folder = setup.folder.checkpoints(phase.name)
    trainer, checkpoint, outcome = _train(model, setup, phase, fresh)
    adapted = isinstance(trainer.model, Together)
    count = len(trainer.train_dataset if adapted else phase.rows)  # type: ignore[arg-type]
    facts = {**setup.task.batch_figures(trainer.train_dataset), **phase.facts}
    record = phase_record(trainer, outcome, phase.name, count, checkpoint) | facts
    sharded = trainer.is_fsdp_enabled
    if keep or sharded:
        save = functools.partial(setup.task.save_model, model) if adapted else None
        with clear_errors(folder):
            keep_phase(trainer, folder, record, save=save)
    if sharded:
        gather(None)
        model = fresh()
        load_phase(model, folder, setup.task)
        model.to(trainer.args.device)
    return model, record


def refuse_shards(trainer: Trainer) -> None:
    """A module of several models cannot be split over GPUs.

    Raises:
        RecipeError: FSDP is on.
    """
    if trainer.is_fsdp_enabled and isinstance(trainer.model, Together):
        message = "these methods hold more than one model and do not train under FSDP: leave FSDP out"
        raise RecipeError("recipe", [Problem("adaptation", None, message)])


def _train(
    model: nn.Module, setup: Setup, phase: Step, fresh: Callable[[], nn.Module]
) -> tuple[TransferTrainer, Path | None, TrainOutput]:
    """Train, with smaller batches from the last checkpoint on where the memory does not suffice."""
    folder, resume = setup.folder.checkpoints(phase.name), setup.resume
    fields: dict[str, int] = {}
    parts = 1
    while True:
        ready = make_ready(model, setup, phase)
        trainer, checkpoint = _trainer(model, setup, phase, ready, fields, resume=resume)
        trainer.parts = parts
        refuse_shards(trainer)
        try:
            return trainer, checkpoint, train_safely(trainer, folder, checkpoint)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            resume = True
            if isinstance(ready.rows, TokenBatches):
                parts = more_parts(error, ready.rows, parts)
            else:
                fields = smaller_batch(error, trainer.args)
        del trainer, ready
        _restore(model, fresh())


def _restore(model: nn.Module, start: nn.Module) -> None:
    """Give the model the weights from before the phase, and what of them moves, without room for a second one
    on its device."""
    before = dict(start.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.grad = None
            if parameter.requires_grad or before[name].requires_grad:
                parameter.copy_(before[name])
            parameter.requires_grad_(before[name].requires_grad)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _trainer(
    model: nn.Module, setup: Setup, phase: Step, ready: Ready, fields: dict[str, int], *, resume: bool
) -> tuple[TransferTrainer, Path | None]:
    """The Trainer of a phase, and the checkpoint that it resumes from; ``fields`` replace arguments."""
    recipe, task, strategy = setup.recipe, setup.task, setup.strategy
    evaluates = phase.validation is not None
    folder = setup.folder.checkpoints(phase.name)
    chooses = phase.validation is None or chooses_checkpoint(recipe, phase.name, len(phase.validation))
    arguments = training_arguments(recipe, task, strategy, folder, evaluates=evaluates, chooses=chooses)
    for name, value in fields.items():
        setattr(arguments, name, value)
    checkpoint = from_main(lambda: last_checkpoint(folder)) if resume else None
    if checkpoint is not None:
        arguments.max_steps = _stopped(checkpoint, phase) or arguments.max_steps
    for name, share in task.batch_figures(ready.rows).items():
        notice(f"train on {phase.name}: {len(ready.rows):,} batches, {name.replace('_', ' ')} {share:.0%}")
    figures = _figures(model, setup, phase, arguments)
    callbacks = [*strategy.callbacks(), LengthGroupedOrder(), *ready.callbacks]
    if recipe.early_stopping is not None and arguments.eval_strategy != "no":
        stopping = recipe.early_stopping
        callbacks.append(EarlyStoppingCallback(stopping.patience, stopping.threshold))
    watch = phase.watch
    watching = [] if watch is None else [watch]
    trainer = TransferTrainer(
        model=ready.model,
        args=arguments,
        data_collator=ready.collate,
        train_dataset=ready.rows,
        eval_dataset=phase.validation,
        processing_class=setup.tokenizer,
        compute_metrics=_compute_metrics(setup, phase) if evaluates and figures is None else None,
        figures=figures,
        callbacks=[
            *callbacks,
            *watching,
            Progress(f"train on {phase.name}"),
            *setup.callbacks,
            *guards(setup),
        ],
        task=task,
        strategy=strategy,
    )
    if watch is not None:
        watch.order = lambda: trainer.evaluation_order
    drop_printing(trainer)
    return trainer, checkpoint


def _stopped(checkpoint: Path, phase: Step) -> int | None:
    """The step at which early stopping or the guard ended the phase, where this is its last checkpoint."""
    by_guard = None if phase.watch is None else phase.watch.stopped(read_state(checkpoint))
    return stopped_early(checkpoint) or by_guard


def _compute_metrics(setup: Setup, phase: Step) -> Callable[[EvalPrediction], dict[str, float]]:
    """The task's figures of logits, beside the guard's comparison where it watches."""
    if phase.watch is None or not isinstance(setup.task, SentimentTask):
        return setup.task.compute_metrics
    assert phase.held_out is not None
    return phase.watch.metrics(setup.task, setup.task.label_array(phase.held_out, name="target.validation"))


def _figures(
    model: nn.Module, setup: Setup, phase: Step, arguments: TrainingArguments
) -> Callable[[], dict[str, float]] | None:
    """What the task finds out at each evaluation without the Trainer's loop; None where that loop will do."""
    if phase.held_out is None or not setup.task.evaluates_itself:
        return None
    generate = arguments.metric_for_best_model not in ("loss", "eval_loss")
    told = generate and arguments.eval_strategy != "no"
    note = setup.task.validation_note(len(phase.held_out)) if told else None
    if note is not None:
        notice(note)
    config: Any = model.config
    evaluate = functools.partial(
        setup.task.validation_figures,
        model,
        setup.tokenizer,
        phase.held_out,
        phase.validation,
        phase.collate,
        max_length=resolve_max_length(setup.tokenizer, config, setup.recipe.model.max_length),
        seed=setup.recipe.seed,
        generate=generate,
    )
    if phase.watch is None:
        return lambda: evaluate()[0]
    watch = phase.watch
    return lambda: watch.figures(evaluate())
