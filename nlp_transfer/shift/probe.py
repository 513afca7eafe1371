"""Linear probes: what a frozen encoder already tells of a source's worth for a target.

From embeddings and whatever target labels exist: the accuracy of a probe trained on the source alone
(zero-shot), on the target labels alone, on both, and on both with the source weighted by density ratio.
Everything is closed form (see ``linear.py``), so 2,000 x 2,000 rows of 384 features take a second or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nlp_transfer.errors import DataError
from nlp_transfer.shift.label_free import LabelFree, label_free_figures
from nlp_transfer.shift.linear import (
    PENALTIES,
    Fitted,
    Prior,
    RidgeFit,
    encode,
    fit_ridge,
    margins,
    plain_prior,
    predictions,
    stratified_folds,
)

Array = np.ndarray
INTERVAL = 0.8
"""Coverage of every interval here and in the forecast."""
MIN_AGREEMENT_ROWS = 30


@dataclass(frozen=True)
class Figure:
    """An estimate between the ends of its 80 % interval; accuracies and gains are fractions, not points."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How probes agree on target texts nobody labelled; fractions or correlations, NaN where unknown.

    Attributes:
        source_target: the same prediction by source-only and target-only probe.
        source_combined, target_combined: the same with the probe trained on both.
        halves: two target-only probes, each trained on half of the labels.
        source_correlation: of source-only with target-only scores.
        halves_correlation: of the scores of the two halves: how far the labels settle the target's classifier.
        label_function: source_correlation corrected for the noise of few labels (Spearman 1904): near 1 where
            source and target label alike, near or below 0 where they contradict each other.
    """

    source_target: float
    source_combined: float
    target_combined: float
    halves: float
    source_correlation: float
    halves_correlation: float
    label_function: float


@dataclass(frozen=True)
class Labelled:
    """What the target labels tell.

    Attributes:
        zero_shot: accuracy of the source-only probe on the labelled target rows.
        target_only, combined, weighted: cross-validated accuracy of the probe trained on the target labels, on
            source and target, on density-ratio weighted source and target.
        gain: combined less target-only on the same rows and folds. gain_weighted: weighted less target-only.
        target_half, combined_half: accuracy when trained with half of the labels.
        extrapolated: target-only accuracy expected with twice the labels: the half's step once more, halved.
        smooth_zero_shot, smooth_target_only, smooth_combined: chance of a right prediction from the size of the
            held-out margins: the same accuracies with less noise and some bias.
        loss_zero_shot, loss_target_only, loss_combined: held-out squared error of the scores (labels are -1/+1).
        evidence: log marginal likelihood per label with the source less without it. Above 0: the labels are
            what one would expect from the source.
        class_balance: share of the most frequent class.
    """

    zero_shot: Figure
    target_only: Figure | None
    combined: Figure
    weighted: Figure
    gain: Figure | None
    gain_weighted: Figure | None
    target_half: float
    combined_half: float
    extrapolated: float
    smooth_zero_shot: float
    smooth_target_only: float
    smooth_combined: float
    loss_zero_shot: float
    loss_target_only: float
    loss_combined: float
    evidence: float
    class_balance: float
    agreement: Agreement


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
        labels: their classes, by the same names as the source's.
        unlabelled: embeddings of further target rows.
        max_rows: rows used of each of the three, drawn by seed.
        seed: of the draws, folds and bootstrap; the same seed gives the same figures.

    Raises:
        DataError: no target rows, widths or lengths that differ, NaN, fewer than two source classes, ratings.

    Cost: O((n + m) d^2 + d^3 + t^3) for t target labels: about one second for 2,000 + 2,000 rows of 384.
    """
    return PreparedPair(source, source_labels, unlabelled, max_rows=max_rows, seed=seed).probe(labelled, labels)


