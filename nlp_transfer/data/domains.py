"""A domain: the splits of one source or target, read, cleaned, split, sampled and checked."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nlp_transfer.data.checks import (
    Finding,
    check,
    cross_check,
    fingerprint,
    label_counts,
    label_values,
    pair_hashes,
    sample_finding,
    text_hashes,
)
from nlp_transfer.data.labels import natural_order
from nlp_transfer.data.options import (
    SAMPLE_PREFIX,
    SPLITS,
    DomainOptions,
    ParallelFiles,
    available_samples,
)
from nlp_transfer.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from nlp_transfer.data.stream import StreamedRows

__all__ = [
    "DomainData",
    "DomainOptions",
    "Finding",
    "available_samples",
    "check",
    "cross_check",
    "label_names",
    "load_domain",
]

Objective = Literal["classification", "regression", "translation", "none"]
_ALIASES = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
    "unlabeled": ("unlabeled", "unlabelled", "unsupervised"),
}


@dataclass(frozen=True, eq=False)
class DomainData:
    """The splits of one domain, as memory-mapped tables with the columns ``text`` and ``label``
    (``translation`` for parallel text, where ``text`` is the side to translate).

    Attributes:
        name: name in reports.
        role: ``source`` or ``target``.
        objective: what ``label`` is: a class name, a number, or not there (parallel text, or texts alone).
        train, validation, test: labelled rows, or None where there is no such split. A streamed train split
            is a sample of its rows here.
        unlabeled: texts only, or None.
        fingerprints: split to SHA-256 of its texts and labels (or translations) in their order.
        label_counts: split to class to number of rows; empty where there are no classes.
        hashes: split to a 64-bit hash of each text (up to case and white space), 8 bytes a row.
        translation_hashes: the same of each translation; empty where there are none.
        checks: what was found on the way; see :class:`~nlp_transfer.data.checks.Finding`.
        stream: all rows of a streamed train split.
    """

    name: str
    role: Literal["source", "target"]
    objective: Objective
    train: Dataset | None
    validation: Dataset | None
    test: Dataset | None
    unlabeled: Dataset | None
    fingerprints: dict[str, str]
    label_counts: dict[str, dict[str, int]] = field(default_factory=dict)
    hashes: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    translation_hashes: dict[str, np.ndarray] = field(default_factory=dict, repr=False)
    checks: list[Finding] = field(default_factory=list)
    stream: StreamedRows | None = None

    @property
    def training_rows(self) -> Dataset | StreamedRows | None:
        """All rows to train on."""
        return self.train if self.stream is None else self.stream

    @property
    def training_labels(self) -> Dataset | None:
        """A table with the column ``label`` of all rows to train on."""
        return self.train if self.stream is None else self.stream.index

    @property
    def splits(self) -> dict[str, Dataset]:
        """The splits that are there, by name."""
        return {split: getattr(self, split) for split in SPLITS if getattr(self, split) is not None}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows of each split that is there."""
        sizes = {split: len(table) for split, table in self.splits.items()}
        return sizes if self.stream is None else sizes | {"train": len(self.stream)}


