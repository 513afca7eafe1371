"""Parallel text: from any table to the columns ``text`` and ``translation``, with the bad pairs counted."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, NamedTuple

from nlp_transfer.data.cache import ArrowSink, cache_key, cached_table
from nlp_transfer.data.checks import Finding
from nlp_transfer.data.columns import flat
from nlp_transfer.data.languages import names_of
from nlp_transfer.data.options import DomainOptions, PairFilters
from nlp_transfer.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

NESTED = "translation"
"""The column whose values are ``{language: sentence}``."""
PLAIN_COLUMNS = (("text", "translation"), ("source", "target"), ("src", "tgt"))
MANY_BAD_PAIRS = 0.01
"""Share of odd pairs from which a finding is a warning; below it, it is a remark."""
_SIDES = ("source", "target")
_BATCH = 10_000
_SHOWN = 3
_SMOOTHING = 10  # characters, so that "Ja." may stand beside "Yes, it is."

Languages = tuple[str, str]


class Side(NamedTuple):
    """Where one side of the pairs lies."""

    column: str
    key: str | None = None

    def __str__(self) -> str:
        return repr(self.column) if self.key is None else f"{self.column}.{self.key}"

    def of(self, table: pa.Table) -> pa.Array:
        """The side's values, without chunks."""
        import pyarrow.compute as pc

        values = flat(table[self.column])
        return values if self.key is None else pc.struct_field(values, self.key)


def wanted_pair_columns(options: DomainOptions, languages: Languages | None) -> list[str]:
    """The columns that pairs may be read from, as :func:`nlp_transfer.data.columns.wanted_columns`."""
    named = [name for name in (options.source_column, options.target_column, *(languages or ())) if name]
    return [NESTED, *named, *(name for pair in PLAIN_COLUMNS for name in pair)]


def find_pair(
    dataset: Dataset, options: DomainOptions, languages: Languages | None, *, where: str
) -> tuple[Side, Side]:
    """Return where source and target sentences lie.

    In order: ``source_column`` and ``target_column``; the keys of a column ``translation``, or the columns,
    that are named by language codes (``de``, ``de_DE`` and ``deu_Latn`` are one language); ``text`` and
    ``translation``, ``source`` and ``target``, ``src`` and ``tgt``.

    Raises:
        DataError: one of them is not there; lists the columns and languages that are.
    """
    columns = dataset.column_names
    plain = next((pair for pair in PLAIN_COLUMNS if set(pair) <= set(columns)), None)
    if plain == PLAIN_COLUMNS[0] and len(columns) == 2 and not _keys(dataset):
        return Side("text"), Side("translation")
    given = (options.source_column, options.target_column)
    found = [_find_side(dataset, side, given, languages, where) for side in range(2)]
    if plain is not None and not _keys(dataset):
        found = [side or Side(name) for side, name in zip(found, plain, strict=True)]
    for side, name in zip(found, _SIDES, strict=True):
        if side is None:
            raise _no_side(dataset, name, languages, where)
    first, second = found
    assert first is not None
    assert second is not None
    if first == second:
        raise DataError(
            f"{where}: {first} is both the source and the target of the translation",
            expected="two columns, or two keys of the column 'translation'",
            fix="set source_column and target_column",
        )
    return first, second


def source_texts(
    dataset: Dataset, options: DomainOptions, languages: Languages, *, where: str
) -> tuple[Dataset, DomainOptions]:
    """Return the table, and the options with the ``text_column`` that holds sentences without translations.

    Raises:
        DataError: ``source_column`` is not there, as in :func:`find_pair`.
    """
    side = _find_side(dataset, 0, (options.source_column, None), languages, where)
    if side is None:
        side = next((Side(name) for name in ("source", "src") if name in dataset.column_names), None)
    if side is None:
        return dataset, options
    if side.key is None:
        return dataset, options.model_copy(update={"text_column": side.column})
    name = f"{side.column}.{side.key}"
    return dataset.flatten(), options.model_copy(update={"text_column": name})


def normalise_pairs(
    dataset: Dataset,
    options: DomainOptions,
    languages: Languages | None,
    *,
    where: str,
    split: str,
) -> tuple[Dataset, list[Finding]]:
    """Return a memory-mapped table with exactly ``text`` and ``translation``, and what was found on the way.

    Both sides are kept as they are. Pairs with a null or blank side are dropped. In ``train`` pairs that
    ``options.filters`` names are dropped too; in other splits they are counted.

    Raises:
        DataError: missing columns or languages, sides that are not text, rows without one of the languages,
            the same text on both sides everywhere, and no row left.

    Cost: about 1 s per million rows; 4 bytes of memory a row.
    """
    sides = find_pair(dataset, options, languages, where=where)
    for side in sides:
        _check_text(dataset, side, where)
    filters = options.filters
    drops = split == "train"
    key = cache_key("pairs", dataset._fingerprint, *sides, repr(filters), drops)
    worker = _PairReader(dataset, sides, filters, where, drops=drops)
    table, notes = cached_table(key, worker.run)
    return table, _findings(notes, filters, split, len(dataset), drops=drops)


