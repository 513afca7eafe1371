"""Commands about whole models: choose one, ship one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

UsageError: type[Any] = typer.BadParameter.__mro__[1]
"""click's UsageError; typer brings its own click from 0.16 on, so it is named by what typer exports."""

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a model folder.")]


def export(
    run: RunArgument,
    output: Annotated[Path, typer.Option(help="The new folder.")],
    form: Annotated[
        Literal["merged", "onnx", "ctranslate2"],
        typer.Option(
            "--format",
            help="merged: one folder for plain transformers; onnx: a classifier for onnxruntime; "
            "ctranslate2: a translation model.",
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
    layer: Annotated[
        Literal["last", "mean", "best"], typer.Option(help="Which hidden layer the scores look at.")
    ] = "last",
    ratings: Annotated[bool, typer.Option("--ratings", help="The labels are numbers.")] = False,
    max_samples: Annotated[int, typer.Option(min=20, help="Labelled rows drawn, by seed.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of every draw.")] = 42,
    output: Annotated[
        Path | None,
        typer.Option(help="A JSON file for the figures; with --sources a folder for the reports."),
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Column of the texts.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Column of the labels.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Choose before training: which model suits the target, or which source will help it most."""
    if bool(models) == bool(sources):
        raise UsageError("give --models or --sources, one of them.")
    columns = {"text_column": text_column, "label_column": label_column}
    places = [*(models or sources or []), *(more or [])]
    if sources:
        from nlp_transfer.reporting.summary import print_shift_reports
        from nlp_transfer.shift.command import shift_of_files

        given: dict[str, Any] = {"max_samples": max_samples, "seed": seed, "overwrite": overwrite, **columns}
        return print_shift_reports(shift_of_files(places, [target], output=output, **given), output)
    from nlp_transfer.reporting.selection import print_ranking
    from nlp_transfer.selection.rank import rank_models

    ranking = rank_models(
        places,
        target,
        layer=layer,
        objective="regression" if ratings else "classification",
        max_samples=max_samples,
        seed=seed,
        output=output,
        overwrite=overwrite,
        **columns,
    )
    return print_ranking(ranking, output)
