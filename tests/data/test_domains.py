from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from nlp_transfer.data.checks import cross_check, text_hashes
from nlp_transfer.data.domains import DomainData, DomainOptions, label_names, load_domain
from nlp_transfer.data.load import read_table, take_rows
from nlp_transfer.errors import DataError

Write = Callable[..., str]


def load(
    objective: str = "classification", *, role: str = "target", seed: int = 0, **kwargs: Any
) -> DomainData:
    extra = {key: kwargs.pop(key) for key in ("base", "need") if key in kwargs}
    return load_domain(DomainOptions(**kwargs), role=role, objective=objective, seed=seed, **extra)


def rows(count: int, classes: int = 2, start: int = 0, word: str = "text") -> list[dict[str, Any]]:
    """Sorted by label."""
    return [{"text": f"{word} {start + n}", "label": n * classes // count} for n in range(count)]


def codes(domain: DomainData) -> dict[str, tuple[int, int]]:
    return {finding.code: (finding.count, finding.total) for finding in domain.checks}


def test_files_of_every_split(write: Write) -> None:
    domain = load(
        train=[write("shop.train.jsonl", rows(10)), write("more.csv", "label,text\n0,extra\n")],
        validation=write("dev.jsonl", rows(4, start=20)),
        test=write("test.jsonl", rows(6, start=40)),
        unlabeled=write("raw.txt", "one\ntwo\n"),
        need=("train", "validation", "test", "unlabeled"),
    )
    assert domain.name == "shop"
    assert domain.sizes == {"train": 11, "validation": 4, "test": 6, "unlabeled": 2}
    assert domain.train is not None
    assert domain.train[-1] == {"text": "extra", "label": "0"}
    assert domain.unlabeled is not None
    assert domain.unlabeled.column_names == ["text"]
    assert domain.label_counts == {
        "train": {"0": 6, "1": 5},
        "validation": {"0": 2, "1": 2},
        "test": {"0": 3, "1": 3},
    }
    assert domain.checks == []
    assert label_names([domain]) == ["0", "1"]


def test_base_folder(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("recipe/a.jsonl", rows(10))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(load(train="a.jsonl", base=tmp_path / "recipe", need=("train",)).train or ()) == 10


def test_validation_is_split_off_when_needed(write: Write) -> None:
    path = write("a.jsonl", rows(1000, classes=4))
    domain = load(train=path)
    assert domain.label_counts["validation"] == {str(n): 25 for n in range(4)}
    assert domain.label_counts["train"] == {str(n): 225 for n in range(4)}
    (told,) = [finding.message for finding in domain.checks if finding.code == "split-off"]
    assert told == "validation: none is given, so 100 of 1,000 training rows are split off for it"
    assert domain.fingerprints == load(train=path).fingerprints
    assert domain.fingerprints != load(train=path, seed=1).fingerprints
    assert load(train=path, need=("train",)).sizes == {"train": 1000}
    assert load("none", train=path).sizes == {"train": 1000}
    assert load(train=path, validation_fraction=0).sizes == {"train": 1000}
    assert load("regression", train=path).sizes == {"train": 900, "validation": 100}


def test_test_is_split_off_when_asked_for(write: Write) -> None:
    path = write("a.jsonl", rows(1000))
    domain = load(train=path, test_fraction=0.2)
    assert domain.sizes == {"train": 700, "validation": 100, "test": 200}
    texts = [set(table["text"][:]) for table in domain.splits.values()]
    assert len(set.union(*texts)) == 1000
    shared = load(train=path, test_fraction=0.2, need=("test",))
    assert shared.fingerprints["test"] == domain.fingerprints["test"]


def test_duplicates_do_not_straddle_a_split(write: Write) -> None:
    data = [{"text": variant, "label": n % 2} for n in range(200) for variant in (f"Text {n}", f"text  {n} ")]
    domain = load(train=write("a.jsonl", data), validation_fraction=0.3)
    assert "leakage" not in codes(domain)
    assert codes(domain)["duplicates"][0] > 0
    assert domain.sizes == {"train": 280, "validation": 120}


def test_a_split_that_is_not_there(write: Write) -> None:
    path = write("a.jsonl", rows(10))
    with pytest.raises(DataError, match=r"target has no test split") as caught:
        load(train=path, need=("train", "test"))
    assert "test_fraction" in str(caught.value)
    with pytest.raises(DataError, match="target has no validation split"):
        load(train=path, validation_fraction=0, need=("validation",))
    with pytest.raises(DataError, match="target has no train split"):
        load(test=path, need=("train",))
    assert load(test=path).sizes == {"test": 10}


def test_too_few_rows_to_split(write: Write) -> None:
    with pytest.raises(DataError, match="too few rows to split validation off"):
        load(train=write("a.jsonl", rows(2)))


def test_one_class(write: Write) -> None:
    one = write("a.jsonl", [{"text": str(n), "label": "good"} for n in range(10)])
    with pytest.raises(DataError, match="all 9 rows have the same label") as caught:
        load(train=one)
    assert "'good'" in str(caught.value)
    assert load("none", train=one).sizes == {"train": 10}
    assert load(test=one).label_counts == {"test": {"good": 10}}


def test_max_samples_of_a_sorted_file(write: Write) -> None:
    path = write("a.jsonl", rows(1000))
    domain = load(train=path, max_samples=50, need=("train",))
    assert domain.label_counts == {"train": {"0": 25, "1": 25}}
    assert domain.train is not None
    numbers = [int(text.split()[1]) for text in domain.train["text"]]
    assert max(numbers) > 900
    assert len(set(numbers)) == 50
    assert domain.fingerprints == load(train=path, max_samples=50, need=("train",)).fingerprints
    assert load(train=path, max_samples=5000, need=("train",)).sizes == {"train": 1000}
    assert load("none", train=path, max_samples=50).sizes == {"train": 50}


def test_hashes_belong_to_the_rows(write: Write) -> None:
    path = write("a.jsonl", [*rows(500), *rows(100, word="TEXT")])
    domain = load(train=path, test_fraction=0.2, max_samples=90)
    assert domain.sizes["train"] == domain.sizes["test"] == 90
    for split, table in domain.splits.items():
        assert domain.hashes[split].tolist() == text_hashes(table).tolist()
    spellings = Dataset.from_dict({"text": ["Über  Straße", "über\tSTRASSE ", "uber strasse"]})
    one, two, three = text_hashes(spellings).tolist()
    assert one == two != three


def test_taken_rows_are_those_that_select_gives(write: Write) -> None:
    table = read_table(write("a.jsonl", rows(25_000)))
    for chosen in (np.array([0]), np.arange(0, 25_000, 3), np.array([9_999, 10_000, 24_999])):
        assert take_rows(table, chosen)[:] == table.select(chosen)[:]


def reference_fingerprint(data: list[dict[str, str]]) -> str:
    whole = hashlib.sha256()
    for name in ("text", "label"):
        values = [row[name].encode() for row in data]
        lengths = b"".join(len(value).to_bytes(8, "little") for value in values)
        for part in (lengths, b"".join(values)):
            whole.update((name.encode() if part is lengths else b"") + hashlib.sha256(part).digest())
    return whole.hexdigest()


def test_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    data = [{"text": f'Grüße, {n}\n"x"', "label": str(n % 2)} for n in range(12_000)]
    lines = "".join(json.dumps(row) + "\n" for row in data)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.json").write_text(
        json.dumps([{"label": int(row["label"]), "text": row["text"]} for row in data])
    )
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    with (tmp_path / "d.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(data)
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "e.parquet")
    found = {load(test=str(path)).fingerprints["test"] for path in tmp_path.iterdir()}
    assert found == {reference_fingerprint(data)}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[::-1],
        lambda data: data[1:],
        lambda data: [{"text": "a", "label": "1"}, *data[1:]],
        lambda data: [{"text": "ab", "label": "0"}, {"text": "", "label": "0"}][:1] + data[1:],
    ],
)
def test_fingerprint_changes(write: Write, change: Callable) -> None:
    data = [{"text": "a", "label": "0"}, {"text": "bc", "label": "1"}]
    one, two = (
        load(test=write(f"{n}.jsonl", part)).fingerprints for n, part in enumerate((data, change(data)))
    )
    assert one != two


