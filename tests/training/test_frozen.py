"""Feature extraction: every text goes through the encoder once, ever."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer import load_model, train
from nlp_transfer.models import load
from tests.training.conftest import equal_weights, planted_rows, write_rows


@pytest.fixture
def passes(monkeypatch, tmp_path):
    """The number of rows that went through any encoder, in a list; with an embedding cache of its own."""
    rows = []
    original = load.load_encoder

    def spied(*args, **kwargs):
        model = original(*args, **kwargs)
        model.register_forward_pre_hook(
            lambda _, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
        )
        return model

    monkeypatch.setattr(load, "load_encoder", spied)
    monkeypatch.setenv("NLP_TRANSFER_CACHE", str(tmp_path / "cache"))
    return rows


def distinct(data, roles):
    files = [path for name, path in data.items() if name.split(".")[0] in roles]
    return len({json.loads(line)["text"] for path in files for line in Path(path).read_text().splitlines()})


@pytest.mark.parametrize("strategy", [{}, {"head": "mlp", "hidden": 8}, {"select": 5}, {"layer": "mean"}])
def test_each_text_passes_once_and_a_second_run_needs_none(strategy, make_recipe, data, passes):
    settings = {"source": True, "strategy": {"kind": "frozen", **strategy}}
    first, second = make_recipe(name="first", **settings), make_recipe(name="second", **settings)
    result = train(first)
    assert sum(passes) == distinct(data, ("source", "target"))
    passes.clear()
    again = train(second)
    assert passes == []
    assert equal_weights(first.output_dir, second.output_dir)
    assert again.metrics["domains"] == result.metrics["domains"]
    names = ["joint"] if strategy.get("head") == "mlp" else ["source", "target"]
    assert [phase["phase"] for phase in again.metrics["phases"]] == names
    assert all(phase["embedded"] == 0 for phase in again.metrics["phases"])
    if "select" in strategy:
        assert all(phase["features"] == 5 for phase in again.metrics["phases"])


def test_the_saved_model_is_encoder_and_head(make_recipe, data):
    recipe = make_recipe(strategy={"kind": "frozen"})
    result = train(recipe)
    assert result.trainable_parameters == 2 * 32 + 2
    loaded = load_model(recipe.output_dir)
    rows = [json.loads(line) for line in Path(data["target.test"]).read_text().splitlines()]
    found = loaded.predict([row["text"] for row in rows])
    right = np.mean([item["label"] == row["label"] for item, row in zip(found, rows, strict=True)])
    assert right == pytest.approx(result.score())


def test_ratings(make_recipe, tmp_path):
    rows = [row | {"label": 5.0 if row["label"] == "positive" else 1.0} for row in planted_rows(60, 3)]
    path = write_rows(tmp_path / "ratings.jsonl", rows)
    target = {"train": path, "test": path}
    result = train(make_recipe(target=target, task={"loss": "mse"}, strategy={"kind": "frozen"}))
    mse = result.score(metric="mse")
    assert mse < 4.0, "always saying 3 has a mean squared error of 4"
    predicted = [item["rating"] for item in load_model(result.output_dir).predict([r["text"] for r in rows])]
    assert np.mean((np.array(predicted) - [r["label"] for r in rows]) ** 2) == pytest.approx(mse, rel=1e-4)


def test_two_runs_at_once_share_a_cache(make_recipe, tmp_path):
    recipes = [make_recipe(name=f"run-{number}", strategy={"kind": "frozen"}) for number in (1, 2)]
    code = (
        "import sys, yaml\nfrom nlp_transfer import Recipe, train\n"
        "train(Recipe.from_dict(yaml.safe_load(sys.stdin.read())))"
    )
    environment = os.environ | {"NLP_TRANSFER_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in recipes
    ]
    for process, recipe in zip(started, recipes, strict=True):
        process.stdin.write(recipe.dump())
        process.stdin.close()
    for process in started:
        problems = process.stderr.read()
        assert process.wait() == 0, problems
    assert equal_weights(*(recipe.output_dir for recipe in recipes))


def test_labels_that_an_adaptation_gave_are_counted(make_recipe, tmp_path, capsys):
    """One label a text without one, told and kept beside the figures of a map."""
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": row["text"]} for row in planted_rows(24, 7)])
    recipe = make_recipe(
        source=True,
        target={"unlabeled": texts},
        strategy={"kind": "frozen"},
        adaptation=[{"kind": "coral"}, {"kind": "label_propagation"}],
    )
    (record,) = train(recipe).metrics["phases"]
    mapped, labelled = record["adaptation"]
    assert mapped["method"] == "coral"
    assert labelled["method"] == "label_propagation"
    assert list(labelled["labelled"]) == ["negative", "positive"]
    assert sum(labelled["labelled"].values()) == 24
    assert 0 < labelled["mean_weight"] <= 1
    assert "label_propagation: 24 target texts labelled" in capsys.readouterr().err
