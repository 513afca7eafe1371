"""From a recipe's adaptations to what each training phase runs on: pairs, penalties, teachers, rounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback

from nlp_transfer.adaptation.relational import TeacherMethod
from nlp_transfer.adaptation.self_training import SelfTraining
from nlp_transfer.console import notice, warn
from nlp_transfer.data.labels import IGNORED_LABEL
from nlp_transfer.data.replay import ReplayedRows
from nlp_transfer.data.stream import StreamedRows
from nlp_transfer.errors import Problem, RecipeError
from nlp_transfer.models.features import unwrap
from nlp_transfer.models.load import resolve_max_length
from nlp_transfer.processes import main_first
from nlp_transfer.training.paired import PairedCollator, PairedRows
from nlp_transfer.training.penalty_log import PenaltyGuard, PenaltySchedule
from nlp_transfer.training.phases import Setup, plan_phases, target_texts
from nlp_transfer.training.together import AdaptedModel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datasets import Dataset
    from numpy.typing import NDArray
    from torch import nn
    from transformers import PreTrainedModel

    from nlp_transfer.training.guard_watch import Watch

ROUND = "self-training-{}"
DEFAULT_EPOCHS = 3.0
"""Of ``transformers.TrainingArguments``."""


@dataclass(frozen=True)
class Step:
    """A training phase, and what an adaptation adds to it. The rows are raw in the plan, encoded afterwards.

    Attributes:
        name: source, target, joint or self-training-N.
        rows: labelled rows.
        validation: rows that pick the best checkpoint.
        partners: tables of target rows to pair ``rows`` with; those without labels are read for their text.
        pool: texts that the model labels before the phase.
        penalized: whether penalties act.
        taught: whether teachers act.
        facts: what the phase's record says besides.
        texts: of the encoded ``rows`` and ``partners``, raw.
        held_out: the validation rows as they were read.
        collate: encoded rows to a batch.
        watch: compares the model with a baseline at every evaluation.
        drawn: which of the source rows, with which ``rows`` begins, each epoch shows.
    """

    name: str
    rows: Dataset | StreamedRows
    validation: Dataset | None
    partners: tuple[Dataset, ...] = ()
    pool: Dataset | None = None
    penalized: bool = False
    taught: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    texts: tuple[Dataset | StreamedRows, ...] = ()
    held_out: Dataset | None = None
    collate: Any = None
    watch: Watch | None = None
    drawn: NDArray[np.int64] | None = None


def plan_steps(setup: Setup) -> list[Step]:
    """The phases in order, the rounds of self-training last.

    Raises:
        DataError: no labelled rows to train on.
        RecipeError: a teacher's method without a teacher, or self-training without texts.
    """
    recipe, domains = setup.recipe, setup.domains
    target, source = domains["target"], domains.get("source")
    penalties, teachers = setup.adaptations("penalty"), setup.adaptations("teacher")
    texts = target_texts(target)
    epochs = math.ceil(recipe.training.get("num_train_epochs", DEFAULT_EPOCHS))
    phases = plan_phases(recipe, domains, epochs=epochs)
    steps = [Step(*phase[:3], drawn=phase.drawn) for phase in phases]
    _check_teachers(setup, [step.name for step in steps])
    own_teacher = any(method.options.teacher is None for method in teachers)
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        penalized, taught = bool(penalties) and step.name != "target", bool(teachers) and last
        partners: tuple[Any, ...]
        if step.name == "target":
            partners = (target.unlabeled,) if taught and own_teacher else ()
        else:
            partners = (texts,) if penalized or taught else ()
        if step.name == "joint" and partners and source is not None and source.train is not None:
            step, partners = replace(step, rows=source.train), (target.train, target.unlabeled)
        some = tuple(table for table in partners if table)
        steps[index] = replace(step, partners=some, penalized=penalized, taught=taught)
    return steps + _rounds(setup, steps[-1])


def _rounds(setup: Setup, last: Step) -> list[Step]:
    """The rounds of self-training: on all labelled rows, and on the texts that were not labelled."""
    methods = setup.adaptations("rounds")
    if not methods:
        return []
    domains = setup.domains
    target, source = domains["target"], domains.get("source")
    pool = target.unlabeled if target.train else target_texts(target)
    if not pool:
        fix = "give target.unlabeled, or leave self_training out"
        raise _problem(setup, "self_training", "", f"there are no target texts without labels: {fix}")
    labelled = [data.train for data in (source, target) if data is not None and data.train]
    pool = pool.select_columns(["text"])
    if setup.adaptations("penalty") and source is not None and source.train:
        base = Step("", source.train, last.validation, tuple(labelled[1:]), pool, penalized=True)
    else:
        from datasets import concatenate_datasets

        base = Step("", concatenate_datasets(labelled), last.validation, (), pool)
    return [replace(base, name=ROUND.format(n + 1)) for n in range(methods[0].options.rounds)]


def _check_teachers(setup: Setup, names: Sequence[str]) -> None:
    for method in setup.adaptations("teacher"):
        if method.options.teacher is None and list(names) != ["source", "target"]:
            message = (
                "there is no teacher: without one the source phase's model teaches the target phase, which "
                "needs source.mode sequential and labelled rows in target.train; or name a run folder"
            )
            raise _problem(setup, method.options.kind, ".teacher", message)


def _problem(setup: Setup, kind: str, key: str, message: str) -> RecipeError:
    index = next(i for i, choice in enumerate(setup.recipe.adaptation) if choice.kind == kind)
    return RecipeError("recipe", [Problem(f"adaptation.{index}{key}", None, message)])


@dataclass(frozen=True)
class Ready:
    """What a phase hands to the Trainer: the module, its rows, the collator and further callbacks."""

    model: nn.Module
    rows: Any
    collate: Callable[[Any], Any]
    callbacks: list[TrainerCallback] = field(default_factory=list)


def make_ready(model: nn.Module, setup: Setup, step: Step) -> Ready:
    """Wrap the model and pair the rows where an adaptation acts in this phase; else both stay as they are.

    Args:
        model: the classifier, prepared by the strategy, with the weights that the phase starts from.
        setup: of the run.
        step: with encoded rows; ``partners`` is one encoded table, or empty.

    Raises:
        ModelError: a teacher that cannot be loaded, or whose classes are others.
    """
    penalties: dict[str, Any] = {}
    if step.penalized:
        size, classes = feature_size(model), unwrap(model).config.num_labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(setup.recipe.seed)
            for method in setup.adaptations("penalty"):
                penalties[method.options.kind] = method.build(size, classes)
    rows, partners = step.rows, step.partners
    if step.taught:
        from nlp_transfer.training.teacher import add_teacher

        methods: list[TeacherMethod] = setup.adaptations("teacher")
        penalties |= {method.options.kind: method.build() for method in methods}
        rows, *others = add_teacher(model, setup, [rows, *partners], step.texts)
        partners = tuple(others)
    if not penalties:
        batched = setup.task.training_rows(rows, setup.recipe.training, setup.recipe.seed)
        return Ready(model, batched, step.collate)
    module = AdaptedModel(model, penalties)
    guard = PenaltyGuard(penalties, guessing_loss(setup, rows))
    callbacks: list[TrainerCallback] = [PenaltySchedule(module), guard]
    if not partners:
        return Ready(module, rows, step.collate, callbacks)
    pairs = PairedRows(rows, partners[0], setup.recipe.seed)
    notice(f"{step.name}: {len(rows):,} rows paired with {len(partners[0]):,} target rows")
    return Ready(module, pairs, PairedCollator(step.collate), callbacks)


def guessing_loss(setup: Setup, rows: Dataset) -> float | None:
    """Cross-entropy of guessing by the shares of the classes, in nats; None where there are none."""
    if setup.task.objective != "classification":
        return None
    labels = np.asarray(rows["labels"][:])
    shares = np.bincount(labels[labels != IGNORED_LABEL]) / max((labels != IGNORED_LABEL).sum(), 1)
    return float(-(shares * np.log(np.where(shares > 0, shares, 1.0))).sum())


def feature_size(model: nn.Module) -> int:
    """Columns of the features that the head reads."""
    config = unwrap(model).config
    transformed = getattr(config, "transform_dim", None)
    return transformed if transformed is not None else config.get_text_config().hidden_size


def encode_step(
    setup: Setup, step: Step, encode: Callable[[Dataset, str], Dataset], collate: Callable[[Any], Any]
) -> Step:
    """The step with its tables encoded, and its partners as one table with labels throughout.

    Args:
        setup: of the run.
        step: with raw tables.
        encode: from raw rows and their name to encoded rows.
        collate: from encoded rows to a batch.
    """
    from datasets import concatenate_datasets

    partners, raw = [], [table.select_columns(["text"]) for table in step.partners]
    for table in step.partners:
        encoded = encode(table, "target texts")
        if "labels" not in encoded.column_names:
            kind = float if setup.task.objective == "regression" else int
            encoded = encoded.add_column("labels", [kind(IGNORED_LABEL)] * len(encoded))
        partners.append(encoded)
    rows: Any = encode(step.rows, f"{step.name} training")
    if step.drawn is not None:
        target = setup.domains["target"].train
        assert target is not None
        rows = ReplayedRows(rows, step.drawn, len(rows) - len(target))
    return replace(
        step,
        rows=rows,
        validation=encode(step.validation, f"{step.name} validation") if step.validation else None,
        partners=(concatenate_datasets(partners),) if partners else (),
        held_out=step.validation,
        collate=collate,
        texts=(step.rows, *([concatenate_datasets(raw)] if partners else [])),
    )


def label_pool(model: nn.Module, setup: Setup, step: Step) -> Step:
    """Let the model label the pool of a self-training round; the confident texts join the rows.

    Where penalties act, source rows stay apart and the whole pool is paired with them. Where the model is
    sure of no text, the step is as it was but for its facts: training on it would not be self-training.
    """
    from datasets import concatenate_datasets

    from nlp_transfer.models.inference import predict_logits

    method: SelfTraining = setup.adaptations("rounds")[0]
    task, pool = setup.task, step.pool
    assert pool is not None
    assert not isinstance(step.rows, StreamedRows)
    inner: PreTrainedModel = model  # type: ignore[assignment]
    length = resolve_max_length(setup.tokenizer, inner.config, setup.recipe.model.max_length)
    encoded = main_first(lambda: task.encode(pool, setup.tokenizer, length, name="target texts"))
    logits = predict_logits(model, encoded, task.collator(setup.tokenizer)).astype(np.float64)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    taken, classes = method.choose(odds / odds.sum(1, keepdims=True))
    notice(f"{step.name}: labels for {len(taken):,} of {len(pool):,} target texts")
    facts = {"pool": len(pool), "pseudo_labels": len(taken)}
    if not len(taken):
        warn(
            f"{step.name}: no prediction reaches the threshold {method.options.threshold:g}: self-training "
            "ends here and leaves the model as it was; lower the threshold"
        )
        return replace(step, facts=facts)
    names = task.names  # type: ignore[attr-defined]
    labelled = pool.select(taken).add_column("label", [names[label] for label in classes])
    labelled = labelled.cast(step.rows.select_columns(labelled.column_names).features)
    if not step.penalized:
        return replace(step, rows=concatenate_datasets([step.rows, labelled]), facts=facts)
    rest = pool.select(np.setdiff1d(np.arange(len(pool)), taken))
    partners = [*step.partners, labelled, *([rest] if len(rest) else [])]
    return replace(step, partners=tuple(partners), facts=facts)
