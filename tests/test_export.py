"""Export: what is written gives the logits of the run, in plain transformers and in onnxruntime."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from nlp_transfer import Recipe, load_model, train
from nlp_transfer.errors import ModelError, OutputError
from nlp_transfer.export import ONNX_FILE, export_model
from nlp_transfer.export_checks import TOLERANCE
from tests.tiny import TEXTS, tiny_model, tiny_sentence_encoder

KINDS = ("lora", "full", "frozen")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One run of each strategy: an adapter on a stock head, a stock head, a pooled frozen encoder."""
    folder = tmp_path_factory.mktemp("runs")
    bert, encoder = tiny_model(folder / "bert"), tiny_sentence_encoder(folder / "encoder")
    made = {}
    for kind in KINDS:
        recipe = {
            "model": {"name": str(encoder if kind == "frozen" else bert), "max_length": 32},
            "target": {"dataset": "sample:laptops", "max_samples": 60},
            "strategy": {"kind": kind},
            "training": {} if kind == "frozen" else {"max_steps": 2, "learning_rate": 0.01},
            "output_dir": str(folder / kind),
        }
        made[kind] = train(Recipe.from_dict(recipe)).output_dir
    return made


def logits_of(run, texts):
    loaded = load_model(run)
    batch = loaded.tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        return inputs, loaded.model(**inputs).logits.numpy()


def test_a_merged_adapter_loads_in_plain_transformers(runs, tmp_path):
    from transformers import AutoModelForSequenceClassification

    found = export_model(runs["lora"], tmp_path / "merged")
    inputs, expected = logits_of(runs["lora"], TEXTS)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    with torch.inference_mode():
        assert np.allclose(plain(**inputs).logits.numpy(), expected, atol=1e-5)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    assert found.difference < 1e-5
    assert found.agreement == 1.0
    assert load_model(tmp_path / "merged").predict(TEXTS[:1]) == load_model(runs["lora"]).predict(TEXTS[:1])


def test_a_merged_pooled_model_says_what_it_needs(runs, tmp_path, capsys):
    """And loads in transformers, elsewhere, after the import that it names."""
    found = export_model(runs["frozen"], tmp_path / "merged")
    module = json.loads((tmp_path / "merged" / "export.json").read_text("utf-8"))["calling"]["import"]
    assert module in capsys.readouterr().err
    program = f"""
import {module}, json, sys
from transformers import pipeline
print(json.dumps(pipeline("text-classification", model=sys.argv[1])(json.load(sys.stdin))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "merged")],
        input=json.dumps(TEXTS[:2]),
        capture_output=True,
        text=True,
        check=True,
    )
    ours = load_model(runs["frozen"]).predict(TEXTS[:2])
    theirs = json.loads(done.stdout.splitlines()[-1])
    assert [one["label"] for one in theirs] == [one["label"] for one in ours]
    assert [one["score"] for one in theirs] == pytest.approx([one["score"] for one in ours], abs=1e-4)
    assert found.calling == {"import": module}


@pytest.mark.parametrize("kind", ["lora", "frozen"])
def test_onnx_gives_the_logits_of_torch_for_any_shape(kind, runs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    found = export_model(runs[kind], tmp_path / "onnx", format="onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / ONNX_FILE))
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:5]):
        inputs, expected = logits_of(runs[kind], texts)
        given = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
        assert np.allclose(given, expected, atol=1e-4)
    assert found.difference <= TOLERANCE
    assert found.rows > 4  # the run's own validation rows
    record = json.loads((tmp_path / "onnx" / "export.json").read_text())
    assert record["speedup"] == found.speedup
    calling = record["calling"]  # enough to call it by
    assert list(calling["inputs"]) == [item.name for item in session.get_inputs()]
    assert (calling["max_length"], calling["labels"]) == (32, list(load_model(runs[kind]).task.names))


def test_the_map_of_an_adapted_frozen_model_is_inside_the_graph(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    recipe = {
        "model": {"name": str(tiny_sentence_encoder(tmp_path / "encoder")), "max_length": 32},
        "source": {"dataset": "sample:cafes", "max_samples": 60, "mode": "joint"},
        "target": {"dataset": "sample:laptops", "max_samples": 60},
        "strategy": {"kind": "frozen", "C": 0.1},
        "adaptation": [{"kind": "tca"}],
        "shift": {"enabled": False},
        "guard": {"baseline": "none"},
        "output_dir": str(tmp_path / "run"),
    }
    run = train(Recipe.from_dict(recipe)).output_dir
    export_model(run, tmp_path / "onnx", format="onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / ONNX_FILE))
    for texts in (TEXTS, TEXTS[:1]):
        inputs, expected = logits_of(run, texts)
        given = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
        assert np.allclose(given, expected, atol=1e-4)


def test_int8_is_smaller_and_keeps_most_predictions(runs, tmp_path):
    pytest.importorskip("onnxruntime")
    found = export_model(runs["full"], tmp_path / "int8", format="onnx", quantization="int8")
    assert found.quantization == "int8"
    assert found.difference > 0
    assert found.agreement > 0.5


def test_a_model_that_gives_other_logits_is_not_written(runs, tmp_path, monkeypatch):
    from nlp_transfer import export, export_checks

    models: list = []

    def other(loaded, row):
        models.extend([loaded] * (loaded not in models))
        return np.full((1, 2), 5.0 * models.index(loaded))

    for module in (export, export_checks):
        monkeypatch.setattr(module, "torch_logits", other)
    with pytest.raises(ModelError, match="other logits"):
        export_model(runs["full"], tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_only_when_asked(runs, tmp_path):
    export_model(runs["full"], tmp_path / "merged")
    with pytest.raises(OutputError, match="--overwrite"):
        export_model(runs["full"], tmp_path / "merged")
    folder, record = tmp_path / "merged", tmp_path / "merged" / "export.json"
    (folder / "notes.txt").write_text("mine")
    (folder / "stale.bin").write_text("of the earlier export")
    values = json.loads(record.read_text())
    assert {*values["files"], "notes.txt", "stale.bin", "export.json"} == {p.name for p in folder.iterdir()}
    record.write_text(json.dumps(values | {"files": [*values["files"], "stale.bin"]}))
    export_model(runs["lora"], folder, overwrite=True)
    assert (folder / "notes.txt").read_text() == "mine"
    assert not (folder / "stale.bin").exists()
    assert load_model(folder).predict(TEXTS[:1]) == load_model(runs["lora"]).predict(TEXTS[:1])
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    for wrong in ({}, {"files": ["../outside.txt"]}, {"files": 3}):
        record.write_text(json.dumps(wrong))
        with pytest.raises(OutputError, match="does not say which"):
            export_model(runs["lora"], folder, overwrite=True)
    assert outside.exists()
    assert (folder / "notes.txt").exists()
