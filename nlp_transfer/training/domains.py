"""Both domains of a run: loaded, selected from, checked, and what was found in them told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from nlp_transfer.console import notice, warn
from nlp_transfer.data.checks import Finding, cross_check
from nlp_transfer.data.domains import DomainData, load_domain
from nlp_transfer.strategies import STRATEGIES
from nlp_transfer.tasks import TranslationTask

if TYPE_CHECKING:
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.tasks.base import Task


def load_domains(recipe: Recipe, task: Task) -> dict[str, DomainData]:
    """Load target and source, print what was found about them, and check them against each other."""
    validates = task.kind != "sentiment" or not STRATEGIES[recipe.strategy.kind][0].extracts
    needed = (
        ("train", "validation") if validates and recipe.training.get("eval_strategy") != "no" else ("train",)
    )
    domains: dict[str, DomainData] = {}
    roles: tuple[Literal["source", "target"], ...] = ("source", "target")
    for role in roles:
        options = recipe.source if role == "source" else recipe.target
        if options is None:
            continue
        domains[role] = load_domain(
            options,
            role=role,
            objective=cast("Any", task.objective),
            languages=task.languages[:2] if isinstance(task, TranslationTask) else None,
            seed=recipe.seed,
            base=recipe.base,
            need=needed if options.trains else (),
        )
    if recipe.source is not None and recipe.source.select is not None:
        domains["source"] = _select(recipe, task, domains)
    for finding_role, data in domains.items():
        _tell(data.checks, f"{finding_role} ")
    if len(domains) == 2:
        between = cross_check(domains["source"], domains["target"])
        _tell(between, "")
        domains["target"] = replace(domains["target"], checks=[*domains["target"].checks, *between])
    return domains


def _select(recipe: Recipe, task: Task, domains: dict[str, DomainData]) -> DomainData:
    """The source with the rows that ``source.select`` keeps."""
    from nlp_transfer.data.select import select_source

    assert recipe.source is not None
    assert recipe.source.select is not None
    embed = None
    if recipe.source.select.method == "similarity":
        from nlp_transfer.models.embed import Embedder
        from nlp_transfer.models.load import locate
        from nlp_transfer.shift.translation import Translator

        if isinstance(task, TranslationTask):
            embedder = Translator(task, recipe.model).embedder()
        else:
            embedder = Embedder.load(locate(recipe.model), recipe.model, normalize=True)

        def embed(texts: Sequence[str]) -> Any:
            return embedder.embed(list(texts)).features

    return select_source(
        domains["source"], domains["target"], recipe.source.select, seed=recipe.seed, embed=embed
    )


def _tell(findings: Iterable[Finding], prefix: str) -> None:
    for finding in findings:
        (warn if finding.level == "warning" else notice)(f"{prefix}{finding.message}")


def check_labels(task: Task, domains: dict[str, DomainData]) -> None:
    """Read the labels that the run is scored on, so that none is found to be unknown after the training.

    Raises:
        DataError: a label that the task does not know.
    """
    for role, data in domains.items():
        for split, rows in (("validation", data.validation), ("test", data.test)):
            if rows:
                task.check_labels(rows, name=f"{role}.{split}")
