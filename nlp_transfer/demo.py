"""The demo: shift, then three ways of fine-tuning, on the built-in sample and a real encoder."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from nlp_transfer.console import notice, stdout
from nlp_transfer.recipe import Recipe
from nlp_transfer.reporting.summary import human, print_shift
from nlp_transfer.training.run import RunResult, train


def run_demo(output: Path) -> list[RunResult]:
    """Transfer from coffee-shop reviews to laptop reviews in three ways, and print one table.

    Returns:
        the results of full, frozen and lora.
    """
    from rich import box
    from rich.table import Table

    results: list[RunResult] = []
    for name in ("full", "frozen", "lora"):
        recipe = Recipe.load(f"sentiment/{name}", [f"output_dir={output / name}"])
        if results:
            recipe = recipe.model_copy(update={"shift": recipe.shift.model_copy(update={"enabled": False})})
        notice(f"{name}: training, as in `nlp-transfer train sentiment/{name}`")
        results.append(train(recipe, overwrite=True, on_shift=partial(print_shift, rest="in metrics.json")))
    table = Table(
        box=box.SIMPLE_HEAD, title="laptop reviews, 100 test texts (built-in sample)", title_justify="left"
    )
    for column in ("strategy", "accuracy [95 % interval]", "training seconds", "trainable parameters"):
        table.add_column(column, justify="left" if column == "strategy" else "right")
    for result in results:
        accuracy = result.metrics["domains"]["target"]["test"]["accuracy"]
        table.add_row(
            result.strategy,
            f"{accuracy['value']:.2f} [{accuracy['low']:.2f}, {accuracy['high']:.2f}]",
            f"{result.training_seconds:.1f}",
            human(result.trainable_parameters),
        )
    stdout().print(table)
    stdout().print(f"runs in {output}; next: nlp-transfer recipes list")
    return results
