"""The commands ``recipes list | show | keys | schema``. Nothing heavy is imported here."""

from __future__ import annotations

import json
from typing import Annotated

import typer

recipes_app = typer.Typer(
    no_args_is_help=True, help="Recipes that come with the package, their keys and schema."
)


@recipes_app.command("list")
def recipes_list() -> None:
    """List the shipped recipes with what each does."""
    from nlp_transfer.reporting.summary import print_recipes

    print_recipes()


@recipes_app.command("show")
def recipes_show(name: Annotated[str, typer.Argument(help="Such as sentiment/lora.")]) -> None:
    """Print a shipped recipe: save it, change it, run it."""
    from nlp_transfer.recipe import find_recipe

    typer.echo(find_recipe(name).read_text(encoding="utf-8"), nl=False)


@recipes_app.command("keys")
def recipes_keys(
    section: Annotated[
        str | None, typer.Argument(help="Such as source, strategy.lora or mmd; default: the top.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="All sections, as a page.")] = False,
) -> None:
    """Explain the keys of a recipe: defaults and meanings."""
    from nlp_transfer.recipe_keys import as_markdown
    from nlp_transfer.reporting.summary import print_keys

    if markdown:
        typer.echo(as_markdown(), nl=False)
    else:
        print_keys(section)


@recipes_app.command("schema")
def recipes_schema() -> None:
    """Print the JSON Schema of a recipe, for editors."""
    from nlp_transfer.recipe import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))
