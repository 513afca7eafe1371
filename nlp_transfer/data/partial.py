"""Rows out that survive a kill: what is complete stays, and a later run goes on behind it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from nlp_transfer.console import warn
from nlp_transfer.data.writer import RowWriter
from nlp_transfer.errors import DataError, NlpTransferError, OutputError


class PartialWriter(RowWriter):
    """A RowWriter whose file can be completed later, after Ctrl-C, ``kill -9`` or a full disk.

    The rows go to ``.NAME.partial``; ``.NAME.partial.json`` says how many of its bytes are complete, for
    which input and which model. Both go when the output appears. Bad input leaves nothing behind, unless
    there was something to go on from. Parquet cannot be continued and is written as by RowWriter. One process
    at a time writes a partial file, where the system has locks.

    Args:
        path: as of RowWriter.
        overwrite: replace an existing file, and start anew where there is a partial one.
        resume: go on from a partial file, if there is one.

    Attributes:
        rows: complete rows that are there already.

    Raises:
        OutputError: as RowWriter; a partial file without ``resume`` or ``overwrite``; one that is damaged, or
            that another process writes.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self._check_resume(Path(path).expanduser(), overwrite, resume)
        super().__init__(path, overwrite=overwrite)
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._record = self._partial.with_name(f"{self._partial.name}.json")
        self._digest = hashlib.sha256()
        self._saved: dict[str, Any] = {}
        self._facts: dict[str, Any] = {}
        self._lock: int | None = None
        self.rows = 0
        with self._writing():
            there = self._partial.exists() and self._record.exists()
            if there and resume:
                self._saved = self._read_record()
                self.rows = self._saved["rows"]
            elif there and not overwrite:
                raise OutputError(
                    f"{path}: an earlier run has stopped here, with some rows done",
                    found=str(self._partial),
                    fix="go on with --resume, or start anew with --overwrite",
                )
        self._resumed = bool(self._saved)

    @staticmethod
    def _check_resume(path: Path, overwrite: bool, resume: bool) -> None:
        if not resume:
            return
        if overwrite:
            raise OutputError("--overwrite starts anew, --resume goes on", fix="give one of them")
        if path.suffix.lower() == ".parquet":
            raise OutputError(
                f"{path}: Parquet cannot be continued",
                expected="--resume with a name that ends in .jsonl, .csv or .tsv (also with .gz)",
                fix="write JSON Lines, or leave out --resume",
            )
        if path.is_file():
            raise OutputError(
                f"{path}: complete already, there is nothing to resume",
                fix="choose another name, or start anew with --overwrite",
            )

    def _read_record(self) -> dict[str, Any]:
        try:
            saved = json.loads(self._record.read_text("utf-8"))
            whole = {"rows", "bytes", "digest", "columns", "facts"} <= saved.keys()
            if whole and self._partial.stat().st_size >= saved["bytes"]:
                return saved
            found = f"{self._partial.stat().st_size:,} bytes in {self._partial}"
        except (ValueError, AttributeError, TypeError):
            found = f"no record in {self._record}"
        raise OutputError(
            f"{self.path}: what an earlier run left cannot be continued",
            expected="a partial file, and the record of its complete rows",
            found=found,
            fix="start anew with --overwrite",
        )

    def fact(self, name: str, value: Any) -> Any:
        """What an earlier run noted under this name, or the value where there was none."""
        return self._saved.get("facts", {}).get(name, value)

    def same(self, facts: Mapping[str, Any], source: Path) -> None:
        """Note what the rows depend on; refuse to go on where something of it was different.

        Raises:
            OutputError: another model or another column than those of the rows that are there.
        """
        self._facts = dict(facts)
        for name, value in self._facts.items():
            if (before := self.fact(name, value)) != value:
                raise OutputError(
                    f"{self.path}: the rows that are there come from another {name}",
                    expected=str(before),
                    found=str(value),
                    fix=f"give the same {name} for {source}, or start anew with --overwrite",
                )

    def skip(self, rows: Iterator[dict[str, Any]], source: Path) -> None:
        """Pass over the input rows whose outcome is there.

        Raises:
            DataError: they are not those of the earlier run.
        """
        count = 0
        for row in islice(rows, self.rows):
            self.read(row)
            count += 1
        if self._saved and (count, self._digest.hexdigest()) != (self.rows, self._saved["digest"]):
            raise DataError(
                f"{source} has changed since {self.path} was begun",
                expected=f"the same first {self.rows:,} rows",
                found="other rows" if count == self.rows else f"{count:,} rows",
                fix="give the same file, or start anew with --overwrite",
            )

    def read(self, row: Mapping[str, Any]) -> None:
        """Note an input row."""
        self._digest.update(json.dumps(row, sort_keys=True, default=str).encode("utf-8", "replace"))

    def checkpoint(self, rows: int) -> None:
        """``rows`` more are complete: make them last."""
        if self._kind == ".parquet":
            return
        with self._writing():
            self._file.flush()
            if self._gzip:
                self._file.detach().close()
            self._raw.flush()
            os.fsync(self._raw.fileno())
            self.rows += rows
            state = {
                "rows": self.rows,
                "bytes": self._raw.tell(),
                "digest": self._digest.hexdigest(),
                "columns": self._columns,
                "facts": self._facts,
            }
            draft = self._record.with_name(f"{self._record.name}.tmp")
            draft.write_text(json.dumps(state), "utf-8")
            os.replace(draft, self._record)
            if self._gzip:
                self._wrap()

    def _open(self) -> tuple[Path, Any]:
        if self._kind == ".parquet":
            return super()._open()
        if not self._saved:
            self._partial.touch()
        raw = self._partial.open("r+b")
        try:
            self._take(raw)
        except BaseException:
            raw.close()
            raise
        if not self._saved:
            self._record.unlink(missing_ok=True)
        raw.truncate(self._saved.get("bytes", 0))
        raw.seek(0, os.SEEK_END)
        self._columns = self._saved.get("columns")
        return self._partial, raw

    def _take(self, raw: BinaryIO) -> None:
        """Lock the file until the output is there.

        Raises:
            OutputError: another process writes it, or has done so since the record was read.
        """
        if fcntl is None:
            return
        try:
            fcntl.flock(raw, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks
            return
        same = (
            free and self._partial.exists() and os.path.samestat(os.fstat(raw.fileno()), self._partial.stat())
        )
        if not same or (self._saved and self._read_record() != self._saved):
            raise OutputError(
                f"{self.path}: another process is writing it",
                found=f"{self._partial} is in use",
                fix="wait for that one to end, or choose another --output",
            )
        self._lock = os.dup(raw.fileno())  # holds on while the file, closed, is renamed

    def _clean_up(self, error: BaseException | None) -> None:
        try:
            self._keep_or_remove(error)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _keep_or_remove(self, error: BaseException | None) -> None:
        bad_input = isinstance(error, NlpTransferError) and not isinstance(error, OutputError)
        kept = error is not None and self.rows > 0 and (self._resumed or not bad_input)
        if kept and self._kind != ".parquet":
            warn(f"{self.rows:,} rows are done and kept: go on with --resume")
            return
        super()._clean_up(error)
        self._record.unlink(missing_ok=True)
