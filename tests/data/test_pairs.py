# ruff: noqa: E501
from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Translation
from pydantic import ValidationError

from nlp_transfer.data.checks import fingerprint
from nlp_transfer.data.domains import DomainData, DomainOptions, load_domain
from nlp_transfer.data.languages import language, names_of
from nlp_transfer.data.load import read_parallel
from nlp_transfer.data.options import anchored
from nlp_transfer.errors import DataError

Write = Callable[..., str]
WORDS = [("Haus", "house"), ("Baum", "tree"), ("Weg", "path"), ("Berg", "mountain"), ("Fluss", "river")]


def pairs(count: int, start: int = 0) -> list[tuple[str, str]]:
    """German and English sentences, all different, of about the same length."""
    return [
        (f"Das {WORDS[n % 5][0]} Nummer {n} ist schön.", f"The {WORDS[n % 5][1]} number {n} is beautiful.")
        for n in range(start, start + count)
    ]


def nested(items: list[tuple[str, str]], **more: Any) -> list[dict[str, Any]]:
    return [{"translation": {"de": de, "en": en, **more}} for de, en in items]


def load(*, languages: tuple[str, str] | None = ("de", "en"), need: Any = None, **kwargs: Any) -> DomainData:
    kwargs.setdefault("validation_fraction", 0)
    options = DomainOptions(**kwargs)
    return load_domain(
        options, role="target", objective="translation", seed=0, languages=languages, need=need
    )


def content(domain: DomainData, split: str = "train") -> list[tuple[str, str]]:
    table = domain.splits[split]
    assert table.column_names == ["text", "translation"]
    return list(zip(table["text"][:], table["translation"][:], strict=True))


def found(domain: DomainData) -> dict[str, tuple[str, int, int]]:
    return {f"{c.message.split(':')[0]} {c.code}": (c.level, c.count, c.total) for c in domain.checks}


def test_every_form_gives_the_same_rows(write: Write, tmp_path: Path) -> None:
    items = pairs(30)
    german, english = ("".join(f"{line}\n" for line in side) for side in zip(*items, strict=True))
    flat = [{"id": n, "en": en, "de": de} for n, (de, en) in enumerate(items)]
    pq.write_table(
        pa.table({"translation": [row["translation"] for row in nested(items)]}), tmp_path / "a.parquet"
    )
    csv = "".join(f'"{de}","{en}"\n' for de, en in items)
    renamed = [{"deutsch": de, "englisch": en} for de, en in items]
    forms: list[dict[str, Any]] = [
        {"train": write("a.jsonl", nested(items))},
        {"train": write("three.jsonl", nested(items, fr="la maison"))},
        {"train": str(tmp_path / "a.parquet")},
        {"train": write("flat.jsonl", flat)},
        {"train": write("a.csv", "de,en\n" + csv)},
        {"train": write("plain.csv", "source,target\n" + csv)},
        {"train": write("named.jsonl", renamed), "source_column": "deutsch", "target_column": "englisch"},
        {"train": {"source": write("x.de", german), "target": write("x.en", english)}},
        {"train": {"source": write("x.de.txt.gz", german), "target": write("crlf.en", english.replace("\n", "\r\n"))}},
        {"train": [write("one.jsonl", nested(items[:10])), {"source": write("y.de", "".join(f"{a}\n" for a, _ in items[10:])), "target": write("y.en", "".join(f"{b}\n" for _, b in items[10:]))}]},
    ]  # fmt: skip
    domains = [load(**form) for form in forms]
    assert content(domains[0]) == items
    assert [content(domain) for domain in domains] == [items] * len(forms)
    assert len({domain.fingerprints["train"] for domain in domains}) == 1
    assert all(domain.checks == [] for domain in domains)


def test_direction_and_codes(write: Write) -> None:
    path = write("a.jsonl", nested(pairs(3), fr="oui"))
    forward, back = load(train=path, languages=("de", "en")), load(train=path, languages=("en", "de"))
    assert content(back) == [(en, de) for de, en in content(forward)]
    assert forward.fingerprints != back.fingerprints
    for codes in (("deu_Latn", "eng_Latn"), ("de_DE", "en-XX"), ("DE", "EN")):
        assert content(load(train=path, languages=codes)) == pairs(3)
    keys = {"source_column": "fr", "target_column": "en"}
    assert content(load(train=path, languages=("x", "y"), **keys))[0] == ("oui", pairs(1)[0][1])


