"""Which texts and labels of two domains the report looks at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import datasets
import numpy as np

from nlp_transfer.data.checks import Finding, check, fingerprint, label_counts, text_hashes
from nlp_transfer.data.columns import (
    LABEL_COLUMNS,
    find_label_column,
    find_text_column,
    normalise,
    wanted_columns,
)
from nlp_transfer.data.domains import DomainData, load_domain
from nlp_transfer.data.labels import canonical, same_polarity
from nlp_transfer.data.load import read_table, take_rows
from nlp_transfer.data.options import SAMPLE_PREFIX, DomainOptions, place_options
from nlp_transfer.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

Role = Literal["source", "target"]
PAIRS = "translation"
"""Column of translation pairs."""
TOLD = ("experimental", "duplicates", "conflicting-labels", "imbalance")
"""Findings about the data that belong into a report; of duplicates and the like, those that are warnings."""
MOST_CLASSES = 20
"""More different labels than this are ratings or something else, not classes."""


@dataclass(frozen=True, eq=False)
class Sample:
    """The rows drawn from one domain.

    Attributes:
        name: of the domain.
        total: texts it has for this purpose, before the draw.
        total_labels: those of them with a label.
        fingerprint: SHA-256 of the texts and labels drawn from.
        texts: those drawn at random; every comparison of texts uses exactly these.
        labelled: texts with a label, as far as they were asked for; drawn too.
        labels: their classes, (len(labelled),).
        notes: what a reader has to know of the draw.
        ratings: whether its labels are numbers: they are not used, for the probe learns classes.
    """

    name: str
    total: int
    total_labels: int
    fingerprint: str
    texts: tuple[str, ...]
    labelled: tuple[str, ...]
    labels: np.ndarray
    notes: tuple[str, ...] = ()
    ratings: bool = False

    def shares(self) -> dict[str, float]:
        """Share of each class among the labels; empty without labels."""
        names, counts = np.unique(self.labels, return_counts=True)
        return {str(name): float(count / counts.sum()) for name, count in zip(names, counts, strict=True)}


def draw(data: DomainData, *, max_samples: int, seed: int, labels: int | None = None) -> Sample:
    """Draw the rows that stand for a domain, by seed and never from the head.

    The training rows stand for a domain, a target's unlabelled texts beside them; where there are neither,
    validation, then test. Labels come from the training rows alone, so that held-out labels stay unseen.

    Args:
        data: a loaded domain.
        max_samples: texts drawn at most, and labelled texts drawn at most.
        seed: the same seed draws the same rows.
        labels: labelled rows wanted; None for all there are.

    Raises:
        DataError: fewer than two texts.
    """
    parts = {"train": data.train, "unlabeled": data.unlabeled}
    if data.role == "source" and data.train is not None and len(data.train):
        parts["unlabeled"] = None
    used = {name: rows for name, rows in parts.items() if rows is not None and len(rows)}
    if not used:
        rest = {"validation": data.validation, "test": data.test}
        used = {name: rows for name, rows in rest.items() if rows is not None and len(rows)}
        used = dict(list(used.items())[:1])
    total = sum(len(rows) for rows in used.values())
    if total < 2:
        raise DataError(
            f"domain {data.name} has too few texts to compare",
            expected="at least 2 texts",
            found=str(total),
            fix="name a file with more texts",
        )
    order = np.random.default_rng(seed).permutation(total)
    texts = _texts(list(used.values()), order[:max_samples])
    names, notes = _classes(data, used.get("train"))
    told = [
        item
        for item in data.checks
        if item.code in TOLD and (item.level == "warning" or item.code == TOLD[0])
    ]
    notes = (*notes, *(f"{data.name}: {item.message}." for item in told))
    rows = order[order < len(names)]
    rows = rows[: max_samples if labels is None else min(labels, max_samples)]
    return Sample(
        name=data.name,
        total=total,
        total_labels=len(names),
        fingerprint="+".join(data.fingerprints[name] for name in used),
        texts=texts,
        labelled=_texts([used["train"]], rows) if len(rows) else (),
        labels=names[rows],
        notes=notes,
        ratings=data.objective == "regression",
    )


def _classes(data: DomainData, train: Dataset | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of each training row; empty where there are no classes, with the reason."""
    none = np.zeros(0, dtype="U1")
    if train is None or "label" not in train.column_names:
        return none, ()
    if data.objective == "regression":
        return none, ()
    names = np.array(train["label"][:], dtype=str)
    if len(np.unique(names)) > MOST_CLASSES:
        count = len(np.unique(names))
        return none, (
            f"{data.name} has {count} different labels: too many to be classes, so they are not used.",
        )
    return names, ()


