"""Arrow files in the cache of ``datasets``: written once per content, mapped into memory afterwards."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import OutputError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_VERSION = 1  # raise it when the same input gives other rows than before


def cache_key(*parts: object) -> str:
    """Return the name of a cached table made from ``parts``, which must have a stable ``repr``."""
    return hashlib.sha256(repr((_VERSION, *parts)).encode()).hexdigest()[:32]


def cached_table(key: str, produce: Callable[[ArrowSink], dict[str, Any]]) -> tuple[Dataset, dict[str, Any]]:
    """Return the memory-mapped table ``key`` and its notes; make it with ``produce`` if it is not there yet.

    Several processes may make the same table at once: each writes its own file and renames it.

    Args:
        key: from :func:`cache_key`.
        produce: writes the rows into the sink that it is given, and returns notes that fit into JSON.

    Raises:
        OutputError: when the cache folder cannot be written.
    """
    import datasets

    folder = Path(datasets.config.HF_DATASETS_CACHE) / "nlp_transfer"
    target = folder / f"{key}.arrow"
    try:
        if not (target.exists() and target.with_suffix(".json").exists()):
            folder.mkdir(parents=True, exist_ok=True)
            _make(target, produce)
        notes = json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))
    except OSError as error:
        raise OutputError(
            f"{folder}: the cache for data sets cannot be written",
            found=error.strerror or str(error),
            fix="free some space, or set HF_DATASETS_CACHE to a folder that you may write to",
        ) from error
    table = datasets.Dataset.from_file(str(target))
    return datasets.Dataset(table.data, info=table.info, fingerprint=key[:16]), notes


def _make(target: Path, produce: Callable[[ArrowSink], dict[str, Any]]) -> None:
    stem = target.parent / f"{target.stem}.{os.getpid()}.{secrets.token_hex(4)}"
    sink = ArrowSink(stem)
    notes_file = stem.with_name(stem.name + ".json")
    try:
        notes = produce(sink)
        notes_file.write_text(json.dumps(notes), encoding="utf-8")
        written = sink.close()
        _rename(notes_file, target.with_suffix(".json"))
        _rename(written, target)
    finally:
        sink.remove()
        notes_file.unlink(missing_ok=True)


def _rename(source: Path, target: Path) -> None:
    try:
        os.replace(source, target)
    except PermissionError:  # Windows: another process has made it and holds it open
        if not target.exists():
            raise


class ArrowSink:
    """Write tables one after the other; a column may widen (null, whole numbers, numbers) or join in late.

    Each change of the schema begins a new part; :meth:`close` makes one file of them.
    """

    def __init__(self, stem: Path) -> None:
        self.schema: pa.Schema | None = None
        self._stem = stem
        self._parts: list[Path] = []
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        """Append ``table``; raises pyarrow.ArrowException where a column cannot take its new type."""
        import pyarrow as pa

        merged = table.schema
        if self.schema is not None:
            merged = pa.unify_schemas([self.schema, table.schema], promote_options="permissive")
        if self._writer is None or merged != self.schema:
            self._open(merged)
        self._writer.write_table(_conform(table, merged))

    def drop(self, column: str) -> None:
        """Leave ``column`` out of the file, also where it has been written already."""
        if self.schema is not None and column in self.schema.names:
            self._open(self.schema.remove(self.schema.get_field_index(column)))

    def close(self) -> Path:
        """Finish, and return the one file that holds all rows."""
        import pyarrow as pa

        assert self.schema is not None, "nothing was written"
        self._writer.close()
        parts, self._writer = self._parts, None
        if len(parts) == 1:
            return parts[0]
        self._parts = [*parts]
        self._open(self.schema)
        for part in parts:
            with pa.memory_map(str(part)) as file, pa.ipc.open_stream(file) as stream:
                for batch in stream:
                    self._writer.write_table(_conform(pa.Table.from_batches([batch]), self.schema))
        self._writer.close()
        return self._parts[-1]

    def remove(self) -> None:
        """Delete what is left of the parts."""
        if self._writer is not None:
            self._writer.close()
        for part in self._parts:
            part.unlink(missing_ok=True)

    def _open(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        if self._writer is not None:
            self._writer.close()
        part = self._stem.with_name(f"{self._stem.name}.{len(self._parts)}.part")
        self._parts.append(part)
        self.schema, self._writer = schema, pa.ipc.new_stream(str(part), schema)


def _conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    if table.schema == schema:
        return table
    columns = []
    for field in schema:
        if field.name in table.schema.names:
            columns.append(table[field.name].cast(field.type, safe=False))
        else:
            columns.append(pa.nulls(table.num_rows, field.type))
    return pa.Table.from_arrays(columns, schema=schema)
