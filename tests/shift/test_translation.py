"""The report on parallel text: against plain transformers and sacrebleu; planted targets, files, pages."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import torch
from datasets import Dataset

from nlp_transfer.cli import app, run_command
from nlp_transfer.data.domains import DomainOptions, load_domain
from nlp_transfer.errors import DataError, ModelError
from nlp_transfer.models.load import ModelOptions
from nlp_transfer.reporting.html import shift_page
from nlp_transfer.reporting.summary import print_shift_reports
from nlp_transfer.shift.ranking import rank_targets
from nlp_transfer.shift.report import shift_report
from nlp_transfer.shift.rows import load_pairs
from nlp_transfer.shift.translation import (
    Translator,
    ZeroShot,
    draw_pairs,
    judge,
    own_text_loss,
)
from nlp_transfer.tasks.translation import TranslationOptions, TranslationTask
from tests.tiny import tiny_config, tiny_model, tiny_tokenizer

TASK = TranslationTask(TranslationOptions(source_lang="de", target_lang="en"))
FEW = {"max_samples": 30, "permutations": 19, "seed": 1}
NASTY = "</script><script>window.hacked = 1</script><b>bold</b>"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with random weights that writes words."""
    from transformers import T5ForConditionalGeneration

    path = tmp_path_factory.mktemp("t5")
    tokenizer = tiny_tokenizer("t5")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = tiny_config("t5", len(tokenizer), initializer_factor=3.0, tie_word_embeddings=False)
        model = T5ForConditionalGeneration(config)
        words = torch.tensor([tokenizer.decode([token]).strip().isascii() for token in range(len(tokenizer))])
        model.lm_head.weight.data *= words[:, None]
        model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def translator(folder: Path) -> Translator:
    return Translator(TASK, ModelOptions(name=str(folder)))