def test_fingerprint_of_rows_that_were_selected(write: Write) -> None:
    data = rows(30_000)
    half = load("regression", train=write("a.jsonl", data), max_samples=15_000, need=("train",))
    assert half.train is not None
    again = load("regression", train=write("b.jsonl", list(half.train)), need=("train",))
    assert again.fingerprints == half.fingerprints


def test_duplicates_and_conflicts(write: Write) -> None:
    data = rows(96)
    data += [{"text": "TEXT  3", "label": 0}, {"text": "text 4", "label": 1}, {"text": "text 4", "label": 0}]
    domain = load(train=write("a.jsonl", data), need=("train",))
    assert codes(domain) == {"duplicates": (3, 99), "conflicting-labels": (1, 96)}
    assert [finding.level for finding in domain.checks] == ["warning", "warning"]
    ratings = load("regression", train=write("b.jsonl", data), need=("train",))
    assert codes(ratings) == {"duplicates": (3, 99), "conflicting-labels": (1, 96)}
    few = load(train=write("c.jsonl", [*rows(1000), {"text": "text 0", "label": 0}]), need=("train",))
    assert [(finding.code, finding.level) for finding in few.checks] == [("duplicates", "info")]


def test_leakage(write: Write) -> None:
    train, dev = rows(100), rows(40, start=1000)
    test = [*rows(50, start=2000), *train[:7], {"text": "TEXT\n1001", "label": 0}]
    domain = load(
        train=write("a.jsonl", train), validation=write("b.jsonl", dev), test=write("c.jsonl", test)
    )
    leaks = [finding for finding in domain.checks if finding.code == "leakage"]
    assert [(finding.count, finding.total) for finding in leaks] == [(7, 58), (1, 58)]
    assert "in the train split" in leaks[0].message
    assert "in the validation split" in leaks[1].message


