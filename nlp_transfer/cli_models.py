"""Commands about whole models: choose one, ship one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import typer

UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""click's UsageError; typer brings its own click from 0.16 on, so it is named by what typer exports."""

TextColumn = Annotated[str | None, typer.Option(help="Column of the texts.")]
LabelColumn = Annotated[str | None, typer.Option(help="Column of the labels.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a model folder.")]


def export(
    run: RunArgument,
    output: Annotated[Path, typer.Option(help="The new folder.")],
    form: Annotated[
        Literal["merged", "onnx", "ctranslate2"],
        typer.Option(
            "--format",
            help="merged: one folder for transformers (export.json says where it needs an import); onnx: a "
            "classifier for onnxruntime; ctranslate2: a translation model.",
        ),
    ] = "merged",
    quantization: Annotated[
        Literal["float32", "int8"], typer.Option(help="Of the weights (onnx and ctranslate2).")
    ] = "float32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
) -> None:
    """Ship a trained model: adapters merged, as ONNX or for CTranslate2; checked against the original."""
    from nlp_transfer.export import export_model
    from nlp_transfer.reporting.selection import print_export

    print_export(export_model(run, output, format=form, quantization=quantization, overwrite=overwrite))


def rank(
    target: Annotated[str, typer.Option(help="Labelled file (or sample:NAME) of the target domain.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MORE]...", help="More models, or more sources.", show_default=False),
    ] = None,
    models: Annotated[
        list[str] | None, typer.Option(help="Hub names or folders to choose from: --models A B C.")
    ] = None,
    sources: Annotated[
        list[str] | None, typer.Option(help="Files (or sample:NAME) to transfer from: --sources A B C.")
    ] = None,
    task: Annotated[
        Literal["sentiment", "translation"], typer.Option(help="translation: the target holds pairs.")
    ] = "sentiment",
    source_lang: Annotated[str | None, typer.Option(help="Of translation: to translate from.")] = None,
    target_lang: Annotated[str | None, typer.Option(help="Of translation: to translate into.")] = None,
    layer: Annotated[
        Literal["last", "mean", "best"], typer.Option(help="Which hidden layer the scores look at.")
    ] = "best",
    ratings: Annotated[bool, typer.Option("--ratings", help="The labels are numbers.")] = False,
    max_samples: Annotated[int, typer.Option(min=20, help="Labelled rows drawn, by seed.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 42,
    output: Annotated[
        Path | None,
        typer.Option(help="A .json file for the figures (the page goes beside it); with --sources a folder."),
    ] = None,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Choose before training: which model suits the target, or which source will help it most."""
    if bool(models) == bool(sources):
        raise UsageError("give --models or --sources, one of them.")
    languages = (source_lang, target_lang) if source_lang and target_lang else None
    if (task == "translation") != (languages is not None):
        raise UsageError("give --source-lang and --target-lang with --task translation, and only there.")
    if sources and languages:
        raise UsageError("sources of translation are compared by: nlp-transfer shift --task translation")
    places = [*(models or sources or []), *(more or [])]
    if sources:
        from nlp_transfer.reporting.summary import print_shift_reports
        from nlp_transfer.shift.command import shift_of_files

        given: dict[str, Any] = {"max_samples": max_samples, "seed": seed, "overwrite": overwrite}
        given |= {"text_column": text_column, "label_column": label_column}
        return print_shift_reports(shift_of_files(places, [target], output=output, **given), output)
    from nlp_transfer.reporting.selection import print_ranking
    from nlp_transfer.selection.rank import rank_models

    ranking = rank_models(
        places,
        target,
        layer=layer,
        objective="regression" if ratings else "classification",
        languages=languages,
        max_samples=max_samples,
        seed=seed,
        text_column=text_column,
        label_column=label_column,
        output=output,
        overwrite=overwrite,
    )
    return print_ranking(ranking, output)


def plan(
    source: Annotated[
        list[str], typer.Option(help="Labelled file (or sample:NAME) to transfer from; repeat it to choose.")
    ],
    target: Annotated[str, typer.Option(help="File (or sample:NAME) of the target, with some labels.")],
    model: Annotated[str | None, typer.Option(help="Encoder: hub name or folder.")] = None,
    max_length: Annotated[int | None, typer.Option(min=2, help="Tokens of a text that are read.")] = None,
    strategies: Annotated[
        str, typer.Option(metavar="A,B", help="Strategies to choose from.")
    ] = "frozen,lora,full",
    budget_minutes: Annotated[float | None, typer.Option(min=0, help="Longest run, on this machine.")] = None,
    memory_gb: Annotated[
        float | None, typer.Option(min=0, help="Most memory of the run; of the GPU where there is one.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the recipe here (YAML).")] = None,
    max_samples: Annotated[int, typer.Option(min=20, help="Texts of each domain looked at, by seed.")] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw, and of the recipe.")] = 42,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON.")] = False,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the recipe.")] = False,
) -> None:
    """Decide before training: transfer or not, which source, which strategy, weighted or not; as a recipe."""
    from nlp_transfer.models.options import ModelOptions
    from nlp_transfer.reporting.selection import print_plan
    from nlp_transfer.selection.plan import make_plan

    named: dict[str, Any] = {"name": model} if model else {}
    found = make_plan(
        source,
        target,
        model=ModelOptions(max_length=max_length, **named),
        strategies=tuple(cast("Any", name.strip()) for name in strategies.split(",")),
        budget_minutes=budget_minutes,
        memory_gb=memory_gb,
        max_samples=max_samples,
        seed=seed,
        text_column=text_column,
        label_column=label_column,
        output=output,
        overwrite=overwrite,
    )
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_plan(found, output)


def tune(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="A YAML file with ranges under tune.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...", help="Overrides, such as training.max_steps=50.", show_default=False
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="That the study holds at the end, those of earlier calls too.")
    ] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Folder of the study. Default: output_dir with -tune behind it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin the study anew.")] = False,
) -> None:
    """Search the ranges under tune for the best values; kept in a file, gone on with when called again."""
    from nlp_transfer.recipe import Recipe

    loaded = Recipe.load(recipe, overrides or ())
    from nlp_transfer.reporting.selection import print_search
    from nlp_transfer.training.search import search

    print_search(search(loaded, trials, output=output, overwrite=overwrite))
