"""What may be wrong with good-looking data: duplicates, leakage, labels; and fingerprints of its content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from nlp_transfer.data.labels import natural_order
from nlp_transfer.data.options import SAMPLE_PREFIX, SPLITS

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from datasets import Dataset

    from nlp_transfer.data.domains import DomainData

IMBALANCE = 10.0
"""Largest class over smallest class in ``train`` above which ``imbalance`` warns."""
MANY_DUPLICATES = 0.01
"""Share of duplicates in a split from which they are a warning; below it they are a remark."""
_BATCH = 10_000


@dataclass(frozen=True)
class Finding:
    """One thing found in the data.

    Attributes:
        level: ``warning`` for what can spoil a result, ``info`` for what is good to know.
        code: what it is: ``duplicates``, ``conflicting-labels``, ``leakage``, ``empty-text``,
            ``dropped-label``, ``imbalance``, ``one-class``, ``unseen-label``, ``cross-leakage``,
            ``cross-labels``, ``no-labels``, ``split-off`` or ``sample``; of pairs also ``identical-pair``,
            ``length-ratio`` and ``translation-leakage``.
        count: number of rows (texts, classes) concerned.
        total: number of rows (texts, classes) that were looked at.
        message: one sentence with both.
    """

    level: Literal["warning", "info"]
    code: str
    count: int
    total: int
    message: str


def text_hashes(dataset: Dataset, column: str = "text") -> np.ndarray:
    """Return a 64-bit hash (n,) of each text, equal for texts that differ only in case and white space.

    Cost: about 2 s and 8 MB per million rows. Any two different texts among ten million collide with a
    probability of 3 in a million.
    """
    import numpy as np

    out, start = np.empty(len(dataset), dtype=np.uint64), 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(_BATCH):
        batch = np.frombuffer(b"".join(map(_digest, table[column].to_pylist())), dtype="<u8")
        out[start : start + len(batch)] = batch
        start += len(batch)
    return out


def text_hash(text: str) -> int:
    """The hash of one text, as `text_hashes` gives it."""
    return int.from_bytes(_digest(text), "little")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()


def label_values(dataset: Dataset, names: list[str] | None = None) -> np.ndarray:
    """Return the labels (n,): numbers (float64), places of classes in ``names`` (int32), or zeros."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if "label" not in dataset.column_names:
        return np.zeros(len(dataset), dtype=np.int32)
    numbers = dataset.features["label"].dtype == "float64"
    out, start = np.empty(len(dataset), dtype=np.float64 if numbers else np.int32), 0
    for table in dataset.select_columns(["label"]).with_format("arrow").iter(_BATCH):
        column = table["label"] if numbers else pc.index_in(table["label"], pa.array(names, pa.string()))
        out[start : start + len(column)] = column.to_numpy()
        start += len(column)
    return out


def label_counts(dataset: Dataset) -> dict[str, int]:
    """Return how many rows each class has, classes in natural order; empty for numbers or no labels."""
    import pyarrow.compute as pc

    counts: dict[str, int] = {}
    if "label" not in dataset.column_names or dataset.features["label"].dtype == "float64":
        return counts
    for table in dataset.select_columns(["label"]).with_format("arrow").iter(_BATCH):
        for item in pc.value_counts(table["label"]).to_pylist():
            counts[item["values"]] = counts.get(item["values"], 0) + item["counts"]
    return {name: counts[name] for name in natural_order(counts)}


def fingerprint(dataset: Dataset) -> str:
    """Return the SHA-256 of texts and labels (or translations) in their order, whatever the format.

    Cost: about 0.2 s per million rows.
    """
    columns = [name for name in ("text", "label", "translation") if name in dataset.column_names]
    digests = {name: (hashlib.sha256(), hashlib.sha256()) for name in columns}
    for table in dataset.select_columns(columns).with_format("arrow").iter(_BATCH):
        for name, (lengths, content) in digests.items():
            for chunk in table[name].chunks:
                size, data = _bytes(chunk)
                lengths.update(size)
                content.update(data)
    whole = hashlib.sha256()
    for name, parts in digests.items():
        whole.update(b"".join([name.encode(), *(part.digest() for part in parts)]))
    return whole.hexdigest()


def check(domain: DomainData) -> list[Finding]:
    """Look into one domain: duplicates, conflicting labels, leakage between splits, classes.

    Texts count as equal when they differ only in case and white space.

    Cost: O(n log n) time, about 40 n bytes.
    """
    findings = []
    for split in domain.splits:
        findings += _duplicates(domain, split)
    for held, reference in (("validation", "train"), ("test", "train"), ("test", "validation")):
        if held in domain.hashes and reference in domain.hashes:
            findings += _overlap(domain, held, reference)
    findings += _classes(domain.label_counts)
    return findings


def pair_hashes(texts: np.ndarray, translations: np.ndarray) -> np.ndarray:
    """Return one 64-bit hash (n,) of each pair of hashes."""
    import numpy as np

    mixed = (texts ^ np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xD6E8FEB86659FD93)
    return (mixed ^ (mixed >> np.uint64(32))) + translations


