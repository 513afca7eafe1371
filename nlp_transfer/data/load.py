"""Files, hub data sets, data set folders and the built-in sample as memory-mapped ``datasets.Dataset`` s."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data.cache import ArrowSink, cache_key, cached_table
from nlp_transfer.data.options import SAMPLE_FOLDER, SAMPLE_PREFIX, available_samples
from nlp_transfer.data.rows import arrow_batches, file_kind, find_file, numbered_rows, reading, sentences
from nlp_transfer.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

_BATCH = 10_000
Row = tuple[int, dict[str, Any]]


def read_table(
    path: str | Path, *, base: Path | None = None, columns: Collection[str] | None = None
) -> Dataset:
    """Read one file into a memory-mapped table with all of its columns.

    CSV and TSV columns are text; a text file has the one column ``text``. The table lies in the cache of
    ``datasets`` under the hash of the file's content, so a second read costs the hash only.

    Args:
        path: CSV, TSV, JSON, JSON Lines or text (also gzipped), Parquet or Arrow.
        base: folder tried after the working folder for a relative path.
        columns: columns that will be used, in any case of letters. Others are left out when their values have
            no common type. Default: all, and such a column is an error.

    Raises:
        DataError: with the line, for anything that is wrong with the file.

    Cost: about 4 seconds per million short rows on the first read; memory does not grow with the file, except
    for a JSON array, which is read whole.
    """
    file = find_file(path, base)
    kind = file_kind(file)
    used = None if columns is None else sorted({name.lower() for name in columns})
    key = cache_key("table", content_hash(file), kind, file.suffix.lower() == ".gz", used)
    if kind in (".parquet", ".arrow"):
        return cached_table(key, lambda sink: _copy_arrow(file, sink))[0]
    return cached_table(key, lambda sink: _copy_rows(file, sink, used))[0]


def read_parallel(source: str | Path, target: str | Path, *, base: Path | None = None) -> Dataset:
    """Read two text files, line by line, into a memory-mapped table ``text``, ``translation``.

    Args:
        source: sentences, one a line (also gzipped).
        target: their translations, one a line.
        base: as in :func:`read_table`.

    Raises:
        DataError: different numbers of lines; or anything wrong with a file.

    Cost: about 1 second per million lines on the first read; memory does not grow with the files.
    """
    files = (find_file(source, base), find_file(target, base))
    key = cache_key(
        "parallel", *(content_hash(file) for file in files), *(file.suffix == ".gz" for file in files)
    )
    return cached_table(key, lambda sink: _copy_lines(files, sink))[0]


def read_dataset(
    name: str, *, config: str | None = None, revision: str | None = None, base: Path | None = None
) -> dict[str, Dataset]:
    """Read all splits of a hub data set, a local data set folder or a built-in ``sample:NAME``.

    A folder may be a data set repository or one written by ``save_to_disk``.

    Raises:
        DataError: for an unknown data set, configuration or revision, or one that cannot be read or reached.
    """
    if name.startswith(SAMPLE_PREFIX):
        return _read_sample(name.removeprefix(SAMPLE_PREFIX))
    folder = _local_folder(name, base)
    import datasets

    problems = (datasets.exceptions.DatasetsError, OSError, ValueError, RuntimeError, TypeError, KeyError)
    try:
        with _quiet(folder is not None):
            if folder is not None and _saved_to_disk(folder):
                loaded = datasets.load_from_disk(str(folder))
            else:
                loaded = datasets.load_dataset(str(folder or name), name=config, revision=revision)
    except problems as error:
        raise _dataset_error(name, config, revision, folder, error) from error
    return {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)


def take_split(splits: dict[str, Dataset], spec: str, where: str) -> Dataset:
    """Return the rows that ``spec`` names: ``train``, ``train[:1000]``, ``train[:10%]+test``.

    Raises:
        DataError: for an unknown split or a spec that cannot be read.
    """
    import datasets

    try:
        instruction = datasets.ReadInstruction.from_spec(spec)
        parts = instruction.to_absolute({name: len(table) for name, table in splits.items()})
    except (ValueError, AssertionError) as error:
        raise DataError(
            f"{where}: no split {spec!r}",
            expected=f"one of {', '.join(splits)}, or a part such as {next(iter(splits))}[:1000]",
            fix=did_you_mean(spec.split("[")[0], splits),
        ) from error
    chosen = []
    for part in parts:
        table = splits[part.splitname]
        start, stop = part.from_ or 0, len(table) if part.to is None else part.to
        chosen.append(table if (start, stop) == (0, len(table)) else table.select(range(start, stop)))
    return chosen[0] if len(chosen) == 1 else datasets.concatenate_datasets(chosen)


def take_rows(table: Dataset, rows: np.ndarray) -> Dataset:
    """Copy the sorted row numbers ``rows`` into a table of their own.

    ``Dataset.select`` would keep a mapping, through which reading millions of rows takes minutes.
    """
    import numpy as np
    import pyarrow as pa

    mask = np.zeros(len(table), dtype=bool)
    mask[rows] = True

    def produce(sink: ArrowSink) -> dict[str, Any]:
        start, waiting, held = 0, [], 0
        for batch in table.with_format("arrow").iter(_BATCH):
            waiting.append(batch.filter(pa.array(mask[start : start + len(batch)])))
            start, held = start + len(batch), held + len(waiting[-1])
            if held >= _BATCH or start == len(table):
                sink.write(pa.concat_tables(waiting).combine_chunks())
                waiting, held = [], 0
        return {}

    return cached_table(
        cache_key("rows", table._fingerprint, hashlib.sha256(rows.tobytes()).hexdigest()), produce
    )[0]


def _read_sample(name: str) -> dict[str, Dataset]:
    if name not in available_samples():
        raise DataError(f"there is no built-in sample {name!r}", fix=did_you_mean(name, available_samples()))
    files = ((split, SAMPLE_FOLDER / f"{name}.{split}.jsonl") for split in ("train", "validation", "test"))
    return {split: read_table(file) for split, file in files if file.exists()}


def _local_folder(name: str, base: Path | None) -> Path | None:
    given = Path(name).expanduser()
    places = [given] if given.is_absolute() or base is None else [given, base / given]
    for place in places:
        if place.is_dir():
            return place
        if place.is_file():
            raise DataError(f"dataset {name!r}: a file", fix="name it under train, validation or test")
    if given.is_absolute() or name.startswith((".", "~")):
        looked = " or ".join(str(place.absolute()) for place in places)
        raise DataError(f"dataset {name!r}: no such folder", expected=f"a data set folder at {looked}")
    return None


def _saved_to_disk(folder: Path) -> bool:
    return (folder / "state.json").exists() or (folder / "dataset_dict.json").exists()


def _dataset_error(
    name: str, config: str | None, revision: str | None, folder: Path | None, error: Exception
) -> DataError:
    reason = str(error.__cause__ or error) or type(error).__name__
    found = " ".join(reason.split())
    found = found if len(found) <= 400 else found[:397] + "..."
    what = (
        f"dataset {name!r}"
        + (f", config {config!r}" if config else "")
        + (f", revision {revision!r}" if revision else "")
    )
    if folder is not None:
        fix = "mend the files in that folder, or name them one by one under train, validation and test"
    elif "BuilderConfig" in reason or "config name" in reason.lower():
        fix = "set config to one of the names above"
    elif isinstance(error, ConnectionError) or "offline" in reason.lower():
        fix = "check the name and the connection (HF_HUB_OFFLINE), or name files under train and test"
    else:
        fix = (
            "check the name on https://huggingface.co/datasets; log in with `hf auth login` if it is private"
        )
    return DataError(f"{what} cannot be loaded", found=found, fix=fix)


@contextmanager
def _quiet(local: bool) -> Iterator[None]:
    """Hide the progress bars of ``datasets`` while a local folder is read; a download shows them."""
    import datasets

    hide = local and not datasets.are_progress_bars_disabled()
    if hide:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            datasets.enable_progress_bars()


def content_hash(path: Path) -> str:
    """SHA-256 of the bytes of a file; 1 second a gigabyte. Raises DataError where it cannot be read."""
    digest = hashlib.sha256()
    with reading(path), path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _copy_arrow(path: Path, sink: ArrowSink) -> dict[str, Any]:
    import pyarrow as pa

    rows = 0
    for batch in arrow_batches(path):
        rows += batch.num_rows
        sink.write(pa.Table.from_batches([batch]))
    if not rows:
        raise DataError(f"{path}: no data in this file", expected="at least one row", found="no rows")
    return {}


def _copy_lines(files: tuple[Path, Path], sink: ArrowSink) -> dict[str, Any]:
    import pyarrow as pa

    counts, sides = [0, 0], [sentences(file) for file in files]
    while any(batch := [list(islice(side, _BATCH)) for side in sides]):
        counts = [count + len(lines) for count, lines in zip(counts, batch, strict=True)]
        if counts[0] != counts[1]:
            counts = [count + sum(1 for _ in side) for count, side in zip(counts, sides, strict=True)]
            raise DataError(
                f"{files[0]} and {files[1]}: parallel text with different numbers of lines",
                expected="line n of one file to be the translation of line n of the other",
                found=f"{counts[0]:,} lines and {counts[1]:,} lines",
                fix="look for a sentence that is missing, or broken into two lines",
            )
        sink.write(pa.table(dict(zip(("text", "translation"), batch, strict=True))))
    return {}


def _copy_rows(path: Path, sink: ArrowSink, used: list[str] | None) -> dict[str, Any]:
    import pyarrow as pa

    rows, left_out = numbered_rows(path), set[str]()
    while batch := list(islice(rows, _BATCH)):
        names = dict.fromkeys(name for _, row in batch for name in row)
        arrays = {}
        for name in names.keys() - left_out if left_out else names:
            try:
                arrays[name] = _column(name, batch, sink.schema)
            except (pa.ArrowException, OverflowError) as error:
                if used is None or name.strip().lower() in used:
                    raise _clash(path, name, batch, sink.schema, error) from error
                left_out.add(name)
                sink.drop(name)
        sink.write(pa.table(arrays))
    return {}


def _column(name: str, batch: list[Row], schema: pa.Schema | None) -> pa.Array:
    """Make one column of a batch; raises where its type does not go with what has been written."""
    import pyarrow as pa

    array = pa.array([row.get(name) for _, row in batch])
    if schema is not None and name in schema.names:
        types = (schema.field(name).type, array.type)
        pa.unify_schemas([pa.schema([(name, kind)]) for kind in types], promote_options="permissive")
    return array


def _clash(path: Path, name: str, batch: list[Row], schema: pa.Schema | None, error: Exception) -> DataError:
    """Name the first line whose value in column ``name`` has another type than the values before it."""
    import pyarrow as pa

    if all(isinstance(row.get(name), dict | None) for _, row in batch):
        inner = _clash_inside(path, name, batch, schema, error)
        if inner is not None:
            return inner
    written = schema is not None and name in schema.names and not pa.types.is_null(schema.field(name).type)
    kind = _kind(schema.field(name).type) if schema is not None and written else None
    for line, row in batch:
        value = row.get(name)
        if value is None:
            continue
        if kind is None:
            kind = _kind(value)
        elif _kind(value) != kind:
            return DataError(
                f"{path}: line {line}, column {name!r} holds {_kind(value)}, and {kind} on the lines before",
                expected=f"one type in the column, here {kind}",
                found=json.dumps(value)[:80],
                fix="write the column with one type",
            )
    return DataError(f"{path}: column {name!r} cannot be read", found=str(error).splitlines()[0])


def _clash_inside(
    path: Path, name: str, batch: list[Row], schema: pa.Schema | None, error: Exception
) -> DataError | None:
    """As :func:`_clash`, for a key of the objects in column ``name``."""
    import pyarrow as pa

    rows = [(line, row.get(name) or {}) for line, row in batch]
    before = schema.field(name).type if schema is not None and name in schema.names else None
    fields = list(before) if before is not None and pa.types.is_struct(before) else []
    for key in dict.fromkeys(key for _, value in rows for key in value):
        clash = _clash(path, key, rows, pa.schema(fields), error)
        if clash.expected is not None:
            return clash
    return None


def _kind(value: Any) -> str:
    """Name the JSON type of a value, or of the values of an Arrow type."""
    import pyarrow as pa

    if isinstance(value, pa.DataType):
        tests = (
            (pa.types.is_boolean, "a truth value"),
            (pa.types.is_string, "text"),
            (pa.types.is_list, "a list"),
        )
        named = next((name for test, name in tests if test(value)), None)
        return named or ("an object" if pa.types.is_struct(value) else "a number")
    if isinstance(value, bool):
        return "a truth value"
    names: dict[type, str] = {str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
