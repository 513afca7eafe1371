"""From any table to the two columns ``text`` and ``label``, or an error that says which row is wrong."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nlp_transfer.data.cache import ArrowSink, cache_key, cached_table
from nlp_transfer.data.checks import Finding
from nlp_transfer.data.labels import Fate, LabelReader, natural_order
from nlp_transfer.data.options import DomainOptions
from nlp_transfer.errors import DataError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

TEXT_COLUMNS = (
    "text",
    "sentence",
    "review",
    "content",
    "review_text",
    "reviewText",
    "review_body",
    "comment",
    "tweet",
    "message",
    "document",
    "body",
)
LABEL_COLUMNS = (
    "label",
    "labels",
    "sentiment",
    "rating",
    "stars",
    "score",
    "star_rating",
    "overall",
    "class",
    "polarity",
    "target",
)
_BATCH = 10_000
_SHOWN = 3
_SHOWN_LABELS = 10


def wanted_columns(
    options: DomainOptions, objective: str, languages: tuple[str, str] | None = None
) -> list[str]:
    """Return the columns that a domain may use: those named, else the names that are looked for."""
    if objective == "translation" or languages is not None:
        from nlp_transfer.data.pairs import wanted_pair_columns

        return wanted_pair_columns(options, languages) + [*TEXT_COLUMNS] * (objective == "none")
    text = [options.text_column] if options.text_column else list(TEXT_COLUMNS)
    if objective == "none":
        return text
    return text + ([options.label_column] if options.label_column else list(LABEL_COLUMNS))


def find_text_column(columns: Sequence[str], given: str | None = None, *, where: str = "the data") -> str:
    """Return the column that holds the text, as :func:`find_column` does."""
    return find_column(columns, given, TEXT_COLUMNS, kind="text", where=where)


def find_label_column(
    columns: Sequence[str], given: str | None = None, *, where: str = "the data", taken: str | None = None
) -> str:
    """Return the column that holds the label, as :func:`find_column` does."""
    return find_column(columns, given, LABEL_COLUMNS, kind="label", where=where, taken=taken)


def find_column(
    columns: Sequence[str],
    given: str | None,
    candidates: Sequence[str],
    *,
    kind: str,
    where: str,
    taken: str | None = None,
) -> str:
    """Return the column to read: ``given``, or the first candidate that is there (in any case of letters).

    Args:
        columns: columns of the table.
        given: the recipe's ``text_column`` or ``label_column``.
        candidates: names to look for where nothing is given, best first.
        kind: ``text`` or ``label``, for the message.
        where: file or split, for the message.
        taken: a column that is read already: the text's. It is listed, and not taken again.

    Raises:
        DataError: when the column is not there; lists the columns found and the nearest name.
    """
    found = ", ".join(repr(name) for name in columns[:30]) + (", ..." if len(columns) > 30 else "")
    if given is not None:
        if given in columns and given != taken:
            return given
        free = [name for name in columns if name != taken]
        raise DataError(
            f"{where}: no column {given!r} ({kind}_column)"
            if given != taken
            else f"{where}: {kind}_column {given!r} is the column of texts",
            expected=f"a column {given!r}" if given != taken else f"another column, with the {kind}",
            found=f"the columns {found}",
            fix=did_you_mean(given, free) if free else f"set {kind}_column to a column of {kind}s",
        )
    lower = {name.strip().lower(): name for name in reversed(columns) if name != taken}
    for name in candidates:
        if name.lower() in lower:
            return lower[name.lower()]
    fix = f"set {kind}_column to the column that holds the {kind}"
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        fix = "the first line holds another delimiter: save the file with commas (.csv) or tabs (.tsv)"
    elif kind == "label":
        fix += "; texts without labels go under unlabeled"
    raise DataError(
        f"{where}: no {kind} column",
        expected=f"one of {', '.join(candidates)}",
        found=f"the columns {found}",
        fix=fix + "; a CSV file begins with a header line" * (kind == "text" and ".csv" in where),
    )


def normalise(
    dataset: Dataset,
    options: DomainOptions,
    *,
    objective: str,
    where: str,
    split: str = "data",
    languages: tuple[str, str] | None = None,
) -> tuple[Dataset, list[Finding]]:
    """Return a memory-mapped table with exactly ``text`` and ``label``, and what was dropped on the way.

    ``text`` is kept as it is; rows whose text is null or blank are dropped and counted. ``label`` is, by
    objective:

    * ``classification``: the class name in one spelling (see :mod:`nlp_transfer.data.labels`), after
      ``label_map``; integer columns with class names give the names;
    * ``regression``: a finite number (float64), after ``label_map``;
    * ``none``: there is no such column;
    * ``translation``: there is ``translation`` in its place, see :mod:`nlp_transfer.data.pairs`.

    Args:
        where: file or data set for messages.
        split: split for the findings.
        languages: codes of source and target language, to find the columns of parallel text by.

    Raises:
        DataError: for missing columns, texts that are not text, missing labels, labels outside ``label_map``,
            and labels that are not numbers (regression); names the first three rows and how many there are.

    Cost: about 0.5 s per million rows; memory does not grow with the table.
    """
    if objective == "translation":
        from nlp_transfer.data.pairs import normalise_pairs

        return normalise_pairs(dataset, options, languages, where=where, split=split)
    if languages is not None:
        from nlp_transfer.data.pairs import source_texts

        dataset, options = source_texts(dataset, options, languages, where=where)
    text = find_column(dataset.column_names, options.text_column, TEXT_COLUMNS, kind="text", where=where)
    label = None
    if objective != "none":
        names = dataset.column_names
        label = find_label_column(names, options.label_column, where=where, taken=text)
    _check_types(dataset, text, label, where)
    if objective == "regression" and isinstance(options.label_map, str):
        raise DataError(
            f"label_map: {options.label_map!r} makes classes, and this task predicts a number",
            fix="remove label_map: stars are numbers already",
        )
    key = cache_key("normal", dataset._fingerprint, text, label, repr(options.label_map), objective)
    worker = _Normaliser(dataset, options, text, label, objective, where)
    table, notes = cached_table(key, worker.run)
    return table, blank_and_dropped(notes, split, len(dataset))


def _check_types(dataset: Dataset, text: str, label: str | None, where: str) -> None:
    import pyarrow.types as kinds

    def value_type(name: str) -> pa.DataType:
        kind = dataset.data.schema.field(name).type
        return kind.value_type if kinds.is_dictionary(kind) else kind

    kind = value_type(text)
    if not (kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_null(kind)):
        row = next(
            (i for i, value in enumerate(dataset.select_columns([text])) if value[text] is not None), 0
        )
        raise DataError(
            f"{where}: column {text!r} does not hold text",
            expected="text in every row",
            found=f"{dataset[row][text]!r} ({kind}) in row {row + 1}",
            fix="set text_column to the column that holds the text",
        )
    if label is None:
        return
    if kinds.is_nested(value_type(label)) or kinds.is_binary(value_type(label)):
        raise DataError(
            f"{where}: column {label!r} holds {value_type(label)}",
            expected="one label per row: text, a number or a truth value",
            fix="set label_column to the column that holds the label",
        )


class _Normaliser:
    """One pass over a table: writes the good rows, remembers the bad ones, and raises at the end."""

    def __init__(
        self,
        dataset: Dataset,
        options: DomainOptions,
        text: str,
        label: str | None,
        objective: str,
        where: str,
    ) -> None:
        feature = dataset.features[label] if label is not None else None
        self.reader = LabelReader(
            options.label_map, objective=objective, names=getattr(feature, "names", None)
        )
        self.dataset, self.text, self.label, self.where = dataset, text, label, where
        self.label_map, self.objective = options.label_map, objective
        self.empty = self.dropped = self.start = self.kept = 0
        self.bad: dict[Fate, int] = {}
        self.examples: dict[Fate, list[tuple[int, Any]]] = {}
        self.unmapped: set[str] = set()

    def run(self, sink: ArrowSink) -> dict[str, int]:
        used = [self.text] if self.label is None else [self.text, self.label]
        for table in self.dataset.select_columns(used).with_format("arrow").iter(_BATCH):
            good = self._batch(table)
            self.kept += good.num_rows
            sink.write(good)
            self.start += table.num_rows
        self._raise_bad()
        return {"empty": self.empty, "dropped": self.dropped}

    def _batch(self, table: pa.Table) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        texts = flat(table[self.text]).cast(pa.string())
        full = pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(texts), ""), False)
        self.empty += len(texts) - full.true_count
        if self.label is None:
            return pa.table({"text": texts.filter(full)})
        fates, labels = self._labels(flat(table[self.label]), full.to_numpy(zero_copy_only=False))
        good = pa.array(fates == Fate.KEEP)
        return pa.table({"text": texts.filter(good), "label": labels.filter(good)})

    def _labels(self, raw: pa.Array, full: np.ndarray) -> tuple[np.ndarray, pa.Array]:
        """Read each different label once; return the fate and the new label of every row."""
        import numpy as np
        import pyarrow as pa

        encoded = (raw.cast(pa.string()) if pa.types.is_null(raw.type) else raw).dictionary_encode()
        values = encoded.dictionary.to_pylist()
        codes = encoded.indices.fill_null(len(values)).to_numpy()
        outcomes = [*map(self.reader.read, values), (Fate.MISSING, None)]
        fates = np.array([fate for fate, _ in outcomes], dtype=np.int8)[codes]
        fates[~full] = Fate.DROP
        self.dropped += int(np.count_nonzero((fates == Fate.DROP) & full))
        for fate in np.unique(fates[fates > Fate.DROP]):
            rows = np.flatnonzero(fates == fate)
            kind = Fate(int(fate))
            self.bad[kind] = self.bad.get(kind, 0) + len(rows)
            shown = self.examples.setdefault(kind, [])
            shown += [
                (self.start + int(row) + 1, raw[int(row)].as_py()) for row in rows[: _SHOWN - len(shown)]
            ]
            if kind == Fate.UNMAPPED and len(self.unmapped) < 1000:
                self.unmapped |= {str(self._shown(values[code]))[:40] for code in np.unique(codes[rows])}
        kind = pa.float64() if self.objective == "regression" else pa.string()
        return fates, pa.array([value for _, value in outcomes], kind).take(pa.array(codes))

    def _shown(self, value: Any) -> Any:
        """The class name behind an integer, or the value."""
        names = self.reader.names
        return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value

    def _raise_bad(self) -> None:
        total = len(self.dataset)
        for fate in (Fate.MISSING, Fate.UNMAPPED, Fate.NOT_STARS, Fate.NOT_A_NUMBER):
            if fate not in self.bad:
                continue
            count = self.bad[fate]
            rows = ", ".join(
                f"{row} ({reprlib.repr(self._shown(value))})" for row, value in self.examples[fate]
            )
            found = f"row{'s' * (count > 1)} {rows}" + ", ..." * (count > _SHOWN)
            if fate == Fate.UNMAPPED:
                values = natural_order(self.unmapped)
                new = ", ".join(repr(value) for value in values[:_SHOWN_LABELS])
                found = f"{new}{', ...' * (len(values) > _SHOWN_LABELS)}; {found}"
            what, expected, fix = explain_fate(fate, self.label_map)
            verb = "rows have" if count > 1 else "row has"
            raise DataError(
                f"{self.where}: {count:,} of {total:,} {verb} {what} in column {self.label!r}",
                expected=expected,
                found=found,
                fix=fix,
            )
        if not self.kept:
            reason = f"{self.empty:,} blank texts, {self.dropped:,} labels that label_map drops"
            raise DataError(f"{self.where}: no row is left", expected="at least one text", found=reason)


def explain_fate(fate: Fate, label_map: Any) -> tuple[str, str, str]:
    """What is wrong with a label, what was expected, and what to do."""
    if fate == Fate.MISSING:
        fix = "remove these rows, or put them into a file of their own under unlabeled"
        return "no label", "a label in every row", fix
    if fate == Fate.UNMAPPED:
        keys = ", ".join(repr(key) for key in label_map)
        fix = "add them to label_map; null drops the rows"
        if any(isinstance(key, bool) for key in label_map):
            fix += "; in YAML write yes, no, on and off in quotation marks"
        return "a label that label_map does not name", f"one of its keys: {keys}", fix
    if fate == Fate.NOT_STARS:
        fix = "give label_map as a table of your own labels"
        return "a label that is not a number of stars", "1 to 5 (label_map: stars-...)", fix
    fix = "set label_column to a column of numbers, or give each label its number in label_map"
    return "a label that is not a finite number", "a number (this task predicts a number)", fix


def flat(column: pa.ChunkedArray) -> pa.Array:
    """One array of plain values, without chunks and without a dictionary."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def blank_and_dropped(notes: dict[str, int], split: str, total: int) -> list[Finding]:
    """Findings from the counts ``empty`` and ``dropped`` of rows that were left out."""
    empty, dropped = notes["empty"], notes["dropped"]
    findings = []
    if empty:
        message = f"{split}: {empty:,} of {total:,} texts are empty and were dropped"
        findings.append(Finding("warning", "empty-text", empty, total, message))
    if dropped:
        message = f"{split}: {dropped:,} of {total:,} rows were dropped because label_map drops their label"
        findings.append(Finding("info", "dropped-label", dropped, total, message))
    return findings


def labels_hidden(table: Dataset, options: DomainOptions) -> bool:
    """Tell whether every label of a hub split is -1 or null, as in the test sets of benchmarks."""
    name = options.label_column or next((name for name in LABEL_COLUMNS if name in table.column_names), None)
    if name not in table.column_names or not getattr(table.features[name], "names", None):
        return False
    return all(set(batch[name]) <= {-1, None} for batch in table.select_columns([name]).iter(10_000))