def write(path: Path, pairs: list[tuple[str, str]]) -> str:
    rows = [{"translation": {"de": de, "en": en}} for de, en in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def sentences(words: str, count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [f"{' '.join(rng.choice(words.split(), 6))} {number}" for number in range(count)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, translator: Translator) -> dict[str, str]:
    """Two targets: one whose references are what the model writes anyway, and one of other words."""
    from nlp_transfer.models.seq2seq import translate

    path = tmp_path_factory.mktemp("pairs")
    german = sentences("das ein haus baum weg film buch ist war gut", 40, 0)
    written = translate(
        translator.model, translator.tokenizer, german, prefix=translator.task.prefix, num_beams=1
    )
    written = [text or "nothing" for text in written]
    other = sentences("zephyr quartz voiced glyph jackdaw", 40, 1)
    return {
        "source": write(path / "source.jsonl", list(zip(german, other, strict=True))),
        "near": write(path / "near.jsonl", [(f"{de} a", en) for de, en in zip(german, written, strict=True)]),
        "known": write(path / "known.jsonl", list(zip(german, written, strict=True))),
        "nasty": write(path / "nasty.jsonl", [(NASTY, "fine"), *zip(other, german, strict=True)]),
    }


def pairs_of(files: dict[str, str], name: str, role: Any) -> Any:
    return load_pairs(files[name], role, ("de", "en"), seed=1)


def test_zero_shot_figures_are_those_of_plain_transformers(translator: Translator) -> None:
    german = ["the film was a delight", "a dull book", "great sound , solid build , fair price", "why"]
    english = ["a fair price", "the seats were small", "we cook it every week", "the end"]
    found = translator.zero_shot(Dataset.from_dict({"text": german, "translation": english}), "test", seed=0)
    texts, nats, tokens = [], 0.0, 0
    for one, two in zip(german, english, strict=True):
        inputs = translator.tokenizer(f"translate German to English: {one}", return_tensors="pt")
        with torch.inference_mode():
            written = translator.model.generate(
                **inputs, num_beams=1, do_sample=False, max_new_tokens=16 + 2 * 64
            )
            labels = translator.tokenizer(text_target=two, return_tensors="pt")["input_ids"]
            loss = translator.model(**inputs, labels=labels).loss
        texts.append(translator.tokenizer.decode(written[0], skip_special_tokens=True))
        nats, tokens = nats + float(loss) * labels.shape[1], tokens + labels.shape[1]
    assert found.loss["value"] == pytest.approx(nats / tokens, rel=1e-5)
    if all(len(translator.tokenizer(text)["input_ids"]) < 40 for text in texts):
        assert found.chrf["value"] == pytest.approx(sacrebleu.corpus_chrf(texts, [english]).score, abs=1e-6)
    assert (found.rows, found.split) == (4, "test")
    assert found.loss["low"] <= found.loss["value"] <= found.loss["high"]  # type: ignore[operator]


def test_embeddings_are_mean_encoder_states(translator: Translator) -> None:
    text = "a wonderful recipe"
    found = translator.embedder().embed([text, "the flight was late and the seats were small"]).features[0]
    inputs = translator.tokenizer(text, return_tensors="pt")
    with torch.inference_mode():
        states = translator.model.get_encoder()(**inputs).last_hidden_state[0].mean(0).numpy()
    assert found == pytest.approx(states / np.linalg.norm(states), abs=1e-5)


def test_where_pairs_are_drawn_from(files: dict[str, str]) -> None:
    options = DomainOptions(train=files["known"], validation=files["near"], test=files["nasty"])
    for role, first in (("source", "validation"), ("target", "train")):
        data = load_domain(
            options,
            role=role,
            objective="translation",
            seed=0,
            languages=("de", "en"),
            need=(),  # type: ignore[arg-type]
        )
        drawn, split = draw_pairs(data, 10, seed=3)
        assert (split, len(drawn)) == (first, 10)
        whole = data.splits[split]
        known = set(zip(whole["text"][:], whole["translation"][:], strict=True))
        assert set(zip(drawn["text"][:], drawn["translation"][:], strict=True)) < known
        assert drawn["text"][:] == draw_pairs(data, 10, seed=3)[0]["text"][:]
        assert drawn["text"][:] != whole["text"][:10]
        assert draw_pairs(data, 10, seed=3, training=True)[1] == "train"
    alone = load_domain(
        DomainOptions(unlabeled=files["known"]),
        role="target",
        objective="translation",
        seed=0,
        languages=("de", "en"),
    )
    with pytest.raises(DataError, match="has no pairs to translate"):
        draw_pairs(alone, 10, seed=0)


def test_own_text_loss_is_low_where_texts_repeat_themselves(translator: Translator) -> None:
    phrase, fitted = own_text_loss(translator, ["the film was a delight"] * 60, seed=0)
    words, _ = own_text_loss(translator, sentences("zephyr quartz voiced glyph jackdaw", 60, 0), seed=0)
    letters, _ = own_text_loss(
        translator, sentences("a b c d e f g h i j k l m n o p q r s t", 60, 0), seed=0
    )
    assert fitted == 30
    assert phrase < 0.2 < words < letters < math.log(len(translator.tokenizer))


def test_the_report_of_pairs(files: dict[str, str], translator: Translator) -> None:
    report = shift_report(
        pairs_of(files, "source", "source"), pairs_of(files, "known", "target"), translator=translator, **FEW
    )
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values["risk"] is None
    verdict = values["translation"]
    assert verdict["experimental"] is True
    assert verdict["target"]["chrf"]["value"] == pytest.approx(100, abs=1e-6)
    assert verdict["source"]["chrf"]["value"] < 30
    assert verdict["chrf_gap"] < 0
    assert verdict["target"]["loss"]["value"] < verdict["source"]["loss"]["value"]
    assert "translates known well already" in verdict["headline"]
    assert "above that on source" in verdict["reasons"][0]
    names = [item["name"] for item in values["statistics"]]
    assert len(names) == len(set(names))
    expected = "mmd2 zero_shot_chrf zero_shot_loss tokens_per_word reference_tokens_per_word"
    expected += " unknown_token_rate reference_unknown_token_rate reference_unseen_word_rate"
    assert set(expected.split()) <= set(names)
    page = (Path(__file__).parents[2] / "docs" / "shift-report.md").read_text(encoding="utf-8")
    assert not [name for name in names if f"`{name}`" not in page]
    assert any("experimental" in caveat for caveat in report.caveats)
    assert not any("labels" in caveat for caveat in report.caveats)
    assert values["encoder"]["pooling"] == "mean"


def test_unknown_tokens_are_counted(files: dict[str, str], translator: Translator, tmp_path: Path) -> None:
    from nlp_transfer.shift.translation import _unknown
    from nlp_transfer.shift.vocabulary import count

    counts = count(
        [["a b", "c"], ["a", "b c d"]],
        lambda texts: [[1 if w == "a" else 7 for w in t.split()] for t in texts],
    )
    found = _unknown("unknown_token_rate", "the texts", counts, 7, "vocabulary", 0)
    assert found.value == pytest.approx(3 / 4)
    assert found.detail["source"] == pytest.approx(2 / 3)
    assert _unknown("x", "the texts", counts, 99, "vocabulary", 0).value == 0


def test_targets_are_ranked_by_what_the_model_writes(
    files: dict[str, str], folder: Path, capsys: Any
) -> None:
    targets = [pairs_of(files, name, "target") for name in ("nasty", "known")]
    model = ModelOptions(name=str(folder))
    reports = rank_targets(pairs_of(files, "source", "source"), targets, task=TASK, model=model, **FEW)
    assert [report.target.name for report in reports] == ["known", "nasty"]
    page = shift_page(reports)
    assert "Which target is nearest to" in page
    assert "chrF before training" in page
    assert NASTY not in page
    assert "<script>window.hacked" not in page
    single = shift_page(reports[:1])
    assert "chrF on known, before training" in single
    assert "Experimental: this model translates known well already" in single
    assert "chrF on known" in reports[0]._repr_html_()
    print_shift_reports(reports, None)
    print_shift_reports(reports[:1], None)
    out = capsys.readouterr().out
    assert "known" in out
    assert "experimental" in out


def score(value: float, loss: float, split: str = "test", rows: int = 200) -> ZeroShot:
    def figure(number: float) -> Any:
        return {"value": number, "low": number, "high": number}

    return ZeroShot(rows, split, figure(value), figure(value / 2), figure(loss))


@pytest.mark.parametrize(
    ("target", "own", "words"),
    [
        (score(58, 2), 4, ["b well already", "as it is before you train", "less than the 4.00"]),
        (score(40, 2), 4, ["b in part", "mix some of a in", "20.0 points below"]),
        (score(30, 5), 4, ["b hardly at all", "mix some of a in", "more than the 4.00", "collect more"]),
    ],
)
def test_verdicts(target: ZeroShot, own: float, words: list[str]) -> None:
    found = judge(score(60, 1.5), target, own, 900, "a", "b")
    text = " ".join([found.headline, found.sentence, found.advice, *found.reasons])
    assert not [word for word in words if word not in text]
    assert text.startswith("Experimental")
    held_out = found.caveats("a", "b")
    seen = judge(score(60, 1.5, "train"), target, own, 900, "a", "b").caveats("a", "b")
    rough = judge(score(60, 1.5, rows=20), target, own, 900, "a", "b").caveats("a", "b")
    assert len(held_out) == 1
    assert any("held-out" in text for text in seen)
    assert any("a has few pairs" in text for text in rough)


def test_a_source_that_is_translated_no_better_is_training_text() -> None:
    """Being as good as on a source that is poor too is nothing to be content with."""
    found = judge(score(23, 4.5), score(30, 3), 6, 90, "a", "b")
    assert "hardly at all" in found.headline
    assert "source.select" in found.advice
    assert "7.0 points above" in found.reasons[0]


COMMAND = "shift --task translation --source-lang de --target-lang en --max-samples 20 --permutations 9"


def run(command: str) -> int:
    return run_command(lambda: app(command.split(), standalone_mode=False))


def test_command_line(files: dict[str, str], folder: Path, tmp_path: Path) -> None:
    places = f"--source {files['source']} --target {files['near']} --target {files['known']}"
    line = f"{COMMAND} --model {folder} {places}"
    assert run(f"{line} --output {tmp_path / 'out'}") == 0
    found = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert found["target"] is None
    assert found["ranking"][0]["target"] == "known"
    assert found["ranking"][0]["zero_shot_chrf"]["value"] > found["ranking"][1]["zero_shot_chrf"]["value"]
    assert "Which target" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_a_recipe(files: dict[str, str], folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "task: {kind: translation, source_lang: de, target_lang: en}\n"
        f"model: {{name: {folder}, max_length: 32}}\n"
        f"source: {{train: {files['source']}, validation: {files['nasty']}}}\n"
        f"target: {{train: {files['known']}}}\n"
        "shift: {max_samples: 20, permutations: 9}\n",
        encoding="utf-8",
    )
    assert run(f"shift {recipe} --output {tmp_path / 'out'}") == 0
    found = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert found["translation"]["source"]["split"] == "validation"
    assert found["encoder"]["max_length"] == 32


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("shift --task translation --model {t5} --source {source} --target {known}", "--source-lang"),
        ("shift --source-lang de --target-lang en --source {source} --target {known}", "--task translation"),
        (COMMAND + " --source {source} --target {known}", "Helsinki-NLP/opus-mt-de-en"),
        (
            COMMAND + " --model {t5} --source {source} --target {known} --fail-on high",
            "no calibrated forecast",
        ),
        (COMMAND + " --model {bert} --source {source} --target {known}", "not a model that translates"),
        (
            COMMAND.replace("-lang en", "-lang fr") + " --model {t5} --source {source} --target {known}",
            "'fr'",
        ),
        (
            COMMAND + " --model {t5} --source {source} --source {near} --target {known} --target {near}",
            "one source",
        ),
        ("shift --model {bert} --source {source} --target {known} --target {near}", "2 targets"),
    ],
)
def test_bad_commands(
    command: str, says: str, files: dict[str, str], folder: Path, tmp_path: Path, capsys: Any
) -> None:
    bert = tiny_model(tmp_path / "bert") if "{bert}" in command else ""
    code = run(command.format(t5=folder, bert=bert, **files))
    said = capsys.readouterr()
    assert code == 2
    assert says in re.sub(r"\s+", " ", said.err + said.out)


def test_a_model_that_does_not_translate(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a model that translates"):
        Translator(TASK, ModelOptions(name=str(tiny_model(tmp_path / "bert"))))
