from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlp_transfer.data.load import read_table
from nlp_transfer.data.rows import iter_rows
from nlp_transfer.errors import DataError

Write = Callable[..., str]
ROWS = [
    {"id": "1", "text": 'He said "no",\nthen left', "label": "a"},
    {"id": "2", "text": "Grüße — 你好", "label": ""},
]


def save(path: Path, kind: str) -> Path:
    path = path / f"rows{kind}"
    if kind in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter="," if kind == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(ROWS)
    elif kind == ".json":
        path.write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    elif kind == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == ".arrow":
        table = pa.Table.from_pylist(ROWS)
        with pa.ipc.new_file(str(path), table.schema) as out:
            out.write_table(table)
    else:
        path.write_text("".join(json.dumps(row) + "\n\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow"])
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, kind)
    assert list(iter_rows(path)) == ROWS
    assert list(read_table(path)) == ROWS
    assert list(read_table(path)) == ROWS  # from the cache


def test_arrow_stream(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as out:
        out.write_table(table)
    assert list(iter_rows(tmp_path / "a.arrow")) == ROWS


def test_text_file(write: Write) -> None:
    path = write("a.txt", "one\r\n\ntwo\u2028still two\nthree")
    texts = ["one", "", "two\u2028still two", "three"]
    assert [row["text"] for row in iter_rows(path)] == texts
    assert read_table(path)["text"][:] == texts


@pytest.mark.parametrize("name", ["a.csv.gz", "a.tsv.gz", "a.jsonl.gz", "a.json.gz", "a.txt.gz"])
def test_gzip(write: Write, name: str) -> None:
    content = {"csv": "text\nx\n", "tsv": "text\nx\n", "txt": "x\n"}.get(
        name.split(".")[1], '{"text": "x"}\n'
    )
    path = write(name, content)
    assert list(iter_rows(path)) == [{"text": "x"}]
    assert list(read_table(path)) == [{"text": "x"}]


def test_byte_order_mark_and_windows_lines(write: Write) -> None:
    for name, content in (("a.csv", "text,label\r\nx,1\r\n"), ("a.jsonl", '{"text": "x", "label": "1"}\r\n')):
        assert list(iter_rows(write(name, b"\xef\xbb\xbf" + content.encode()))) == [
            {"text": "x", "label": "1"}
        ]


def test_words_that_look_like_missing_values_stay_text(write: Write) -> None:
    words = ["NA", "null", "None", "NaN", "n/a", "2020-01-01", "1.0", "true"]
    table = read_table(write("a.csv", "text\n" + "\n".join(words)))
    assert table["text"][:] == words
    dates = read_table(write("a.jsonl", [{"text": "2020-01-01"}, {"text": "2021-02-02"}]))
    assert dates["text"][:] == ["2020-01-01", "2021-02-02"]


def test_long_field(write: Write) -> None:
    before = csv.field_size_limit()
    long = "word " * 100_000
    path = write("a.csv", f'text,label\n"{long}",1\n')
    assert next(iter_rows(path))["text"] == long
    assert csv.field_size_limit() == before


def test_relative_path_working_folder_first_then_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here", "recipe"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(folder)
    (tmp_path / "recipe" / "b.txt").write_text("recipe")
    monkeypatch.chdir(tmp_path / "here")
    assert next(iter_rows("a.txt", base=tmp_path / "recipe"))["text"] == "here"
    assert next(iter_rows("b.txt", base=tmp_path / "recipe"))["text"] == "recipe"
    assert read_table("b.txt", base=tmp_path / "recipe")[0]["text"] == "recipe"
    with pytest.raises(DataError, match=r"c\.txt: no such file"):
        next(iter_rows("c.txt", base=tmp_path / "recipe"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such file") as caught:
        next(iter_rows("c.txt", base=tmp_path))
    assert caught.value.expected == f"a file at {tmp_path / 'c.txt'}"


FAULTS = [
    ("a.csv", "", ["empty", "0 bytes"]),
    ("a.jsonl.gz", "", ["empty"]),
    ("a.jsonl", "\n\n", ["no data"]),
    ("a.json", "[]", ["no data"]),
    ("a.csv", "text,label\n", ["no data", "a header without rows"]),
    ("a.csv", 'text,label\n"two\nlines",1\n\nx,1,2\n', ["line 5", "3 fields"]),
    ("a.csv", "text,label\nx\n", ["line 2", "1 fields"]),
    ("a.tsv", "text\tlabel\nx\ty\tz\n", ["line 2"]),
    ("a.csv", "text,text\nx,1\n", ["same name", "'text'"]),
    ("a.csv", 'text,label\nx,1\n"open,2\ny,1\n', ["line 3", "never closed"]),
    ("a.csv", 'text,label\n"He said "hi" to me",2\n', ["line 2", "follows a closing quotation mark"]),
    ("a.csv", "text,label\rx,1\r", ["line 1", "new-line"]),
    ("a.jsonl", '{"text": "x"}\n' * 6 + '{"text": "x"\n', ["line 7", "not valid JSON", "character 13"]),
    ("a.jsonl", '{"text": "x"}\n[1]\n', ["line 2", "not an object"]),
    ("a.jsonl", '{"text": "x"}\n\n"x"\n', ["line 3", "not an object"]),
    ("a.json", '[{"text": "x"},\n{"text": }]', ["line 2"]),
    ("a.json", '[{"text": "x"}, 5]', ["item 2", "not an object"]),
    ("a.json", '{\n "text": "x"\n}', ["line 1"]),
    ("a.jsonl", '{"text": "ok"}\n{"text": "\\ud83d"}\n', ["line 2", "half a character", "\\ud83d"]),
    ("a.jsonl", "[" * 100_000, ["line 1"]),
    ("a.csv", b"text,label\nx,1\ncaf\xe9,1\n", ["line 3", "0xe9", "byte offset 18"]),
    ("a.jsonl", b'{"text": "x"}\n{"text": "\xff"}\n', ["line 2", "0xff"]),
    ("a.txt", "text".encode("utf-16"), ["UTF-16"]),
    ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00", ["binary"]),
    ("a.csv", b"PK\x03\x04rest", ["Excel"]),
    ("a.csv", b"\x1f\x8b\x08\x00rest", ["gzip", ".gz at the end"]),
    ("a.xlsx", b"x", ["unknown kind", ".xlsx"]),
    ("a", b"x", ["unknown kind", "no suffix"]),
    ("a.parquet", b"nonsense that is no parquet", ["Parquet"]),
    ("a.parquet", b"", ["cannot be read"]),
    ("a.arrow", b"nonsense that is no arrow", ["Arrow"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), FAULTS)
def test_faults_are_named(write: Write, name: str, content: str | bytes, parts: list[str]) -> None:
    path = write(name, content)
    for read in (read_table, lambda path: list(iter_rows(path))):
        with pytest.raises(DataError) as caught:
            read(path)
        for part in [*parts, path]:
            assert part in str(caught.value)


def test_a_fault_leaves_nothing_in_the_cache(write: Write, cache: Path) -> None:
    good = [{"text": "x", "label": 1}] * 25_000
    path = write("a.jsonl", [*good, {"text": "x", "label": "one"}])
    with pytest.raises(DataError, match="line 25001, column 'label' holds text, and a number"):
        read_table(path)
    assert [file for file in cache.rglob("*") if file.is_file()] == []


def test_missing_file_names_the_nearest(write: Write, tmp_path: Path) -> None:
    write("books.train.jsonl", '{"text": "x"}')
    with pytest.raises(DataError, match=r"did you mean 'books.train.jsonl'\?"):
        read_table(tmp_path / "book.train.jsonl")
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "nowhere" / "a.csv")


def test_folder_instead_of_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder, not a file"):
        read_table(tmp_path)


def test_address_instead_of_file() -> None:
    with pytest.raises(DataError, match="an address, not a file"):
        read_table("https://example.org/a.csv")


def test_no_permission(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("a.csv", "text\nx\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    for read in (read_table, lambda path: list(iter_rows(path))):
        with pytest.raises(DataError, match="no permission"):
            read(path)


@pytest.mark.parametrize("cut", [False, True])
def test_broken_gzip(write: Write, cut: bool) -> None:
    path = Path(write("a.txt.gz", "".join(f"{number}\n" for number in range(100_000))))
    path.write_bytes(path.read_bytes()[:5000] if cut else b"this is not gzip at all")
    with pytest.raises(DataError, match="broken gzip"):
        read_table(path)


def test_columns_widen_and_join_in_late(write: Write) -> None:
    rows = [{"a": None, "b": 1}] * 10_000 + [{"a": "x", "b": 1}] * 10_000 + [{"a": "y", "b": 1.5, "c": [1]}]
    table = read_table(write("a.jsonl", rows))
    assert table[0] == {"a": None, "b": 1.0, "c": None}
    assert table[10_000] == {"a": "x", "b": 1.0, "c": None}
    assert table[20_000] == {"a": "y", "b": 1.5, "c": [1]}
    assert len(table) == 20_001


def test_a_messy_column_matters_only_when_it_is_used(write: Write) -> None:
    rows = [{"text": "x", "meta": 1}] * 10_000 + [{"text": "y", "meta": {"a": 1}}, {"text": "z", "meta": "?"}]
    path = write("a.jsonl", rows)
    with pytest.raises(DataError, match="line 10001, column 'meta' holds an object, and a number"):
        read_table(path)
    table = read_table(path, columns=["text"])
    assert table.column_names == ["text"]
    assert table["text"][-3:] == ["x", "y", "z"]
    with pytest.raises(DataError, match="column 'Meta'"):
        read_table(write("b.jsonl", [{"Meta": 1}, {"Meta": "x"}]), columns=["meta"])


def test_number_too_large(write: Write) -> None:
    with pytest.raises(DataError, match="column 'n' cannot be read"):
        read_table(write("a.jsonl", [{"n": 2**70}]))


def test_a_changed_file_is_read_again(write: Write) -> None:
    assert read_table(write("a.txt", "one"))["text"][:] == ["one"]
    assert read_table(write("a.txt", "two"))["text"][:] == ["two"]


def test_nested_columns_are_kept(write: Write) -> None:
    rows = [{"translation": {"en": "Hello", "de": "Hallo"}}, {"translation": {"en": "Bye", "de": "Tschüss"}}]
    assert list(read_table(write("a.jsonl", rows))) == rows
