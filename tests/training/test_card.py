"""The model card and the files beside it."""

import json
import re
from dataclasses import replace

import yaml

from nlp_transfer import train
from nlp_transfer.training import run
from tests.training.conftest import Record
from tests.training.test_shipped_recipes import check_card


def front_matter(run):
    return yaml.safe_load((run / "README.md").read_text("utf-8").split("---\n")[1])


def test_names_are_escaped(make_recipe, data, encoder, tmp_path):
    name = "a | b <script>alert(1)</script> [x](y) `c` *d*\nnew --- line"
    target = {"name": name, "train": data["target.train"], "test": data["target.test"]}
    result = train(make_recipe(target=target, strategy={"kind": "frozen"}))
    text = (tmp_path / "run" / "README.md").read_text("utf-8")
    check_card(text, result.metrics)
    body = text.split("---\n", 2)[2]
    assert "<script>" not in body.replace("\\<", "")
    assert "[x](y)" not in body
    rows = [line for line in body.splitlines() if line.startswith("| target:")]
    assert len(rows) == 2
    assert all(line.replace("\\|", "").count("|") == 5 for line in rows)


def test_base_model_is_named_only_where_the_hub_knows_it(make_recipe, tmp_path):
    train(make_recipe(strategy={"kind": "frozen"}))
    metadata = front_matter(tmp_path / "run")
    assert "base_model" not in metadata
    assert metadata["tags"] == ["nlp-transfer", "sentiment", "frozen"]
    assert metadata["library_name"] == "transformers"


def test_overwrite_replaces_a_run_and_nothing_else(make_recipe, tmp_path):
    recipe = make_recipe()
    train(recipe)
    notes = tmp_path / "run" / "notes.txt"
    notes.write_text("mine")
    stale = tmp_path / "run" / ".model-abc"
    stale.mkdir()
    train(make_recipe(strategy={"kind": "frozen"}), overwrite=True)
    assert notes.read_text() == "mine"
    assert not stale.exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_shift_is_told_before_the_training(make_recipe, monkeypatch, capsys):
    """Its report goes to the caller; a high risk is a warning of the run all the same."""
    told, summary = [], run.shift_summary

    def high(*args):
        report = summary(*args)
        return replace(report, risk=replace(report.risk, level="high"))

    monkeypatch.setattr(run, "shift_summary", high)
    watch = Record(on_train_begin=lambda **_: told.append("training"))
    result = train(
        make_recipe(source=True, shift={"permutations": 20}), callbacks=[watch], on_shift=told.append
    )
    assert told == [result.shift, "training", "training"]
    assert "this one mixes both" not in capsys.readouterr().err
    assert any(text.startswith("before training: high risk") for text in result.metrics["warnings"])
    train(make_recipe("source.mode=joint", source=True, shift={"permutations": 20}, name="joint"))
    assert "this one mixes both" in capsys.readouterr().err


def test_the_card_tells_data_strategy_forecast_verdict_cost_and_how_to_load(make_recipe, tmp_path):
    recipe = make_recipe(
        source=True,
        strategy={"kind": "frozen", "C": 0.1},
        adaptation=[{"kind": "density_ratio"}],
        shift={"permutations": 20},
    )
    result = train(recipe)
    text = (tmp_path / "run" / "README.md").read_text("utf-8")
    assert "(`C: 0.1`" in text
    assert "adaptation `density\\_ratio`" in text or "adaptation `density_ratio`" in text
    for data in json.loads((tmp_path / "run" / "environment.json").read_text())["data_fingerprints"].values():
        assert all(fingerprint[:16] in text for fingerprint in data.values())
    risk = result.shift.risk
    assert f"Forecast: {risk.level} risk" in text
    assert f"**{result.metrics['guard']['verdict'].capitalize()}.**" in text
    assert "MiB peak memory" in text
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:  # what it says to do works
        exec(block, {})