def test_hub_form_and_sample(tmp_path: Path) -> None:
    features = Features({"translation": Translation(languages=("de", "en"))})
    DatasetDict(train=Dataset.from_list(nested(pairs(12)), features=features)).save_to_disk(tmp_path / "hub")
    assert content(load(dataset=str(tmp_path / "hub"))) == pairs(12)
    sample = load(dataset="sample:travel", need=("train", "validation", "test"))
    assert min(sample.sizes.values()) >= 20
    assert re.search("Wander|Dusche", sample.train["text"][0] + sample.train["text"][1])  # type: ignore[index]
    assert [check.code for check in sample.checks] == ["sample"]
    assert sample.label_counts == {}


def test_filters_count_and_drop_from_train_only(write: Write) -> None:
    odd = [("Ja.", "Yes, that is quite right. " * 8), ("Das ist " * 30, "That is")]
    same = [("OK", "OK "), ("U2", "U2")]
    empty = [("", "nothing"), ("nichts", "  ")]
    rows = nested(
        [*pairs(40), *odd, *same, *empty, pairs(1)[0], ("DAS Haus  Nummer 0 ist schön.", pairs(1)[0][1])]
    )
    path = write("a.jsonl", rows)
    domain = load(train=path, test=path)
    assert content(domain) == pairs(40)
    assert len(content(domain, "test")) == 46
    counts = found(domain)
    assert counts.pop("test leakage") == ("warning", 42, 46)
    assert counts == {
        "train empty-text": ("warning", 2, 48),
        "train identical-pair": ("warning", 2, 48),
        "train length-ratio": ("warning", 2, 48),
        "train duplicates": ("info", 2, 42),
        "test empty-text": ("warning", 2, 48),
        "test identical-pair": ("warning", 2, 48),
        "test length-ratio": ("warning", 2, 48),
        "test duplicates": ("warning", 2, 46),
    }
    messages = {check.code: check.message for check in domain.checks if check.message.startswith("test")}
    assert "are kept" in messages["length-ratio"]
    assert "42 of them with the same translation" in messages["leakage"]
    kept = load(train=path, filters={"max_length_ratio": None, "identical": "keep", "duplicates": "keep"})
    assert kept.sizes == {"train": 46}
    assert load(train=path, filters={"max_length_ratio": 100}).sizes == {"train": 42}


def test_length_ratio_is_measured_from_the_usual_one(write: Write) -> None:
    """Chinese is three times shorter than English throughout; only the pair that is unlike the others goes."""
    rows = [("天气很好" * 9 + str(n), "the weather is fine " * 9 + str(n)) for n in range(30)]
    lost = ("天气" * 40, "the weather")
    domain = load(train=write("a.jsonl", nested([*rows, lost])))
    assert content(domain) == rows
    assert found(domain) == {"train length-ratio": ("warning", 1, 31)}


def test_duplicates_across_files(write: Write) -> None:
    one, two = write("one.jsonl", nested(pairs(10))), write("two.jsonl", nested(pairs(10, start=5)))
    domain = load(train=[one, two])
    assert content(domain) == pairs(15)
    assert found(domain) == {"train duplicates": ("info", 5, 20)}
    other = nested([(pairs(1)[0][0], "Another house is beautiful.")])
    assert load(train=[one, write("c.jsonl", other)]).sizes == {"train": 11}


def test_split_sample_and_leakage_follow_the_pairs(write: Write) -> None:
    data = [
        pair for n in range(200) for pair in (pairs(1, n)[0], (pairs(1, n)[0][0], f"Number {n} is fine."))
    ]
    domain = load(train=write("a.jsonl", nested(data)), validation_fraction=0.25, max_samples=120)
    assert domain.sizes == {"train": 120, "validation": 100}
    assert "validation leakage" not in found(domain)
    known = dict.fromkeys(data)
    for split in ("train", "validation"):
        assert all(pair in known for pair in content(domain, split))
        assert len(domain.hashes[split]) == len(domain.translation_hashes[split]) == domain.sizes[split]
    leaky = load(
        train=write("b.jsonl", nested(pairs(20))),
        test=write("t.jsonl", nested([pairs(1)[0], (pairs(2)[1][0], "Other."), ("Neu hier.", pairs(3)[2][1]), ("A b", pairs(4)[3][1])])),
    )  # fmt: skip
    assert found(leaky) == {"test leakage": ("warning", 2, 4), "test translation-leakage": ("info", 3, 4)}
    assert "1 of them with the same translation" in leaky.checks[0].message


