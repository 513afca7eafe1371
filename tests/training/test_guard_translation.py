"""The guard of translation: figures against sacrebleu, planted harm, resumed runs, and the jackknife."""

import numpy as np
import pytest
from sacrebleu.metrics import BLEU as SacreBLEU
from sacrebleu.metrics import CHRF

from nlp_transfer import Recipe, load_model, train
from nlp_transfer.tasks.translation_metrics import TranslationScorer
from tests.training.conftest import Crash, CrashAfter, equal_weights, write_rows
from tests.training.test_guard import verdict
from tests.translators import sample_pairs, tiny_translator

BY_LOSS = {"metric_for_best_model": "loss"}
FAST = {**BY_LOSS, "steps": 24, "learning_rate": 2e-2}


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return tiny_translator(tmp_path_factory.mktemp("translator"))


def pairs(rows):
    return [{"translation": {"de": german, "en": english}} for german, english in rows]


@pytest.fixture
def make(translator, tmp_path):
    """A function to a recipe of a few steps; ``source`` is rows, ``labelled`` whether the target has some."""
    known = sample_pairs()
    files = {
        "train": write_rows(tmp_path / "t.train.jsonl", pairs(known[:24])),
        "validation": write_rows(tmp_path / "t.validation.jsonl", pairs(known[24:54])),
    }

    def build(name, source=known[60:90], *, labelled=True, steps=6, guard=None, **training):
        held = write_rows(tmp_path / "s.validation.jsonl", pairs(known[54:60]))
        rows = write_rows(tmp_path / f"{name}.source.jsonl", pairs(source))
        values = {
            "task": {"kind": "translation", "source_lang": "de", "target_lang": "en", "batch_tokens": 512},
            "model": {"name": str(translator), "max_length": 64},
            "source": {"train": rows, "validation": held},
            "target": {split: path for split, path in files.items() if labelled or split != "train"},
            "training": {"max_steps": steps, "learning_rate": 3e-3, "eval_steps": 3, "save_steps": 3}
            | {"eval_strategy": "steps", "save_strategy": "steps"}
            | training,
            "shift": {"enabled": False},
            "guard": guard or {},
            "output_dir": str(tmp_path / name),
        }
        return Recipe.from_dict(values)

    return build


def greedy_chrf(run):
    """chrF of the saved model's greedy translations of the target's validation rows."""
    model = load_model(run)
    model.task.options.__dict__["num_beams"] = 1
    german, english = zip(*sample_pairs()[24:54], strict=True)
    found = [row["translation"] for row in model.predict(list(german))]
    return CHRF().corpus_score(found, [list(english)]).score


def test_translations_are_compared_with_the_pretrained_model_by_chrf(make, tmp_path):
    found = verdict(train(make("run")))
    assert found["metric"] == "chrf"
    assert found["baseline"] == "zero_shot"
    assert found["rows"] == 30
    assert found["scores"]["transferred"] == pytest.approx(greedy_chrf(tmp_path / "run"), abs=1e-6)
    assert found["gain"]["value"] == pytest.approx(
        found["scores"]["transferred"] - found["scores"]["baseline"]
    )
    assert [look["step"] for look in found["looks"]] == [3, 6]
    assert "chrF" in found["sentence"]


def test_harm_and_help_without_target_labels(make):
    """A source that teaches one wrong word hurts; pairs of the same kind help: nothing else was learned."""
    wrong = [(german, "und " * 6) for german, _ in sample_pairs()[60:90]]
    hurt = train(make("wrong", wrong, labelled=False, guard={"on_negative_transfer": "fallback"}, **FAST))
    found = verdict(hurt)
    assert found["verdict"] == "hurt", found
    assert found["shipped"] == "baseline"
    assert found["looks"] == []
    report = hurt.metrics["domains"]["target"]["validation"]["loss"]["value"]
    assert report == pytest.approx(-found["scores"]["baseline"], abs=1e-4)
    helped = verdict(train(make("right", labelled=False, **FAST)))
    assert helped["verdict"] == "helped", helped
    assert helped["metric"] == "loss"


def test_target_only_is_the_run_without_the_source(make, tmp_path):
    guard = {"baseline": "target_only", "on_negative_transfer": "fallback"}
    recipe = make("both", guard=guard, **BY_LOSS)
    found = verdict(train(recipe))
    alone = recipe.model_copy(update={"source": None, "output_dir": str(tmp_path / "alone")})
    score = train(alone).metrics["domains"]["target"]["validation"]["loss"]["value"]
    assert found["baseline"] == "target_only"
    assert found["scores"]["baseline"] == pytest.approx(-score, abs=1e-5)
    if found["shipped"] == "baseline":
        assert equal_weights(tmp_path / "both", tmp_path / "alone")


def test_resumed_translation_reaches_the_same_verdict(make, tmp_path):
    whole = train(make("whole", **BY_LOSS))
    recipe = make("halves", sample_pairs()[60:90], **BY_LOSS)
    with pytest.raises(Crash):
        train(recipe, callbacks=[CrashAfter(4, phase=2)])
    resumed = train(recipe, resume=True)
    first, second = (
        {k: v for k, v in verdict(r).items() if k not in ("seconds", "sentence")} for r in (whole, resumed)
    )
    assert first == second


@pytest.mark.parametrize("metric", ["chrf", "bleu"])
def test_the_jackknife_against_a_loop(metric):
    rng = np.random.default_rng(0)
    english = [pair[1] for pair in sample_pairs()[:12]]
    texts = [" ".join(word for word in text.split() if rng.random() > 0.3) for text in english]
    score = {"chrf": CHRF(), "bleu": SacreBLEU(force=True)}[metric].corpus_score
    found = TranslationScorer(metrics=(metric,)).jackknife(texts, english, metric)
    whole = score(texts, [english]).score
    without = np.array(
        [score(texts[:i] + texts[i + 1 :], [english[:i] + english[i + 1 :]]).score for i in range(12)]
    )
    assert found.mean() == pytest.approx(whole)
    error = np.sqrt(11 / 12 * ((without - without.mean()) ** 2).sum())
    assert found.std(ddof=1) / np.sqrt(12) == pytest.approx(error)