def _texts(parts: Sequence[Dataset], rows: np.ndarray) -> tuple[str, ...]:
    """The texts with these numbers, counted through all parts."""
    found: dict[int, str] = {}
    start = 0
    for part in parts:
        own = rows[(rows >= start) & (rows < start + len(part))]
        if len(own):
            found.update(zip(own.tolist(), part.select(own - start)["text"][:], strict=True))
        start += len(part)
    return tuple(found[row] for row in rows.tolist())


def agree_on_labels(source: Sample, target: Sample) -> tuple[Sample, Sample]:
    """Make labels comparable: 0 and 1 meet negative and positive; what cannot be compared is dropped.

    That is a source or a target with one class, and a target without a class in common with the source.
    """
    ours, theirs = set(source.labels.tolist()), set(target.labels.tolist())
    if len(ours) == 1:
        note = f"All labels of {source.name} are {next(iter(ours))!r}: nothing can be learned from them."
        return _unlabelled(source, note), _unlabelled(target)
    if ours and len(theirs) == 1:
        note = (
            f"The target labels read from {target.name} ({len(target.labels):,}) are all "
            f"{next(iter(theirs))!r}: one class cannot tell whether the source helps, so they are not used. "
            "Label rows of the other classes."
        )
        return source, _unlabelled(target, note)
    if ours and theirs and not ours & theirs:
        meant = {name: same_polarity(name, ours) for name in theirs}
        if len(ours) == 2 and all(meant.values()) and len(set(meant.values())) == len(theirs):
            pairs = " and ".join(f"{name} for {meant[name]}" for name in sorted(theirs))
            labels = np.array([meant[name] for name in target.labels.tolist()])
            note = f"The labels of {target.name} are taken as the source's: {pairs}."
            return source, replace(target, labels=labels, notes=(*target.notes, note))
        note = (
            f"{source.name} and {target.name} have no class in common ({_list(ours)}; {_list(theirs)}): the "
            f"target's "
            "labels are not used. Give both the same names, for example with label_map in a recipe."
        )
        return source, _unlabelled(target, note)
    return source, target


def _unlabelled(sample: Sample, *notes: str) -> Sample:
    return replace(
        sample, labelled=(), labels=sample.labels[:0], total_labels=0, notes=(*sample.notes, *notes)
    )


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (", ..." if len(names) > 5 else "")


def load_side(
    place: str, role: Role, *, seed: int, text_column: str | None = None, label_column: str | None = None
) -> DomainData:
    """Load a file or ``sample:NAME`` for a comparison, with its labels where there are any.

    A label column is found by its name. Rows whose label is missing count as unlabelled texts; a target may
    lack the ``label_column`` that a source has. Of translation pairs one side is read: the language that
    ``text_column`` names, else the first.

    Raises:
        DataError: the file cannot be read, or has no column of texts.
    """
    options = place_options(place, text_column=text_column, label_column=label_column)
    if place.startswith(SAMPLE_PREFIX):
        return load_domain(options, role=role, objective="classification", seed=seed, need=())
    table = read_table(place, columns=[*wanted_columns(options, "classification"), PAIRS])
    if PAIRS in table.column_names and text_column not in table.column_names:
        return _pairs_file(table, text_column, options, role, place)
    text = find_text_column(table.column_names, text_column, where=place)
    given = None if role == "target" and label_column not in table.column_names else label_column
    label = _label_column(table.column_names, given, place, text)
    if label is None:
        options = place_options(place, split="unlabeled", text_column=text)
        return load_domain(options, role=role, objective="none", seed=seed, need=())
    known = np.array([canonical(value) is not None for value in table[label][:]], dtype=bool)
    options = place_options(place, text_column=text, label_column=label)
    return _labelled_file(table, known, options, role, place)