def load_domain(
    options: DomainOptions,
    *,
    role: Literal["source", "target"],
    objective: Objective,
    seed: int,
    base: Path | None = None,
    need: Collection[str] | None = None,
    languages: tuple[str, str] | None = None,
) -> DomainData:
    """Read a domain: every split that the options name, and every split in ``need``.

    Order: read, clean and map labels (or filter pairs), split validation and test off train, sample
    ``max_samples``, check.

    Args:
        options: what the recipe says under ``source`` or ``target``.
        role: which of the two; for messages.
        objective: how to read labels; ``none`` reads texts only, ``translation`` reads parallel text.
        seed: decides splits and samples; the same rows for the same content and seed.
        base: folder of the recipe, tried after the working folder for relative paths.
        need: splits that must be there; ``validation`` among them is split off ``train`` if it is not given.
            Default: no split must be there; ``validation`` is split off unless ``objective`` is ``none``.
        languages: codes of the source and the target language of parallel text, to find its columns by.

    Raises:
        DataError: for anything wrong with files, columns, texts or labels; for a needed split that is not
            there; for one class only in the train split of a classification.

    Cost per million short rows: about 10 s of processor time on the first read, 2 s afterwards; 40 MB.
    """
    name = options.domain_name()
    tables, findings = _read_splits(options, objective, base, languages)
    hashes: dict[str, np.ndarray] = {}
    stream = None
    if options.streaming:
        from nlp_transfer.data.stream import index_rows

        stream, notes = index_rows(options, objective=objective, where=f"{role}.train", base=base)
        tables, findings = {"train": stream.index, **tables}, [*notes, *findings]
        hashes["train"] = stream.hashes[:, None]
    validate = objective != "none" if need is None else "validation" in need
    if objective == "translation" and options.filters.duplicates == "drop":
        findings += _drop_repeated_pairs(tables, hashes)
    findings += _split_train(tables, hashes, options, role, seed, validate=validate)
    if stream is not None:
        held = {split for split, table in tables.items() if split != "train" and "offset" in table.features}
        tables |= {split: stream.part(tables[split]).copy() for split in held}
    for split in need or ():
        if split not in tables:
            raise _missing_split(split, options, role)
    if options.max_samples is not None:
        _cap(tables, hashes, options.max_samples, seed)
    counts = {split: label_counts(table) for split, table in tables.items() if split != "unlabeled"}
    if objective == "classification" and len(counts.get("train", "..")) < 2:
        raise DataError(
            f"{role}.train ({name}): all {len(tables['train']):,} rows have the same label",
            expected="at least two classes to train on",
            found=repr(next(iter(counts["train"]))),
            fix="check label_column and label_map" + ("; raise max_samples" if options.max_samples else ""),
        )
    hashes = {split: hashes[split] if split in hashes else _hashes(table) for split, table in tables.items()}
    domain = DomainData(
        name=name,
        role=role,
        objective=objective,
        **{split: tables.get(split) for split in SPLITS},  # type: ignore[arg-type]
        fingerprints={split: fingerprint(table) for split, table in tables.items()},
        label_counts={split: count for split, count in counts.items() if count},
        hashes={split: columns[:, 0] for split, columns in hashes.items()},
        translation_hashes={
            split: columns[:, 1] for split, columns in hashes.items() if columns.shape[1] > 1
        },
    )
    if options.dataset is not None and options.dataset.startswith(SAMPLE_PREFIX):
        findings.append(sample_finding(options.dataset, sum(domain.sizes.values())))
    domain = replace(domain, checks=findings + check(domain))
    return domain if stream is None else _streamed(domain, stream, seed)


def _streamed(domain: DomainData, stream: StreamedRows, seed: int) -> DomainData:
    """The domain whose train split, until now its index, is a sample, with all rows beside it."""
    from nlp_transfer.data.load import take_rows
    from nlp_transfer.data.split import sample

    assert domain.train is not None
    rest = stream.part(domain.train)
    chosen = take_rows(rest.index, sample(_strata(rest.index), stream.SAMPLE, _rng(seed, "stream")))
    fingerprints = domain.fingerprints | {"train": rest.fingerprint}
    return replace(domain, train=stream.part(chosen).copy(), stream=rest, fingerprints=fingerprints)


def label_names(domains: Iterable[DomainData]) -> list[str]:
    """Return all class names of all splits: by number where all are numbers, else by text.

    Example:
        ``["negative", "positive"]`` or ``["1", "2", "10"]``; empty for a regression.
    """
    return natural_order(
        name for domain in domains for counts in domain.label_counts.values() for name in counts
    )


def _read_splits(
    options: DomainOptions, objective: Objective, base: Path | None, languages: tuple[str, str] | None
) -> tuple[dict[str, Dataset], list[Finding]]:
    """Read and clean the splits that are named, or that a data set has under the usual names."""
    import datasets

    from nlp_transfer.data.columns import labels_hidden, normalise

    tables, findings = {}, []
    for split, named, parts in _raw_splits(options, objective, base, languages):
        clean = []
        purpose = "none" if split == "unlabeled" else objective
        for where, raw in parts:
            if not named and purpose in ("classification", "regression") and labels_hidden(raw, options):
                message = f"{where}: all labels are hidden, so this split is not used"
                findings.append(Finding("info", "no-labels", len(raw), len(raw), message))
                continue
            table, notes = normalise(
                raw, options, objective=purpose, where=where, split=split, languages=languages
            )
            clean.append(table)
            findings += notes
        if clean:
            tables[split] = clean[0] if len(clean) == 1 else datasets.concatenate_datasets(clean)
    return tables, findings


def _raw_splits(
    options: DomainOptions, objective: Objective, base: Path | None, languages: tuple[str, str] | None
) -> Iterable[tuple[str, bool, list[tuple[str, Dataset]]]]:
    """Yield ``(split, whether the recipe names it, [(place for messages, table)])``."""
    from nlp_transfer.data.columns import wanted_columns
    from nlp_transfer.data.load import read_dataset, read_parallel, read_table, take_split

    if options.dataset is None:
        for split in SPLITS:
            if split == "train" and options.streaming:
                continue
            columns = wanted_columns(options, "none" if split == "unlabeled" else objective, languages)
            parts = [
                (
                    str(place),
                    read_parallel(place.source, place.target, base=base)
                    if isinstance(place, ParallelFiles)
                    else read_table(place, base=base, columns=columns),
                )
                for place in options.given(split)
            ]
            if parts:
                yield split, True, parts
        return
    there = read_dataset(options.dataset, config=options.config, revision=options.revision, base=base)
    anything_named = any(options.given(split) for split in SPLITS)
    for split in SPLITS:
        specs = [str(spec) for spec in options.given(split)]
        if not specs and not (anything_named and split in ("train", "unlabeled")):
            specs = [name for name in _ALIASES[split] if name in there][:1]
        if split == "test" and options.test_fraction:
            specs = []
        where = f"{options.dataset} ({{}})"
        parts = [(where.format(spec), take_split(there, spec, options.dataset)) for spec in specs]
        if parts:
            yield split, bool(options.given(split)), parts