def test_cross_check(write: Write) -> None:
    source = load(role="source", train=write("a.jsonl", rows(100)), need=("train",))
    test = [*rows(20, start=2000), *rows(5)]
    target = load(train=write("b.jsonl", rows(10, start=500)), test=write("c.jsonl", test), need=("train",))
    (finding,) = cross_check(source, target)
    assert (finding.code, finding.count, finding.total) == ("cross-leakage", 5, 25)
    other = load(test=write("d.jsonl", [{"text": "x", "label": "good"}, {"text": "y", "label": 1}][:1]))
    (finding,) = cross_check(source, other)
    assert finding.code == "cross-labels"
    assert "source only: 0, 1; target only: good" in finding.message
    assert cross_check(source, load("none", unlabeled=write("e.txt", "x\n"))) == []


def test_classes(write: Write) -> None:
    data = [{"text": f"t {n}", "label": "rare" if n < 5 else "common"} for n in range(100)]
    test = [{"text": "u", "label": "rare"}, {"text": "v", "label": "new"}]
    domain = load(train=write("a.jsonl", data), test=write("b.jsonl", test), need=("train",))
    assert codes(domain) == {"imbalance": (5, 100), "unseen-label": (1, 2)}
    assert "19 times" in domain.checks[0].message
    even = [{"text": f"t {n}", "label": "rare" if n < 10 else "common"} for n in range(110)]
    assert codes(load(train=write("c.jsonl", even), need=("train",))) == {}


def test_findings_of_cleaning_reach_the_domain(write: Write) -> None:
    data = [*rows(10), {"text": " ", "label": 1}, {"text": "x", "label": 9}]
    domain = load(train=write("a.jsonl", data), label_map={0: "bad", 1: "good", 9: None}, need=("train",))
    assert codes(domain) == {"empty-text": (1, 12), "dropped-label": (1, 12)}
    assert label_names([domain]) == ["bad", "good"]


def test_label_names_of_several_domains(write: Write) -> None:
    domains = [
        load(test=write(f"{n}.jsonl", [{"text": "x", "label": label}]))
        for n, label in enumerate((10, "9", 1.0))
    ]
    assert label_names(domains) == ["1", "9", "10"]
    assert label_names([load("regression", test=write("a.jsonl", rows(4)))]) == []


@pytest.mark.parametrize("name", ["recipes", "travel"])
def test_sample_of_translations_has_no_text_column(name: str) -> None:
    with pytest.raises(DataError, match="no text column") as caught:
        load(dataset=f"sample:{name}")
    assert "'translation'" in str(caught.value)


@pytest.mark.parametrize("name", ["cafes", "laptops"])
def test_sample_of_reviews(name: str) -> None:
    domain = load(dataset=f"sample:{name}", need=("train", "validation", "test"))
    assert domain.name == name
    assert domain.label_counts["train"].keys() == {"negative", "positive"}
    assert domain.checks[0].code == "sample"
    assert "not real data" in domain.checks[0].message
    assert load(dataset=f"sample:{name}", train="train[:50%]", need=("train",)).sizes == {
        "train": domain.sizes["train"] // 2,
        **{split: domain.sizes[split] for split in ("validation", "test")},
    }


