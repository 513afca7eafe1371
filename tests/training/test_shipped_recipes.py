"""Every shipped recipe runs, and leaves a complete run folder."""

import json
import math

import pytest
import yaml

from nlp_transfer import load_model, train
from nlp_transfer.recipe import Recipe, shipped_recipes
from nlp_transfer.reporting.words import METRIC_NAMES
from tests.translators import tiny_translator


def interval_figures(value):
    """Every {"value", "low", "high"} in nested JSON."""
    if isinstance(value, dict):
        if {"value", "low", "high"} <= value.keys():
            yield value
        else:
            for item in value.values():
                yield from interval_figures(item)


TRANSLATORS = {"t5": "t5", "nllb": "nllb"}


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.startswith("translation/")])
def test_shipped_translation_recipe_trains_and_translates(name, tmp_path):
    model = tiny_translator(tmp_path / "model", TRANSLATORS.get(name.rpartition("/")[2], "marian"))
    overrides = [f"model.name={model}", "training.max_steps=2", f"output_dir={tmp_path / 'run'}"]
    recipe = Recipe.load(name, [*overrides, "target.max_samples=20", "shift.enabled=false"])
    metrics = train(recipe).metrics
    assert {"bleu", "chrf", "ter", "loss"} <= metrics["domains"]["target"]["test"].keys()
    assert isinstance(load_model(tmp_path / "run").predict(["Guten Tag."])[0]["translation"], str)


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if not name.startswith("translation/")])
def test_shipped_recipe_leaves_a_complete_run_folder(name, encoder, tmp_path):
    run = tmp_path / "run"
    overrides = [f"model.name={encoder}", "model.max_length=64", f"output_dir={run}"]
    overrides += ["training.max_steps=2", "shift.permutations=9", "shift.max_samples=40"]
    if name == "sentiment/partial":
        overrides.append("strategy.freeze_layers=1")  # the tiny encoder has two
    recipe = Recipe.load(name, overrides)
    result = train(recipe)
    assert Recipe.load(run / "recipe.yaml").model_dump() == recipe.model_dump()
    metrics = json.loads((run / "metrics.json").read_text("utf-8"))
    assert metrics == result.metrics
    assert metrics["schema_version"] == 1
    assert metrics["strategy"] == recipe.strategy.kind
    assert "test" in metrics["domains"]["target"]
    figures = list(interval_figures(metrics["domains"]))
    assert figures
    for figure in figures:
        if figure["value"] is not None:
            assert math.isfinite(figure["value"])
            assert figure["low"] <= figure["value"] <= figure["high"]
    cost = metrics["cost"]
    assert 0 < cost["training_seconds"] <= cost["seconds"]
    assert 0 < cost["trainable_parameters"] <= cost["total_parameters"]
    assert cost["peak_memory_mib"] > 100
    assert (metrics["shift"] is not None) == (recipe.source is not None)
    check_environment(json.loads((run / "environment.json").read_text("utf-8")), recipe)
    check_card((run / "README.md").read_text("utf-8"), metrics)
    assert (run / "checkpoints").is_dir() == (recipe.strategy.kind != "frozen")
    assert not list(run.glob(".*"))
    prediction = load_model(run).predict(["a fine day"])[0]
    assert ("rating" in prediction) == (recipe.task.loss == "mse")


def check_environment(environment, recipe):
    assert all(environment["packages"][name] for name in ("torch", "transformers", "peft", "nlp-transfer"))
    assert environment["seed"] == 42
    assert environment["processes"] == 1
    assert environment["model"]["name"] == recipe.model.name
    roles = {"target", "source"} if recipe.source else {"target"}
    assert environment["data_fingerprints"].keys() == roles
    assert all(
        len(value) == 64 for splits in environment["data_fingerprints"].values() for value in splits.values()
    )
    assert environment["processor"]
    assert environment["python"]


def check_card(text, metrics):
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-classification"
    for splits in metrics["domains"].values():
        for split in ("validation", "test"):
            figures = {key: value for key, value in splits.get(split, {}).items() if key in METRIC_NAMES}
            assert bool(figures) == (split in splits)
            for key, figure in figures.items():
                if figure["value"] is not None:
                    found = f"{figure['value']:.4f} [{figure['low']:.3f}, {figure['high']:.3f}]"
                    assert found.replace("-", "\u2212") in body, key
