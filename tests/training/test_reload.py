"""What a run saves loads elsewhere, with the logits it had here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nlp_transfer import load_model, train
from nlp_transfer.models.inference import predict_logits
from nlp_transfer.predict import TextModel, evaluate_file
from tests.training.conftest import Record, planted_rows

TEXTS = [row["text"] for row in planted_rows(6, 77)]

ELSEWHERE = """
import json, sys, torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
texts, stock, adapter = json.load(sys.stdin), sys.argv[1], sys.argv[2]
rows = pipeline("text-classification", model=stock, top_k=None, function_to_apply="none")(texts)
by_pipeline = [[item["score"] for item in sorted(row, key=lambda item: item["label"])] for row in rows]
name = PeftConfig.from_pretrained(adapter).base_model_name_or_path
base = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
model = PeftModel.from_pretrained(base, adapter).eval()
batch = AutoTokenizer.from_pretrained(adapter)(texts, padding=True, return_tensors="pt")
with torch.inference_mode():
    by_peft = model(**batch).logits.tolist()
assert not any(name.startswith("nlp_transfer") for name in sys.modules)
print(json.dumps([by_pipeline, by_peft]))
"""


def here(run):
    from datasets import Dataset

    loaded = load_model(run)
    rows = loaded.task.encode(Dataset.from_dict({"text": TEXTS}), loaded.tokenizer, 64)
    return predict_logits(loaded.model, rows, loaded.task.collator(loaded.tokenizer), bf16=False)


def test_stock_heads_load_in_plain_transformers_and_peft(make_recipe, bert, tmp_path):
    """One process that does not know nlp_transfer reads a full run and an adapter run on a stock head."""
    stock = make_recipe(f"model.name={bert}", name="stock")
    adapter = make_recipe(f"model.name={bert}", name="adapter", strategy={"kind": "lora", "r": 4})
    folders = []
    for recipe in (stock, adapter):
        train(recipe)
        folders.append(str(Path(recipe.output_dir) / "model"))
    outcome = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *folders],
        input=json.dumps(TEXTS),
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert outcome.returncode == 0, outcome.stderr
    by_pipeline, by_peft = json.loads(outcome.stdout.splitlines()[-1])
    np.testing.assert_allclose(by_pipeline, here(stock.output_dir), atol=1e-5)
    np.testing.assert_allclose(by_peft, here(adapter.output_dir), atol=1e-5)
    config = json.loads((Path(folders[0]) / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "negative", "1": "positive"}


@pytest.mark.parametrize(
    "strategy",
    [{"kind": "full"}, {"kind": "lora", "r": 4}, {"kind": "lora", "r": 4, "dora": True}, {"kind": "frozen"}],
    ids=lambda strategy: "dora" if strategy.get("dora") else strategy["kind"],
)
def test_reloaded_model_scores_as_the_run_did(strategy, make_recipe, data):
    recipe = make_recipe(strategy=strategy, source=True)
    result = train(recipe)
    loaded = load_model(recipe.output_dir)
    rows = [json.loads(line) for line in Path(data["target.test"]).read_text().splitlines()]
    labels = [row["label"] for row in rows]
    found = loaded.predict([row["text"] for row in rows])
    loss = -np.mean([np.log(item["probabilities"][label]) for item, label in zip(found, labels, strict=True)])
    assert loss == pytest.approx(result.score(metric="loss"), abs=1e-5)
    accuracy = np.mean([item["label"] == label for item, label in zip(found, labels, strict=True)])
    assert accuracy == pytest.approx(result.score())


def test_the_head_survives_the_adapter(make_recipe):
    from peft import PeftModel

    from nlp_transfer.models.classifier import load_classifier

    recipe = make_recipe(strategy={"kind": "lora", "r": 2}, name="lora")
    seen = {}

    def keep(model=None, **_):
        seen.update({n: p.detach().clone() for n, p in model.named_parameters() if "modules_to_save" in n})

    train(recipe, callbacks=[Record(on_train_end=keep)])
    again = load_classifier(Path(recipe.output_dir) / "model", merge=False)
    assert isinstance(again, PeftModel)
    reloaded = dict(again.named_parameters())
    assert len(seen) == 2
    assert all(torch.equal(reloaded[name], value) for name, value in seen.items())


def test_a_run_is_a_start_for_another_run(make_recipe):
    first = make_recipe(strategy={"kind": "lora", "r": 2}, name="first")
    train(first)
    second = make_recipe(f"model.name={first.output_dir}", name="second", strategy={"kind": "frozen"})
    assert 0 <= train(second).score() <= 1


@pytest.mark.parametrize("length", [6, 40])
def test_texts_are_cut_where_they_were_cut_in_training(length, make_recipe):
    """A text and its beginning are the same text to the model, and what lies behind does not count."""
    recipe = make_recipe(f"model.max_length={length}", "training.max_steps=2")
    train(recipe)
    loaded = load_model(recipe.output_dir)
    assert loaded.max_length == length
    words = ["film", "story"] * 60
    text, other = " ".join(words), " ".join([*words[:length], *["cook"] * 60])
    near = " ".join(["cook"] * 60)
    first, second, third = (row["score"] for row in loaded.predict([text, other, near]))
    assert first == pytest.approx(second, abs=1e-6)  # the place in a batch moves the last digits
    assert abs(first - third) > 1e-4


@pytest.mark.parametrize("strategy", [{"kind": "full"}, {"kind": "frozen"}])
def test_evaluate_repeats_the_figures_of_the_training(strategy, make_recipe, data):
    """It reads as many tokens as the training did; the model against itself differs by nothing."""
    recipe = make_recipe("model.max_length=6", strategy=strategy)
    result = train(recipe)
    path = Path(data["target.test"])
    report = evaluate_file(Path(recipe.output_dir), path, baseline=Path(recipe.output_dir))
    trained = result.metrics["domains"]["target"]["test"]
    assert report["loss"]["value"] == pytest.approx(trained["loss"]["value"], abs=1e-5)
    assert report["confusion_matrix"] == trained["confusion_matrix"]
    for difference in report["against_baseline"].values():
        assert difference["value"] == pytest.approx(0, abs=1e-6)
    loaded = load_model(recipe.output_dir)
    other = evaluate_file(TextModel(loaded.model, loaded.tokenizer, loaded.task), path)
    assert abs(other["loss"]["value"] - trained["loss"]["value"]) > 1e-4
