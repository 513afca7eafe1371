"""The task as the engine sees it: models, scores, predictions, and its way back from a saved model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy.special import softmax
from sklearn import metrics as sk
from transformers import BertConfig, BertForSequenceClassification, EvalPrediction, Trainer, TrainingArguments

from nlp_transfer.errors import ModelError
from nlp_transfer.models.classifier import start_at
from nlp_transfer.models.load import ModelOptions
from nlp_transfer.models.source import locate
from nlp_transfer.tasks import SentimentOptions, SentimentTask

CLASSES = SentimentTask(names=("negative", "positive"))
RATINGS = SentimentTask(SentimentOptions(loss="mse"), mean_rating=3.0)


def tiny_bert(**config):
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**sizes, intermediate_size=16, **config))


def test_evaluate_classes():
    logits = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 2, 80)
    report = CLASSES.evaluate(logits, Dataset.from_dict({"labels": labels})["labels"])
    json.dumps(report, allow_nan=False)
    assert report["accuracy"]["value"] == sk.accuracy_score(labels, logits.argmax(axis=1))
    assert report["loss"]["value"] == pytest.approx(
        sk.log_loss(labels, softmax(logits.astype(float), axis=1))
    )
    assert list(report["per_class"]) == ["negative", "positive"]


@pytest.mark.parametrize("shape", [(40, 1), (40,)])
def test_evaluate_ratings(shape):
    outputs = np.random.default_rng(0).normal(3, 1, 40)
    ratings = np.random.default_rng(1).normal(3, 1, 40)
    report = RATINGS.evaluate(outputs.reshape(shape), ratings)
    assert report["mse"]["value"] == pytest.approx(sk.mean_squared_error(ratings, outputs))


def test_compute_metrics_agrees_with_the_report():
    logits = np.random.default_rng(0).normal(size=(60, 2))
    labels = np.random.default_rng(1).integers(0, 2, 60)
    report = CLASSES.evaluate(logits, labels)
    for predictions in (logits, (logits, "hidden states")):
        flat = CLASSES.compute_metrics(EvalPrediction(predictions, labels))
        assert flat == pytest.approx({name: report[name]["value"] for name in flat})
        assert CLASSES.best_metric.name in flat
    flat = RATINGS.compute_metrics(EvalPrediction(logits[:, :1], labels.astype(float)))
    assert flat["mse"] == pytest.approx(np.mean((logits[:, 0] - labels) ** 2))
    assert RATINGS.best_metric == ("mse", False)


def test_postprocess():
    logits = np.array([[2.0, 0.0], [-1.0, 1.0]])
    found = CLASSES.postprocess(logits)
    json.dumps(found)
    assert [row["label"] for row in found] == ["negative", "positive"]
    assert found[0]["score"] == pytest.approx(1 / (1 + np.exp(-2)))
    assert found[1]["probabilities"] == pytest.approx(
        {"negative": 1 / (1 + np.exp(2)), "positive": 1 / (1 + np.exp(-2))}
    )
    assert RATINGS.postprocess(np.array([[3.5], [1.0]])) == [{"rating": 3.5}, {"rating": 1.0}]
    assert CLASSES.postprocess(np.zeros((0, 2))) == []


@pytest.mark.parametrize("task", [CLASSES, RATINGS])
def test_diverged_model(task):
    outputs = np.full((3, task.num_labels), np.nan)
    for use in (
        lambda: task.evaluate(outputs, [0, 1, 0]),
        lambda: task.compute_metrics(EvalPrediction(outputs, np.array([0, 1, 0]))),
        lambda: task.postprocess(outputs),
    ):
        with pytest.raises(ModelError, match="learning_rate"):
            use()


def test_way_back_from_a_saved_model(tmp_path):
    model = tiny_bert(id2label={0: "bad", 1: "so so", 2: "good"}, problem_type="single_label_classification")
    model.save_pretrained(tmp_path / "classes")
    config = BertConfig.from_pretrained(tmp_path / "classes")
    assert SentimentTask.from_model(config).names == ("bad", "so so", "good")
    tiny_bert(id2label={0: "rating"}, problem_type="regression").save_pretrained(tmp_path / "ratings")
    restored = SentimentTask.from_model(BertConfig.from_pretrained(tmp_path / "ratings"))
    assert (restored.objective, restored.num_labels) == ("regression", 1)


def test_many_names_come_back_in_order():
    config = BertConfig(id2label={index: f"class {index}" for index in range(12)})
    assert SentimentTask.from_model(config).names == tuple(f"class {index}" for index in range(12))


def test_model_for_several_labels_is_refused():
    with pytest.raises(ModelError, match="several labels"):
        SentimentTask.from_model(BertConfig(problem_type="multi_label_classification"))


def test_fresh_rating_head_starts_at_the_mean_and_a_trained_one_stays():
    model = tiny_bert(num_labels=1)
    start_at(model, 3.5)
    assert model.classifier.bias.item() == 3.5
    assert model.bert.pooler.dense.bias.abs().sum() == 0
    start_at(model, 1.0)
    assert model.classifier.bias.item() == 3.5


@pytest.fixture
def checkpoint(tmp_path, tokenizer):
    """A pretrained encoder in a folder, as a recipe would name it."""
    options = ModelOptions(name=str(tmp_path))
    tiny_bert().bert.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return options


@pytest.mark.parametrize("pooling", ["stock", "mean"])
def test_built_model_knows_its_classes(checkpoint, pooling):
    options = checkpoint.model_copy(update={"pooling": pooling})
    task = SentimentTask(names=("negative", "neutral", "positive"))
    config = task.build_model(locate(options), options).config
    assert config.problem_type == "single_label_classification"
    assert SentimentTask.from_model(config).names == task.names


@pytest.mark.parametrize("pooling", ["stock", "mean"])
def test_built_rating_model_starts_at_the_mean(checkpoint, tokenizer, pooling):
    options = checkpoint.model_copy(update={"pooling": pooling})
    model = RATINGS.build_model(locate(options), options).eval()
    assert SentimentTask.from_model(model.config).objective == "regression"
    batch = tokenizer(["the food was good", "bad"], return_tensors="pt", padding=True)
    batch.pop("token_type_ids", None)
    assert model(**batch).logits.flatten().tolist() == pytest.approx([3.0, 3.0], abs=0.3)


@pytest.mark.parametrize("accumulation", [2, 8])
def test_trainer_reaches_the_same_weights_however_the_window_is_cut(tmp_path, tokenizer, accumulation):
    """One optimizer step over 8 rows, class-weighted, in one batch or in several, is the same step."""
    texts = [
        "good",
        "the food was very bad",
        "fine food",
        "not good and bad",
        "bad",
        "fine",
        "room",
        "the room",
    ]
    data = Dataset.from_dict(
        {"text": texts, "label": ["pos", "neg", "pos", "neg", "neg", "pos", "pos", "pos"]}
    )
    task = SentimentTask(SentimentOptions(class_weights={"pos": 1, "neg": 4})).bind({"target.train": data})
    encoded = task.encode(data, tokenizer, 8)

    def weights(batch_size, steps):
        model = tiny_bert(num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            learning_rate=1.0,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=encoded,
            data_collator=task.collator(tokenizer),
            compute_loss_func=lambda out, labels, num_items_in_batch=None: task.loss(
                out["logits"], labels, num_items=num_items_in_batch
            ),
        )
        trainer.train()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    start = torch.cat([p.detach().flatten() for p in tiny_bert(num_labels=2).parameters()])
    whole = weights(8, 1)
    assert (whole - start).abs().max() > 0.1
    torch.testing.assert_close(weights(8 // accumulation, accumulation), whole, atol=1e-5, rtol=1e-4)
