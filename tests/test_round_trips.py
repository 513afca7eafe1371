"""Saved, loaded, merged, exported: the same translations of 100 sentences."""

import json
from pathlib import Path

import pytest
import torch

from nlp_transfer import Recipe, load_model, train
from nlp_transfer.export import export_model
from tests.models.test_ct2 import plain_ctranslate2
from tests.translators import sample_pairs, tiny_translator

BEAMS = 4


def adapter_run(model, target, folder):
    """A few steps of LoRA, at a rate that changes what is written."""
    recipe = {
        "task": {"kind": "translation", "source_lang": "de", "target_lang": "en", "batch_tokens": 512},
        "model": {"name": str(model), "max_length": 64},
        "target": target,
        "strategy": {"kind": "lora", "r": 4},
        "training": {"max_steps": 4, "learning_rate": 0.01, "eval_strategy": "no"},
        "output_dir": str(folder),
    }
    return train(Recipe.from_dict(recipe)).output_dir


def plain_transformers(model, tokenizer, texts):
    """What ``generate`` writes, in plain batches, with a limit that a batch's longest text sets here."""
    found = []
    for text in texts:
        batch = tokenizer(text, return_tensors="pt")
        limit = min(2 * batch["input_ids"].shape[1] + 16, model.config.max_position_embeddings - 2)
        with torch.inference_mode():
            output = model.eval().generate(
                **batch, num_beams=BEAMS, early_stopping=True, max_new_tokens=limit, max_length=None
            )
        found.append(tokenizer.decode(output[0], skip_special_tokens=True).strip())
    return found


def all_ways(run, base, texts, folder):
    """Translations by every way that a trained adapter can be used."""
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    adapted = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), run / "model")
    adapted.generation_config = adapted.get_base_model().generation_config
    export_model(run, folder / "merged")
    export_model(folder / "merged", folder / "again")
    export_model(folder / "merged", folder / "ct2", format="ctranslate2")
    merged = AutoModelForSeq2SeqLM.from_pretrained(folder / "again")
    return {
        "loaded": [row["translation"] for row in load_model(run).predict(texts)],
        "plain peft": plain_transformers(adapted, tokenizer, texts),
        "merged": [row["translation"] for row in load_model(folder / "merged").predict(texts)],
        "merged twice, plain transformers": plain_transformers(merged, tokenizer, texts),
        "ctranslate2": plain_ctranslate2(folder / "ct2", texts, 126),
    }


@pytest.mark.real_data
def test_a_real_adapter_translates_the_same_everywhere(real_data, tmp_path):
    base = real_data.parent / "models" / "marian-captions-de-en"
    if not base.is_dir():
        pytest.skip("no models/marian-captions-de-en beside the study data")
    data = real_data / "translation"
    target = {"train": str(data / "ted" / "ted.train.jsonl"), "max_samples": 200}
    run = adapter_run(base, target, tmp_path / "run")
    # with early stopping both engines end a search by one rule; without it CTranslate2 has no such rule
    settings = run / "model" / "generation_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"early_stopping": True}))
    lines = (data / "captions" / "captions.test_2016_flickr.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["translation"]["de"] for line in lines[:100]]
    found = all_ways(run, base, texts, tmp_path)
    untrained = plain_of(base, texts[:10])
    assert found["loaded"][:10] != untrained, "the adapter should change something"
    for way, translations in found.items():
        assert translations == found["loaded"], way


def plain_of(base: Path, texts):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    return plain_transformers(
        AutoModelForSeq2SeqLM.from_pretrained(base), AutoTokenizer.from_pretrained(base), texts
    )


def test_a_tiny_adapter_translates_the_same_after_every_step(tmp_path):
    base = tiny_translator(tmp_path / "base")
    run = adapter_run(base, {"dataset": "sample:travel", "max_samples": 20}, tmp_path / "run")
    texts = [german for german, _ in sample_pairs()[:100]]
    loaded = [row["translation"] for row in load_model(run).predict(texts)]
    export_model(run, tmp_path / "merged")
    export_model(tmp_path / "merged", tmp_path / "again")
    for folder in ("merged", "again"):
        assert [row["translation"] for row in load_model(tmp_path / folder).predict(texts)] == loaded
