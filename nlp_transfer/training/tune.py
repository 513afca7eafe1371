"""Gradient strategies: one Trainer phase after another over one model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import notice, warn
from nlp_transfer.data.stream import StreamedRows
from nlp_transfer.models.embed import Embedder
from nlp_transfer.models.inference import predict_logits
from nlp_transfer.models.load import resolve_max_length
from nlp_transfer.processes import from_main, main_first
from nlp_transfer.strategies.base import count_parameters
from nlp_transfer.tasks import SentimentTask, TranslationTask
from nlp_transfer.training.adapt import Step, encode_step, label_pool, plan_steps
from nlp_transfer.training.arguments import training_arguments
from nlp_transfer.training.embedded import domain_features, row_weights, weigh_rows
from nlp_transfer.training.guard import (
    TARGET_ONLY,
    Evidence,
    adapts_without_source,
    why_not_judged,
)
from nlp_transfer.training.guard_baselines import Baseline, probe_baseline, target_scores
from nlp_transfer.training.phases import Setup, Trained
from nlp_transfer.training.pretrain import pretrain
from nlp_transfer.training.resume import load_phase, take_over
from nlp_transfer.training.row_figures import Scorer, scorer
from nlp_transfer.training.scoring import AFTER_SOURCE, PRETRAINED, Before, look_before
from nlp_transfer.training.trainer import fit_phase

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

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
    plan = plan_steps(setup)
    if "source" not in setup.domains or why_not_judged(setup) is not None:
        return _train(setup, plan)
    if setup.recipe.guard.baseline == TARGET_ONLY:
        return _train(setup, plan, _target_only(setup), begin=False)
    judged = probe_baseline if isinstance(setup.task, SentimentTask) else _zero_shot
    return _train(setup, plan, judged(setup))


def _train(
    setup: Setup, plan: list[Step], baseline: Baseline | None = None, *, begin: bool = True
) -> Trained:
    """One model through all phases; watched in the last where there is a baseline."""
    recipe, task = setup.recipe, setup.task
    fresh = functools.partial(_fresh, setup)
    prepared = fresh()
    max_length = resolve_max_length(setup.tokenizer, prepared.config, recipe.model.max_length)
    for step in plan:
        folder = setup.folder.checkpoints(step.name)
        device = training_arguments(
            recipe, task, setup.strategy, folder, evaluates=step.validation is not None
        ).device
    weights = _row_weights(setup)
    watched = baseline is not None and plan[-1].validation is setup.domains["target"].validation
    if begin:
        setup.folder.start(recipe.dump(), data=setup.fingerprints)
    before: dict[str, Before] = {}
    first = next((step for step in plan if step.name not in ("source", TARGET_ONLY)), None)
    collate, prepare = _batching(setup, prepared)
    records = [pretrain(prepared, setup, max_length)] if setup.adaptations("pretraining") else []
    done: list[str] = [record["phase"] for record in records]
    for number, step in enumerate(plan, 1):
        last, begins = number == len(plan), step is first
        if begins:
            prepared = prepared if setup.strategy.quantization_config() else prepared.to(device)
            before = _look_before(setup, prepared, trained=number > 1)
        record = take_over(prepared, setup.folder.checkpoints(step.name), task) if setup.resume else None
        if record is not None:
            notice(f"train on {step.name}: finished before the run was interrupted, taken over")
        else:
            if step.pool is not None:
                step = label_pool(prepared, setup, step)
                if not step.facts["pseudo_labels"]:
                    records.append({"phase": step.name, "rows": 0, "steps": 0, "seconds": 0.0, **step.facts})
                    before = {} if begins else before
                    break
            step = encode_step(
                setup, step, lambda rows, name: prepare(_encode(setup, rows, max_length, name)), collate
            )
            if weights is not None:
                step = replace(step, rows=weigh_rows(setup, weights, step.name, step.rows))
            if baseline is not None and watched and last:
                step = replace(step, watch=baseline.watch(setup))
            again = functools.partial(fresh, done[-1] if done else None)
            keep = not last or step.name == TARGET_ONLY
            prepared, record = fit_phase(prepared, setup, step, keep=keep, fresh=again)
        done.append(step.name)
        records.append(record)
    trainable, total = count_parameters(prepared.parameters())
    seconds = sum(record["seconds"] for record in records)
    trained = Trained(prepared, seconds, trainable, total, records, before=before)
    if baseline is not None:
        if isinstance(task, SentimentTask):
            trained.logits = _logits(setup, prepared)
        score = _scorer(setup, prepared, trained.logits)
        trained.evidence = Evidence(
            baseline=baseline.scores,
            transferred=target_scores(setup, score),
            held_out="validation rows",
            kind=baseline.kind,
            like=baseline.like,
            watched=watched,
            fallback=baseline.fallback,
            seconds=baseline.seconds,
        )
    return trained


def _fresh(setup: Setup, after: str | None = None) -> Any:
    """The prepared model with the weights of the phase before, or the pretrained ones."""
    from transformers import set_seed

    set_seed(setup.recipe.seed)
    quantization = setup.strategy.quantization_config()
    model = setup.strategy.prepare(
        setup.task.build_model(setup.pretrained, setup.recipe.model, quantization=quantization)
    )
    if after is not None:
        load_phase(model, setup.folder.checkpoints(after), setup.task)
    return model


def _target_only(setup: Setup) -> Baseline:
    """The same recipe without its source, trained and kept beside the checkpoints."""
    target = setup.domains["target"]
    recipe = setup.recipe.model_copy(update={"source": None, "adaptation": []})
    alone = replace(setup, recipe=recipe, domains={"target": target})
    assert target.train is not None
    setup.folder.start(setup.recipe.dump(), data=setup.fingerprints)
    notice("guard: training on the target alone first")
    trained = _train(alone, [Step(TARGET_ONLY, target.training_rows, target.validation)], begin=False)
    scores = target_scores(alone, _scorer(alone, trained.model))

    def ship() -> Trained:
        model = _fresh(alone, TARGET_ONLY)
        logits = _logits(alone, model) if isinstance(setup.task, SentimentTask) else None
        return replace(trained, model=model, logits=logits)

    trained.model = None  # its weights lie on disk; the memory is for the next model
    like = not adapts_without_source(setup.recipe)
    return Baseline(TARGET_ONLY, scores, like, ship, trained.seconds)


def _zero_shot(setup: Setup) -> Baseline:
    """The pretrained translation model as it is. Where nothing is learned from the target, the source is all
    that the trained model has seen beyond it."""
    started = time.perf_counter()
    arguments = training_arguments(
        setup.recipe, setup.task, setup.strategy, setup.folder.path, evaluates=False
    )

    def load() -> Any:
        model = _fresh(setup)
        return model if setup.strategy.quantization_config() else model.to(arguments.device)

    notice("guard: scoring the pretrained model first")
    scores = target_scores(setup, _scorer(setup, load()))
    seconds = time.perf_counter() - started

    def ship() -> Trained:
        model = load()
        return Trained(model, seconds, *count_parameters(model.parameters()))

    return Baseline("zero_shot", scores, setup.domains["target"].train is None, ship, seconds)


def _scorer(setup: Setup, model: Any, logits: Callable[[Dataset], NDArray] | None = None) -> Scorer:
    """Figures of raw rows by a fine-tuned model."""
    if isinstance(setup.task, SentimentTask):
        return scorer(setup, model, logits or _logits(setup, model))
    max_length = resolve_max_length(setup.tokenizer, model.config, setup.recipe.model.max_length)
    return scorer(setup, model, max_length=max_length)


def _logits(setup: Setup, model: Any) -> Callable[[Dataset], NDArray]:
    """Logits of raw rows; each table goes through the model once."""
    max_length = resolve_max_length(setup.tokenizer, model.config, setup.recipe.model.max_length)
    known: dict[int, tuple[Dataset, NDArray]] = {}

    def logits(rows: Dataset) -> NDArray:
        if id(rows) not in known:
            encoded = setup.task.encode(rows, setup.tokenizer, max_length)
            known[id(rows)] = rows, predict_logits(model, encoded, setup.task.collator(setup.tokenizer))
        return known[id(rows)][1]

    return logits


def _look_before(setup: Setup, model: Any, *, trained: bool) -> dict[str, Before]:
    """What the model says of held-out rows before the target's come in; nothing where it cannot do the task.

    Args:
        setup: of the run.
        model: on its device, as the target's phase starts from it.
        trained: whether the source's phase has trained it on the task.
    """
    knows = setup.recipe.model.init == "pretrained" and setup.task.knows(
        setup.pretrained.read_json("config.json")
    )
    if not getattr(setup.recipe.task, "score_before", True) or not (trained or knows):
        return {}
    max_length = resolve_max_length(setup.tokenizer, model.config, setup.recipe.model.max_length)
    return look_before(
        setup,
        AFTER_SOURCE if trained else PRETRAINED,
        lambda rows: setup.task.outputs(model, setup.tokenizer, rows, max_length),
    )


def _row_weights(setup: Setup) -> RowWeights | None:
    """Weights of the training rows, from embeddings of the pretrained encoder; None without a method."""
    if not setup.adaptations("instance"):
        return None
    if isinstance(setup.task, TranslationTask):
        from nlp_transfer.shift.translation import Translator

        embedder = Translator(setup.task, setup.recipe.model).embedder()
    else:
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


def _encode(setup: Setup, rows: Dataset | StreamedRows, max_length: int, name: str) -> Any:
    """Encode rows and warn when many training texts are cut; streamed rows are encoded as they are drawn."""
    if isinstance(rows, StreamedRows):
        return setup.task.encode_stream(rows, setup.tokenizer, max_length, name=name)
    encoded = main_first(lambda: setup.task.encode(rows, setup.tokenizer, max_length, name=name))
    cut = setup.task.truncation_rate(encoded)
    if cut > TRUNCATION_WARNING and "validation" not in name:
        warn(
            f"{name}: {cut:.0%} of the texts are longer than {max_length} tokens and are cut "
            "(model.max_length)"
        )
    return encoded
