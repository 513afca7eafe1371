"""What a run trains on, phase by phase, and what comes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nlp_transfer.adaptation import ADAPTATIONS
from nlp_transfer.console import notice, warn
from nlp_transfer.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from nlp_transfer.adaptation.base import Stage
    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.data.stream import StreamedRows
    from nlp_transfer.models.load import ModelSource
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks.base import Task
    from nlp_transfer.training.artifacts import RunFolder
    from nlp_transfer.training.guard import Evidence
    from nlp_transfer.training.scoring import Before


def fingerprints(domains: dict[str, DomainData]) -> dict[str, dict[str, str]]:
    """SHA-256 of the rows, by role and split."""
    return {role: data.fingerprints for role, data in domains.items()}


@dataclass(frozen=True)
class Setup:
    """All that training needs, checked and loaded; the pretrained weights are not loaded yet.

    Attributes:
        recipe: what to do.
        task: bound to the training data.
        strategy: which weights move.
        domains: ``target``, and ``source`` where there is one.
        pretrained: where the pretrained model lies.
        tokenizer: of that model.
        folder: the run folder, not yet written to.
        resume: go on from what is in the folder.
        callbacks: the caller's, for the Trainer.
    """

    recipe: Recipe
    task: Task
    strategy: Strategy
    domains: dict[str, DomainData]
    pretrained: ModelSource
    tokenizer: PreTrainedTokenizerBase
    folder: RunFolder
    resume: bool = False
    callbacks: Sequence[TrainerCallback] = ()

    @property
    def fingerprints(self) -> dict[str, dict[str, str]]:
        """Of the rows, by role and split."""
        return fingerprints(self.domains)

    def adaptations(self, stage: Stage) -> list[Any]:
        """The recipe's adaptations of one stage, in its order."""
        found = [ADAPTATIONS[choice.kind][0](choice) for choice in self.recipe.adaptation]
        return [method for method in found if method.stage == stage]


@dataclass
class Trained:
    """What a strategy hands back to the run.

    Attributes:
        model: the trained classifier (or adapter on one).
        seconds: wall time of training, or of embedding and fitting.
        trainable, total: numbers of weights.
        phases: the figures of each phase, for ``metrics.json``.
        logits: logits of raw rows by a cheaper way than a pass through the model, where there is one.
        evidence: what the guard judges, where it watched.
        before: what a model said of the held-out rows before the target's rows came in, by role.
    """

    model: Any
    seconds: float
    trainable: int
    total: int
    phases: list[dict[str, Any]] = field(default_factory=list)
    logits: Callable[[Dataset], NDArray] | None = None
    evidence: Evidence | None = None
    before: dict[str, Before] = field(default_factory=dict)


class Phase(NamedTuple):
    """One training: its name (source, target or joint), its rows, and those that pick the best checkpoint."""

    name: str
    rows: Dataset | StreamedRows
    validation: Dataset | None
    held_out: Dataset | None = None
    """The validation rows as they were read, for figures that logits cannot give."""
    collate: Any = None
    """Encoded rows to a batch."""
    drawn: NDArray[np.int64] | None = None
    """Which of the source rows, with which ``rows`` begins, each epoch shows; see ``ReplayedRows``."""


def target_texts(target: DomainData) -> Dataset | None:
    """Target texts whose labels an adaptation does not look at: ``unlabeled``, and those of ``train``."""
    from datasets import concatenate_datasets

    tables = [table.select_columns(["text"]) for table in (target.unlabeled, target.train) if table]
    return concatenate_datasets(tables) if tables else None


def _mixed(
    source: Dataset, beside: Dataset, recipe: Recipe, *, epochs: int
) -> tuple[Dataset, NDArray[np.int64]]:
    """The source rows that ``source.mix`` draws beside the target's, and which of them an epoch shows."""
    from nlp_transfer.data.load import take_rows
    from nlp_transfer.data.replay import epoch_draws
    from nlp_transfer.data.select import mean_length, mixed_count

    assert recipe.source is not None
    assert recipe.source.mix is not None
    share, target, length = recipe.source.mix, len(beside), 1.0
    if recipe.task.kind == "translation":
        length = mean_length(beside) / mean_length(source)
    each = mixed_count(target, share, length)
    if each > len(source):
        each = len(source)
        reached = each / (each + target * length)
        if round(100 * reached) != round(100 * share):
            warn(
                f"source.mix: the source has {each:,} rows, which are {100 * reached:.0f}% of the training "
                f"{'rows' if length == 1 else 'text'}, not {100 * share:.0f}%"
            )
    steps = recipe.training.get("max_steps", -1)
    if steps > 0 and epochs > 1:  # how many epochs that makes is not known yet: enough for all of the source
        epochs = min(steps, -(-len(source) // each))
    which = "" if epochs == 1 else " in every epoch" + ", others each time" * (each < len(source))
    notice(f"source.mix: {each:,} of {len(source):,} source rows beside {target:,} target rows{which}")
    drawn = epoch_draws(len(source), each, epochs, recipe.seed)
    pool = np.unique(drawn)
    return take_rows(source, pool), np.searchsorted(pool, drawn)


def plan_phases(recipe: Recipe, domains: dict[str, DomainData], *, epochs: int = 1) -> list[Phase]:
    """The training phases, in order.

    Args:
        recipe: what to do.
        domains: their rows.
        epochs: of the training; ``source.mix`` draws rows for each.

    Raises:
        DataError: no labelled rows to train on.
    """
    from datasets import concatenate_datasets

    target, source = domains["target"], domains.get("source")
    phases = []
    if source is not None and source.train is not None:
        if recipe.source is not None and recipe.source.mode == "joint" and target.train is not None:
            known, drawn = source.train, None
            if recipe.source.mix is not None:
                known, drawn = _mixed(known, target.train, recipe, epochs=epochs)
            rows = concatenate_datasets([known, target.train])
            return [Phase("joint", rows, target.validation or source.validation, drawn=drawn)]
        phases.append(Phase("source", source.training_rows, source.validation))
    if target.train is not None:
        phases.append(Phase("target", target.training_rows, target.validation))
    if not phases:
        raise DataError(
            "there are no labelled rows to train on",
            expected="target.train, or a source with a train split",
            found="neither",
            fix="give target.train or source.train",
        )
    return phases