class _PairReader:
    """Two passes over a table: the usual length ratio, then the rows to keep."""

    def __init__(
        self, dataset: Dataset, sides: tuple[Side, Side], filters: PairFilters, where: str, *, drops: bool
    ) -> None:
        self.dataset, self.sides, self.filters, self.where = dataset, sides, filters, where
        self.drops = drops

    def run(self, sink: ArrowSink) -> dict[str, float]:
        import numpy as np
        import pyarrow as pa

        limit = self.filters.max_length_ratio
        usual = 0.0 if limit is None else self._usual_ratio()
        counts = dict.fromkeys(("empty-text", "identical-pair", "length-ratio", "kept"), 0)
        for first, second, full, same in self._batches():
            odd = np.zeros(len(full), dtype=bool)
            if limit is not None:
                odd = full & ~same & (np.abs(_log_ratio(first, second) - usual) > np.log(limit))
            counts["empty-text"] += int(np.count_nonzero(~full))
            counts["identical-pair"] += int(np.count_nonzero(same))
            counts["length-ratio"] += int(np.count_nonzero(odd))
            good = full
            if self.drops:
                good = full & ~odd & ~(same & (self.filters.identical == "drop"))
            counts["kept"] += int(np.count_nonzero(good))
            mask = pa.array(good)
            sink.write(pa.table({"text": first.filter(mask), "translation": second.filter(mask)}))
        self._check_counts(counts)
        return {**counts, "usual": float(np.exp(usual))}

    def _batches(self) -> Iterator[tuple[pa.Array, pa.Array, np.ndarray, np.ndarray]]:
        """Yield both sides, whether both hold text, and whether they are the same."""
        import pyarrow as pa
        import pyarrow.compute as pc

        used, start = list(dict.fromkeys(side.column for side in self.sides)), 0
        for table in self.dataset.select_columns(used).with_format("arrow").iter(_BATCH):
            raw = [side.of(table) for side in self.sides]
            for side, values in zip(self.sides, raw, strict=True):
                self._check_keys(side, values, table, start)
            first, second = (values.cast(pa.string()) for values in raw)
            trimmed = [pc.utf8_trim_whitespace(values) for values in (first, second)]
            filled = [pc.fill_null(pc.not_equal(values, ""), False) for values in trimmed]
            full = pc.and_(*filled).to_numpy(zero_copy_only=False)
            same = pc.fill_null(pc.equal(*trimmed), False).to_numpy(zero_copy_only=False) & full
            yield first, second, full, same
            start += table.num_rows

    def _usual_ratio(self) -> float:
        """Median of log(target length / source length) over the pairs with two different sides."""
        import numpy as np

        parts = [
            _log_ratio(first, second)[full & ~same].astype(np.float32)
            for first, second, full, same in self._batches()
        ]
        ratios = np.concatenate(parts)
        return float(np.median(ratios)) if len(ratios) else 0.0

    def _check_keys(self, side: Side, values: pa.Array, table: pa.Table, start: int) -> None:
        """Refuse rows whose dictionary lacks the language."""
        if side.key is None or not values.null_count:
            return
        import numpy as np

        rows = np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))
        shown = []
        for row in rows[:_SHOWN].tolist():
            there = [
                name for name, text in (table[side.column][row].as_py() or {}).items() if text is not None
            ]
            shown.append(f"row {start + row + 1} has {', '.join(there) or 'nothing'}")
        both = " and ".join(repr(side.key or side.column) for side in self.sides)
        raise DataError(
            f"{self.where}: no {side.key!r} in the column {side.column!r} of {len(rows):,} "
            f"row{'s' * (len(rows) > 1)} among the first {start + table.num_rows:,}",
            expected=f"a sentence for {both} in every row",
            found="; ".join(shown) + "; ..." * (len(rows) > _SHOWN),
            fix="remove these rows, or give them both languages",
        )

    def _check_counts(self, counts: dict[str, int]) -> None:
        total = len(self.dataset)
        if total and counts["identical-pair"] == total - counts["empty-text"] > 0:
            raise DataError(
                f"{self.where}: {self.sides[0]} and {self.sides[1]} hold the same text in every row",
                expected="sentences and their translations",
                found=f"{counts['identical-pair']:,} pairs of equal texts",
                fix="set source_column and target_column to the columns of the two languages",
            )
        if not counts["kept"]:
            raise DataError(
                f"{self.where}: no pair is left",
                expected="at least one sentence with its translation",
                found=", ".join(
                    f"{counts[name]:,} {words}"
                    for name, words in (
                        ("empty-text", "with an empty side"),
                        ("identical-pair", "with the same text on both sides"),
                        ("length-ratio", "of very different lengths"),
                    )
                ),
                fix="check source_column and target_column, and filters",
            )