def _split_train(
    tables: dict[str, Dataset],
    hashes: dict[str, np.ndarray],
    options: DomainOptions,
    role: str,
    seed: int,
    *,
    validate: bool,
) -> list[Finding]:
    """Split test, then validation, off train where they are asked for and not given; fills both tables.

    Of a streamed train split, at most ``StreamedRows.SAMPLE`` rows each.
    """
    wanted = {"test": options.test_fraction, "validation": options.validation_fraction if validate else 0.0}
    wanted = {split: share for split, share in wanted.items() if share and split not in tables}
    if not wanted or "train" not in tables:
        return []
    from nlp_transfer.data.load import take_rows
    from nlp_transfer.data.split import split_off

    rest, left, findings = tables["train"], 1.0, []
    if options.streaming:
        from nlp_transfer.data.stream import StreamedRows

        wanted = {split: min(share, StreamedRows.SAMPLE / len(rest)) for split, share in wanted.items()}
    groups, strata = hashes["train"] if "train" in hashes else _hashes(rest), _strata(rest)
    for split, share in wanted.items():
        keep, held = split_off(groups[:, 0], strata, share / left, _rng(seed, split))
        if not len(held):
            raise DataError(
                f"{role}.train has too few rows to split {split} off",
                expected="at least two different texts of one label",
                found=f"{len(rest)} rows",
                fix=f"name rows under {split}",
            )
        tables[split], rest = take_rows(rest, held), take_rows(rest, keep)
        hashes[split], groups, strata = groups[held], groups[keep], strata[keep]
        left -= share
        total = len(tables["train"])
        message = f"{split}: none is given, so {len(held):,} of {total:,} training rows are split off for it"
        findings.append(Finding("info", "split-off", len(held), total, message))
    tables["train"], hashes["train"] = rest, groups
    return findings


def _drop_repeated_pairs(tables: dict[str, Dataset], hashes: dict[str, np.ndarray]) -> list[Finding]:
    """Keep the first of equal pairs in ``train``; fills its hashes."""
    import numpy as np

    from nlp_transfer.data.load import take_rows

    if "train" not in tables:
        return []
    table, columns = tables["train"], _hashes(tables["train"])
    first = np.sort(np.unique(pair_hashes(columns[:, 0], columns[:, 1]), return_index=True)[1])
    hashes["train"] = columns[first]
    count, total = len(table) - len(first), len(table)
    if not count:
        return []
    tables["train"] = take_rows(table, first)
    message = f"train: {count:,} of {total:,} pairs repeat an earlier one and were dropped"
    return [Finding("info", "duplicates", count, total, message)]


def _hashes(table: Dataset) -> np.ndarray:
    """The hashes (n, 1) of texts, or (n, 2) of texts and translations."""
    import numpy as np

    columns = [name for name in ("text", "translation") if name in table.column_names]
    return np.stack([text_hashes(table, name) for name in columns], axis=1)


def _cap(tables: dict[str, Dataset], hashes: dict[str, np.ndarray], limit: int, seed: int) -> None:
    """Sample the splits that have more than ``limit`` rows."""
    from nlp_transfer.data.load import take_rows
    from nlp_transfer.data.split import sample

    for split, table in tables.items():
        if len(table) > limit:
            rows = sample(_strata(table), limit, _rng(seed, f"sample {split}"))
            tables[split] = take_rows(table, rows)
            if split in hashes:
                hashes[split] = hashes[split][rows]


def _strata(table: Dataset) -> np.ndarray:
    """The class of each row; one stratum for numbers and unlabelled texts."""
    import numpy as np

    names = list(label_counts(table))
    return label_values(table, names) if names else np.zeros(len(table), dtype=np.int32)


def _rng(seed: int, purpose: str) -> np.random.Generator:
    import numpy as np

    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def _missing_split(split: str, options: DomainOptions, role: str) -> DataError:
    kind = "split" if options.dataset else "file"
    fixes = {
        "validation": f"give {role}.validation a {kind}, or {role}.validation_fraction a number above 0",
        "test": f"give {role}.test a {kind}, or {role}.test_fraction a number above 0",
    }
    given = [name for name in SPLITS if options.given(name)]
    return DataError(
        f"{role} has no {split} split",
        expected=f"{role}.{split}",
        found=", ".join(given) or f"dataset {options.dataset!r} without the usual split names",
        fix=fixes.get(split, f"give {role}.{split} a {kind}"),
    )
