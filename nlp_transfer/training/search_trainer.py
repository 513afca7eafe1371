"""Hyper-parameter search of the gradient strategies, through ``Trainer.hyperparameter_search``."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, cast

import torch

from nlp_transfer.console import notice
from nlp_transfer.errors import Problem, RecipeError, TrainingError
from nlp_transfer.models.load import resolve_max_length
from nlp_transfer.strategies import STRATEGIES
from nlp_transfer.training.adapt import Step, encode_step, plan_steps
from nlp_transfer.training.arguments import training_arguments
from nlp_transfer.training.callbacks import LengthGroupedOrder, drop_printing
from nlp_transfer.training.faults import FiniteWeights
from nlp_transfer.training.resume import finished_phase, load_phase
from nlp_transfer.training.trainer import TransferTrainer, fit_phase

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import BaseTrial
    from torch import nn

    from nlp_transfer.training.phases import Setup
    from nlp_transfer.training.search import Space


def optimize(setup: Setup, space: Space, study: Study, trials: int) -> None:
    """Let the Trainer try values in the last phase; a trial is its best evaluation.

    A trial whose loss is not finite, or that runs out of memory, counts as failed.

    Raises:
        RecipeError: no validation rows, or no evaluations.
    """
    from nlp_transfer.training.search import study_settings, unprinted

    plan = plan_steps(setup)
    if plan[-1].validation is None or setup.recipe.training.get("eval_strategy") == "no":
        message = "tune needs evaluations: give target.validation, and leave out training.eval_strategy=no"
        raise RecipeError("recipe", [Problem("target.validation", None, message)])
    encode = functools.partial(_encoded, setup, _fresh(setup, setup.strategy).config)
    after = _phases_before(setup, plan, encode)
    trainer = _trainer(setup, encode(plan[-1]))
    metric, greater = setup.task.best_metric
    direction = "maximize" if greater else "minimize"
    evaluations: list[float] = []

    def model_init(trial: BaseTrial | None) -> nn.Module:
        evaluations.clear()
        if trial is None:  # the Trainer asks for a model before the first trial too
            return _fresh(setup, setup.strategy, after)
        values = space.suggest(trial)
        told = ", ".join(f"{key} {_short(value)}" for key, value in values.items())
        notice(f"trial {trial.number}: {told}")
        recipe = space.recipe_with(values)
        trainer.strategy = STRATEGIES[recipe.strategy.kind][0](recipe.strategy)
        return _fresh(setup, trainer.strategy, after, recipe.model)

    def objective(metrics: dict[str, float]) -> float:
        evaluations.append(metrics[f"eval_{metric}"])
        return max(evaluations) if greater else min(evaluations)

    def of_training(trial: BaseTrial) -> dict[str, Any]:
        values = space.suggest(trial)
        return {key.removeprefix("training."): value for key, value in values.items() if _is_training(key)}

    trainer.model_init = cast("Any", model_init)
    settings = study_settings(setup.folder.path, setup.recipe.seed, len(study.trials))
    with unprinted():
        trainer.hyperparameter_search(
            hp_space=of_training,
            compute_objective=objective,
            n_trials=trials,
            direction=direction,
            backend="optuna",
            load_if_exists=True,
            catch=(TrainingError, torch.OutOfMemoryError),
            **settings,
        )


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_training(key: str) -> bool:
    return "." not in key or key.startswith("training.")


def _fresh(setup: Setup, strategy: Any, after: str | None = None, options: Any = None) -> Any:
    """A model as the last phase finds it: pretrained, or with the weights of the phase before."""
    from transformers import set_seed

    set_seed(setup.recipe.seed)
    quantization = strategy.quantization_config()
    model = setup.task.build_model(setup.pretrained, options or setup.recipe.model, quantization=quantization)
    model = strategy.prepare(model)
    if after is not None:
        load_phase(model, setup.folder.checkpoints(after), setup.task)
    return model


def _phases_before(setup: Setup, plan: list[Step], encode: Any) -> str | None:
    """Train and keep all phases but the last, unless an earlier call did; the name of the last of them."""
    name = None
    for step in plan[:-1]:
        if finished_phase(setup.folder.checkpoints(step.name)) is None:
            fresh = functools.partial(_fresh, setup, setup.strategy, name)
            fit_phase(fresh(), setup, encode(step), keep=True, fresh=fresh)
        name = step.name
    return name


def _encoded(setup: Setup, config: Any, step: Step) -> Step:
    """The phase with its rows tokenised."""
    limit = resolve_max_length(setup.tokenizer, config, setup.recipe.model.max_length)
    collate = setup.task.collator(setup.tokenizer)

    def encode(rows: Any, name: str) -> Any:
        return setup.task.encode(rows, setup.tokenizer, limit, name=name)

    return encode_step(setup, step, encode, collate)


def _trainer(setup: Setup, step: Step) -> TransferTrainer:
    """The Trainer of all trials; it saves nothing."""
    folder = setup.folder.checkpoints(step.name)
    trainer = TransferTrainer(
        model=_fresh(setup, setup.strategy),
        args=training_arguments(setup.recipe, setup.task, setup.strategy, folder, evaluates=True),
        data_collator=step.collate,
        train_dataset=step.rows,
        eval_dataset=step.validation,
        processing_class=setup.tokenizer,
        compute_metrics=setup.task.compute_metrics,
        callbacks=[*setup.strategy.callbacks(), LengthGroupedOrder(), FiniteWeights()],
        task=setup.task,
        strategy=setup.strategy,
    )
    drop_printing(trainer)
    return trainer
