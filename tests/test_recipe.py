"""The recipe schema: every problem at once, each with its key, line and cure."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from nlp_transfer.arguments import MANAGED, training_fields
from nlp_transfer.errors import RecipeError
from nlp_transfer.recipe import Recipe, find_recipe, recipe_schema, shipped_recipes

GOOD = """\
task: {kind: sentiment}
model: {name: some/model, max_length: 64}
source: {train: books.jsonl, mode: joint}
target: {train: kitchen.jsonl, test: kitchen.test.jsonl}
strategy: {kind: lora, r: 4}
training:
  learning_rate: 2e-5
  num_train_epochs: 1
output_dir: out
"""


@pytest.fixture
def write(tmp_path):
    def write_recipe(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_recipe


def problems(path, overrides=()):
    with pytest.raises(RecipeError) as caught:
        Recipe.load(path, overrides)
    return {problem.key: problem for problem in caught.value.problems}


def test_reads_what_is_written(write):
    recipe = Recipe.load(write(GOOD))
    assert recipe.strategy.kind == "lora"
    assert recipe.strategy.r == 4
    assert recipe.source.mode == "joint"
    assert recipe.training["learning_rate"] == pytest.approx(2e-5)


def test_dump_reads_back_equal(write, tmp_path):
    recipe = Recipe.load(write(GOOD))
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump(), encoding="utf-8")
    assert Recipe.load(again) == recipe


def test_dump_keeps_nulls_that_mean_something(write, tmp_path):
    text = GOOD.replace("max_length: 64", "attention_dropout: null").replace(
        "{train: books.jsonl, mode: joint}", "{train: books.jsonl, label_map: {1: neg, 3: null, 5: pos}}"
    )
    again = tmp_path / "again.yaml"
    again.write_text(Recipe.load(write(text)).dump(), encoding="utf-8")
    recipe = Recipe.load(again)
    assert recipe.model.attention_dropout is None
    assert recipe.source.label_map == {1: "neg", 3: None, 5: "pos"}


def test_dump_makes_paths_beside_the_recipe_absolute(write, tmp_path):
    (tmp_path / "books.jsonl").write_text("{}", encoding="utf-8")
    again = yaml.safe_load(Recipe.load(write(GOOD)).dump())
    assert again["source"]["train"] == str(tmp_path / "books.jsonl")
    assert again["target"]["train"] == "kitchen.jsonl"


def test_dump_makes_a_data_set_folder_beside_the_recipe_absolute(write, tmp_path):
    for name in ("shop", "train"):  # the second is a split's name, and no file
        (tmp_path / name).mkdir()
    text = GOOD.replace("{train: kitchen.jsonl, test: kitchen.test.jsonl}", "{dataset: ./shop, train: train}")
    target = yaml.safe_load(Recipe.load(write(text)).dump())["target"]
    assert Path(target["dataset"]).samefile(tmp_path / "shop")
    assert Path(target["dataset"]).is_absolute()
    assert target["train"] == "train"


def test_overrides_win_and_a_new_kind_drops_the_old_options(write):
    recipe = Recipe.load(
        write(GOOD), ["strategy.kind=full", "training.learning_rate=1e-3", "model.max_length=32"]
    )
    assert recipe.strategy.kind == "full"
    assert recipe.training["learning_rate"] == pytest.approx(1e-3)
    assert recipe.model.max_length == 32


def test_override_creates_a_missing_section(write):
    assert Recipe.load(write(GOOD), ["early_stopping.patience=2"]).early_stopping.patience == 2


def test_all_problems_at_once_with_lines(write):
    text = (
        GOOD.replace("r: 4", "rank: 4")
        .replace("max_length: 64", "max_length: many")
        .replace("num_train_epochs: 1", "num_epochs: 1\n  fp16: maybe")
    )
    found = problems(write(text))
    assert found["strategy.rank"].line == 5
    assert found["model.max_length"].line == 2
    assert found["training.num_epochs"].line == 8
    assert "num_train_epochs" in found["training.num_epochs"].message
    assert found["training.fp16"].line == 9


def test_a_bad_override_is_not_blamed_on_the_file(write, tmp_path):
    """The line of the file holds a good value; another problem keeps its line."""
    found = problems(write(GOOD.replace("r: 4", "rank: 4")), ["model.max_length=many"])
    assert found["strategy.rank"].line == 5
    assert found["model.max_length"].line is None
    assert "model.max_length (override): " in str(found["model.max_length"])
    assert "strategy.rank (line 5): " in str(found["strategy.rank"])


@pytest.mark.parametrize(
    ("old", "new", "key", "says"),
    [
        ("strategy:", "stratgy:", "stratgy", "did you mean 'strategy'"),
        ("kind: lora", "kind: lorra", "strategy.kind", "did you mean 'lora'"),
        ("{kind: lora, r: 4}", "{r: 4}", "strategy.kind", "required"),
        ("r: 4", "r: 0", "strategy.r", "greater than or equal to 1"),
        ("mode: joint", "mode: both", "source.mode", "'sequential' or 'joint'"),
        ("kind: sentiment", "kind: sentimental", "task.kind", "sentiment"),
        ("learning_rate: 2e-5", "learning_rate: fast", "training.learning_rate", "expected float"),
        ("learning_rate: 2e-5", "output_dir: x", "training.output_dir", "top of the recipe"),
        (
            "learning_rate: 2e-5",
            "label_smoothing_factor: 0.1",
            "training.label_smoothing_factor",
            "task.label_smoothing",
        ),
        ("{train: kitchen.jsonl, test: kitchen.test.jsonl}", "{}", "target", "no data"),
        ("output_dir: out", "output_dir: ''", "output_dir", "folder name"),
    ],
)
def test_each_mistake_is_named(write, old, new, key, says):
    found = problems(write(GOOD.replace(old, new)))
    assert key in found
    assert says in found[key].message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("task: [1, 2", "not valid YAML"),
        ("", "found nothing"),
        ("- a\n- b", "found list"),
        ("target: {train: a.csv}\ntarget: {train: b.csv}", "given twice"),
        ("target: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_broken_files(write, text, says):
    assert any(says in problem.message for problem in problems(write(text)).values())


def test_override_errors(write):
    path = write(GOOD)
    assert "key.path=value" in problems(path, ["strategy.r"])["strategy.r"].message
    assert (
        "not a mapping"
        in problems(path, ["output_dir.x.y=1", "target.train.0.1=2"])["target.train.0.1"].message
    )


def test_contradictions(write):
    found = problems(write(GOOD.replace("{kind: lora, r: 4}", "{kind: frozen}")), ["model.pooling=stock"])
    assert "pooling" in found["recipe"].message
    found = problems(write(GOOD), ["early_stopping.patience=1", "training.eval_strategy=no"])
    assert "early_stopping" in found["recipe"].message


def test_training_fields_match_the_installed_transformers():
    import dataclasses

    from transformers import TrainingArguments

    names = {field.name for field in dataclasses.fields(TrainingArguments) if field.init}
    assert set(training_fields()) == names
    assert set(MANAGED) - names <= {"overwrite_output_dir", "group_by_length"}


def test_schema_lists_every_strategy_and_training_field():
    schema = recipe_schema()
    text = str(schema)
    assert {"FullOptions", "FrozenOptions", "LoraOptions"} <= set(schema["$defs"])
    assert "learning_rate" in text
    assert schema["properties"]["training"]["additionalProperties"] is False


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_are_valid_and_documented(name):
    recipe = Recipe.load(name)
    text = find_recipe(name).read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert yaml.safe_load(text)["output_dir"].startswith("runs/")
    assert Recipe.from_dict(yaml.safe_load(recipe.dump())) == recipe


def test_a_mistyped_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "my.yaml").write_text("target: {}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for given in ("my.yml", str(tmp_path / "my.yml")):
        with pytest.raises(RecipeError, match=r"did you mean '.*my\.yaml'"):
            find_recipe(given)
    with pytest.raises(RecipeError, match=r"did you mean 'adaptation/mmd'"):
        find_recipe("mmd")


def test_there_are_enough_recipes():
    names = shipped_recipes()
    wanted = ["full", "partial", "gradual-unfreezing", "layer-decay", "frozen", "lora", "dora", "ratings"]
    assert {f"sentiment/{name}" for name in wanted} <= set(names)


def best_seconds(code, runs=3):
    def once():
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        return time.perf_counter() - started

    return min(once() for _ in range(runs))


def test_help_and_validation_start_fast():
    """Against the bare interpreter in the same run, so that a loaded machine does not matter much."""
    bare = best_seconds("pass")
    shown = best_seconds("from nlp_transfer.cli import app; app(['--help'], standalone_mode=False)")
    checked = best_seconds("from nlp_transfer.recipe import Recipe; Recipe.load('sentiment/lora')")
    assert shown < max(0.6, 30 * bare)
    assert checked < max(1.5, 60 * bare)
