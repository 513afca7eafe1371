"""Gradient strategies: one Trainer phase after another over one model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import notice, warn
from nlp_transfer.models.embed import Embedder
from nlp_transfer.models.load import resolve_max_length
from nlp_transfer.processes import from_main, main_first
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.training.adapt import encode_step, label_pool, plan_steps
from nlp_transfer.training.arguments import training_arguments
from nlp_transfer.training.embedded import domain_features, row_weights, weigh_rows
from nlp_transfer.training.phases import Setup, Trained
from nlp_transfer.training.pretrain import pretrain
from nlp_transfer.training.resume import finished_phase, load_phase
from nlp_transfer.training.trainer import fit_phase

if TYPE_CHECKING:
    from datasets import Dataset

    from nlp_transfer.adaptation.instance import RowWeights

TRUNCATION_WARNING = 0.05
"""Share of cut texts from which on a warning is due."""


def fine_tune(setup: Setup) -> Trained:
    """Train on the source, then on the target (sequential), or on both at once (joint).

    A resumed run takes over the phases that were finished, and goes on in the one that was not.

    Raises:
        ModelError: the model cannot be loaded, or the strategy does not fit it.
        RecipeError: fields under ``training`` that contradict each other.
    """
    from transformers import set_seed

    recipe, task = setup.recipe, setup.task

    def fresh(after: str | None = None) -> Any:
        """The prepared model with the weights of the phase before, or the pretrained ones."""
        set_seed(recipe.seed)
        quantization = setup.strategy.quantization_config()
        model = setup.strategy.prepare(
            task.build_model(setup.pretrained, recipe.model, quantization=quantization)
        )
        if after is not None:
            load_phase(model, setup.folder.checkpoints(after), task)
        return model

    prepared = fresh()
    max_length = resolve_max_length(setup.tokenizer, prepared.config, recipe.model.max_length)
    plan = plan_steps(setup)
    for step in plan:
        folder = setup.folder.checkpoints(step.name)
        training_arguments(recipe, task, setup.strategy, folder, evaluates=step.validation is not None)
    weights = _row_weights(setup)
    setup.folder.start(recipe.dump())
    collate, prepare = _batching(setup, prepared)
    records = [pretrain(prepared, setup, max_length)] if setup.adaptations("pretraining") else []
    done: list[str] = [record["phase"] for record in records]
    for number, step in enumerate(plan, 1):
        record = finished_phase(setup.folder.checkpoints(step.name)) if setup.resume else None
        if record is not None:
            load_phase(prepared, setup.folder.checkpoints(step.name), task)
            notice(f"train on {step.name}: finished before the run was interrupted, taken over")
        else:
            if step.pool is not None:
                step = label_pool(prepared, setup, step)
            step = encode_step(
                setup, step, lambda rows, name: prepare(_encode(setup, rows, max_length, name)), collate
            )
            if weights is not None:
                step = replace(step, rows=weigh_rows(setup, weights, step.name, step.rows))
            before = functools.partial(fresh, done[-1] if done else None)
            keep = number < len(plan)
            prepared, record = fit_phase(prepared, setup, step, keep=keep, fresh=before)
        done.append(step.name)
        records.append(record)
    trainable, total = count_parameters(prepared.parameters())
    return Trained(prepared, sum(record["seconds"] for record in records), trainable, total, records)


def _row_weights(setup: Setup) -> RowWeights | None:
    """Weights of the training rows, from embeddings of the pretrained encoder; None without a method."""
    if not setup.adaptations("instance"):
        return None
    embedder = Embedder.load(setup.pretrained, setup.recipe.model, sharded=True)
    data = domain_features(setup, embedder)
    return from_main(lambda: row_weights(setup, data))


def _batching(
    setup: Setup, model: Any
) -> tuple[Callable[[list[Any]], dict[str, Any]], Callable[[Dataset], Dataset]]:
    """How rows become batches, and what encoded rows need before: with a frozen encoder, its outputs."""
    if not setup.strategy.extracts:
        return setup.task.collator(setup.tokenizer, model), lambda rows: rows
    from nlp_transfer.models.encoder_states import EncoderStates
    from nlp_transfer.tasks.pairs import PairCollator

    states = EncoderStates(model)
    return PairCollator(setup.tokenizer, model, states), states.add


def _encode(setup: Setup, rows: Dataset, max_length: int, name: str) -> Dataset:
    """Encode rows and warn when many texts are cut."""
    encoded = main_first(lambda: setup.task.encode(rows, setup.tokenizer, max_length, name=name))
    cut = setup.task.truncation_rate(encoded)
    if cut > TRUNCATION_WARNING:
        warn(
            f"{name}: {cut:.0%} of the texts are longer than {max_length} tokens and are cut "
            "(model.max_length)"
        )
    return encoded
