from __future__ import annotations

from collections.abc import Callable
from typing import Any

import datasets
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from nlp_transfer.data.columns import find_label_column, find_text_column, normalise
from nlp_transfer.data.load import read_table
from nlp_transfer.data.options import DomainOptions
from nlp_transfer.errors import DataError

Write = Callable[..., str]


def run(rows: list[dict[str, Any]] | Dataset, objective: str = "classification", **options: Any):
    table = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    return normalise(
        table, DomainOptions(train="x.csv", **options), objective=objective, where="x.csv", split="train"
    )


def rows(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"text {number}", "label": label} for number, label in enumerate(labels)]


def labels(*raw: Any, **options: Any) -> list[Any]:
    return run(rows(*raw), **options)[0]["label"][:]


def test_columns_are_found() -> None:
    assert find_text_column(["id", "Review", "sentence"]) == "sentence"
    assert find_text_column(["id", "Review"]) == "Review"
    assert find_text_column(["text", "mine"], "mine") == "mine"
    assert find_label_column(["rating", "label"]) == "label"


@pytest.mark.parametrize(
    ("columns", "given", "parts"),
    [
        (
            ["id", "body_html"],
            None,
            ["no text column", "expected: one of text, sentence", "'id', 'body_html'", "text_column"],
        ),
        (["txet", "x"], None, ["'txet'"]),
        (["review", "x"], "reveiw", ["no column 'reveiw'", "did you mean 'review'?"]),
        (["text;label"], None, ["another delimiter"]),
        (["great food", "1"], None, ["begins with a header line"]),
    ],
)
def test_missing_text_column(columns: list[str], given: str | None, parts: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        find_text_column(columns, given, where="x.csv")
    for part in parts:
        assert part in str(caught.value)


def test_missing_label_column() -> None:
    with pytest.raises(DataError, match="no label column") as caught:
        run([{"text": "x", "n": 1}])
    assert "unlabeled" in str(caught.value)
    assert "the columns 'text', 'n'" in str(caught.value)
    with pytest.raises(DataError, match="the columns 'text', 'stars'"):
        run([{"text": "x", "stars": 1}], label_column="star")
    with pytest.raises(DataError, match="is the column of texts"):
        run([{"text": "x", "label": 1}], label_column="text")
    table, _ = run([{"text": "x", "n": 1}], objective="none")
    assert table.column_names == ["text"]


@pytest.mark.parametrize(
    "raw", [[0, 1, 1], [0.0, 1.0, 1.0], ["0", "1", "1"], ["0.0", " 1", "1.0"], [0.0, 1.0, 1]]
)
def test_numbers_meet_as_class_names(raw: list) -> None:
    assert labels(*raw) == ["0", "1", "1"]


def test_booleans_and_class_names() -> None:
    assert labels(True, False) == ["true", "false"]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    table = Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    assert run(table)[0]["label"][:] == ["pos", "neg"]
    assert run(table, label_map={"pos": "positive", 0: "negative"})[0]["label"][:] == ["positive", "negative"]


def test_categories_of_parquet() -> None:
    column = pa.array(["b", "a", "b"]).dictionary_encode()
    table = Dataset(pa.table({"text": pa.array(["x", "y", "z"]).dictionary_encode(), "label": column}))
    assert list(run(table)[0]) == [
        {"text": "x", "label": "b"},
        {"text": "y", "label": "a"},
        {"text": "z", "label": "b"},
    ]


def test_columns_and_types_of_the_result() -> None:
    table, _ = run([{"extra": 1, "label": 2, "text": " kept as it is "}])
    assert table.features == Features({"text": Value("string"), "label": Value("string")})
    assert table[0] == {"text": " kept as it is ", "label": "2"}
    ratings, _ = run(rows("4.5", "3"), objective="regression")
    assert ratings.features["label"] == Value("float64")
    assert ratings["label"][:] == [4.5, 3.0]


def test_selected_rows_keep_their_order() -> None:
    table = Dataset.from_list(rows(*range(10))).select([7, 2, 5])
    assert run(table)[0]["label"][:] == ["7", "2", "5"]


def test_empty_texts_are_dropped_and_counted() -> None:
    data = [{"text": text, "label": None if not text else 1} for text in ("a", None, "", " \n\u00a0", "b")]
    table, findings = run(data)
    assert table["text"][:] == ["a", "b"]
    (finding,) = findings
    assert (finding.code, finding.count, finding.total, finding.level) == ("empty-text", 3, 5, "warning")
    assert run(data)[1] == findings  # from the cache too


def test_only_empty_texts() -> None:
    with pytest.raises(DataError, match="no row is left"):
        run([{"text": None, "label": 1}, {"text": None, "label": 2}])


@pytest.mark.parametrize("missing", [None, "", "  ", "nan"])
def test_missing_labels(missing: str | None) -> None:
    with pytest.raises(DataError, match="4 of 7 rows have no label in column 'label'") as caught:
        labels("a", missing, "b", missing, missing, "a", missing)
    assert "rows 2 (" in str(caught.value)
    assert ", 4 (" in str(caught.value)
    assert ", 5 (" in str(caught.value)
    assert ", ..." in str(caught.value)
    assert ", 7 (" not in str(caught.value)


def test_nan_labels_and_rows_across_batches() -> None:
    with pytest.raises(DataError, match=r"2 of 25,000 rows have no label") as caught:
        labels(*[1.0] * 12_345, float("nan"), *[1.0] * 12_653, float("nan"), objective="regression")
    assert "rows 12346 (nan), 25000 (nan)" in str(caught.value)


def test_label_map() -> None:
    table, findings = run(rows(1, 2, 3, 2), label_map={"1": "bad", 2: None, 3.0: "good"})
    assert table["label"][:] == ["bad", "good"]
    (finding,) = findings
    assert (finding.code, finding.count, finding.total, finding.level) == ("dropped-label", 2, 4, "info")


def test_labels_outside_the_map() -> None:
    with pytest.raises(DataError, match="3 of 5 rows have a label that label_map does not name") as caught:
        labels("bad", "so-so", "fine", "so-so", "good", label_map={"bad": 0, "good": 1})
    assert "one of its keys: 'bad', 'good'" in str(caught.value)
    assert "found:    'fine', 'so-so'; rows 2 ('so-so'), 3 ('fine'), 4 ('so-so')" in str(caught.value)
    with pytest.raises(DataError, match="in YAML write yes, no"):
        labels("yes", label_map={True: "good"})


def test_map_that_drops_all() -> None:
    with pytest.raises(DataError, match="no row is left"):
        labels("a", "a", label_map={"a": None, "b": "x"})


def test_stars() -> None:
    table, findings = run(rows(1, 2, 3, 4, 5), label_map="stars-binary")
    assert table["label"][:] == ["negative", "negative", "positive", "positive"]
    assert findings[0].count == 1
    assert labels("1", "3", "5", label_map="stars-ternary") == ["negative", "neutral", "positive"]
    with pytest.raises(DataError, match="not a number of stars"):
        labels(0, 4, label_map="stars-binary")
    with pytest.raises(DataError, match="predicts a number"):
        labels(1, 4, label_map="stars-binary", objective="regression")


def test_labels_that_are_no_numbers() -> None:
    with pytest.raises(DataError, match=r"2 of 4 rows have a label that is not a finite number") as caught:
        labels("4.5", "good", "3", "4,5", objective="regression")
    assert "rows 2 ('good'), 4 ('4,5')" in str(caught.value)
    assert labels("good", "bad", label_map={"good": 1, "bad": "-1"}, objective="regression") == [1.0, -1.0]


@pytest.mark.parametrize(
    ("value", "kind"), [(5, "int64"), ([1, 2], "list"), ({"a": "b"}, "struct"), (True, "bool")]
)
def test_texts_that_are_no_text(value: Any, kind: str) -> None:
    with pytest.raises(DataError, match="does not hold text") as caught:
        run([{"text": None, "label": 1}, {"text": value, "label": 1}])
    assert "in row 2" in str(caught.value)
    assert kind in str(caught.value)


@pytest.mark.parametrize("label", [[1, 2], {"a": 1}])
def test_labels_that_are_no_single_value(label: Any) -> None:
    with pytest.raises(DataError, match="one label per row"):
        labels(label)


def test_null_text_column(write: Write) -> None:
    with pytest.raises(DataError, match="no row is left"):
        run(read_table(write("a.jsonl", [{"text": None, "label": 1}])))
    with pytest.raises(DataError, match="1 of 1 row has no label"):
        run(read_table(write("b.jsonl", [{"text": "x", "label": None}])))


def test_no_progress_bar_and_no_global_change(capfd: pytest.CaptureFixture[str], write: Write) -> None:
    before = datasets.are_progress_bars_disabled()
    run(read_table(write("a.jsonl", rows(*range(100)))))
    assert datasets.are_progress_bars_disabled() == before
    assert capfd.readouterr() == ("", "")
