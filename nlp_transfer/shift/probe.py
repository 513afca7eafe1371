"""Linear probes: what a frozen encoder already tells of a source's worth for a target.

From embeddings and whatever target labels exist: the accuracy of a probe trained on the source alone
(zero-shot), on the target labels alone, on both, and on both with the source weighted by density ratio.
Everything is closed form (see ``linear.py``), so 2,000 x 2,000 rows of 384 features take a second or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nlp_transfer.errors import DataError
from nlp_transfer.numeric.draws import draw_numbers, draw_rows
from nlp_transfer.shift.label_free import LabelFree, label_free_figures
from nlp_transfer.shift.labelled import MIN_AGREEMENT_ROWS, Labelled, labelled_figures
from nlp_transfer.shift.linear import Array, encode, fit_ridge


@dataclass(frozen=True)
class ProbeResult:
    """All figures of :func:`run_probe`.

    Attributes:
        n_source, n_labels, n_unlabelled, n_classes: rows used and classes in all.
        label_free: figures that need no target label.
        labelled: figures that need target labels; None without any.
        notes: in words, what this amount of labels can and cannot tell.
    """

    n_source: int
    n_labels: int
    n_unlabelled: int
    n_classes: int
    label_free: LabelFree
    labelled: Labelled | None
    notes: tuple[str, ...] = field(default=())


def run_probe(
    source: Array,
    source_labels: Sequence[Any] | Array,
    *,
    labelled: Array | None = None,
    labels: Sequence[Any] | Array | None = None,
    unlabelled: Array | None = None,
    max_rows: int = 2000,
    seed: int = 0,
) -> ProbeResult:
    """Probe a source and a target.

    Args:
        source: embeddings (n, d).
        source_labels: class of each row, numbers or strings.
        labelled: embeddings of target rows with a label (n, d); none for a label-free probe.
        labels: their classes, by the same names as the source's: both numbers or both strings.
        unlabelled: embeddings of further target rows.
        max_rows: rows used of each of the three, drawn by seed.
        seed: of the draws, folds and bootstrap; the same seed gives the same figures.

    Raises:
        DataError: no target rows, widths or lengths that differ, NaN, fewer than two source classes, ratings,
            numbers on one side and strings on the other, a side whose rows are all the same.

    Cost: O((n + m) d^2 + d^3 + t^2 d) for t target labels: a few seconds for 2,000 rows of 384 each.
    """
    return PreparedPair(source, source_labels, unlabelled, max_rows=max_rows, seed=seed).probe(
        labelled, labels
    )


class PreparedPair:
    """A source and the unlabelled target texts, prepared once for several amounts of target labels.

    Args: as in :func:`run_probe`. Unlabelled rows that get a label later need not be taken out.
    """

    def __init__(
        self,
        source: Array,
        source_labels: Sequence[Any] | Array,
        unlabelled: Array | None = None,
        *,
        max_rows: int = 2000,
        seed: int = 0,
    ) -> None:
        self.seed, self.max_rows = seed, max_rows
        self._raw_source = _matrix("source", source)
        self._names = _names("source_labels", source_labels, len(self._raw_source))
        rng = np.random.default_rng(seed)
        keep = draw_numbers(len(self._raw_source), max_rows, rng)
        self._raw_source, self._names = self._raw_source[keep], self._names[keep]
        if len(np.unique(self._names)) < 2:
            count = len(self._names)
            raise DataError(
                "the source has one class only",
                expected="labelled rows of at least two classes",
                found=f"{count} rows, all {self._names[0].item()!r}" if count else "no rows",
                fix="give the probe a source that was not filtered by label",
            )
        _varied("source", self._raw_source)
        self._raw_further = np.zeros((0, self._raw_source.shape[1]))
        if unlabelled is not None:
            further = _matrix("unlabelled", unlabelled, self._raw_source.shape[1])
            self._raw_further = draw_rows(further, max_rows, rng)
        self._ready: _Pair | None = None

    def probe(
        self, labelled: Array | None = None, labels: Sequence[Any] | Array | None = None
    ) -> ProbeResult:
        """The figures with these target labels."""
        width = self._raw_source.shape[1]
        rows = np.zeros((0, width)) if labelled is None else _matrix("labelled", labelled, width)
        names = _names("labels", [] if labels is None else labels, len(rows))
        keep = draw_numbers(len(rows), self.max_rows, np.random.default_rng(self.seed))
        rows, names = rows[keep], names[keep]
        if len(rows) + len(self._raw_further) < 2:
            raise DataError(
                "the target has too few rows to probe",
                expected="at least 2 rows, labelled or not",
                found=str(len(rows) + len(self._raw_further)),
                fix="give unlabelled target texts: they need no labels",
            )
        _varied("target", np.vstack([self._raw_further, rows]))
        pair = self._pair(names, rows)
        figures = None
        if len(rows):
            apart = ~_rows_in(self._raw_further, rows)
            figures = labelled_figures(
                pair.place(rows),
                pair.numbers(names),
                pair.further[apart],
                plain=pair.plain,
                reweighted=pair.reweighted,
                further_white=pair.further_white[apart],
                classes=len(pair.classes),
                seed=self.seed,
            )
        return ProbeResult(
            n_source=len(pair.source),
            n_labels=len(rows),
            n_unlabelled=len(pair.further),
            n_classes=len(pair.classes),
            label_free=pair.label_free,
            labelled=figures,
            notes=(*_notes(names, self._names), *_overlap(int(_rows_in(self._raw_source, rows).sum()))),
        )

    def _pair(self, names: Array, rows: Array) -> _Pair:
        """The prepared pair, kept while the classes stay the same and there are unlabelled texts."""
        if len(names) and (names.dtype.kind == "U") != (self._names.dtype.kind == "U"):
            raise DataError(
                "the labels of source and target cannot be compared",
                expected=f"classes such as {self._names[0].item()!r}, as in the source",
                found=repr(names[0].item()),
                fix="give both sides names, or both sides numbers",
            )
        classes = np.unique(np.concatenate([self._names, names]) if len(names) else self._names)
        if len(self._raw_further) >= MIN_AGREEMENT_ROWS:
            if self._ready is None or not np.array_equal(self._ready.classes, classes):
                self._ready = _Pair(
                    self._raw_source, self._names, self._raw_further, self._raw_further, classes
                )
            return self._ready
        target = np.vstack([self._raw_further, rows])
        return _Pair(self._raw_source, self._names, self._raw_further, target, classes)


class _Pair:
    """Scaled rows, the source's classifiers and the label-free figures."""

    def __init__(self, source: Array, names: Array, further: Array, target: Array, classes: Array) -> None:
        self.classes = classes
        both = np.vstack([source, target])
        self._centre = both.mean(0)
        self._scale = float(np.sqrt(((both - self._centre) ** 2).sum(1).mean())) or 1.0
        self.source, self.further = self.place(source), self.place(further)
        labels = self.numbers(names)
        self.y = encode(labels, len(classes))
        self.plain = fit_ridge(self.source, self.y)
        self.further_white = self.further @ self.plain.whiten
        self.label_free, ratio = label_free_figures(self.source, labels, self.place(target), self.plain)
        self.reweighted = fit_ridge(self.source, self.y, ratio)

    def place(self, rows: Array) -> Array:
        """Rows centred on both domains, with mean squared length one, and a constant for the intercept."""
        return np.hstack([(rows - self._centre) / self._scale, np.ones((len(rows), 1))])

    def numbers(self, names: Array) -> Array:
        return np.searchsorted(self.classes, names)