def cross_check(source: DomainData, target: DomainData) -> list[Finding]:
    """Compare two domains: target texts for scoring that are among the source's training rows, and labels."""
    findings = []
    for held in ("test", "validation"):
        if held in target.hashes and "train" in source.hashes:
            count, total = _shared(target.hashes[held], source.hashes["train"]), len(target.hashes[held])
            if count:
                message = f"target {held}: {count:,} of {total:,} texts are in the source's train split too"
                findings.append(Finding("warning", "cross-leakage", count, total, message))
    ours, theirs = (
        {name for counts in domain.label_counts.values() for name in counts} for domain in (source, target)
    )
    if ours and theirs and ours != theirs:
        only = [f"{who} only: {', '.join(natural_order(part))}" for who, part in
                (("source", ours - theirs), ("target", theirs - ours)) if part]  # fmt: skip
        message = (
            f"source and target have different labels ({'; '.join(only)}); label_map can bring them together"
        )
        findings.append(Finding("warning", "cross-labels", len(ours ^ theirs), len(ours | theirs), message))
    return findings


def sample_finding(dataset: str, rows: int) -> Finding:
    """Say that a domain is built-in, not real, data."""
    name = dataset.removeprefix(SAMPLE_PREFIX)
    message = (
        f"{name} is the built-in sample, written for this project; it is not real data and proves no quality"
    )
    return Finding("info", "sample", rows, rows, message)


def _duplicates(domain: DomainData, split: str) -> list[Finding]:
    import numpy as np

    hashes, noun = domain.hashes[split], "texts"
    if split in domain.translation_hashes:
        hashes, noun = pair_hashes(hashes, domain.translation_hashes[split]), "pairs"
    total = len(hashes)
    order = np.argsort(hashes, kind="stable")
    new = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[:1]] + np.uint64(1)))
    count = total - len(new)
    if not count:
        return []
    message = f"{split}: {count:,} of {total:,} {noun} repeat an earlier one (up to case and white space)"
    level: Literal["warning", "info"] = "warning" if count >= MANY_DUPLICATES * total else "info"
    findings = [Finding(level, "duplicates", count, total, message)]
    labels = label_values(domain.splits[split], list(domain.label_counts.get(split, {})))[order]
    conflicts = int(np.count_nonzero(np.minimum.reduceat(labels, new) != np.maximum.reduceat(labels, new)))
    if conflicts:
        message = f"{split}: {conflicts:,} of {len(new):,} different texts appear with more than one label"
        findings.append(Finding("warning", "conflicting-labels", conflicts, len(new), message))
    return findings


def _overlap(domain: DomainData, held: str, reference: str) -> list[Finding]:
    """Rows of ``held`` that are in ``reference`` too; of pairs also those whose translation is."""
    texts, known = domain.hashes[held], domain.hashes[reference]
    count, total = _shared(texts, known), len(texts)
    pairs = held in domain.translation_hashes and reference in domain.translation_hashes
    place = f"in the {reference} split too (up to case and white space)"
    findings = []
    if count:
        message = f"{held}: {count:,} of {total:,} texts are {place}"
        if pairs:
            ours, theirs = domain.translation_hashes[held], domain.translation_hashes[reference]
            both = _shared(pair_hashes(texts, ours), pair_hashes(known, theirs))
            message += f", {both:,} of them with the same translation"
        findings.append(Finding("warning", "leakage", count, total, message))
    if pairs:
        more = _shared(domain.translation_hashes[held], domain.translation_hashes[reference])
        if more > count:
            message = f"{held}: {more:,} of {total:,} translations are {place}"
            findings.append(Finding("info", "translation-leakage", more, total, message))
    return findings


def _shared(values: np.ndarray, reference: np.ndarray) -> int:
    """Count the values that are in ``reference``."""
    import numpy as np

    known = np.sort(reference)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return int(np.count_nonzero(known[places] == values))


def _classes(counts: Mapping[str, Mapping[str, int]]) -> list[Finding]:
    findings: list[Finding] = []
    train = counts.get("train")
    if not train:
        return findings
    total = sum(train.values())
    if len(train) == 1:
        message = f"train: all {total:,} rows have the label {next(iter(train))!r}"
        findings.append(Finding("warning", "one-class", total, total, message))
    small, large = min(train, key=train.__getitem__), max(train, key=train.__getitem__)
    if train[large] > IMBALANCE * train[small]:
        message = (
            f"train: {train[large] / train[small]:.0f} times as many rows of {large!r} ({train[large]:,}) "
            f"as of {small!r} ({train[small]:,}); accuracy says little here, and class weights may help"
        )
        findings.append(Finding("warning", "imbalance", train[small], total, message))
    for split in SPLITS[1:3]:
        new = {name: count for name, count in counts.get(split, {}).items() if name not in train}
        if new:
            rows, size = sum(new.values()), sum(counts[split].values())
            message = f"{split}: {rows:,} of {size:,} rows have labels that train never has: {', '.join(new)}"
            findings.append(Finding("warning", "unseen-label", rows, size, message))
    return findings


def _bytes(array: pa.Array) -> tuple[bytes, memoryview | bytes]:
    """Return the lengths (int64) and the joined bytes of texts, or nothing and the bytes of numbers."""
    import numpy as np

    if str(array.type) == "double":
        return b"", array.to_numpy().astype("<f8").tobytes()
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32)[array.offset : array.offset + len(array) + 1]
    data = array.buffers()[2]
    content = memoryview(data)[int(offsets[0]) : int(offsets[-1])] if data is not None else b""
    return np.diff(offsets).astype("<i8").tobytes(), content