def load_pairs(place: str, role: Role, languages: tuple[str, str], *, seed: int) -> DomainData:
    """Load a file or ``sample:NAME`` of parallel text for a comparison.

    Raises:
        DataError: the file cannot be read, or lacks one of the languages.
    """
    where: dict[str, Any] = {"role": role, "seed": seed, "need": (), "languages": languages}
    return load_domain(place_options(place), objective="translation", **where)


def _labelled_file(
    table: Dataset, known: np.ndarray, options: DomainOptions, role: Role, place: str
) -> DomainData:
    """A domain whose training rows are the ones with a label; one class is enough, and none too."""
    parts = {}
    for split, rows in (("train", np.flatnonzero(known)), ("unlabeled", np.flatnonzero(~known))):
        if len(rows):
            objective = "classification" if split == "train" else "none"
            parts[split], _ = normalise(
                take_rows(table, rows), options, objective=objective, where=place, split=split
            )
    domain = DomainData(
        name=options.domain_name(),
        role=role,
        objective="classification" if "train" in parts else "none",
        train=parts.get("train"),
        validation=None,
        test=None,
        unlabeled=parts.get("unlabeled"),
        fingerprints={split: fingerprint(rows) for split, rows in parts.items()},
        label_counts={"train": label_counts(parts["train"])} if "train" in parts else {},
        hashes={split: text_hashes(rows) for split, rows in parts.items()},
    )
    return replace(domain, checks=check(domain))


def _pairs_file(
    table: Dataset, language: str | None, options: DomainOptions, role: Role, place: str
) -> DomainData:
    """One side of translation pairs ``{"translation": {"en": ..., "de": ...}}`` as texts; experimental."""
    pairs = table[PAIRS][:]
    languages = list(pairs[0]) if pairs and isinstance(pairs[0], dict) else []
    if not languages or (language is not None and language not in languages):
        raise DataError(
            f"{place}: no texts in the column {PAIRS!r}",
            expected=f"pairs with a text in {language!r}"
            if language
            else 'pairs such as {"en": "...", "de": "..."}',
            found=f"the languages {', '.join(languages)}" if languages else "no pairs",
            fix="set text_column to a language of the pairs, or to a column of texts",
        )
    language = language or languages[0]
    raw = datasets.Dataset.from_dict({"text": [pair[language] for pair in pairs]})
    texts, _ = normalise(
        raw,
        options.model_copy(update={"text_column": "text"}),
        objective="none",
        where=place,
        split="unlabeled",
    )
    message = (
        f"translation pairs: the {language} side is compared, as texts alone. This is experimental, and "
        f"there is no "
        "forecast of translation quality"
    )
    return DomainData(
        name=options.domain_name(),
        role=role,
        objective="none",
        train=None,
        validation=None,
        test=None,
        unlabeled=texts,
        fingerprints={"unlabeled": fingerprint(texts)},
        checks=[Finding("info", "experimental", len(texts), len(table), message)],
    )


def _label_column(columns: Sequence[str], given: str | None, place: str, text: str) -> str | None:
    lower = {name.strip().lower() for name in columns if name != text}
    if given is None and not lower & {name.lower() for name in LABEL_COLUMNS}:
        return None
    return find_label_column(columns, given, where=place, taken=text)
