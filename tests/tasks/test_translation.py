"""Translation: every family of models, the loss, the batches, cached encoder states."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import sacrebleu
import torch
from datasets import Dataset

from nlp_transfer import Recipe, load_model, train
from nlp_transfer.errors import ModelError, RecipeError
from nlp_transfer.models.languages import Languages, settle_languages
from nlp_transfer.models.load import ModelOptions, load_tokenizer, locate
from nlp_transfer.tasks import TranslationOptions, TranslationTask
from nlp_transfer.tasks.pairs import PairCollator, TokenBatches
from tests.translators import CODES, FAMILIES, sample_pairs, tiny_translator

SENTENCES = ["Das Hotel ist sauber.", "", "Wo ist der Bahnhof?", "Das Hotel ist sauber."]


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """A function from a family to its tiny model."""
    root, made = tmp_path_factory.mktemp("translators"), {}

    def make(family="marian"):
        return (
            made.setdefault(family, None)
            or made.update({family: tiny_translator(root / family, family)})
            or made[family]
        )

    return make


def recipe(name, folder, family="marian", **parts):
    """A recipe of two steps on the built-in sample."""
    task = {"kind": "translation", "source_lang": "de", "target_lang": "en", "batch_tokens": 512}
    if family in CODES:
        task |= dict(zip(("source_code", "target_code"), CODES[family], strict=True))
    values = {
        "task": task | parts.pop("task", {}),
        "model": {"name": str(name), "max_length": 64},
        "target": {"dataset": "sample:travel", "max_samples": 20},
        "training": {"max_steps": 2, "learning_rate": 1e-3},
        "output_dir": str(folder),
    }
    return Recipe.from_dict(values | parts)


def bound_task(model, **options):
    """A settled task, its tokenizer and its model."""
    options = TranslationOptions(source_lang="de", target_lang="en", **options)
    where = locate(ModelOptions(name=str(model)))
    tokenizer = load_tokenizer(where, ModelOptions())
    from nlp_transfer.models.load import load_config

    task = TranslationTask(options).settle(tokenizer, load_config(where, ModelOptions()))
    return task, tokenizer, task.build_model(where, ModelOptions())


def rows(count=12):
    """Parallel rows of the sample."""
    german, english = zip(*sample_pairs()[:count], strict=True)
    return Dataset.from_dict({"text": german, "translation": english})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_saves_and_translates_as_plain_transformers_does(family, translators, tmp_path):
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    result = train(recipe(translators(family), tmp_path / "run", family))
    assert {"bleu", "chrf", "ter", "loss"} <= result.metrics["domains"]["target"]["test"].keys()
    ours = load_model(tmp_path / "run")
    found = [row["translation"] for row in ours.predict(SENTENCES)]
    assert found[1] == ""
    assert found[0] == found[3]
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    texts = [ours.task.prefix + SENTENCES[0], ours.task.prefix + SENTENCES[2]]
    for text, expected in zip(texts, (found[0], found[2]), strict=True):
        batch = tokenizer(text, return_tensors="pt")
        limit = 2 * batch["input_ids"].shape[1] + 16
        output = plain.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=limit
        )
        # beams of a batch of one and of two agree: padding is masked
        assert tokenizer.decode(output[0], skip_special_tokens=True).strip().startswith(expected[:20])
    if family in ("mbart50", "nllb"):
        code = tokenizer.convert_tokens_to_ids(CODES[family][1])
        assert plain.generation_config.forced_bos_token_id == code
        assert output[0, 1] == code


def test_an_unknown_language_is_told_with_those_there_are(translators, tmp_path):
    with pytest.raises(ModelError, match=r"eng_Latn"):
        train(recipe(translators("nllb"), tmp_path / "run", "nllb", task={"target_code": "en_Latn"}))
    with pytest.raises(ModelError, match="source_code"):
        train(recipe(translators("nllb"), tmp_path / "run", "", task={}))
    assert not (tmp_path / "run").exists()


def test_short_codes_stand_for_the_only_match(translators):
    task, tokenizer, model = bound_task(translators("mbart50"))
    assert task.languages[2:] == ("de_DE", "en_XX")
    assert tokenizer.src_lang == "de_DE"
    assert model.generation_config.forced_bos_token_id == tokenizer.convert_tokens_to_ids("en_XX")


def test_loss_is_label_smoothed_cross_entropy_over_the_tokens():
    task = TranslationTask(TranslationOptions(source_lang="de", target_lang="en", label_smoothing=0.2))
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, 2, -100], [3, -100, -100]])
    total = 0.0
    for row, step in ((0, 0), (0, 1), (1, 0)):
        logs = torch.log_softmax(logits[row, step].double(), 0)
        total -= 0.8 * logs[labels[row, step]] + 0.2 * logs.mean()
    assert float(task.loss(logits, labels)) == pytest.approx(float(total) / 3, abs=1e-6)
    halves = [task.loss(logits[i : i + 1], labels[i : i + 1], num_items=3) for i in range(2)]
    assert float(sum(halves)) == pytest.approx(float(total) / 3, abs=1e-6)
    weighted = task.loss(logits, labels, weights=torch.tensor([1.0, 0.0]))
    assert float(weighted) == pytest.approx(float(task.loss(logits[:1], labels[:1])) * 2 / 3, abs=1e-6)


def test_batches_by_tokens_hold_every_pair_once_within_the_budget(translators):
    task, tokenizer, _ = bound_task(translators())
    encoded = task.encode(rows(60), tokenizer, 64)
    batches = TokenBatches(encoded, 300, seed=0)
    assert sorted(np.concatenate(batches.batches).tolist()) == list(range(60))
    filled = 0
    for index in range(len(batches)):
        batch = PairCollator(tokenizer)([batches[index]])
        size = batch["input_ids"].numel() + batch["labels"].numel()
        assert size <= 300
        filled += size
    tokens = sum(len(row["input_ids"]) + len(row["labels"]) for row in encoded)
    assert batches.padding_waste == pytest.approx(1 - tokens / filled)


@pytest.mark.parametrize("family", ["marian", "t5"])
def test_cached_encoder_states_give_the_loss_of_the_whole_model(family, translators, tmp_path, monkeypatch):
    from nlp_transfer.models.encoder_states import EncoderStates
    from nlp_transfer.models.seq2seq import target_losses

    monkeypatch.setenv("NLP_TRANSFER_CACHE", str(tmp_path))
    task, tokenizer, model = bound_task(translators(family))
    encoded = task.encode(rows(), tokenizer, 64)
    direct, tokens = target_losses(model, encoded, task.collator(tokenizer, model))
    states = EncoderStates(model)
    cached, _ = target_losses(model, states.add(encoded), PairCollator(tokenizer, model, states))
    np.testing.assert_allclose(cached / tokens, direct / tokens, rtol=2e-3)
    again = EncoderStates(model)
    again.add(encoded)
    assert (states.computed, again.computed) == (12, 0)
    next(model.get_encoder().parameters()).data.add_(0.1)
    other = EncoderStates(model)
    other.add(encoded)
    assert other.computed == 12


def test_a_frozen_encoder_stays_and_the_decoder_moves(translators, tmp_path):
    start = locate(ModelOptions(name=str(translators())))
    train(recipe(start.folder, tmp_path / "run", strategy={"kind": "frozen"}))
    from transformers import AutoModelForSeq2SeqLM

    before = AutoModelForSeq2SeqLM.from_pretrained(start.folder).state_dict()
    after = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "run" / "model").state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("model.decoder.layers") for name in moved)


def test_an_adapter_translates_the_same_after_a_reload_and_merged(translators, tmp_path):
    result = train(recipe(translators(), tmp_path / "run", strategy={"kind": "lora", "r": 4}))
    first = load_model(tmp_path / "run")
    scored = first.task.score(first.model, first.tokenizer, rows(), 64)
    again = load_model(tmp_path / "run")
    assert scored == again.task.score(again.model, again.tokenizer, rows(), 64)
    assert result.trainable_parameters < result.total_parameters / 4
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    base = AutoModelForSeq2SeqLM.from_pretrained(translators())
    adapted = PeftModel.from_pretrained(base, tmp_path / "run" / "model")
    names = {name.rpartition(".")[2] for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert {"q_proj", "v_proj", "fc1", "fc2"} <= names
    assert any("encoder_attn" in name and "lora_A" in name for name, _ in adapted.named_modules())


def test_from_scratch_trains_its_own_tokenizer(tmp_path):
    size = {"vocab_size": 200, "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "ffn_dim": 64}
    train(recipe("", tmp_path / "run", model={"init": "scratch", "scratch": size}))
    config = json.loads((tmp_path / "run" / "model" / "config.json").read_text("utf-8"))
    assert config["d_model"] == 32
    loaded = load_model(tmp_path / "run")
    ids = loaded.tokenizer("Das Hotel ist sauber.")["input_ids"]
    assert loaded.tokenizer.decode(ids, skip_special_tokens=True) == "Das Hotel ist sauber."


@pytest.mark.parametrize(("language", "tokenizer"), [("zh", "zh"), ("en", "13a")])
def test_bleu_while_training_splits_words_as_the_language_does(language, tokenizer, monkeypatch):
    texts, references = (
        ["我们 明天去北京开会。", "The hotel (new) is clean."],
        ["我们明天到北京去开会。", "The hotel (old) is clean."],
    )
    task = TranslationTask(TranslationOptions(source_lang="de", target_lang=language))
    monkeypatch.setattr(TranslationTask, "_losses", lambda *_: np.array([-1.0, -3.0]))
    monkeypatch.setattr(TranslationTask, "_sample", lambda *_: (texts, references, np.array([50.0, 60.0])))
    figures, _ = task.validation_figures(None, None, rows(2), None, None, max_length=9, seed=0, generate=True)
    expected = sacrebleu.corpus_bleu(texts, [references], tokenize=tokenizer).score
    assert figures == {"loss": 2.0, "chrf": 55.0, "bleu": pytest.approx(expected)}
    other = "13a" if tokenizer == "zh" else "zh"
    assert sacrebleu.corpus_bleu(texts, [references], tokenize=other).score != pytest.approx(expected)


def test_half_precision_that_overflows_is_refused(translators, tmp_path):
    with pytest.raises(RecipeError, match="bf16"):
        train(recipe(translators("t5"), tmp_path / "run", training={"max_steps": 1, "fp16": True}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"init": "scratch"}, "strategy": {"kind": "lora"}}, "nothing pretrained"),
        (
            {
                "model": {"init": "scratch"},
                "source": {"dataset": "sample:travel", "select": {"method": "similarity"}},
            },
            "use moore_lewis",
        ),
        ({"model": {"pooling": "mean"}}, "model.pooling"),
        ({"strategy": {"kind": "frozen", "head": "mlp"}}, "strategy.head"),
        ({"task": {"kind": "translation", "source_lang": "de", "target_lang": "de"}}, "two languages"),
        ({"task": {"kind": "translation", "source_lang": "de"}}, "target_lang"),
        ({"adaptation": [{"kind": "density_ratio"}]}, "density_ratio"),
    ],
)
def test_contradictions_are_named(changes, message):
    values = {
        "task": {"kind": "translation", "source_lang": "de", "target_lang": "en"},
        "target": {"dataset": "sample:travel"},
    }
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(values | changes)


def test_the_model_of_the_languages_is_the_default():
    values = {"task": {"kind": "translation", "source_lang": "de", "target_lang": "en"}}
    found = Recipe.from_dict(values | {"target": {"dataset": "sample:travel"}})
    assert found.model.name == "Helsinki-NLP/opus-mt-de-en"


@pytest.mark.parametrize(
    ("own", "wanted", "said"),
    [
        (("de", "en"), ("en", "de"), True),
        (("de", "en"), ("de", "en"), False),
        (("deu", "eng"), ("en", "de"), False),
    ],
)
def test_languages_the_wrong_way_round_are_noticed(own, wanted, said, capsys):
    """By what a tokenizer of one direction says of itself; other spellings of a language prove nothing."""
    tokenizer = SimpleNamespace(source_lang=own[0], target_lang=own[1], unk_token_id=0)
    assert settle_languages(tokenizer, Languages(*wanted)) == Languages(*wanted)
    assert ("this model translates de to en" in capsys.readouterr().err) == said


@pytest.mark.parametrize(
    ("rows", "options", "expected"),
    [
        (300, {"eval_max_samples": 100}, "of 100 of 300"),
        (50, {}, "50 validation rows with 1 beam"),
        (50, {"num_beams": 1}, None),
    ],
)
def test_quicker_figures_while_training_are_explained(rows, options, expected):
    note = TranslationTask(TranslationOptions(source_lang="de", target_lang="en", **options)).validation_note(
        rows
    )
    assert note is None if expected is None else expected in note