@pytest.mark.real_data
@pytest.mark.skipif("NLP_TRANSFER_DATA" not in os.environ, reason="NLP_TRANSFER_DATA is not set")
@pytest.mark.parametrize(("name", "leaked"), [("baby", 14), ("dvd", 14), ("sports_outdoors", 28)])
def test_known_leaks_of_real_data(name: str, leaked: int) -> None:
    """Reviews whose test rows are also in train, as the index of the data counts them."""
    folder = Path(os.environ["NLP_TRANSFER_DATA"]) / "sentiment" / "fdu"
    files = {split: str(folder / f"{name}.{split}.jsonl") for split in ("train", "test")}
    assert codes(load(**files, need=("train", "test")))["leakage"] == (leaked, 400)


def parquet_repository(folder: Path) -> Path:
    """A local data set repository with class names and a test split whose labels are hidden."""
    features = Features(
        {"idx": Value("int32"), "sentence": Value("string"), "label": ClassLabel(names=["neg", "pos"])}
    )
    (folder / "data").mkdir(parents=True)
    for split, count in (("train", 40), ("validation", 10), ("test", 6)):
        label = [-1 if split == "test" else n % 2 for n in range(count)]
        columns = {
            "idx": list(range(count)),
            "sentence": [f"{split} {n}" for n in range(count)],
            "label": label,
        }
        Dataset.from_dict(columns, features=features).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )
    return folder


def test_local_repository(tmp_path: Path) -> None:
    folder = parquet_repository(tmp_path / "shop")
    domain = load(dataset=str(folder), need=("train", "validation"))
    assert domain.name == "shop"
    assert domain.sizes == {"train": 40, "validation": 10}
    assert label_names([domain]) == ["neg", "pos"]
    assert codes(domain) == {"no-labels": (6, 6)}
    part = load(dataset=str(folder), train="train[:20]", validation="train[20:]")
    assert part.sizes == {"train": 20, "validation": 20}
    assert load(dataset="shop", base=tmp_path, train="train", need=("train",)).sizes["train"] == 40
    with pytest.raises(DataError, match="6 of 6 rows have no label"):
        load(dataset=str(folder), test="test")
    with pytest.raises(DataError, match="no split 'trian'") as caught:
        load(dataset=str(folder), train="trian")
    assert "did you mean 'train'?" in str(caught.value)
    with pytest.raises(DataError, match="no split"):
        load(dataset=str(folder), train="train[x:]")


def test_saved_to_disk(tmp_path: Path) -> None:
    table = Dataset.from_list(rows(20))
    table.save_to_disk(tmp_path / "one")
    DatasetDict({"train": table, "dev": table.select([0, 19])}).save_to_disk(tmp_path / "two")
    assert load(dataset=str(tmp_path / "one"), need=("train",)).sizes == {"train": 20}
    assert load(dataset=str(tmp_path / "two")).sizes == {"train": 20, "validation": 2}


def test_repository_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.jsonl").write_text('{"text": ')
    (tmp_path / "file").write_text("x")
    for dataset, message in (
        (str(tmp_path / "empty"), "cannot be loaded"),
        (str(tmp_path / "broken"), "cannot be loaded"),
        (str(tmp_path / "file"), "a file"),
        (str(tmp_path / "none"), "no such folder"),
        ("./none", "no such folder"),
        ("nobody/there-is-no-such-data-set", "cannot be loaded"),
        ("not a name/at all/!", "cannot be loaded"),
    ):
        with pytest.raises(DataError, match=message):
            load(dataset=dataset)


def test_unknown_config(tmp_path: Path) -> None:
    folder = parquet_repository(tmp_path / "shop")
    with pytest.raises(DataError, match=r"config 'nope' cannot be loaded") as caught:
        load(dataset=str(folder), config="nope")
    assert "default" in str(caught.value)


def load_in_a_process(path: str, cache: str) -> dict[str, str]:
    import datasets

    datasets.config.HF_DATASETS_CACHE = Path(cache)
    return load(train=path).fingerprints


def test_processes_do_not_collide(write: Write, cache: Path) -> None:
    path = write("a.jsonl", rows(20_000))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(load_in_a_process, [path] * 2, [str(cache)] * 2))
    assert all(result == results[0] for result in results)
    assert not list(cache.rglob("*.part"))
    assert len(list(cache.rglob("*.arrow"))) == 4


def test_domain_of_translations_keeps_other_columns_out(write: Write) -> None:
    domain = load(train=write("a.jsonl", [{**row, "id": 1} for row in rows(10)]), need=("train",))
    assert domain.train is not None
    assert domain.train.column_names == ["text", "label"]
    assert Counter(domain.train["label"]) == {"0": 5, "1": 5}
