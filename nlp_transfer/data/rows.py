"""Rows of one file as dictionaries, read as a stream, with every fault named by its line."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from nlp_transfer.data.options import SUFFIXES
from nlp_transfer.errors import DataError, did_you_mean

_FIELD_LIMIT = 1 << 26  # characters; the csv module's own limit of 131,072 is too short for a chapter
_BATCH = 1000
_MAGIC = {
    b"PK\x03\x04": "a zip archive (or an Excel workbook)",
    b"\x1f\x8b": "a gzip file",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


def iter_rows(path: str | Path, *, base: Path | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a CSV, TSV, JSON, JSON Lines, text (also gzipped), Parquet or Arrow file.

    All columns are kept, in their order. CSV and TSV values are text; a text file has one column, ``text``.
    Memory stays bounded, but a JSON array (``[{...}, ...]``) is read whole.

    Args:
        path: the file; a relative path is tried in the working folder, then in ``base``.
        base: folder of the recipe.

    Raises:
        DataError: with the line, for anything that is wrong with the file.
    """
    for _, row in numbered_rows(find_file(path, base)):
        yield row


def find_file(path: str | Path, base: Path | None = None) -> Path:
    """Return the file that ``path`` means: in the working folder, else in ``base``.

    Raises:
        DataError: for a missing file or a folder.
    """
    given = Path(path).expanduser()
    places = [given] if given.is_absolute() or base is None else [given, base / given]
    with reading(given):
        place = next((place for place in places if place.exists()), None)
        if place is None and "://" in str(path):
            raise DataError(
                f"{path}: an address, not a file", fix="download it first, or name it under dataset"
            )
        if place is None:
            folder = next((p.parent for p in places if p.parent.is_dir()), None)
            names = sorted(p.name for p in folder.iterdir())[:1000] if folder else []
            hint = did_you_mean(given.name, names) if names else "check the folder"
            looked = " and ".join(dict.fromkeys(str(p.absolute()) for p in places))
            raise DataError(f"{path}: no such file", expected=f"a file at {looked}", fix=hint)
        if place.is_dir():
            raise DataError(
                f"{path}: a folder, not a file",
                expected=f"a file that ends in one of {', '.join(SUFFIXES)}",
                fix="name the file, or give a data set folder under dataset",
            )
    return place


def file_kind(path: Path) -> str:
    """Return the suffix that says how to read ``path``, without ``.gz``; raises DataError if unknown."""
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind not in SUFFIXES or (kind in (".parquet", ".arrow") and path.name.lower().endswith(".gz")):
        raise DataError(
            f"{path}: unknown kind of file",
            expected=f"a name that ends in one of {', '.join(SUFFIXES)}; the text formats also with .gz",
            found=f"{path.suffix or 'no suffix'}",
        )
    return kind


def numbered_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line, row)`` of an existing file; Parquet and Arrow count rows. Raises DataError."""
    kind = file_kind(path)
    if kind in (".parquet", ".arrow"):
        rows: Iterator[tuple[int, dict[str, Any]]]
        rows = enumerate((row for batch in arrow_batches(path) for row in batch.to_pylist()), 1)
        found = "no rows"
    else:
        _check_text_file(path)
        if kind in (".csv", ".tsv"):
            rows, found = _csv_rows(path, "," if kind == ".csv" else "\t"), "a header without rows"
        elif kind == ".txt":
            rows, found = ((n, {"text": line.rstrip("\r\n")}) for n, _, line in _lines(path)), "no lines"
        else:
            rows, found = _json_rows(path), "no rows"
    first = next(rows, None)
    if first is None:
        raise DataError(f"{path}: no data in this file", expected="at least one row", found=found)
    yield from chain([first], rows)


def sentences(path: Path) -> Iterator[str]:
    """Yield the lines of one side of parallel text, without their ends; its name may end in anything.

    Raises:
        DataError: a table, or not UTF-8 text.
    """
    kind = Path(path.name.lower().removesuffix(".gz")).suffix
    if kind in SUFFIXES and kind != ".txt":
        raise DataError(
            f"{path}: a table, not one side of parallel text",
            expected="a plain text file with one sentence a line",
            found=f"a name that ends in {kind}",
            fix="name a table with both languages by itself, without source and target",
        )
    _check_text_file(path)
    for _, _, line in _lines(path):
        yield line.rstrip("\r\n")


def placed_rows(path: Path) -> Iterator[tuple[int, int, int, dict[str, Any]]]:
    """Yield ``(line, its byte offset, its size in bytes, row)`` of a JSON Lines file that is not compressed.

    The options of a domain refuse other kinds of files.

    Raises:
        DataError: anything wrong with a line.
    """
    _check_text_file(path)
    for number, offset, line in _lines(path):
        if line.strip():
            yield number, offset, len(line.encode()), _json_object(path, number, line.strip())


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn the system's errors while reading ``path`` into a DataError."""
    try:
        yield
    except PermissionError as error:
        raise DataError(
            f"{path}: no permission to read it", fix="change its permissions or its owner"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: broken gzip file", found=str(error), fix="copy or compress it again"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read", found=error.strerror or str(error)) from error


