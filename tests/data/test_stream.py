"""Streamed rows: the same rows, runs and errors as copied ones, without the copy."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer.data.domains import load_domain
from nlp_transfer.data.options import DomainOptions
from nlp_transfer.errors import DataError, RecipeError
from nlp_transfer.recipe import Recipe

TEXTS = ["Grün ist schön", "two\nlines", "emoji 🙂🙃", 'a "quoted" text', "Straße", "plain", "again", "end"]


def write(path: Path, rows: list, start: str = "") -> Path:
    path.write_text(start + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture
def corpus(tmp_path):
    """Two files with other columns, a byte order mark, blank texts, a blank line and dropped labels."""
    stars = [5, 1, 4, 2, 3, 5, 1, 4]
    first = [{"review": text, "stars": star} for text, star in zip(TEXTS, stars, strict=True)]
    first.insert(2, {"review": "  ", "stars": 1})
    second = [{"id": n, "text": f"{text} {n}", "stars": 1 + n % 5} for n, text in enumerate(TEXTS * 3)]
    one = write(tmp_path / "one.jsonl", first, start="\ufeff\n")
    return [str(one), str(write(tmp_path / "two.jsonl", second))]


def load(files, *, streaming, **options):
    values = {"train": files, "label_map": "stars-binary", "validation_fraction": 0.0} | options
    options = DomainOptions.model_validate(values | {"streaming": streaming})
    return load_domain(options, role="target", objective="classification", seed=3)


def found(domain):
    """How many rows each kind of finding is about; copied files are counted one by one."""
    counts = Counter()
    for finding in domain.checks:
        counts[finding.code] += finding.count
    return counts


def test_the_same_rows_as_copied_ones(corpus):
    streamed, copied = load(corpus, streaming=True), load(corpus, streaming=False)
    rows, table = streamed.stream, copied.train
    assert len(rows) == len(table) == streamed.sizes["train"]
    order = np.random.default_rng(0).permutation(len(table)).tolist()
    assert rows.read(order) == {"text": table[order]["text"], "label": table[order]["label"]}
    assert rows.lengths.tolist() == [len(text) for text in table["text"]]
    assert streamed.label_counts == copied.label_counts
    np.testing.assert_array_equal(streamed.hashes["train"], copied.hashes["train"])
    assert found(streamed) == found(copied)
    assert sorted(streamed.train["text"]) == sorted(table["text"]), "a small split is its own sample"


def test_validation_is_split_off_as_from_copied_rows(corpus):
    streamed, copied = (load(corpus, streaming=kind, validation_fraction=0.25) for kind in (True, False))
    assert streamed.validation["text"][:] == copied.validation["text"][:]
    rest = streamed.stream.read(range(len(streamed.stream)))
    assert rest == {"text": copied.train["text"][:], "label": copied.train["label"][:]}


def test_the_texts_are_not_copied(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    text = "word " * 400
    rows = [{"text": f"{text}{n}", "label": str(n % 2)} for n in range(30_000)]
    file = write(tmp_path / "large.jsonl", rows)
    domain = load([str(file)], streaming=True, label_map=None)
    kept = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file())
    copied = sum(len(text) for text in domain.train["text"])
    assert len(domain.stream) == 30_000
    assert len(domain.train) == domain.stream.SAMPLE
    assert kept - copied < 80 * 30_000 < file.stat().st_size / 20
    assert domain.stream.read([29_999])["text"] == [rows[-1]["text"]]


def test_a_changed_or_vanished_file_is_an_error(corpus):
    rows = load(corpus, streaming=True).stream
    path = Path(corpus[1])
    path.write_text(path.read_text("utf-8").replace("plain", "plane"), "utf-8")
    with pytest.raises(DataError, match="has changed"):
        rows.read(range(len(rows)))
    path.unlink()
    with pytest.raises(DataError, match=r"two.jsonl: cannot be read"):
        rows.read(range(len(rows)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "x", "label": None}, "line 3 has no label"),
        ({"text": 5, "label": "a"}, "line 3, column 'text' does not hold text"),
        (["x"], "line 3 is not an object"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path, row, message):
    file = write(tmp_path / "bad.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}, row])
    with pytest.raises(DataError, match=message):
        load([str(file)], streaming=True, label_map=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": {"train": "a.csv", "streaming": True}}, "JSON Lines"),
        ({"target": {"train": "a.jsonl.gz", "streaming": True}}, "not compressed"),
        ({"target": {"dataset": "sample:cafes", "streaming": True}}, "streaming reads files"),
        ({"strategy": {"kind": "frozen"}}, "strategy full or lora"),
        ({"adaptation": [{"kind": "mmd"}], "source": {"train": "b.jsonl"}}, "without adaptation"),
        ({"source": {"train": "b.jsonl", "mode": "joint"}}, "sequential"),
    ],
)
def test_what_streaming_does_not_go_with(changes, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict({"target": {"train": "a.jsonl", "streaming": True}} | changes)
