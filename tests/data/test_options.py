from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from nlp_transfer.data.options import DomainOptions, available_samples


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no data"),
        ({"train": "train"}, "does not look like a file"),
        ({"train": "train[:100]"}, "does not look like a file"),
        ({"train": []}, "train is empty"),
        ({"train": " "}, "train is empty"),
        ({"dataset": "imdb", "train": "books.jsonl"}, "looks like a file"),
        ({"dataset": "imdb", "train": "data/books"}, "looks like a file"),
        ({"dataset": "books.jsonl"}, "looks like a file"),
        ({"dataset": " "}, "dataset is empty"),
        ({"train": "a.csv", "config": "x"}, "config belongs to a hub data set"),
        ({"train": "a.csv", "revision": "x"}, "revision belongs to a hub data set"),
        ({"dataset": "sample:cafe"}, "no built-in sample 'cafe'"),
        ({"dataset": "sample:recipes", "config": "x"}, "not to a built-in sample"),
        ({"train": "a.csv", "test": "b.csv", "test_fraction": 0.1}, "test and test_fraction"),
        ({"train": "b.csv", "validation_fraction": 0.5, "test_fraction": 0.5}, "sum must be < 1"),
        ({"unlabeled": "b.csv", "test_fraction": 0.5}, "train is not given"),
        ({"train": "a.csv", "validation_fraction": 1.0}, "less than 1"),
        ({"train": "a.csv", "max_samples": 0}, "greater than or equal to 1"),
        ({"train": "a.csv", "label_map": {}}, "label_map is empty"),
        ({"train": "a.csv", "label_map": {"1": "a", 1: "b"}}, "twice"),
        ({"train": "a.csv", "label_map": {1: None}}, "drops every row"),
        ({"train": "a.csv", "label_map": {"": "a"}}, "empty label"),
        ({"train": "a.csv", "label_map": "stars"}, "stars-binary"),
        ({"train": "a.csv", "text_colum": "x"}, "Extra inputs"),
    ],
)
def test_contradictions_are_errors(options: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DomainOptions(**options)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"train": "books.train.jsonl"}, "books"),
        ({"test": "data/kitchen_dev.csv.gz"}, "kitchen"),
        ({"train": ["amazon/train.jsonl", "x.csv"]}, "amazon"),
        ({"train": "train.jsonl"}, "train"),
        ({"train": "reviews.v2.csv"}, "reviews.v2"),
        ({"dataset": "stanfordnlp/imdb"}, "imdb"),
        ({"dataset": "sample:recipes"}, "recipes"),
        ({"dataset": "folders/shop/"}, "shop"),
        ({"train": "a.csv", "name": "B"}, "B"),
    ],
)
def test_name_is_guessed(options: dict, name: str) -> None:
    assert DomainOptions(**options).domain_name() == name


@pytest.mark.parametrize(
    "spec", ["train", "train[:1000]", "train[10%:20%]", "train+test", "train[:10%](pct1_dropremainder)"]
)
def test_split_names_go_with_a_dataset(spec: str) -> None:
    assert DomainOptions(dataset="imdb", train=spec).given("train") == [spec]


def test_resolved_options_can_be_read_again() -> None:
    options = DomainOptions(train="a.csv", validation="b.csv", label_map={1: "bad", 2.5: None, "x": 3})
    assert DomainOptions(**options.model_dump()) == options


@pytest.mark.parametrize("key", [1, 2.5, True, "1", "x"])
def test_label_map_keeps_the_type_of_its_keys(key: object) -> None:
    (kept,) = DomainOptions(train="a.csv", label_map={key: "new"}).label_map
    assert (type(kept), kept) == (type(key), key)


def test_every_field_is_described() -> None:
    assert all(field.description for field in DomainOptions.model_fields.values())


def test_samples_are_listed() -> None:
    assert {"recipes", "travel"} <= set(available_samples())


def test_import_is_light() -> None:
    code = (
        "import sys; from nlp_transfer.data.domains import DomainOptions;"
        "from nlp_transfer.data import iter_rows;"
        "heavy = ('datasets', 'numpy', 'torch', 'pyarrow', 'pandas', 'transformers');"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
