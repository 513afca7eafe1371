from __future__ import annotations

import base64
import datetime
import json
import math
import stat
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nlp_transfer.data.partial import PartialWriter
from nlp_transfer.data.rows import iter_rows
from nlp_transfer.data.writer import RowWriter
from nlp_transfer.errors import OutputError

ROWS = [{"text": 'a, "b"\nc', "label": "ü"}, {"text": "", "label": "x"}]


@pytest.mark.parametrize(
    "name", ["o.csv", "o.tsv", "o.jsonl", "o.ndjson", "o.parquet", "o.csv.gz", "o.jsonl.gz"]
)
def test_what_is_written_is_read_again(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / "folder" / name
    with RowWriter(path) as out:
        for row in ROWS:
            out.write(row)
        assert not path.exists()
    assert list(iter_rows(path)) == ROWS
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_parquet_keeps_types_over_batches(tmp_path: Path) -> None:
    with RowWriter(tmp_path / "o.parquet") as out:
        for number in range(10_001):
            out.write({"n": number, "score": number / 2})
    table = pq.read_table(tmp_path / "o.parquet")
    assert table["n"].to_pylist() == list(range(10_001))
    assert str(table.schema.field("score").type) == "double"


def test_nested_values_in_csv_are_json(tmp_path: Path) -> None:
    with RowWriter(tmp_path / "o.csv") as out:
        out.write({"scores": [0.5, 1], "meta": {"a": None}})
    row = next(iter_rows(tmp_path / "o.csv"))
    assert json.loads(row["scores"]) == [0.5, 1]
    assert json.loads(row["meta"]) == {"a": None}


@pytest.mark.parametrize("name", ["o.csv", "o.jsonl.gz", "o.parquet"])
def test_a_failure_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("old")

    def fail() -> None:
        with RowWriter(path, overwrite=True) as out:
            out.write(ROWS[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    path = tmp_path / "o.csv"
    path.write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        RowWriter(path)
    with RowWriter(path, overwrite=True) as out:
        out.write(ROWS[0])
    assert next(iter_rows(path)) == ROWS[0]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain.csv").write_text("x")
    with RowWriter(tmp_path / "o.csv") as out:
        out.write(ROWS[0])
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain.csv", "o.csv")]
    assert modes[0] == modes[1]


def test_plain_text_is_a_line_a_row(tmp_path: Path) -> None:
    with RowWriter(tmp_path / "o.txt") as out:
        for text in ("one", "two\nlines", "", "drei 🌱"):
            out.write({"translation": text})
    assert (tmp_path / "o.txt").read_text("utf-8").split("\n") == ["one", "two lines", "", "drei 🌱", ""]


@pytest.mark.parametrize("name", ["o.xlsx", "o", "o.parquet.gz", "o.doc"])
def test_unknown_suffix(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="unknown kind of file"):
        RowWriter(tmp_path / name)


def test_places_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(OutputError, match="a folder, not a file"):
        RowWriter(tmp_path / "d.csv")
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"), RowWriter(tmp_path / "file" / "o.csv"):
        pass
    monkeypatch.setattr(
        Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(OutputError, match="Permission denied"), RowWriter(tmp_path / "o.csv"):
        pass


@pytest.mark.parametrize(
    ("name", "second", "message"),
    [("o.csv", {"a": 1, "b": 2}, "other columns"), ("o.parquet", {"a": "x"}, "more than one type")],
)
def test_rows_must_agree(tmp_path: Path, name: str, second: dict, message: str) -> None:
    def write() -> None:
        with RowWriter(tmp_path / name) as out:
            out.write({"a": 1})
            out.write(second)

    with pytest.raises(OutputError, match=message):
        write()
    assert list(tmp_path.iterdir()) == []


def test_no_rows(tmp_path: Path) -> None:
    for name in ("o.csv", "o.jsonl", "o.parquet"):
        with RowWriter(tmp_path / name):
            pass
        assert (tmp_path / name).exists()


def no_constant(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_what_parquet_holds_becomes_json(tmp_path: Path) -> None:
    values: dict[str, list] = {
        "when": [datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc), None],
        "day": [datetime.date(2024, 2, 29), None],
        "time": [datetime.time(12, 30), None],
        "lasted": [datetime.timedelta(minutes=1.5), None],
        "price": [Decimal("1.10"), None],
        "raw": [b"\x00\xff", None],
        "score": [math.nan, math.inf],
        "nested": [[{"x": math.nan, "day": datetime.date(2024, 1, 1)}], []],
    }
    pq.write_table(pa.table(values), tmp_path / "in.parquet")
    with RowWriter(tmp_path / "o.jsonl") as out, RowWriter(tmp_path / "o.csv") as table:
        for row in iter_rows(tmp_path / "in.parquet"):
            out.write(row)
            table.write(row)
    lines = (tmp_path / "o.jsonl").read_text("utf-8").splitlines()
    first, second = (json.loads(line, parse_constant=no_constant) for line in lines)
    assert datetime.datetime.fromisoformat(first["when"]) == values["when"][0]
    assert datetime.date.fromisoformat(first["day"]) == values["day"][0]
    assert datetime.time.fromisoformat(first["time"]) == values["time"][0]
    assert first["lasted"] == 90
    assert Decimal(first["price"]) == values["price"][0]
    assert base64.b64decode(first["raw"]) == values["raw"][0]
    assert first["nested"] == [{"x": None, "day": "2024-01-01"}]
    assert first["score"] is None
    assert second == dict.fromkeys(values) | {"nested": []}
    cells = next(iter_rows(tmp_path / "o.csv"))
    for name in ("when", "day", "time", "price", "raw"):
        assert cells[name] == first[name]
    assert json.loads(cells["nested"], parse_constant=no_constant) == first["nested"]


def test_one_process_at_a_time_writes_a_partial_file(tmp_path: Path) -> None:
    """A lock belongs to an open file, so that two writers of one process stand for two processes."""
    path = tmp_path / "o.jsonl"

    def begin(**how: bool) -> None:
        with PartialWriter(path, **how) as other:
            other.write({"n": -1})

    with PartialWriter(path) as out:
        out.write({"n": 0})
        with pytest.raises(OutputError, match="another process is writing it"):
            begin()
        out.checkpoint(1)
        for how in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="another process is writing it"):
                begin(**how)
        late = PartialWriter(path, resume=True)
        out.write({"n": 1})
        out.checkpoint(1)
    assert [row["n"] for row in iter_rows(path)] == [0, 1]
    with pytest.raises(OutputError), late:
        pass
    assert list(tmp_path.iterdir()) == [path]
    begin(overwrite=True)
    assert [row["n"] for row in iter_rows(path)] == [-1]
