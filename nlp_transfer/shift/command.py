"""What ``nlp-transfer shift`` does: from files or a recipe to ranked reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nlp_transfer.console import calm
from nlp_transfer.data.domains import DomainData, load_domain
from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.models.load import ModelOptions
from nlp_transfer.recipe import Recipe
from nlp_transfer.shift.ranking import shift_reports, write_reports
from nlp_transfer.shift.report import ShiftReport, StrategyName
from nlp_transfer.shift.rows import load_side


@calm()
def shift_of_files(
    sources: Sequence[str],
    target: str,
    *,
    model: str | None = None,
    strategy: StrategyName | None = None,
    seed: int | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    needs_forecast: bool = False,
    output: Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> list[ShiftReport]:
    """Compare files (or ``sample:NAME``) with a target, and write the reports where ``output`` is given.

    Args:
        sources, target: files, or ``sample:NAME``.
        model: encoder; None for the default one.
        strategy: how the model will be trained; None for frozen.
        seed: of every draw; None for 42.
        text_column, label_column: of all files; None to find them.
        needs_forecast: refuse a source without labels.
        output: folder of ``report.json`` and ``report.html``.
        overwrite: replace earlier reports there.
        settings: of ``shift_report``; None for its default.

    Returns:
        One report a source, best forecast first.

    Raises:
        DataError: a file cannot be read, or has no labels where they are needed.
        OutputError: ``output`` holds a report, or cannot be written.
    """
    if output is not None:
        _check_output(output, overwrite)
    seed = 42 if seed is None else seed
    columns = {"text_column": text_column, "label_column": label_column}
    domains = [load_side(place, "source", seed=seed, **columns) for place in sources]
    _check_sources(domains, needs_forecast)
    settings |= {"model": ModelOptions(name=model) if model else None, "strategy": strategy, "seed": seed}
    return _compare(domains, load_side(target, "target", seed=seed, **columns), output, settings)


@calm()
def shift_of_recipe(
    recipe: Recipe,
    *,
    model: str | None = None,
    needs_forecast: bool = False,
    output: Path | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> list[ShiftReport]:
    """Compare the source and the target of a recipe; arguments as in :func:`shift_of_files`.

    What is None is taken from the recipe: model, strategy, seed, and the numbers under ``shift``.

    Raises:
        NlpTransferError: the recipe has no source.
    """
    from nlp_transfer.tasks import TASKS

    if recipe.source is None:
        raise NlpTransferError(
            "the recipe has no source to compare with the target",
            expected="source",
            fix="give source.train a file",
        )
    if output is not None:
        _check_output(output, overwrite)
    defaults = {
        "model": recipe.model,
        "strategy": recipe.strategy.kind,
        "seed": recipe.seed,
        "max_samples": recipe.shift.max_samples,
        "permutations": recipe.shift.permutations,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    if model:
        given["model"] = recipe.model.model_copy(update={"name": model})
    objective = TASKS[recipe.task.kind][0](recipe.task).objective
    where: dict[str, Any] = {"objective": objective, "seed": recipe.seed, "base": recipe.base, "need": ()}
    source = load_domain(recipe.source, role="source", **where)
    target = load_domain(recipe.target, role="target", **where)
    _check_sources([source], needs_forecast)
    return _compare([source], target, output, defaults | given)


def _compare(
    sources: Sequence[DomainData], target: DomainData, output: Path | None, settings: dict[str, Any]
) -> list[ShiftReport]:
    given = {name: value for name, value in settings.items() if value is not None}
    reports = shift_reports(sources, target, **given)
    if output is not None:
        write_reports(reports, output)
    return reports


def _check_output(folder: Path, overwrite: bool) -> None:
    from nlp_transfer.training.artifacts import check_output_file

    for name in ("report.json", "report.html"):
        check_output_file(folder / name, overwrite=overwrite)


def _check_sources(domains: Sequence[DomainData], needs_forecast: bool) -> None:
    """Refuse, before any work, a source without labels where a forecast is needed."""
    for domain in domains:
        if needs_forecast and not domain.label_counts.get("train"):
            raise DataError(
                f"source {domain.name} has no labels, so there is no risk to judge",
                expected="labelled training rows",
                fix="name the column with --label-column, or leave out --fail-on",
            )
