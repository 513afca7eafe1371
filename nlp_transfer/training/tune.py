"""Gradient strategies: one Trainer phase after another over one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nlp_transfer.console import warn
from nlp_transfer.models.load import resolve_max_length
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.training.phases import Trained, plan_phases
from nlp_transfer.training.trainer import fit_phase

if TYPE_CHECKING:
    from datasets import Dataset

    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks.base import Task
    from nlp_transfer.training.artifacts import RunFolder

TRUNCATION_WARNING = 0.05


def fine_tune(
    recipe: Recipe,
    task: Task,
    strategy: Strategy,
    domains: dict[str, DomainData],
    where: Any,
    tokenizer: Any,
    folder: RunFolder,
    *,
    resume: bool = False,
) -> Trained:
    """Train on the source, then on the target (sequential), or on both at once (joint)."""
    from transformers import set_seed

    set_seed(recipe.seed)
    model = task.build_model(where, recipe.model, quantization=strategy.quantization_config())
    max_length = resolve_max_length(tokenizer, model.config, recipe.model.max_length)
    model = strategy.prepare(model)
    folder.start(recipe.dump())
    seconds, phases = 0.0, []
    plan = plan_phases(recipe, domains)
    for name, rows, validation in plan:
        encoded = encode(task, rows, tokenizer, max_length, f"{name} training")
        held_out = None
        if validation is not None:
            held_out = encode(task, validation, tokenizer, max_length, f"{name} validation")
        phase = fit_phase(
            model,
            recipe,
            task,
            strategy,
            tokenizer,
            name=name,
            train=encoded,
            validation=held_out,
            folder=folder.checkpoints(name),
            resume=resume,
        )
        seconds += phase["seconds"]
        phases.append(phase)
    trainable, total = count_parameters(model.parameters())
    return Trained(model, tokenizer, seconds, trainable, total, phases)


def encode(task: Task, rows: Dataset, tokenizer: Any, max_length: int, name: str) -> Dataset:
    """Encode rows and warn when many texts are cut."""
    encoded = task.encode(rows, tokenizer, max_length, name=name)
    cut = task.truncation_rate(encoded)
    if cut > TRUNCATION_WARNING:
        warn(f"{name}: {cut:.0%} of the texts are longer than {max_length} tokens and are cut (model.max_length)")
    return encoded