def _log_ratio(first: pa.Array, second: pa.Array) -> np.ndarray:
    import numpy as np
    import pyarrow.compute as pc

    one, two = (pc.fill_null(pc.utf8_length(side), 0).to_numpy() for side in (first, second))
    return np.log((two + _SMOOTHING) / (one + _SMOOTHING))


def _find_side(
    dataset: Dataset,
    side: int,
    given: tuple[str | None, str | None],
    languages: Languages | None,
    where: str,
) -> Side | None:
    keys, columns = _keys(dataset), [name for name in dataset.column_names if name != NESTED]
    name = given[side]
    if name is not None:
        if name in keys:
            return Side(NESTED, name)
        if name in dataset.column_names:
            return Side(name)
        raise DataError(
            f"{where}: no column {name!r} ({_SIDES[side]}_column)",
            expected=f"a column {name!r}, or a key of the column {NESTED!r}",
            found=_there(dataset),
            fix=did_you_mean(name, [*keys, *dataset.column_names]),
        )
    if languages is None:
        return None
    found = names_of(languages[side], keys) or names_of(languages[side], columns)
    if len(found) > 1:
        raise DataError(
            f"{where}: {' and '.join(map(repr, found))} are both of the language {languages[side]!r}",
            fix=f"set {_SIDES[side]}_column to one of them",
        )
    if not found:
        return None
    return Side(NESTED, found[0]) if found[0] in keys else Side(found[0])


def _keys(dataset: Dataset) -> list[str]:
    """The keys of the column ``translation``; empty where it is none or holds plain text."""
    import pyarrow.types as kinds

    if NESTED not in dataset.column_names:
        return []
    kind = dataset.data.schema.field(NESTED).type
    return [field.name for field in kind] if kinds.is_struct(kind) else []


def _no_side(dataset: Dataset, side: str, languages: Languages | None, where: str) -> DataError:
    if languages is None:
        what, expected = f"no {side} column", "source_column and target_column"
    else:
        code = languages[_SIDES.index(side)]
        what = f"no text in the {side} language {code!r}"
        expected = f"a column {NESTED!r} with the keys {languages[0]!r} and {languages[1]!r}, or two columns"
    return DataError(
        f"{where}: {what}",
        expected=expected,
        found=_there(dataset),
        fix=f"set {side}_column to the column or key that holds it, or correct the languages of the task",
    )


def _there(dataset: Dataset) -> str:
    keys = _keys(dataset)
    columns = "the columns " + ", ".join(repr(name) for name in dataset.column_names[:30])
    return columns + (f"; {NESTED} has the languages {', '.join(keys)}" if keys else "")


def _check_text(dataset: Dataset, side: Side, where: str) -> None:
    import pyarrow.types as kinds

    kind = dataset.data.schema.field(side.column).type
    if side.key is not None:
        kind = kind.field(side.key).type
    kind = kind.value_type if kinds.is_dictionary(kind) else kind
    if kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_null(kind):
        return
    values = (row[side.column] for row in dataset.select_columns([side.column]))
    values = values if side.key is None else ((value or {}).get(side.key) for value in values)
    row, value = next(((row, value) for row, value in enumerate(values, 1) if value is not None), (1, None))
    raise DataError(
        f"{where}: {side} does not hold text",
        expected="a sentence in every row",
        found=f"{reprlib.repr(value)} ({kind}) in row {row}",
        fix="set source_column and target_column to the columns that hold the sentences",
    )


def _findings(
    notes: dict[str, float], filters: PairFilters, split: str, total: int, *, drops: bool
) -> list[Finding]:
    def say(code: str, what: str, *, dropped: bool) -> None:
        count = int(notes[code])
        if count:
            fate = "and were dropped" if dropped else "and are kept"
            message = f"{split}: {count:,} of {total:,} pairs {what} {fate}"
            level = "warning" if count >= MANY_BAD_PAIRS * total else "info"
            findings.append(Finding(level, code, count, total, message))  # type: ignore[arg-type]

    findings: list[Finding] = []
    say("empty-text", "have an empty side", dropped=True)
    say("identical-pair", "have the same text on both sides", dropped=drops and filters.identical == "drop")
    if filters.max_length_ratio is not None:
        usual = f"the usual ratio of target to source length here is {notes['usual']:.2f}"
        limit = f"{filters.max_length_ratio:g}"
        what = f"are more than {limit} times longer on one side than is usual ({usual})"
        say("length-ratio", what, dropped=drops)
    return findings
