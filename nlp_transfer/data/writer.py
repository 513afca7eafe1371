"""Rows out: CSV, TSV, JSON Lines, Parquet or plain lines, complete or not at all."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from nlp_transfer.errors import OutputError
from nlp_transfer.plain_json import plain

_KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".txt")
_BATCH = 10_000


class RowWriter:
    """Write rows to ``path`` by its suffix; the file appears, whole, when the ``with`` block ends well.

    The columns are those of the first row. Values that JSON and CSV do not have are written as
    ``plain_json.plain`` says: dates as ISO 8601, decimals as text, bytes as base64, NaN in JSON as null.
    Until the end the rows go to a hidden file beside ``path``.

    Args:
        path: ends in ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``, ``.txt`` (these also with ``.gz``) or
            ``.parquet``. Missing folders are made. Plain text takes rows of one column, a line each.
        overwrite: replace an existing file.

    Raises:
        OutputError: for an unknown suffix, an existing file, a place that cannot be written, or a row whose
            columns differ from those of the first.

    Example:
        >>> with RowWriter("predictions.csv", overwrite=True) as out:  # doctest: +SKIP
        ...     out.write({"text": "Good soup.", "label": "positive"})
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path).expanduser()
        name = self.path.name.lower()
        self._kind = Path(name.removesuffix(".gz")).suffix
        self._gzip = name.endswith(".gz")
        if self._kind not in _KINDS or (self._gzip and self._kind == ".parquet"):
            expected = f"a name that ends in one of {', '.join(_KINDS)}; all but Parquet also with .gz"
            raise OutputError(
                f"{path}: unknown kind of file", expected=expected, found=self.path.suffix or "no suffix"
            )
        with self._writing():
            if self.path.is_dir():
                raise OutputError(f"{path}: a folder, not a file", fix="name a file in it")
            if self.path.exists() and not overwrite:
                raise OutputError(
                    f"{path}: the file exists already", fix="choose another name, or allow --overwrite"
                )
        self._columns: list[str] | None = None
        self._rows: list[dict[str, Any]] = []
        self._raw: Any = None
        self._file: Any = None
        self._parquet: Any = None

    @property
    def lines(self) -> bool:
        """Whether the file is plain text, which takes rows of one column."""
        return self._kind == ".txt"

    def __enter__(self) -> RowWriter:
        with self._writing():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary, self._raw = self._open()
            self._wrap()
        return self

    def _open(self) -> tuple[Path, Any]:
        """The file that is written until the end, and its stream of bytes."""
        temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.tmp")
        return temporary, temporary.open("xb")

    def _wrap(self) -> None:
        """Text and compression over the bytes."""
        if self._kind == ".parquet":
            self._file = self._raw
            return
        binary = self._raw
        if self._gzip:
            binary = gzip.GzipFile(self.path.name.removesuffix(".gz"), "wb", 6, self._raw, 0)
        self._file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
        dialect = "excel-tab" if self._kind == ".tsv" else "excel"
        self._csv = csv.writer(self._file, dialect, lineterminator="\n")

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row. Cost: constant memory; Parquet holds back 10,000 rows."""
        if self._columns is None:
            self._columns = list(row)
            if self._kind in (".csv", ".tsv"):
                self._csv.writerow(self._columns)
        elif row.keys() != set(self._columns):
            raise OutputError(
                f"{self.path}: a row has other columns than the first row",
                expected=", ".join(self._columns),
                found=", ".join(row),
            )
        with self._writing():
            if self._kind in (".csv", ".tsv"):
                self._csv.writerow([_flat(row[name]) for name in self._columns])
            elif self.lines:
                (value,) = row.values()
                self._file.write(" ".join(str(value).splitlines()) + "\n")
            elif self._kind == ".parquet":
                self._rows.append(dict(row))
                if len(self._rows) == _BATCH:
                    self._flush_parquet()
            else:
                self._file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._writing():
                if kind is None and self._kind == ".parquet":
                    self._flush_parquet()
                for part in (self._parquet, self._file, self._raw):
                    if part is not None:
                        part.close()
                if kind is None:
                    os.replace(self._temporary, self.path)
        finally:
            self._clean_up(error)

    def _clean_up(self, error: BaseException | None) -> None:
        """After the file is closed: leave nothing behind."""
        self._temporary.unlink(missing_ok=True)

    def _flush_parquet(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._rows and self._parquet is not None:
            return
        try:
            schema = self._parquet.schema if self._parquet is not None else None
            table = pa.Table.from_pylist(self._rows, schema=schema)
        except (pa.ArrowException, OverflowError) as error:
            message = f"{self.path}: a column holds values of more than one type"
            raise OutputError(message, found=str(error), fix="write JSON Lines instead") from error
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._file, table.schema)
        self._parquet.write_table(table)
        self._rows.clear()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or str(error)
            fix = "free some space, or name a folder that you may write to"
            raise OutputError(f"{self.path}: cannot be written", found=reason, fix=fix) from error


def _flat(value: Any) -> Any:
    """A list or an object in a CSV field is JSON; numbers and text are left to the csv module."""
    if isinstance(value, (str, int, float)):
        return value
    value = plain(value)
    return (
        json.dumps(value, ensure_ascii=False, allow_nan=False) if isinstance(value, (list, dict)) else value
    )
