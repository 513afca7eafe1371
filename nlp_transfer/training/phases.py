"""What a run trains on, phase by phase, and what comes out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable

    from datasets import Dataset
    from numpy.typing import NDArray

    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.recipe import Recipe


@dataclass
class Trained:
    """What a strategy hands back to the run."""

    model: Any
    tokenizer: Any
    seconds: float
    trainable: int
    total: int
    phases: list[dict[str, Any]] = field(default_factory=list)
    logits: Callable[[Dataset], NDArray] | None = None
    """Logits of raw rows by a cheaper way than a pass through the model, where there is one."""


def plan_phases(recipe: Recipe, domains: dict[str, DomainData]) -> list[tuple[str, Dataset, Dataset | None]]:
    """The training phases as (name, training rows, validation rows).

    Raises:
        DataError: no labelled rows to train on.
    """
    from datasets import concatenate_datasets

    target, source = domains["target"], domains.get("source")
    if source is not None and source.train is not None and recipe.source is not None:
        if recipe.source.mode == "joint" and target.train is not None:
            rows = concatenate_datasets([source.train, target.train])
            return [("joint", rows, target.validation or source.validation)]
        phases = [("source", source.train, source.validation)]
    else:
        phases = []
    if target.train is not None:
        phases.append(("target", target.train, target.validation))
    if not phases:
        raise DataError(
            "there are no labelled rows to train on",
            expected="target.train, or a source with a train split",
            found="neither",
            fix="give target.train or source.train",
        )
    return phases