class PreparedPair:
    """A source and the unlabelled target texts, prepared once for several amounts of target labels.

    Args: as in :func:`run_probe`; ``classes`` names classes that the source lacks.
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
        keep = _sample(len(self._raw_source), max_rows, rng)
        self._raw_source, self._names = self._raw_source[keep], self._names[keep]
        if len(np.unique(self._names)) < 2:
            raise DataError(
                "the source has one class only",
                expected="labelled rows of at least two classes",
                found=f"{len(self._names)} rows, all {self._names[0]!r}" if len(self._names) else "no rows",
                fix="give the probe a source that was not filtered by label",
            )
        self._raw_further = np.zeros((0, self._raw_source.shape[1]))
        if unlabelled is not None:
            further = _matrix("unlabelled", unlabelled, self._raw_source.shape[1])
            self._raw_further = further[_sample(len(further), max_rows, rng)]
        self._ready: _Pair | None = None

    def probe(self, labelled: Array | None = None, labels: Sequence[Any] | Array | None = None) -> ProbeResult:
        """The figures with these target labels."""
        width = self._raw_source.shape[1]
        rows = np.zeros((0, width)) if labelled is None else _matrix("labelled", labelled, width)
        names = _names("labels", [] if labels is None else labels, len(rows))
        keep = _sample(len(rows), self.max_rows, np.random.default_rng(self.seed))
        rows, names = rows[keep], names[keep]
        if len(rows) + len(self._raw_further) < 2:
            raise DataError(
                "the target has too few rows to probe",
                expected="at least 2 rows, labelled or not",
                found=str(len(rows) + len(self._raw_further)),
                fix="give unlabelled target texts: they need no labels",
            )
        pair = self._pair(names, rows)
        labelled_figures = None
        if len(rows):
            apart = ~_rows_in(self._raw_further, rows)
            labelled_figures = _labelled_figures(pair, pair.place(rows), pair.numbers(names), apart, self.seed)
        return ProbeResult(
            n_source=len(pair.source),
            n_labels=len(rows),
            n_unlabelled=len(pair.further),
            n_classes=len(pair.classes),
            label_free=pair.label_free,
            labelled=labelled_figures,
            notes=_notes(names, self._names),
        )

    def _pair(self, names: Array, rows: Array) -> _Pair:
        """The prepared pair: reused while the labels bring no new class and unlabelled texts stand for the target."""
        classes = np.unique(np.concatenate([self._names, names.astype(self._names.dtype, copy=False)]))
        if len(self._raw_further) >= MIN_AGREEMENT_ROWS:
            if self._ready is None or len(self._ready.classes) != len(classes):
                self._ready = _Pair(self._raw_source, self._names, self._raw_further, self._raw_further, classes)
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
        self.reweighted: RidgeFit = fit_ridge(self.source, self.y, ratio)

    def place(self, rows: Array) -> Array:
        """Rows centred on both domains, with mean squared length one, and a constant for the intercept."""
        return np.hstack([(rows - self._centre) / self._scale, np.ones((len(rows), 1))])

    def numbers(self, names: Array) -> Array:
        return np.searchsorted(self.classes, names)


def _labelled_figures(pair: _Pair, rows: Array, labels: Array, apart: Array, seed: int) -> Labelled:
    """Fit the four probes and read their held-out scores; ``apart`` marks further rows that bear no label."""
    y, columns, n = encode(labels, len(pair.classes)), pair.y.shape[1], len(rows)
    further = pair.further[apart]
    priors = {
        "combined": pair.plain.prior(rows, further, pair.further_white[apart]),
        "weighted": pair.reweighted.prior(rows, further[:0]),
    }
    fits = {name: Fitted.of(prior, y) for name, prior in priors.items()}
    candidates = [Fitted.of(plain_prior(rows, further, penalty, columns), y) for penalty in PENALTIES]
    fits["target"] = max(candidates, key=lambda fit: fit.evidence)
    zero = priors["combined"].mean
    right = {"zero": (margins(zero, labels) > 0).astype(float)}
    for name, fit in fits.items():
        right[name] = _cross_validate(fit, labels, seed)
    figures = _bootstrap(right, seed)
    none, no_scores = np.zeros((0, rows.shape[1])), np.zeros((0, columns))
    halves = _halves(fits["target"].prior, replace(priors["combined"], further=none, further_mean=no_scores), y, labels, further, seed)
    alone = fits["target"].leave_one_out() if n > 1 else np.full_like(y, np.nan)
    together = fits["combined"].leave_one_out()
    target_only = figures["target"] if n > 1 else None
    now, half = right["target"].mean(), halves["target_half"]
    return Labelled(
        zero_shot=figures["zero"],
        target_only=target_only,
        combined=figures["combined"],
        weighted=figures["weighted"],
        gain=figures["combined-target"] if n > 1 else None,
        gain_weighted=figures["weighted-target"] if n > 1 else None,
        target_half=half,
        combined_half=halves["combined_half"],
        extrapolated=float(np.clip(now + max(now - half, 0.0) / 2, 0, 1)) if n > 3 else float("nan"),
        smooth_zero_shot=_smooth(zero, labels),
        smooth_target_only=_smooth(alone, labels),
        smooth_combined=_smooth(together, labels),
        loss_zero_shot=float(((y - zero) ** 2).mean()),
        loss_target_only=float(((y - alone) ** 2).mean()),
        loss_combined=float(((y - together) ** 2).mean()),
        evidence=fits["combined"].evidence - fits["target"].evidence,
        class_balance=float(np.bincount(labels).max() / n),
        agreement=_agreement(fits, priors["combined"], halves),
    )


def _cross_validate(fit: Fitted, labels: Array, seed: int) -> Array:
    """Share of repeats in which each row, left out with its fold, is predicted rightly (n,)."""
    n = len(labels)
    if n < 2:
        return (margins(fit.prior.mean, labels) > 0).astype(float)
    smallest = int(np.bincount(labels)[np.unique(labels)].min())
    folds = min(10, n) if smallest >= 10 or len(np.unique(labels)) == 1 else min(max(smallest, 2), n)
    repeats = int(np.clip(1000 // n, 2, 20))
    rng = np.random.default_rng(seed)
    right = np.zeros(n)
    for _ in range(repeats):
        for fold in stratified_folds(labels, folds, rng):
            right[fold] += margins(fit.held_out(fold), labels[fold]) > 0
    return right / repeats


def _halves(alone: Prior, together: Prior, y: Array, labels: Array, further: Array, seed: int) -> dict[str, float]:
    """Probes trained on random halves of the labels: accuracy on the other half, agreement on further rows.

    Without further rows, a fifth of the labels takes their place.
    """
    n = len(labels)
    out: dict[str, list[float]] = {name: [] for name in ("target_half", "combined_half", "agree", "correlation")}
    rng = np.random.default_rng(seed + 1)
    apart = len(further) < MIN_AGREEMENT_ROWS
    for _ in range(int(np.clip(1000 // max(n, 1), 2, 8)) if n >= 4 else 0):
        parts = list(stratified_folds(labels, 5 if apart and n >= 50 else 2, rng))
        if len(parts) == 5:
            judged, a, b = parts[0], np.concatenate(parts[1:3]), np.concatenate(parts[3:])
        else:
            judged, (a, b) = np.arange(0), parts
        scores = []
        for train, rest in ((a, b), (b, a)):
            inside, outside = alone.predict(y, train, np.concatenate([rest, judged]))
            out["target_half"].append(_accuracy(inside[: len(rest)], labels[rest]))
            scores.append(inside[len(rest) :] if len(judged) else outside)
            out["combined_half"].append(_accuracy(together.predict(y, train, rest)[0], labels[rest]))
        out["agree"].append(_same(*scores))
        out["correlation"].append(_correlation(*scores))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in out.items()}


def _agreement(fits: dict[str, Fitted], source: Prior, halves: dict[str, float]) -> Agreement:
    """Agreement on the further rows; on the labelled rows, held out, where there are too few of those."""
    if len(source.further_mean) >= MIN_AGREEMENT_ROWS:
        zero, alone, together = source.further_mean, fits["target"].further(), fits["combined"].further()
    else:
        zero, alone, together = source.mean, fits["target"].leave_one_out(), fits["combined"].leave_one_out()
    correlation, reliability = _correlation(zero, alone), halves["correlation"]
    whole = 2 * reliability / (1 + reliability) if reliability > 0 else float("nan")
    corrected = float(np.clip(correlation / np.sqrt(max(whole, 0.05)), -1.2, 1.2)) if whole == whole else float("nan")
    return Agreement(
        source_target=_same(zero, alone),
        source_combined=_same(zero, together),
        target_combined=_same(alone, together),
        halves=halves["agree"],
        source_correlation=correlation,
        halves_correlation=reliability,
        label_function=corrected,
    )


def _bootstrap(right: dict[str, Array], seed: int, draws: int = 500) -> dict[str, Figure]:
    """Means over rows with percentile intervals; the same resampled rows for all, so differences are paired."""
    n = len(right["zero"])
    table = np.stack([*right.values(), right["combined"] - right["target"], right["weighted"] - right["target"]])
    counts = np.random.default_rng(seed + 2).multinomial(n, np.full(n, 1 / n), size=draws)
    means = counts @ table.T / n
    low, high = np.quantile(means, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], axis=0)
    names = [*right, "combined-target", "weighted-target"]
    centre = table.mean(1)
    return {
        name: Figure(float(centre[i]), float(min(low[i], centre[i])), float(max(high[i], centre[i])))
        for i, name in enumerate(names)
    }


def _smooth(scores: Array, labels: Array) -> float:
    """Mean logistic function of the held-out margins, in units of their mean size."""
    margin = margins(scores, labels)
    size = float(np.abs(margin).mean())
    if not np.isfinite(size):
        return float("nan")
    return float((1 / (1 + np.exp(-np.clip(2.5 * margin / max(size, 1e-12), -30, 30)))).mean())


def _accuracy(scores: Array, labels: Array) -> float:
    return float((predictions(scores) == labels).mean()) if len(labels) else float("nan")


def _same(a: Array, b: Array) -> float:
    return float((predictions(a) == predictions(b)).mean()) if len(a) else float("nan")


def _correlation(a: Array, b: Array) -> float:
    """Correlation of all score columns together, each centred; 0 where one of them does not vary."""
    if len(a) < 2 or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    a, b = a - a.mean(0), b - b.mean(0)
    size = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / size) if size > 1e-12 else 0.0


def _notes(names: Array, source_names: Array) -> tuple[str, ...]:
    n, notes = len(names), []
    if n == 0:
        notes.append(
            "No target labels: the texts can be compared, but not what the labels mean. Whether the target labels "
            "its texts as the source does (label-function shift) cannot be known; a source with flipped labels "
            "looks the same."
        )
    elif n < 50:
        notes.append(
            f"{n} target labels: enough to notice a source that contradicts them (flipped labels), too few to "
            "settle differences below about 10 points."
        )
    elif n < 300:
        notes.append(f"{n} target labels: differences of about 5 points show; one of 1 point does not.")
    else:
        notes.append(f"{n} target labels: differences of about 2 to 3 points show.")
    if n and len(np.unique(names)) == 1:
        notes.append(
            f"All target labels are {names[0]!r}: accuracies count this class only, and a probe trained on the "
            "target alone can only repeat it. Label rows of the other classes."
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
        raise DataError(f"{name} holds NaN or infinite values", found=f"row {row}", fix="drop or repair these rows")
    return array


def _names(name: str, value: Sequence[Any] | Array, rows: int) -> Array:
    array = np.asarray(value)
    if array.ndim != 1 or len(array) != rows:
        raise DataError(
            f"{name} does not fit its rows", expected=f"{rows} labels", found=f"shape {array.shape}", fix="check both"
        )
    if array.dtype.kind == "f" and rows:
        if not np.isfinite(array).all() or (array != np.round(array)).any():
            raise DataError(
                f"{name} holds ratings or missing values, not classes",
                expected="class numbers or names",
                found=f"{array[(array != np.round(array)) | ~np.isfinite(array)][0]}",
                fix="probe ratings by their bins, for example negative / positive; drop rows without a label",
            )
        array = array.astype(np.int64)
    return array.astype(str) if array.dtype.kind in "OU" else array


def _rows_in(rows: Array, others: Array) -> Array:
    """Which of the rows also stand in ``others``, bit for bit."""
    seen = {row.tobytes() for row in others}
    return np.array([row.tobytes() in seen for row in rows], dtype=bool)


def _sample(rows: int, most: int, rng: np.random.Generator) -> Array:
    return np.arange(rows) if rows <= most else np.sort(rng.choice(rows, most, replace=False))
