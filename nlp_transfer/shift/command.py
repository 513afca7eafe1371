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
from nlp_transfer.shift.ranking import rank_targets, shift_reports, write_reports
from nlp_transfer.shift.report import ShiftReport, StrategyName
from nlp_transfer.shift.rows import load_pairs, load_side


@calm()
def shift_of_files(
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    languages: tuple[str, str] | None = None,
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
        sources, targets: files, or ``sample:NAME``; several targets for one source of parallel text only.
        languages: source and target language of parallel text, which is then translated by ``model``.
        model: encoder, or translation model; None for the default one.
        strategy: how the model will be trained; None for full.
        seed: of every draw; None for 42.
        text_column, label_column: of all files; None to find them.
        needs_forecast: refuse a source without labels.
        output: folder of ``report.json`` and ``report.html``.
        overwrite: replace earlier reports there.
        settings: of ``shift_report``; None for its default.

    Returns:
        One report a source, best forecast first; or one a target, the best translated first.

    Raises:
        DataError: a file cannot be read, or has no labels where they are needed; several targets where one
            is wanted.
        OutputError: ``output`` holds a report, or cannot be written.
    """
    if output is not None:
        _check_output(output, overwrite)
    seed = 42 if seed is None else seed
    options = ModelOptions(name=model) if model else None
    if len(targets) > 1 and (languages is None or len(sources) > 1):
        raise DataError(
            f"{len(targets)} targets: they are ranked for parallel text and one source only",
            expected="one target, or --task translation with one source",
            fix="compare them one after the other",
        )
    if languages is not None:
        return _shift_of_pairs(sources, targets, languages, options, needs_forecast, output, settings, seed)
    columns = {"text_column": text_column, "label_column": label_column}
    domains = [load_side(place, "source", seed=seed, **columns) for place in sources]
    _check_sources(domains, needs_forecast)
    settings |= {"model": options, "strategy": strategy, "seed": seed}
    return _compare(domains, load_side(targets[0], "target", seed=seed, **columns), output, settings)


def _shift_of_pairs(
    sources: Sequence[str],
    targets: Sequence[str],
    languages: tuple[str, str],
    model: ModelOptions | None,
    needs_forecast: bool,
    output: Path | None,
    settings: dict[str, Any],
    seed: int,
) -> list[ShiftReport]:
    from nlp_transfer.tasks.translation import TranslationOptions, TranslationTask

    if model is None:
        raise DataError(
            "parallel text is judged by a translation model, and none is named",
            expected="--model, such as Helsinki-NLP/opus-mt-de-en",
            fix="name the model that you are going to fine-tune",
        )
    _refuse_forecast(needs_forecast)
    task = TranslationTask(TranslationOptions(source_lang=languages[0], target_lang=languages[1]))
    ours = [load_pairs(place, "source", languages, seed=seed) for place in sources]
    theirs = [load_pairs(place, "target", languages, seed=seed) for place in targets]
    settings |= {"model": model, "task": task, "seed": seed, "target_labels": None}
    if len(theirs) == 1:
        return _compare(ours, theirs[0], output, settings)
    given = {name: value for name, value in settings.items() if value is not None}
    reports = rank_targets(ours[0], theirs, **given)
    if output is not None:
        write_reports(reports, output)
    return reports


def _refuse_forecast(needs_forecast: bool) -> None:
    if needs_forecast:
        raise DataError(
            "there is no risk to judge: no calibrated forecast exists for translation",
            fix="leave out --fail-on",
        )


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
    task: Any = TASKS[recipe.task.kind][0](recipe.task)
    where: dict[str, Any] = {
        "objective": task.objective,
        "seed": recipe.seed,
        "base": recipe.base,
        "need": (),
    }
    if recipe.task.kind == "translation":
        _refuse_forecast(needs_forecast)
        where["languages"] = task.languages[:2]
        defaults["task"] = task
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