def arrow_batches(path: Path) -> Iterator[Any]:
    """Yield the ``pyarrow.RecordBatch`` es of a Parquet or Arrow (file or stream) file; raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = "a Parquet file" if file_kind(path) == ".parquet" else "an Arrow file or stream"
    try:
        with reading(path):
            if file_kind(path) == ".parquet":
                with pq.ParquetFile(path) as parquet:
                    _check_names(path, parquet.schema_arrow.names)
                    yield from parquet.iter_batches(batch_size=_BATCH * 10)
                return
            with pa.OSFile(str(path), "rb") as file:
                is_file = file.read(6) == b"ARROW1"
                file.seek(0)
                if not is_file:
                    stream = pa.ipc.open_stream(file)
                    _check_names(path, stream.schema.names)
                    yield from stream
                    return
                table = pa.ipc.open_file(file)
                _check_names(path, table.schema.names)
                for index in range(table.num_record_batches):
                    yield table.get_batch(index)
    except pa.ArrowException as error:
        raise DataError(f"{path}: cannot be read", expected=expected, found=_first_line(error)) from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")  # type: ignore[return-value]


def _check_text_file(path: Path) -> None:
    with reading(path), _open(path) as file:
        head = file.read(4096)
    if not head:
        raise DataError(f"{path}: the file is empty", expected="at least one row", found="0 bytes")
    what = next((what for magic, what in _MAGIC.items() if head.startswith(magic)), None)
    if what is None and b"\0" in head:
        what = "a binary file (it holds zero bytes)"
    if what is not None:
        fix = "name it with .gz at the end" if what == "a gzip file" else "save it as UTF-8 text"
        raise DataError(f"{path}: not a text file", expected="UTF-8 text", found=what, fix=fix)


def _lines(path: Path) -> Iterator[tuple[int, int, str]]:
    """Yield ``(line number, byte offset, line with its end)`` of UTF-8 text without its byte order mark."""
    offset = 0
    with reading(path), _open(path) as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}: line {number} is not UTF-8",
                    expected="UTF-8 text",
                    found=f"byte 0x{raw[error.start]:02x} at byte offset {offset + error.start:,}",
                    fix=f"convert it, for example: iconv -f WINDOWS-1252 -t UTF-8 {path.name}",
                ) from error
            if number == 1 and line.startswith("\ufeff"):
                yield number, 3, line[1:]
            else:
                yield number, offset, line
            offset += len(raw)


def _csv_rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str]]]:
    records = _csv_records(path, delimiter)
    _, header = next(records, (0, None))
    if header is None:
        return
    _check_names(path, header)
    for line, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(fields)} fields, and the header has {len(header)}",
                expected=f"the fields {_shorten(', '.join(header))}",
                found=_shorten(repr(fields)),
                fix="put fields that hold the delimiter in quotation marks",
            )
        yield line, dict(zip(header, fields, strict=True))


def _csv_records(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield ``(line on which the record starts, fields)`` without blank lines."""
    reader = csv.reader((line for _, _, line in _lines(path)), delimiter=delimiter, strict=True)
    fault: csv.Error | None = None
    done = False
    while not done:
        records: list[tuple[int, list[str]]] = []
        start = 0
        with _long_fields():
            try:
                for _ in range(_BATCH):
                    start = reader.line_num + 1
                    records.append((start, next(reader)))
            except StopIteration:
                done = True
            except csv.Error as error:
                done, fault = True, error
        yield from (record for record in records if record[1])
    if fault is not None:
        raise _csv_error(path, start, fault) from fault


@contextmanager
def _long_fields() -> Iterator[None]:
    """Raise the csv module's limit on the length of a field for a moment: the limit is global."""
    before = csv.field_size_limit(_FIELD_LIMIT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_error(path: Path, line: int, error: csv.Error) -> DataError:
    reason, fix = str(error), "save the file again as CSV with standard quoting, or as JSON Lines"
    if "unexpected end" in reason or "field limit" in reason:
        reason = "a quotation mark opens here and is never closed"
    elif "expected after" in reason:
        reason = "text follows a closing quotation mark"
        fix = 'write a quotation mark inside a quoted field twice (""), or save the file as JSON Lines'
    return DataError(f"{path}: line {line} cannot be read as CSV", found=reason, fix=fix)


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with reading(path), _open(path) as file:
        head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"["):
        text = "".join(line for _, _, line in _lines(path))
        values = _parse_json(path, text, 1)
        escaped = _has_surrogate(text)
        for number, value in enumerate(values, 1):
            yield number, _check_object(path, f"item {number} of the array", value, escaped)
        return
    for number, _, line in _lines(path):
        if line := line.strip():
            yield number, _json_object(path, number, line)


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    return _check_object(path, f"line {number}", _parse_json(path, line, number), _has_surrogate(line))


def _has_surrogate(text: str) -> bool:
    return "\\ud" in text or "\\uD" in text


def _parse_json(path: Path, text: str, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if isinstance(error, json.JSONDecodeError):
            line, reason = line + error.lineno - 1, f"{error.msg} at character {error.colno}"
        else:
            reason = _first_line(error)
        raise DataError(
            f"{path}: line {line} is not valid JSON",
            expected="one JSON object per line, or one array of objects",
            found=reason,
        ) from error


def _check_object(path: Path, where: str, value: Any, escaped: bool) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: {where} is not an object",
            expected='an object such as {"text": "...", "label": "..."}',
            found=_shorten(json.dumps(value)),
        )
    if escaped:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{path}: {where} holds half a character",
                expected="Unicode text; escapes from \\ud800 to \\udfff come in pairs",
                found=f"\\u{ord(error.object[error.start]):04x} alone",
            ) from error
    return value


def _check_names(path: Path, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{path}: two columns have the same name",
            expected="column names that differ",
            found=", ".join(repr(name) for name in twice),
            fix="rename or remove one of them",
        )


def _first_line(error: BaseException) -> str:
    return _shorten((str(error) or type(error).__name__).splitlines()[0], 200)


def _shorten(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
