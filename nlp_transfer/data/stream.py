"""Training rows that stay in their files: an index of places is kept, texts are read when they are needed.

For corpora that are too large for a copy in the cache. Rows can be reached in any order, so that shuffling,
batches of like length, several processes and an exact resume work as they do for copied rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data.cache import ArrowSink, cache_key, cached_table
from nlp_transfer.data.checks import Finding, text_hash
from nlp_transfer.data.columns import blank_and_dropped, explain_fate, find_label_column, find_text_column
from nlp_transfer.data.labels import Fate, LabelReader
from nlp_transfer.data.load import content_hash
from nlp_transfer.data.options import DomainOptions
from nlp_transfer.data.rows import find_file, placed_rows, reading
from nlp_transfer.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

_BATCH = 10_000


class StreamedRows:
    """Rows of JSON Lines files, by number.

    Attributes:
        files: where the rows lie.
        texts: the column of each file that holds the text.
        index: memory-mapped, one line a row: ``file``, ``offset`` (bytes), ``size`` (bytes), ``characters``,
            ``hash`` (of the text), ``label``.
    """

    SAMPLE = 10_000
    """Rows that stand for all where texts are looked at before training."""

    def __init__(self, files: Sequence[Path], texts: Sequence[str], index: Dataset) -> None:
        self.files, self.texts, self.index = list(files), list(texts), index

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.index)

    @property
    def lengths(self) -> np.ndarray:
        """Characters of each text, (n,) int32: what rows are grouped into batches by."""
        return self.index.with_format("arrow")[:]["characters"].to_numpy()

    @property
    def hashes(self) -> np.ndarray:
        """The hash of each text, (n,) uint64."""
        return self.index.with_format("arrow")[:]["hash"].to_numpy()

    @property
    def fingerprint(self) -> str:
        """SHA-256 that tells the content of the files and the choice of rows apart."""
        return hashlib.sha256(self.index._fingerprint.encode()).hexdigest()

    def read(self, rows: Sequence[int]) -> dict[str, list]:
        """``text`` and ``label`` of the rows with these numbers, in their order.

        Raises:
            DataError: a file that is gone or has changed.
        """
        places = self.index[list(rows)]
        texts: list[str] = [""] * len(rows)
        for number, path in enumerate(self.files):
            mine = [place for place, file in enumerate(places["file"]) if file == number]
            if not mine:
                continue
            with reading(path), path.open("rb") as file:
                for place in mine:
                    file.seek(places["offset"][place])
                    text = _text(file.read(places["size"][place]), self.texts[number])
                    if text is None or text_hash(text) != places["hash"][place]:
                        raise DataError(
                            f"{path}: has changed since the run first read it",
                            fix="leave the file as it is while a run reads it; start the run again",
                        )
                    texts[place] = text
        return {"text": texts, "label": places["label"]}

    def part(self, index: Dataset) -> StreamedRows:
        """The rows of a part of the index."""
        return StreamedRows(self.files, self.texts, index)

    def copy(self) -> Dataset:
        """The rows as an ordinary table in the cache: ``text``, ``label``."""
        import pyarrow as pa

        def produce(sink: ArrowSink) -> dict[str, Any]:
            for start in range(0, len(self), _BATCH):
                sink.write(pa.table(self.read(range(start, min(start + _BATCH, len(self))))))
            return {}

        return cached_table(cache_key("stream copy", self.index._fingerprint), produce)[0]


def index_rows(
    options: DomainOptions, *, objective: str, where: str, base: Path | None = None
) -> tuple[StreamedRows, list[Finding]]:
    """Read the train files of a domain once, row by row, and remember where the good rows are.

    Args:
        options: with ``train`` files, the columns and the ``label_map``.
        objective: ``classification`` or ``regression``.
        where: the split, for messages.
        base: folder of the recipe.

    Raises:
        DataError: another kind of file, or the first row that cannot be used, with its line.

    Cost: about 8 seconds per million short rows on the first read, 1 second a gigabyte afterwards; about 30
    bytes a row on disk.
    """
    if objective not in ("classification", "regression"):
        raise DataError(
            f"{where}: streaming reads rows with labels",
            expected="the task sentiment",
            found="parallel text" if objective == "translation" else "texts alone",
            fix="leave streaming out",
        )
    files = [find_file(str(place), base) for place in options.given("train")]
    columns = [_columns(file, options) for file in files]
    hashes = [content_hash(file) for file in files]
    key = cache_key("stream", hashes, columns, repr(options.label_map), objective)

    def produce(sink: ArrowSink) -> dict[str, Any]:
        notes = {"empty": 0, "dropped": 0, "total": 0}
        reader = LabelReader(options.label_map, objective=objective)
        parts = (
            _places(path, number, names, reader, options, notes)
            for number, (path, names) in enumerate(zip(files, columns, strict=True))
        )
        _write(chain.from_iterable(parts), sink, objective)
        if sink.schema is None:
            raise DataError(f"{where}: no row is left", expected="at least one text", found=str(notes))
        return notes

    index, notes = cached_table(key, produce)
    return StreamedRows(files, [text for text, _ in columns], index), blank_and_dropped(
        notes, "train", notes["total"]
    )


def _columns(path: Path, options: DomainOptions) -> tuple[str, str]:
    """The columns of text and label, by the first row."""
    _, _, _, first = next(placed_rows(path), (0, 0, 0, {}))
    if not first:
        raise DataError(f"{path}: no data in this file", expected="at least one row", found="no rows")
    text = find_text_column(list(first), options.text_column, where=str(path))
    return text, find_label_column(list(first), options.label_column, where=str(path), taken=text)


def _places(
    path: Path,
    number: int,
    columns: tuple[str, str],
    reader: LabelReader,
    options: DomainOptions,
    notes: dict[str, int],
) -> Iterator[tuple[int, int, int, int, int, Any]]:
    """One line of the index for each good row; counts the others."""
    for line, offset, size, row in placed_rows(path):
        notes["total"] += 1
        text = row.get(columns[0])
        if text is not None and not isinstance(text, str):
            raise DataError(
                f"{path}: line {line}, column {columns[0]!r} does not hold text",
                expected="text in every row",
                found=repr(text)[:80],
            )
        if not text or text.isspace():
            notes["empty"] += 1
            continue
        fate, label = reader.read(row.get(columns[1]))
        if fate == Fate.DROP:
            notes["dropped"] += 1
        elif fate == Fate.KEEP:
            yield number, offset, size, len(text), text_hash(text), label
        else:
            what, expected, fix = explain_fate(fate, options.label_map)
            found = repr(row.get(columns[1]))[:80]
            message = f"{path}: line {line} has {what} in column {columns[1]!r}"
            raise DataError(message, expected=expected, found=found, fix=fix)


def _write(places: Iterator[tuple], sink: ArrowSink, objective: str) -> None:
    import pyarrow as pa

    schema = pa.schema(
        [
            ("file", pa.int16()),
            ("offset", pa.int64()),
            ("size", pa.int32()),
            ("characters", pa.int32()),
            ("hash", pa.uint64()),
            ("label", pa.float64() if objective == "regression" else pa.string()),
        ]
    )
    while batch := list(islice(places, _BATCH)):
        columns = zip(*batch, strict=True)
        arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
        sink.write(pa.Table.from_arrays(arrays, schema=schema))


def _text(line: bytes, column: str) -> str | None:
    """The text of a row; None where there is no such row any more."""
    try:
        text = json.loads(line.decode("utf-8").removeprefix("\ufeff"))[column]
    except (ValueError, KeyError, TypeError):
        return None
    return text if isinstance(text, str) else None