def test_unlabeled_is_the_source_side(write: Write) -> None:
    german = [de for de, _ in pairs(5)]
    for path in (
        write("u.txt", "\n".join(german)),
        write("u.jsonl", nested(pairs(5))),
        write("t.jsonl", [{"text": de} for de in german]),
        write("de.csv", "en,de\n" + "".join(f"{en},{de}\n" for de, en in pairs(5))),
    ):
        domain = load(unlabeled=path)
        assert domain.unlabeled is not None
        assert domain.unlabeled.column_names == ["text"]
        assert domain.unlabeled["text"][:] == german


def test_fingerprint_without_translations_is_what_it_was() -> None:
    table = Dataset.from_dict({"text": ["a", "bc"], "label": ["x", "y"]})
    assert fingerprint(table) == "70b4ee1051f7134e165765a690ff302bda2f8c95bdeb2bd24cca04b5bd5fd4e2"
    assert fingerprint(table) != fingerprint(table.rename_column("label", "translation"))


@pytest.mark.parametrize(
    ("name", "body", "options", "says"),
    [
        ("a.jsonl", nested(pairs(3)), {"languages": ("de", "fr")}, ["no text in the target language 'fr'", "languages de, en", "target_column"]),
        ("a.jsonl", [*nested(pairs(3)), {"translation": {"de": "Ja", "fr": "Oui"}}], {}, ["no 'en' in the column 'translation' of 1 row", "row 4 has de, fr"]),
        ("a.jsonl", [*nested(pairs(3)), {"translation": {"de": "Ja", "en": None}}], {}, ["row 4 has de", "both languages"]),
        ("a.jsonl", [*nested(pairs(3)), {"text": "Ja"}], {}, ["no 'de'", "row 4 has nothing"]),
        ("a.jsonl", [{"translation": {"de": 1, "en": "one"}}], {}, ["translation.de does not hold text", "1 (int64) in row 1"]),
        ("a.jsonl", [*nested(pairs(2)), {"translation": {"de": 3, "en": "three"}}], {}, ["a.jsonl: line 3, column 'de' holds a number", "text on the lines before"]),
        ("a.jsonl", [{"de": ["Ja"], "en": "Yes"}], {}, ["'de' does not hold text", "['Ja']"]),
        ("a.jsonl", [{"de": "Ja", "label": "x"}], {}, ["no text in the target language 'en'", "'de', 'label'"]),
        ("a.jsonl", [{"text": "Ja", "label": "x"}], {}, ["no text in the source language 'de'", "'text', 'label'"]),
        ("a.jsonl", nested(pairs(3)), {"source_column": "ger"}, ["no column 'ger' (source_column)", "languages de, en"]),
        ("a.csv", "de,en\nJa,Yes\n", {"target_column": "eng"}, ["no column 'eng' (target_column)", "did you mean 'en'?"]),
        ("a.jsonl", nested(pairs(3)), {"languages": None}, ["no source column", "source_column and target_column"]),
        ("a.jsonl", nested(pairs(3)), {"languages": ("de", "de_AT")}, ["both the source and the target"]),
        ("a.jsonl", [{"translation": {"pt_BR": "a", "pt_PT": "b", "en": "c"}}], {"languages": ("pt", "en")}, ["'pt_BR' and 'pt_PT' are both", "source_column"]),
        ("a.jsonl", nested([(de, de) for de, _ in pairs(6)]), {}, ["the same text in every row", "translation.de and translation.en", "6 pairs"]),
        ("a.jsonl", nested([("", "x"), ("x", " ")]), {}, ["no pair is left", "2 with an empty side"]),
        ("a.jsonl", [{"translation": "Ja", "id": 1}], {}, ["no text in the source language 'de'", "'translation'"]),
        ("a.txt", "Ja\nNein\n", {}, ["no text in the source language", "'text'"]),
    ],
)  # fmt: skip
def test_bad_tables(write: Write, name: str, body: Any, options: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        load(train=write(name, body), **options)
    for part in says:
        assert part in str(caught.value)


def test_identical_everywhere_is_an_error_in_test_too(write: Write) -> None:
    same = write("same.jsonl", nested([(de, de) for de, _ in pairs(6)]))
    with pytest.raises(DataError, match="the same text in every row"):
        load(train=write("a.jsonl", nested(pairs(6))), test=same)


@pytest.mark.parametrize(
    ("german", "english", "says"),
    [
        ("a\nb\nc\n", "a\nb\n", ["3 lines and 2 lines", "different numbers"]),
        ("a\n" * 25_000, "b\n" * 25_003, ["25,000 lines and 25,003 lines"]),
        ("a\n" * 10_000, "b\n" * 30_000, ["10,000 lines and 30,000 lines"]),
        ("a\n", "", ["x.en: the file is empty"]),
        ("a\n", b"caf\xe9\n", ["x.en: line 1 is not UTF-8"]),
        ("a\n", "PK\x03\x04", ["x.en: not a text file"]),
    ],
)
def test_bad_parallel_files(
    write: Write, cache: Path, german: str, english: str | bytes, says: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        read_parallel(write("x.de", german), write("x.en", english))
    for part in says:
        assert part in str(caught.value)
    assert not list(cache.rglob("*.arrow"))
    assert not list(cache.rglob("*.part"))


def test_parallel_files_keep_blank_lines_and_their_base(write: Write, tmp_path: Path) -> None:
    write("here/x.de", "\ufeffeins\n\ndrei\n")
    write("here/x.en", "one\ntwo\nthree")
    table = read_parallel("x.de", "x.en", base=tmp_path / "here")
    assert table.to_dict() == {"text": ["eins", "", "drei"], "translation": ["one", "two", "three"]}
    with pytest.raises(DataError, match=r"x\.csv: a table, not one side"):
        read_parallel(write("x.csv", "a\n"), tmp_path / "here/x.en")
    with pytest.raises(DataError, match="no such file"):
        read_parallel(tmp_path / "here/x.dee", tmp_path / "here/x.en")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": {"source": "a.de"}}, "source: FILE, target: FILE"),
        ({"train": {"source": "a.de", "target": 3}}, "source: FILE, target: FILE"),
        ({"train": {"de": "a.de", "en": "a.en"}}, "found {'de': 'a.de'"),
        ({"train": 5}, "expected a file, a list of files"),
        ({"train": ["a.csv", 5]}, "found 5"),
        ({"train": {"source": "a.de", "target": "a.de"}}, "the same file"),
        ({"train": {"source": " ", "target": ""}}, "train is empty"),
        ({"dataset": "wmt/wmt16", "train": {"source": "a.de", "target": "a.en"}}, "looks like a file"),
        ({"unlabeled": {"source": "a.de", "target": "a.en"}}, "without translations"),
        ({"train": "a.csv", "source_column": "de", "target_column": "de"}, "both 'de'"),
        ({"train": "a.csv", "filters": {"max_length_ratio": 1}}, "greater than 1"),
    ],
)
def test_contradictions(options: dict, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DomainOptions(**options)
    assert message in str(caught.value)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        ("ted.train.de", "ted.train.en", "ted"),
        ("data/koran.de.txt", "data/koran.en.txt", "koran"),
        ("opus/train.de", "opus/train.en", "opus"),
        ("german.txt", "english.txt", "german"),
    ],
)
def test_name_is_guessed_from_both_files(source: str, target: str, name: str) -> None:
    assert DomainOptions(train={"source": source, "target": target}).domain_name() == name


