"""From labels and texts to encoded rows, and every mistake in the data by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight

from nlp_transfer.errors import DataError
from nlp_transfer.tasks import SentimentOptions, SentimentTask


def rows(labels, text="the food was good"):
    return Dataset.from_dict({"text": [text] * len(labels), "label": labels})


def bind(*labels, **options):
    names = ("source.train", "target.train")
    return SentimentTask(SentimentOptions(**options)).bind(dict(zip(names, map(rows, labels), strict=False)))


RATINGS = {"loss": "mse"}


@pytest.mark.parametrize(
    ("labels", "names", "ids"),
    [
        ([1, 0, 1], ("0", "1"), [1, 0, 1]),
        (["10", "9", "1"], ("1", "9", "10"), [2, 1, 0]),
        ([2.0, 1.0], ("1", "2"), [1, 0]),
        (["positive", "negative", "neutral"], ("negative", "neutral", "positive"), [2, 0, 1]),
        ([True, False], ("false", "true"), [1, 0]),
    ],
)
def test_names_found_in_the_data(labels, names, ids):
    bound = bind(labels)
    assert bound.names == names
    assert bound.num_labels == len(names)
    assert bound.label_array(rows(labels)).tolist() == ids


def test_names_of_the_recipe_keep_their_order():
    bound = bind(["pos", "neg"], labels=["pos", "neg", "mixed"])
    assert bound.names == ("pos", "neg", "mixed")
    assert bound.label_array(rows(["neg", "pos", "mixed"])).tolist() == [1, 0, 2]


def test_words_name_numbered_labels_by_position():
    bound = bind([0, 1, 1], labels=["negative", "positive"])
    assert bound.label_array(rows(["1", "0"])).tolist() == [1, 0]
    with pytest.raises(DataError, match="do"):
        bind([0, 1, 2], labels=["negative", "positive"])


def test_numbers_name_numbered_labels_by_name():
    bound = bind([1, 2, 3], labels=["1", "2", "3"])
    assert bound.label_array(rows([3, 1])).tolist() == [2, 0]
    with pytest.raises(DataError, match="'0'"):
        bind([0, 1, 2], labels=["1", "2", "3"])


def test_binding_leaves_the_task_unchanged():
    task = SentimentTask()
    assert task.bind({"target.train": rows([0, 1])}) is not task
    assert task.names == ()


def test_balanced_weights_are_scikit_learns():
    source, target = ["a"] * 6 + ["b"] * 3, ["a"] * 4 + ["b"] * 2 + ["c"]
    wanted = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(source + target))
    np.testing.assert_allclose(bind(source, target, class_weights="balanced").class_weights, wanted)


def test_only_the_ratio_of_weights_matters():
    weights = [
        bind(["a", "a", "b"], class_weights=given).class_weights for given in ([2, 4], {"b": 1.0, "a": 0.5})
    ]
    assert weights[0] == pytest.approx(weights[1])
    assert 2 * weights[0][0] + weights[0][1] == pytest.approx(3)


def test_a_class_without_rows_weighs_nothing():
    bound = bind(["a", "a", "b"], labels=["a", "b", "c"], class_weights="balanced")
    assert bound.class_weights == pytest.approx((0.75, 1.5, 0))


def test_ratings():
    bound = bind([1.0, 2.0, 5.0], [4.0], **RATINGS)
    assert bound.mean_rating == 3
    assert (bound.num_labels, bound.objective, bound.best_metric) == (1, "regression", ("mse", False))
    found = bound.label_array(rows([2.5, 1.0]))
    assert found.dtype == np.float64
    assert found.tolist() == [2.5, 1.0]


def test_a_gap_in_one_domain_is_a_warning(capsys):
    assert bind(["a", "b", "c"], ["a", "b"]).names == ("a", "b", "c")
    assert "target.train has no rows of 'c'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "options", "words"),
    [
        ([["a", "a"]], {}, ["1 class", "'a'", "mse"]),
        ([["a", "a"]], {"labels": ["a", "b"]}, ["1 class"]),
        ([["neg", "pos"], ["negative", "positive"]], {}, ["different classes", "'negative'", "task.labels"]),
        ([["0", "1"], ["negative", "positive"]], {}, ["label_map to {negative: 0, positive: 1}"]),
        ([["a", "b"], ["b", "c"]], {}, ["different classes", "'c'", "source.train"]),
        ([["a", "b"], ["a", "x", "y"]], {"labels": ["a", "b"]}, ["target.train", "'x', 'y'", "task.labels"]),
        ([["a", None]], {}, ["without a label", "source.train"]),
        ([["a", " "]], {}, ["without a label"]),
        ([["a", "b"]], {"class_weights": [1, 2, 3]}, ["class_weights", "3 weights"]),
        ([["a", "b"]], {"class_weights": {"a": 1}}, ["class_weights", "'a', 'b'"]),
        ([["a", "b"]], {"labels": list("abc"), "class_weights": [0, 0, 1]}, ["class_weights", "is 0"]),
        ([["a", "b"]], RATINGS, ["not ratings", "'a', 'b'", "cross_entropy"]),
        ([[1.0, float("inf")]], RATINGS, ["not ratings"]),
        ([[3.0, 3.0]], RATINGS, ["nothing to learn", "3"]),
    ],
)
def test_mistakes_in_training_labels(labels, options, words):
    with pytest.raises(DataError) as caught:
        bind(*labels, **options)
    for word in words:
        assert word in str(caught.value)


def test_no_labels_at_all():
    with pytest.raises(DataError, match="columns text"):
        SentimentTask().bind({"target.train": Dataset.from_dict({"text": ["good"]})})


def test_unseen_label_is_named_with_its_split(tokenizer):
    bound = bind(["negative", "positive"])
    with pytest.raises(DataError, match=r"target\.test: labels that the task does not know") as caught:
        bound.encode(rows(["positive", "postive"]), tokenizer, 16, name="target.test")
    assert "'postive'" in str(caught.value)
    assert "did you mean 'positive'" in str(caught.value)


def test_encoding(tokenizer):
    bound = bind(["bad", "good"])
    data = Dataset.from_dict(
        {
            "text": ["good", "the food was good", "the room was very very bad"],
            "label": ["good", "good", "bad"],
        }
    )
    encoded = bound.encode(data, tokenizer, 6)
    wanted = tokenizer(data["text"][:], truncation=True, max_length=6)
    assert encoded["input_ids"][:] == wanted["input_ids"]
    assert encoded["attention_mask"][:] == wanted["attention_mask"]
    assert encoded["labels"][:] == [1, 1, 0]
    assert encoded["length"][:] == [3, 6, 6]
    assert encoded["truncated"][:] == [False, False, True]
    assert bound.truncation_rate(encoded) == pytest.approx(1 / 3)
    assert "label" not in encoded.column_names
    assert "text" not in encoded.column_names


def test_encoding_without_labels(tokenizer):
    encoded = bind(["bad", "good"]).encode(Dataset.from_dict({"text": ["good"]}), tokenizer, 8)
    assert "labels" not in encoded.column_names


def test_encoding_nothing(tokenizer):
    with pytest.raises(DataError, match="nothing to encode"):
        bind(["bad", "good"]).encode(rows([]), tokenizer, 8)


def test_collator_pads_to_the_longest(tokenizer):
    bound = bind(["bad", "good"])
    data = Dataset.from_dict({"text": ["good", "the food was bad"], "label": ["good", "bad"]})
    batch = bound.collator(tokenizer)(list(bound.encode(data, tokenizer, 16)))
    assert not {"length", "truncated"} & set(batch)
    assert batch["input_ids"].shape == (2, 6) or torch.cuda.is_available()
    assert batch["labels"].tolist() == [1, 0]
    assert batch["labels"].dtype == torch.int64
    assert batch["attention_mask"].sum(1).tolist() == [3, 6]


def test_collator_keeps_row_weights_and_ratings(tokenizer):
    bound = bind([1.0, 4.5], **RATINGS)
    encoded = bound.encode(rows([1.0, 4.5]), tokenizer, 16).add_column("weight", [0.5, 1.5])
    batch = bound.collator(tokenizer)(list(encoded))
    assert batch["weight"].tolist() == [0.5, 1.5]
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == [1.0, 4.5]
