"""From a recipe's ``training:`` to ``transformers.TrainingArguments``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from nlp_transfer.arguments import training_fields
from nlp_transfer.console import notice
from nlp_transfer.errors import Problem, RecipeError, did_you_mean
from nlp_transfer.models.precision import bf16_pays
from nlp_transfer.processes import wants_cpu
from nlp_transfer.training.hub import HUB_FIELDS

if TYPE_CHECKING:
    from pathlib import Path

    from nlp_transfer.recipe import Recipe
    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks.base import Task

FEWEST_TO_CHOOSE = 50
"""Validation rows from which the best checkpoint is told from the others."""


def training_arguments(
    recipe: Recipe, task: Task, strategy: Strategy, folder: Path, *, evaluates: bool, chooses: bool = True
) -> TrainingArguments:
    """Our defaults, under the strategy's needs, under the recipe's ``training:`` values.

    Args:
        recipe: its ``training`` and ``seed``.
        task: decides the metric of the best checkpoint.
        strategy: decides the learning rate, where the recipe does not.
        folder: of the phase's checkpoints.
        evaluates: whether there are validation rows.
        chooses: whether these are enough to choose the best checkpoint by, where the recipe does not say.

    Raises:
        RecipeError: the values contradict each other, or a tracker is not installed.
    """
    wanted = {name: value for name, value in _renamed(recipe.training).items() if name not in HUB_FIELDS}
    has_gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    on_cpu = wanted.get("use_cpu") or wants_cpu() or not has_gpu
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
        "restore_callback_states_from_checkpoint": True,
        "use_cpu": on_cpu,
        "bf16": not wanted.get("fp16") and bf16_pays("cpu" if on_cpu else "cuda"),
        "dataloader_pin_memory": not on_cpu,
        **task.trainer_defaults(wanted),
        "ddp_find_unused_parameters": True,
        **strategy.trainer_defaults(),
    }
    if evaluates:
        values |= _evaluation_defaults(wanted, task) | ({} if chooses else {"load_best_model_at_end": False})
    else:
        for name in ("eval_strategy", "load_best_model_at_end"):
            wanted.pop(name, None)
    try:
        arguments = TrainingArguments(
            output_dir=str(folder),
            disable_tqdm=True,
            remove_unused_columns=task.kind == "sentiment",
            length_column_name="length",
            **(values | wanted | {"seed": recipe.seed}),
        )
    except (ValueError, TypeError, KeyError, ImportError) as error:
        raise RecipeError("training", [_explained(recipe, error)]) from error
    _check_trackers(arguments)
    _check_metric(arguments, task)
    return arguments


def chooses_checkpoint(recipe: Recipe, phase: str, rows: int) -> bool:
    """Whether the best checkpoint is to be kept, and not the last one.

    A few rows that were split off train cannot tell checkpoints apart: the best of ten epochs on ten rows is
    often one of the first. Who gives validation rows, names a metric or stops early by them, wants the best.
    """
    given = recipe.target.given("validation") or (recipe.source and recipe.source.given("validation"))
    asked = {"load_best_model_at_end", "metric_for_best_model"} & recipe.training.keys()
    if rows >= FEWEST_TO_CHOOSE or given or asked or recipe.early_stopping is not None:
        return True
    notice(
        f"{phase} validation: {rows} rows are too few to choose a checkpoint by; the last one is kept "
        "(give target.validation, or set training.load_best_model_at_end=true)"
    )
    return False


def _evaluation_defaults(wanted: dict[str, Any], task: Task) -> dict[str, Any]:
    """Evaluate and save at the same steps, as the best checkpoint needs it: what is given rules the other."""
    metric, greater = task.best_metric
    values: dict[str, Any] = {
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "greater_is_better": greater,
    }
    if "no" in (wanted.get("eval_strategy"), wanted.get("save_strategy")):
        values["load_best_model_at_end"] = False
    for given, other in (("eval", "save"), ("save", "eval")):
        if wanted.get(f"{given}_strategy") == "steps":
            values[f"{other}_strategy"] = "steps"
            if f"{given}_steps" in wanted:
                values[f"{other}_steps"] = wanted[f"{given}_steps"]
    return values


def _renamed(wanted: dict[str, Any]) -> dict[str, Any]:
    """Old names of fields under their new names, where the installed transformers has those."""
    renamed = dict(wanted)
    for ending in ("", "_kwargs"):
        old, new = f"gradient_checkpointing{ending}", f"activation_checkpointing{ending}"
        if old in renamed and new in training_fields():
            renamed.setdefault(new, renamed.pop(old))
    return renamed


def _explained(recipe: Recipe, error: Exception) -> Problem:
    """Name the field that the error of ``TrainingArguments`` is about, and what to do."""
    text = " ".join(str(error).split()).replace("please select one of", "expected one of")
    if "load_best_model_at_end" in text:
        hint = "give save_strategy and eval_strategy (and their steps) the same values"
        return Problem(
            "training.save_strategy", None, f"{text}; {hint}, or set training.load_best_model_at_end=false"
        )
    key = next((name for name, value in recipe.training.items() if text.startswith(f"{value} ")), None)
    return Problem(f"training.{key}" if key else "training", None, text)


def _check_metric(arguments: TrainingArguments, task: Task) -> None:
    """Refuse a metric that no evaluation gives, before an epoch has been spent.

    Raises:
        RecipeError: with the names of those there are.
    """
    name = (arguments.metric_for_best_model or "loss").removeprefix("eval_")
    names = ("loss", *task.metric_names)
    if arguments.load_best_model_at_end and name not in names:
        message = f"found {name!r}; {did_you_mean(name, names)}"
        raise RecipeError("training", [Problem("training.metric_for_best_model", None, message)])


def _check_trackers(arguments: TrainingArguments) -> None:
    """Say which tracker is missing before anything is loaded for it.

    Raises:
        RecipeError: one that transformers does not know, or whose package is not installed.
    """
    from transformers.integrations import (
        get_available_reporting_integrations,
        get_reporting_integration_callbacks,
    )

    problems = []
    for name in arguments.report_to or ():
        try:
            get_reporting_integration_callbacks([name])
        except ValueError as error:
            problems.append(Problem("training.report_to", None, str(error)))
            continue
        if name not in (*get_available_reporting_integrations(), "flyte"):
            message = (
                f"the tracker {name!r} needs its package, which is not installed: install it, or use none"
            )
            problems.append(Problem("training.report_to", None, message))
    if problems:
        raise RecipeError("training", problems)