def _notes(names: Array, source_names: Array) -> tuple[str, ...]:
    n, notes = len(names), []
    if n == 0:
        notes.append(
            "No target labels: the texts can be compared, but not what the labels mean. Whether the target "
            "labels its texts as the source does (label-function shift) cannot be known; a source with "
            "flipped labels looks the same."
        )
    elif n < 50:
        notes.append(
            f"{n} target labels: enough to notice a source that contradicts them (flipped labels), too few "
            "to settle differences below about 10 points."
        )
    elif n < 300:
        notes.append(f"{n} target labels: differences of about 5 points show; one of 1 point does not.")
    else:
        notes.append(f"{n} target labels: differences of about 2 to 3 points show.")
    if n and len(np.unique(names)) == 1:
        notes.append(
            f"All target labels are {names[0].item()!r}: accuracies count this class only, and a probe "
            "trained on the target alone can only repeat it. Label rows of the other classes."
        )
    extra = sorted({str(name) for name in names} - {str(name) for name in source_names})
    if extra:
        notes.append(f"The source has no rows of the class(es) {', '.join(extra)}: it cannot predict them.")
    return tuple(notes)


def _matrix(name: str, value: Array, width: int | None = None) -> Array:
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "fiub" or (width is not None and array.shape[1] != width):
        raise DataError(
            f"{name} does not hold embeddings",
            expected=f"numbers of shape (rows, {'features' if width is None else width})",
            found=f"shape {array.shape}, dtype {array.dtype}",
            fix="embed both domains with the same model and pooling",
        )
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        row = int((~np.isfinite(array)).any(1).argmax())
        raise DataError(
            f"{name} holds NaN or infinite values", found=f"row {row}", fix="drop or repair these rows"
        )
    return array


def _varied(side: str, rows: Array) -> None:
    """Refuse rows that are all the same, but for what float32 leaves: no probe tells their classes apart."""
    if np.ptp(rows, axis=0).max(initial=0.0) <= 1e-6 * np.abs(rows).max(initial=0.0):
        raise DataError(
            f"the texts of the {side} all look the same to the encoder",
            expected="texts that differ",
            found=f"{len(rows)} rows with the same embedding",
            fix="check that the column of texts is the right one, and that they are not empty",
        )


def _names(name: str, value: Sequence[Any] | Array, rows: int) -> Array:
    """The labels as strings or as int64; booleans are 0 and 1."""
    array = np.asarray(value)
    if array.ndim != 1 or len(array) != rows:
        raise DataError(
            f"{name} does not fit its rows",
            expected=f"{rows} labels",
            found=f"shape {array.shape}",
            fix="check both",
        )
    if array.dtype.kind == "f" and not (np.isfinite(array) & (array == np.round(array))).all():
        raise DataError(
            f"{name} holds ratings or missing values, not classes",
            expected="class numbers or names",
            found=f"{array[(array != np.round(array)) | ~np.isfinite(array)][0]}",
            fix="probe ratings by their bins, for example negative / positive; drop rows without a label",
        )
    return array.astype(np.int64 if array.dtype.kind in "fiub" else str)


def _overlap(shared: int) -> tuple[str, ...]:
    """A warning where source rows are the labelled target rows themselves."""
    if not shared:
        return ()
    return (
        f"{shared} source rows are also labelled target rows: held-out figures with the source are too good, "
        "because it holds the answers. Drop these rows from the source.",
    )


def _rows_in(rows: Array, others: Array) -> Array:
    """Which of the rows also stand in ``others``, bit for bit."""
    seen = {row.tobytes() for row in others}
    return np.array([row.tobytes() in seen for row in rows], dtype=bool)
