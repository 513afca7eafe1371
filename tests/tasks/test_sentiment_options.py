"""The keys under ``task:`` in a recipe, and which mistakes in them are named."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from nlp_transfer.tasks import TASKS, SentimentOptions, Task


def test_defaults():
    options = SentimentOptions()
    assert (options.kind, options.loss, options.labels, options.class_weights) == (
        "sentiment",
        "cross_entropy",
        None,
        None,
    )


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["negative", "positive"], ["negative", "positive"]),
        ([1, 2, 3], ["1", "2", "3"]),
        ([False, True], ["false", "true"]),
        (["1.0", " a "], ["1", "a"]),
    ],
)
def test_labels_take_the_spelling_of_the_data(values, names):
    assert SentimentOptions(labels=values).labels == names


def test_weights_by_name_take_the_spelling_of_the_data():
    options = SentimentOptions(labels=[0, 1], class_weights={0: 1, 1: 2.5})
    assert options.class_weights == {"0": 1.0, "1": 2.5}
    assert SentimentOptions.model_validate(options.model_dump()) == options


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": ["a"]}, "two or more different class names"),
        ({"labels": ["a", "a"]}, "two or more different class names"),
        ({"labels": ["a", " "]}, "two or more different class names"),
        ({"labels": ["1", 1.0]}, "two or more different class names"),
        ({"class_weights": "balance"}, "expected balanced, a list"),
        ({"class_weights": [1, -1]}, "0 or more"),
        ({"class_weights": [0, 0]}, "at least one of them above 0"),
        ({"class_weights": [float("nan"), 1]}, "0 or more"),
        ({"class_weights": ["1", "2"]}, "0 or more"),
        ({"class_weights": {}}, "at least one"),
        ({"labels": ["good", "bad"], "class_weights": {"god": 1, "bad": 2}}, "did you mean 'good'"),
        ({"labels": ["good", "bad"], "class_weights": {"bad": 2}}, "1 class_weights for 2 labels"),
        ({"labels": ["good", "bad"], "class_weights": [1, 2, 3]}, "3 class_weights for 2 labels"),
        ({"label_smoothing": 1.0}, "less than 1"),
        ({"label_smoothing": -0.1}, "greater than or equal to 0"),
        ({"loss": "mse", "labels": ["a", "b"]}, "leave out labels"),
        (
            {"loss": "mse", "class_weights": "balanced", "label_smoothing": 0.1},
            "class_weights, label_smoothing",
        ),
        ({"loss": "hinge"}, "cross_entropy"),
        ({"smoothing": 0.1}, "Extra inputs"),
    ],
)
def test_mistakes(values, message):
    with pytest.raises(ValidationError, match=message) as caught:
        SentimentOptions.model_validate(values)
    assert caught.value.error_count() == 1


def test_every_field_is_described():
    schema = SentimentOptions.model_json_schema()["properties"]
    assert all(field.get("description") for name, field in schema.items() if name != "kind")


def test_table():
    assert all(issubclass(task, Task) and task.kind == kind for kind, (task, _) in TASKS.items())


def test_recipes_load_without_torch():
    script = "import sys, nlp_transfer.tasks; print({'torch', 'numpy', 'datasets'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"
