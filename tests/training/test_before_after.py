"""The old domain before and after, the model that a run is compared with, and weights of sentence pairs."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sacrebleu
import torch

from nlp_transfer import Recipe, load_model, train
from nlp_transfer.cli import app, run_command
from nlp_transfer.errors import ModelError, RecipeError
from nlp_transfer.plain_json import plain
from nlp_transfer.predict import evaluate_file
from nlp_transfer.reporting.summary import print_run
from nlp_transfer.reporting.words import change
from nlp_transfer.tasks.reports import paired_figures
from tests.training.conftest import Record, planted_rows, write_rows
from tests.translators import sample_pairs, tiny_translator


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A tiny Marian model."""
    return tiny_translator(tmp_path_factory.mktemp("translator") / "marian")


@pytest.fixture(scope="module")
def parallel(tmp_path_factory):
    """Files of sentence pairs: {"old.train": path, ...}."""
    folder, pairs = tmp_path_factory.mktemp("pairs"), sample_pairs()
    parts = {"old.train": pairs[:16], "old.test": pairs[16:26], "new.train": pairs[30:46]}
    parts |= {"new.validation": pairs[46:52], "new.test": pairs[52:64]}
    return {
        name: write_rows(
            folder / f"{name}.jsonl",
            [{"translation": {"de": german, "en": english}} for german, english in rows],
        )
        for name, rows in parts.items()
    }


def recipe_of(translator, parallel, folder, *overrides, **parts):
    """A recipe that moves the tiny model far within a few steps."""
    task = {"kind": "translation", "source_lang": "de", "target_lang": "en", "batch_tokens": 256}
    values = {
        "task": task | {"num_beams": 1, "max_new_tokens": 20},
        "model": {"name": str(translator), "max_length": 64},
        "source": {"test": parallel["old.test"]},
        "target": {split: parallel[f"new.{split}"] for split in ("train", "validation", "test")},
        "training": {"max_steps": 6, "learning_rate": 1e-2, "eval_strategy": "no"},
        "shift": {"enabled": False},
        "output_dir": str(folder),
    }
    return Recipe.from_dict(values | parts, overrides)


@pytest.fixture
def translation_recipe(translator, parallel, tmp_path):
    """A function to a recipe."""

    def make(*overrides, name="run", **parts):
        return recipe_of(translator, parallel, tmp_path / name, *overrides, **parts)

    return make


@pytest.fixture(scope="module")
def untrained(translator, parallel, tmp_path_factory):
    """The pretrained model, as a run that changes next to nothing leaves it."""
    overrides = ("training.max_steps=1", "training.learning_rate=1e-12")
    folder = tmp_path_factory.mktemp("untrained") / "run"
    train(recipe_of(translator, parallel, folder, *overrides, source=None))
    return load_model(folder)


def translated(model, path):
    """Translations and references of a file, by a loaded run."""
    rows = [json.loads(line)["translation"] for line in Path(path).read_text("utf-8").splitlines()]
    texts = [found["translation"] for found in model.predict([row["de"] for row in rows])]
    return texts, [row["en"] for row in rows]


@pytest.mark.parametrize("strategy", [{"kind": "full"}, {"kind": "lora", "r": 4}, {"kind": "frozen"}])
def test_translation_is_scored_on_the_old_domain_before_and_after(
    strategy, translation_recipe, untrained, parallel, capsys
):
    result = train(translation_recipe(strategy=strategy))
    before, after = untrained, load_model(result.output_dir)
    for role, part in (("source", "old"), ("target", "new")):
        first, references = translated(before, parallel[f"{part}.test"])
        last, _ = translated(after, parallel[f"{part}.test"])
        assert first != last
        report = result.metrics["domains"][role]["test"]
        assert report["baseline"] == "the model before training"
        for name, score in (("chrf", sacrebleu.corpus_chrf), ("bleu", sacrebleu.corpus_bleu)):
            old, new = (score(texts, [references]).score for texts in (first, last))
            found = report["against_baseline"][name]
            assert found["baseline"] == pytest.approx(old)
            assert found["value"] == pytest.approx(new - old)
            assert found["low"] <= found["value"] <= found["high"]
            if role == "source":
                row = result.metrics["forgetting"]["test"][name]
                assert (row["before"], row["after"]) == (pytest.approx(old), pytest.approx(new))
                assert row["change"]["value"] == pytest.approx(new - old)
    assert result.metrics["guard"]["verdict"] == "not judged"
    written = json.loads((result.output_dir / "metrics.json").read_text("utf-8"))
    assert written["forgetting"] == result.metrics["forgetting"]
    capsys.readouterr()
    print_run(result)
    shown = " ".join(capsys.readouterr().out.split())
    card = (result.output_dir / "README.md").read_text("utf-8")
    for text in (shown, card):
        assert "source test, before and after the training on the target: BLEU" in text
        assert "target test: against the model before training: BLEU" in text


