"""The figures of a run, beside those of the model before the target's rows came in, or of another run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import Problem, RecipeError
from nlp_transfer.tasks import SentimentTask

if TYPE_CHECKING:
    from datasets import Dataset

    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.tasks.base import Task
    from nlp_transfer.training.phases import Setup, Trained

PRETRAINED, AFTER_SOURCE = "the model before training", "the model after the source"


@dataclass(frozen=True)
class Before:
    """What another model says of a domain's held-out rows.

    Attributes:
        who: that model, in words.
        split: ``test``, or ``validation`` where there is no test.
        outputs: as ``Task.outputs`` gives them.
    """

    who: str
    split: str
    outputs: Any


def held_out(data: DomainData) -> tuple[str, Dataset] | None:
    """The split that before and after are compared on; None where a domain has neither."""
    for split in ("test", "validation"):
        rows = getattr(data, split)
        if rows:
            return split, rows
    return None


def look_before(setup: Setup, who: str, outputs: Callable[[Dataset], Any]) -> dict[str, Before]:
    """What a model says of both domains before the target's rows are trained on, by role.

    The target's is left out where the recipe compares with another run.

    Cost: one prediction (of translation: one beam search) for each held-out row.
    """
    found = {}
    for role, data in setup.domains.items():
        rows = held_out(data)
        if rows is not None and not (role == "target" and setup.recipe.compare_with):
            found[role] = Before(who, rows[0], outputs(rows[1]))
    return found


def other_run(recipe: Recipe, task: Task, domains: dict[str, DomainData]) -> dict[str, Before]:
    """What the model of ``compare_with`` says of the target; empty without one.

    Raises:
        ModelError: no model there.
        RecipeError: a model of another task, of other classes or of other languages.
    """
    rows = held_out(domains["target"])
    if recipe.compare_with is None or rows is None:
        return {}
    from nlp_transfer.predict import load_model

    model = load_model(recipe.compare_with)
    misfit = task.misfit(model.task)
    if misfit is not None:
        message = f"{recipe.compare_with} does not compare: {misfit}; give a run that answers alike"
        raise RecipeError("recipe", [Problem("compare_with", None, message)])
    return {"target": Before(Path(recipe.compare_with).name, rows[0], model.outputs(rows[1]))}


def forgetting(scores: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The old domain before and after, by split and metric; None where nothing was scored before.

    Args:
        scores: reports by role and split.
    """
    ledger = {}
    for split, report in scores.get("source", {}).items():
        ledger[split] = {
            name: {
                "before": change["baseline"],
                "after": report[name]["value"],
                "change": {end: change[end] for end in ("value", "low", "high")},
            }
            for name, change in report.get("against_baseline", {}).items()
        }
    return {split: rows for split, rows in ledger.items() if rows} or None


def evaluate_domains(setup: Setup, trained: Trained) -> dict[str, dict[str, Any]]:
    """Score the model on every labelled validation and test split: {role: {split: report}}."""
    task, limit = setup.task, setup.recipe.model.max_length
    scores: dict[str, dict[str, Any]] = {}
    for role, data in setup.domains.items():
        for split in ("validation", "test"):
            rows: Dataset | None = getattr(data, split)
            if not rows:
                continue
            name, before = f"{role}.{split}", trained.before.get(role)
            other = before.outputs if before is not None and before.split == split else None
            if trained.logits is not None and isinstance(task, SentimentTask):
                labels = task.label_array(rows, name=name)
                report = task.evaluate(trained.logits(rows), labels, baseline=other)
            else:
                report = score(task, trained.model, setup.tokenizer, rows, limit, name=name, baseline=other)
            if before is not None and other is not None:
                report["baseline"] = before.who
            scores.setdefault(role, {})[split] = report
    return scores


def score(
    task: Task,
    model: Any,
    tokenizer: Any,
    rows: Dataset,
    max_length: int | None,
    *,
    name: str = "data",
    baseline: Any = None,
) -> dict[str, Any]:
    """Score a model on labelled rows, as ``Task.score``; ``name`` is what error messages call them."""
    from nlp_transfer.models.load import resolve_max_length

    limit = resolve_max_length(tokenizer, model.config, max_length)
    return task.score(model, tokenizer, rows, limit, name=name, baseline=baseline)
