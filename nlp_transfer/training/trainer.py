"""The bridge between a task, a strategy and ``transformers.Trainer``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import Trainer, TrainingArguments

from nlp_transfer.console import is_main_process
from nlp_transfer.errors import Problem, RecipeError
from nlp_transfer.models.precision import bf16_pays
from nlp_transfer.training.callbacks import Progress, quiet_defaults

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from nlp_transfer.recipe import Recipe
    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks.base import Task


class TransferTrainer(Trainer):
    """A Trainer whose loss is the task's and whose parameter groups are the strategy's.

    Everything else, from resume to FSDP and trackers, is the Trainer's own.
    """

    def __init__(self, *args: Any, task: Task, strategy: Strategy, **kwargs: Any) -> None:
        self.task, self.strategy = task, strategy
        super().__init__(*args, compute_loss_func=self._task_loss, **kwargs)

    def _task_loss(self, outputs, labels, num_items_in_batch=None) -> torch.Tensor:
        return self.task.loss(outputs["logits"], labels, num_items=num_items_in_batch)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Split the Trainer's parameter groups by the strategy's learning-rate scales."""
        optimizer = super().create_optimizer(model)
        module = self.model if model is None else model
        scales = self.strategy.learning_rate_scales(module)
        if scales is None:
            return optimizer
        by_parameter = {id(parameter): scales[name] for name, parameter in module.named_parameters()}
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


def training_arguments(
    recipe: Recipe, task: Task, strategy: Strategy, folder: Path, *, evaluates: bool
) -> TrainingArguments:
    """Our defaults, under the strategy's needs, under the recipe's ``training:`` values.

    Raises:
        RecipeError: the values contradict each other.
    """
    on_cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
    metric, greater = task.best_metric
    values: dict[str, Any] = {
        "per_device_train_batch_size": 32,
        "per_device_eval_batch_size": 64,
        "learning_rate": strategy.default_learning_rate,
        "warmup_steps": 0.1,
        "weight_decay": 0.01,
        "train_sampling_strategy": "group_by_length",
        "logging_strategy": "epoch",
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "use_cpu": on_cpu,
        "bf16": not recipe.training.get("fp16", False) and bf16_pays("cpu" if on_cpu else "cuda"),
        "dataloader_pin_memory": not on_cpu,
        **strategy.trainer_defaults(),
    }
    if evaluates:
        values |= {
            "eval_strategy": "epoch",
            "load_best_model_at_end": True,
            "metric_for_best_model": metric,
            "greater_is_better": greater,
        }
        if recipe.training.get("eval_strategy") == "steps":
            values |= {"save_strategy": "steps"}
            values |= {"save_steps": recipe.training["eval_steps"]} if "eval_steps" in recipe.training else {}
        elif recipe.training.get("eval_strategy") == "no" or recipe.training.get("save_strategy") == "no":
            values |= {"load_best_model_at_end": False}
    wanted = dict(recipe.training)
    if not evaluates:
        wanted = {key: value for key, value in wanted.items() if key not in ("eval_strategy", "load_best_model_at_end")}
    try:
        return TrainingArguments(
            output_dir=str(folder), disable_tqdm=True, remove_unused_columns=True, length_column_name="length", **(values | wanted)
        )
    except (ValueError, TypeError, KeyError) as error:
        raise RecipeError("training", [Problem("training", None, " ".join(str(error).split()))]) from error


def fit_phase(
    model: nn.Module,
    recipe: Recipe,
    task: Task,
    strategy: Strategy,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    train: Dataset,
    validation: Dataset | None,
    folder: Path,
    resume: bool = False,
) -> dict[str, Any]:
    """Train the model in place on one encoded data set; the best checkpoint's weights are in it afterwards.

    Returns:
        seconds, steps, samples_per_second, training loss and the log history.
    """
    arguments = training_arguments(recipe, task, strategy, folder, evaluates=validation is not None)
    trainer = TransferTrainer(
        model=model,
        args=arguments,
        data_collator=task.collator(tokenizer),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        compute_metrics=task.compute_metrics if validation is not None else None,
        callbacks=[*strategy.callbacks(), *_early_stopping(recipe, arguments), Progress(f"train on {name}")],
        task=task,
        strategy=strategy,
    )
    quiet_defaults(trainer)
    outcome = trainer.train(resume_from_checkpoint=last_checkpoint(folder) if resume else None)
    history = [entry for entry in trainer.state.log_history if is_main_process()]
    return {
        "phase": name,
        "rows": len(train),
        "steps": outcome.global_step,
        "seconds": round(outcome.metrics["train_runtime"], 3),
        "samples_per_second": outcome.metrics["train_samples_per_second"],
        "training_loss": outcome.training_loss,
        "bf16": arguments.bf16,
        "best_metric": trainer.state.best_metric,
        "history": history,
    }


def last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint folder of a phase, or None."""
    from transformers.trainer_utils import get_last_checkpoint

    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def _early_stopping(recipe: Recipe, arguments: TrainingArguments) -> list:
    from transformers import EarlyStoppingCallback

    if recipe.early_stopping is None or arguments.eval_strategy == "no":
        return []
    return [EarlyStoppingCallback(recipe.early_stopping.patience, recipe.early_stopping.threshold)]
