"""The reference of recipe keys: complete, current, and honest about defaults."""

from pathlib import Path

import pytest

from nlp_transfer.cli import main
from nlp_transfer.recipe import Recipe
from nlp_transfer.recipe_keys import as_markdown, recipe_keys

PAGE = Path(__file__).parents[1] / "docs" / "recipe.md"


def test_the_page_is_current():
    """After a change: nlp-transfer recipes keys --markdown > docs/recipe.md"""
    assert PAGE.read_text("utf-8") == as_markdown()


def test_every_key_is_there_and_explained(tmp_path):
    sections = recipe_keys()
    assert all(key.meaning for keys in sections.values() for key in keys)
    recipe = Recipe.from_dict(
        {
            "source": {"train": "a.jsonl", "mode": "joint"},
            "target": {"train": "b.jsonl"},
            "strategy": {"kind": "lora"},
            "adaptation": [{"kind": "mmd"}],
        }
    )
    for section, options in {
        "source": recipe.source,
        "strategy.lora": recipe.strategy,
        "adaptation.mmd": recipe.adaptation[0],
        "model": recipe.model,
        "guard": recipe.guard,
    }.items():
        there = {key.name.split(".")[0] for key in sections[section]}
        assert there == set(type(options).model_fields) - {"kind"}


def test_defaults_are_those_of_a_recipe():
    """As YAML reads them, each gives the recipe that leaves the key out."""
    lora = Recipe.from_dict({"target": {"train": "b.jsonl"}, "strategy": {"kind": "lora"}})
    plain = [key for key in recipe_keys()["strategy.lora"] if key.default]
    written = Recipe.from_dict(
        {"target": {"train": "b.jsonl"}, "strategy": {"kind": "lora"}},
        [f"strategy.{key.name}={key.default}" for key in plain],
    )
    assert len(plain) > 3
    assert written == lora


@pytest.mark.parametrize(
    ("section", "says", "code"), [("lora", "quantize_4bit", 0), ("lorra", "did you mean 'lora'", 2)]
)
def test_the_command(section, says, code, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["recipes", "keys", section])
    assert stop.value.code == code
    shown = capsys.readouterr()
    assert says in shown.out + shown.err