def test_a_dumped_recipe_finds_its_parallel_files(write: Write, tmp_path: Path) -> None:
    write("here/x.de", "eins\n")
    write("here/x.en", "one\n")
    files = [{"source": "x.de", "target": "x.en"}, "elsewhere.jsonl"]
    here = tmp_path / "here"
    assert anchored(files, here) == [
        {"source": str(here / "x.de"), "target": str(here / "x.en")},
        "elsewhere.jsonl",
    ]


def test_languages() -> None:
    assert [language(code) for code in ("zho_Hans", "zh_CN", "spa", "ZH", "ceb_Latn")] == [
        "zh",
        "zh",
        "es",
        "zh",
        "ceb",
    ]
    assert names_of("pt", ["pt_BR", "pt", "PT"]) == ["pt"]
    assert names_of("zho_Hant", ["zh_CN", "zh_TW"]) == ["zh_CN", "zh_TW"]
    assert names_of("de", ["text", "label", "dee"]) == []


def test_gzip_is_part_of_the_identity(write: Write, tmp_path: Path) -> None:
    (tmp_path / "a.de.gz").write_bytes(gzip.compress(b"eins\n"))
    english = write("a.en", "one\n")
    assert read_parallel(tmp_path / "a.de.gz", english)["text"][:] == ["eins"]
    assert json.loads(json.dumps(read_parallel(write("b.de", "zwei\n"), english)[0])) == {
        "text": "zwei",
        "translation": "one",
    }