def test_looking_before_changes_no_weight(translation_recipe):
    looked = train(translation_recipe())
    alone = train(
        translation_recipe(name="alone", source=None, target={"train": translation_recipe().target.train})
    )
    first, second = (load_model(run.output_dir).model.state_dict() for run in (looked, alone))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_from_scratch_there_is_no_before(translation_recipe):
    size = {"vocab_size": 200, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "ffn_dim": 64}
    result = train(translation_recipe(model={"init": "scratch", "scratch": size}))
    assert result.metrics["forgetting"] is None
    assert "against_baseline" not in result.metrics["domains"]["target"]["test"]


def test_from_scratch_names_no_pretrained_model(translation_recipe, parallel):
    """Nothing of it is used: the hub model that the languages name is not there, and not asked for."""
    size = {"vocab_size": 200, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "ffn_dim": 64}
    recipe = translation_recipe(
        model={"init": "scratch", "scratch": size},
        source={"train": parallel["old.train"]},
        shift={"permutations": 10, "max_samples": 12},
    )
    assert recipe.model.name == "Helsinki-NLP/opus-mt-de-en"
    result = train(recipe)
    _, front, card = (result.output_dir / "README.md").read_text("utf-8").split("---\n", 2)
    assert "base_model" not in front
    assert card.lstrip().startswith("# A model from scratch on ")
    for name in ("README.md", "environment.json", "metrics.json"):
        assert recipe.model.name not in (result.output_dir / name).read_text("utf-8")
    environment = json.loads((result.output_dir / "environment.json").read_text("utf-8"))
    assert environment["model"]["name"] == "from scratch"
    config = json.loads((Path(result.shift.model) / "config.json").read_text("utf-8"))
    assert (config["d_model"], config["encoder_ffn_dim"]) == (32, 64)


def test_a_run_and_a_file_are_compared_with_another_run(translation_recipe, parallel, tmp_path, capsys):
    first = train(translation_recipe("training.max_steps=2", name="first"))
    second = train(translation_recipe(f"compare_with={first.output_dir}", name="second"))
    report = second.metrics["domains"]["target"]["test"]
    assert report["baseline"] == "first"
    for name in ("bleu", "chrf", "ter"):
        expected = second.score(metric=name) - first.score(metric=name)
        assert report["against_baseline"][name]["value"] == pytest.approx(expected)
        assert report["against_baseline"][name]["baseline"] == pytest.approx(first.score(metric=name))
    assert second.metrics["domains"]["source"]["test"]["baseline"] == "the model before training"
    found = evaluate_file(second.output_dir, Path(parallel["new.test"]), baseline=first.output_dir)
    assert found["against_baseline"] == report["against_baseline"]
    arguments = ["evaluate", str(second.output_dir), "--data", parallel["new.test"]]
    capsys.readouterr()
    code = run_command(lambda: app([*arguments, "--baseline", str(first.output_dir)], standalone_mode=False))
    assert code == 0
    difference = change("bleu", report["against_baseline"]["bleu"])
    assert f"BLEU {difference}" in " ".join(capsys.readouterr().out.split())
    other = train(
        translation_recipe(
            "task.source_lang=en", "task.target_lang=de", "training.max_steps=1", name="other", source=None
        )
    )
    with pytest.raises(ModelError, match=r"translation \(en, de\), not for translation \(de, en\)"):
        evaluate_file(second.output_dir, Path(parallel["new.test"]), baseline=other.output_dir)
    with pytest.raises(RecipeError, match="compare_with"):
        train(translation_recipe(f"compare_with={other.output_dir}", name="third"))
    assert not (tmp_path / "third").exists()


def test_sentiment_forgets_too(make_recipe, data, tmp_path):
    """After a source phase; and with a trained classifier as the start, whose old test set alone is given."""
    settings = {"training": {"num_train_epochs": 3, "per_device_train_batch_size": 8, "learning_rate": 3e-3}}
    old = train(
        make_recipe(name="old", target={n: data[f"source.{n}"] for n in ("train", "test")}, **settings)
    )
    flipped = [
        {**row, "label": {"positive": "negative", "negative": "positive"}[row["label"]]}
        for row in planted_rows(48, 9)
    ]
    new = {"train": write_rows(tmp_path / "new.train.jsonl", flipped), "test": data["target.test"]}
    model = {"name": str(old.output_dir / "model")}
    for kind in ("full", "lora"):
        result = train(
            make_recipe(
                name=kind,
                model=model,
                source={"test": data["source.test"]},
                target=new,
                strategy={"kind": kind},
                **settings,
            )
        )
        row = result.metrics["forgetting"]["test"]["accuracy"]
        assert row["before"] == pytest.approx(old.score())
        assert row["after"] == pytest.approx(result.score("source"))
        assert row["change"]["value"] == pytest.approx(row["after"] - row["before"])
        if kind == "full":
            assert row["before"] > 0.8
            assert row["change"]["high"] < 0, "labels were flipped: what was right before is wrong now"
        else:
            assert row["change"]["value"] < 0
    sequential = train(make_recipe(name="sequential", source=True, **settings))
    assert sequential.metrics["domains"]["target"]["test"]["baseline"] == "the model after the source"
    alone = train(
        make_recipe(
            name="alone", target={n: data[f"source.{n}"] for n in ("train", "validation", "test")}, **settings
        )
    )
    before = sequential.metrics["forgetting"]["test"]["accuracy"]["before"]
    assert before == pytest.approx(alone.score())
    assert train(make_recipe(name="fresh")).metrics["forgetting"] is None


def test_ratings_are_compared_by_their_squared_error():
    from nlp_transfer.tasks import SentimentOptions, SentimentTask

    truth, ours, theirs = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 5]), np.array([2.0, 2, 3, 2])
    report = SentimentTask(SentimentOptions(loss="mse")).evaluate(ours, truth, baseline=theirs)
    found = report["against_baseline"]["mse"]
    assert found["baseline"] == pytest.approx(5 / 4)
    assert found["value"] == pytest.approx(1 / 4 - 5 / 4)
    assert found["low"] <= found["value"] <= found["high"]


def test_one_rating_is_compared_without_ends():
    found = plain(paired_figures(np.array([-0.1]), np.array([-0.3]), greater_is_better=False))
    assert found == {"value": pytest.approx(-0.2), "low": None, "high": None, "baseline": 0.3}
    assert change("mse", found) == "\u22120.200 [–, –], less is better"


@pytest.mark.parametrize("kind", ["density_ratio", "kmm", "kliep"])
def test_source_pairs_are_weighed_in_the_loss(kind, translation_recipe, parallel, capsys):
    """Pairs that are the target's own weigh more than the others; all weights have a mean of one."""
    seen = []
    source = {
        "train": [parallel["old.train"], parallel["new.train"]],
        "test": parallel["old.test"],
        "mode": "joint",
    }

    def look(args, state, train_dataloader=None, **kwargs):
        rows = [row for batch in train_dataloader.dataset for row in batch]
        seen.extend((tuple(row["labels"]), row["weight"]) for row in rows)

    recipe = translation_recipe(
        "training.max_steps=2",
        source=source,
        adaptation=[{"kind": kind, "min_effective": 0.1} | ({"C": 10.0} if kind == "density_ratio" else {})],
    )
    train(recipe, callbacks=[Record(on_train_begin=look)])
    assert "effective sample size" in capsys.readouterr().err
    weights = np.array([weight for _, weight in seen])
    assert len(weights) == 48
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    often = Counter(labels for labels, _ in seen)
    strangers = [weight for labels, weight in seen if often[labels] == 1]
    assert len(strangers) == 16
    assert np.mean(strangers) < 0.99, "the source's other half are the target's own sentences"


def test_the_weighted_loss_is_that_of_a_loop():
    from nlp_transfer.tasks import TranslationOptions, TranslationTask

    task = TranslationTask(TranslationOptions(source_lang="de", target_lang="en", label_smoothing=0.0))
    generator = torch.Generator().manual_seed(0)
    logits, labels = (
        torch.randn(3, 4, 7, generator=generator),
        torch.randint(0, 7, (3, 4), generator=generator),
    )
    labels[1, 2:] = -100
    weights = torch.tensor([0.5, 2.0, 0.5])
    expected = sum(
        -float(weights[row]) * float(torch.log_softmax(logits[row, place], 0)[labels[row, place]])
        for row in range(3)
        for place in range(4)
        if labels[row, place] >= 0
    )
    assert float(task.loss(logits, labels, weights=weights)) == pytest.approx(expected / 10, rel=1e-5)


def test_rows_cannot_be_drawn_into_batches_by_tokens(translation_recipe, parallel, tmp_path):
    source = {"train": parallel["old.train"], "mode": "joint"}
    settings = {"source": source, "adaptation": [{"kind": "density_ratio", "apply": "sampler"}]}
    with pytest.raises(RecipeError, match="cuts its batches by tokens"):
        train(translation_recipe(**settings))
    assert not (tmp_path / "run").exists()
    counted = translation_recipe(
        "training.per_device_train_batch_size=4", "training.max_steps=1", name="counted", **settings
    )
    assert train(counted).metrics["phases"][0]["rows"] == 32


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"unlabeled": "old.txt"}, "give train, or test"),
        ({"test": "old.jsonl", "mode": "joint"}, "mode joint is for training on the source"),
        ({"test": "old.jsonl", "select": {"fraction": 0.5}}, "select is for training on the source"),
    ],
)
def test_a_source_without_training_rows_is_for_scoring(source, says, translation_recipe):
    with pytest.raises(RecipeError, match=says):
        translation_recipe(source=source)
