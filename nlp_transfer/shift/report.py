"""The shift report: how far apart a source and a target domain are, and whether the source will help."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from nlp_transfer.data.domains import DomainData
from nlp_transfer.models.load import ModelOptions, locate
from nlp_transfer.numeric.mmd import MMDResult, mmd_test
from nlp_transfer.plain_json import plain
from nlp_transfer.shift import statistics as stats
from nlp_transfer.shift.classes import ClassShares, compare_classes
from nlp_transfer.shift.labelled import Figure
from nlp_transfer.shift.pictures import EmbeddingMap, ShiftedText, embedding_map, most_shifted
from nlp_transfer.shift.probe import ProbeResult, run_probe
from nlp_transfer.shift.risk import Risk, assess
from nlp_transfer.shift.rows import Sample, agree_on_labels, draw
from nlp_transfer.shift.statistics import Statistic
from nlp_transfer.shift.vocabulary import count, vocabulary_statistics
from nlp_transfer.shift.wording import report_caveats

if TYPE_CHECKING:
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.shift.translation import TranslationShift, Translator

SCHEMA_VERSION = 1
StrategyName = Literal["frozen", "full", "lora"]
FAR_APART = 1.6
"""Proxy A-distance from which class shares estimated from texts alone are a hint: 90 % told apart."""


@dataclass(frozen=True)
class DomainSummary:
    """What the report says of one domain.

    Attributes:
        name: of the domain.
        texts: it has.
        used: of those, drawn for the comparison.
        labels: labelled texts used.
        fingerprint: SHA-256 of texts and labels.
        ratings: whether its labels are numbers, which no forecast takes.
    """

    name: str
    texts: int
    used: int
    labels: int
    fingerprint: str
    ratings: bool = False

    @classmethod
    def of(cls, sample: Sample) -> DomainSummary:
        """Sum up a draw."""
        return cls(
            sample.name,
            sample.total,
            len(sample.texts),
            len(sample.labels),
            sample.fingerprint,
            sample.ratings,
        )


@dataclass(frozen=True)
class ShiftReport:
    """The result of :func:`shift_report`; shows itself in a notebook.

    Attributes:
        source, target: what was compared.
        mmd: ``value`` (unbiased MMD squared), ``p_value``, ``effect_size``, ``inhomogeneity``, ``interval``
            (of the permutations), ``method``, ``method_reason``, ``permutations`` and more.
        statistics: every number with its interval, p-value and meaning.
        classes: shares of each class and the shift within it; empty without labels.
        probe, risk: figures of linear probes and the forecast made from them; None without source labels.
        most_shifted: the most source-like and most target-like texts.
        embedding_map: points for the picture.
        null: MMD squared under each permutation.
        model: the encoder's name.
        encoder: how texts were embedded.
        strategy: how the forecast supposes the model to be trained.
        seed: of all draws.
        translation: how the model translates both domains now; None unless both are parallel text.
        caveats: what the figures cannot say.
        timings: seconds of each part.
        seconds: wall time, embedding included.
    """

    source: DomainSummary
    target: DomainSummary
    mmd: Mapping[str, Any]
    statistics: tuple[Statistic, ...]
    classes: tuple[ClassShares, ...]
    probe: ProbeResult | None
    risk: Risk | None
    most_shifted: Mapping[str, tuple[ShiftedText, ...]]
    embedding_map: EmbeddingMap = field(repr=False)
    null: np.ndarray = field(repr=False)
    model: str
    encoder: Mapping[str, Any]
    strategy: StrategyName
    seed: int
    caveats: tuple[str, ...]
    timings: Mapping[str, float]
    seconds: float
    translation: TranslationShift | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def predicted_gain(self) -> Figure | None:
        """Accuracy with the source less accuracy without it (80 % interval); None without a forecast."""
        return self.risk.predicted_gain if self.risk else None

    @property
    def predicted_target_accuracy(self) -> Figure | None:
        """Target accuracy to expect, with its 80 % interval; None without a forecast."""
        return self.risk.predicted_target_accuracy if self.risk else None

    @property
    def own_forecast(self) -> Risk | None:
        """The forecast where it was calibrated for this strategy; else None."""
        known = self.risk is not None and self.risk.evidence.strategy == self.strategy
        return self.risk if known else None

    def statistic(self, name: str) -> Statistic | None:
        """One statistic by name."""
        return next((item for item in self.statistics if item.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``; see docs/shift-report.md for its keys."""
        risk = None
        if self.risk is not None:
            whole = self.risk.to_dict()
            risk = {key: whole[key] for key in ("level", "probability", "reasons", "advice", "evidence")}
        values = {
            "schema_version": self.schema_version,
            "source": asdict(self.source),
            "target": asdict(self.target),
            "predicted_target_accuracy": _figure(self.predicted_target_accuracy),
            "predicted_gain": _figure(self.predicted_gain),
            "risk": risk,
            "translation": self.translation.to_dict() if self.translation else None,
            "mmd": dict(self.mmd),
            "statistics": [item.to_dict() for item in self.statistics],
            "classes": [asdict(item) for item in self.classes],
            "probe": asdict(self.probe) if self.probe else None,
            "most_shifted": {
                side: [asdict(item) for item in texts] for side, texts in self.most_shifted.items()
            },
            "caveats": list(self.caveats),
            "model": self.model,
            "encoder": dict(self.encoder),
            "strategy": self.strategy,
            "seed": self.seed,
            "timings": dict(self.timings),
            "seconds": self.seconds,
        }
        return plain(values)

    def print(self) -> None:
        """Show the summary in the terminal."""
        from nlp_transfer.reporting.summary import print_shift

        print_shift(self)

    def to_html(self) -> str:
        """The whole page, as one self-contained file."""
        from nlp_transfer.reporting.html import shift_page

        return shift_page([self])

    def write(self, folder: str | Path) -> Path:
        """Write ``report.json`` and ``report.html``; return the path of the page.

        Raises:
            OutputError: the folder cannot be written.
        """
        from nlp_transfer.training.artifacts import write_json, write_text

        page = Path(folder) / "report.html"
        write_json(Path(folder) / "report.json", self.to_dict())
        write_text(page, self.to_html())
        return page

    def _repr_html_(self) -> str:
        from nlp_transfer.reporting.html import shift_card

        return shift_card(self)


def shift_report(
    source: DomainData,
    target: DomainData,
    *,
    model: ModelOptions | None = None,
    strategy: StrategyName = "full",
    target_labels: int | None = None,
    max_samples: int = 2000,
    permutations: int = 200,
    seed: int = 42,
    embedder: Embedder | None = None,
    translator: Translator | None = None,
) -> ShiftReport:
    """Compare two domains before training, and forecast whether the source helps the target.

    Args:
        source: with labels for a forecast; without them the texts alone are compared.
        target: labels are taken from its training rows, none from validation or test.
        model: the encoder; its embeddings are cached.
        strategy: how the model will be trained, for the forecast.
        target_labels: labelled target rows that the forecast may use; None for all, 0 for none.
        max_samples: texts drawn from each domain, by seed.
        permutations: of the tests; the smallest p-value is 1 / (1 + permutations).
        seed: of draws, folds and permutations.
        embedder: in place of ``model``.
        translator: of parallel text, in place of ``model``: it embeds, and is tried on both domains.

    Raises:
        DataError: a domain has fewer than two texts.
        ModelError: the encoder cannot be loaded.

    Cost: one forward pass a text (cached). Then some 15 seconds for 2,000 + 2,000
    texts and 384 features on two cores.
    """
    started, clock = time.perf_counter(), _Clock()
    if translator is not None:
        embedder = embedder or translator.embedder()
    if embedder is None:
        from nlp_transfer.models.embed import Embedder as Embedding

        options = model or ModelOptions()
        embedder = Embedding.load(locate(options), options, normalize=True)
    ours = draw(source, max_samples=max_samples, seed=seed)
    theirs = draw(target, max_samples=max_samples, seed=seed + 1, labels=target_labels)
    ours, theirs = agree_on_labels(ours, theirs)
    with clock("embedding"):
        x, x_labelled, y, y_labelled, encoder = _embed(embedder, ours, theirs)
    with clock("two_sample_test"):
        test = mmd_test(x, y, permutations=permutations, seed=seed)
    # Matrices this small gain nothing from more threads, and lose much where others compute too.
    with threadpool_limits(1, user_api="blas"):
        with clock("distances"):
            found = [stats.mmd_statistic(test), *stats.distances(x, y, permutations=permutations, seed=seed)]
        with clock("labels"):
            apart = any(item.name == "proxy_a_distance" and item.value > FAR_APART for item in found)
            extra, classes = compare_classes(
                ours, theirs, x_labelled, y, y_labelled, test, seed=seed, far_apart=apart
            )
        with clock("vocabulary"):
            counts = count([ours.texts, theirs.texts], _tokenizer(embedder))
            found += extra + vocabulary_statistics(*counts, permutations=permutations, seed=seed)
        with clock("forecast"):
            probe, risk = _forecast(ours, theirs, x_labelled, y, y_labelled, strategy, target_labels, seed)
        with clock("pictures"):
            picture = embedding_map(x, y, ours, theirs, seed=seed)
            texts = most_shifted(x, y, ours.texts, theirs.texts)
        translation = None
        if translator is not None:
            from nlp_transfer.shift.translation import translation_shift

            with clock("translation"):
                sizes = {"max_samples": max_samples, "permutations": permutations, "seed": seed}
                translation, extra = translation_shift(translator, source, target, **sizes)
            found += extra
    cut = float((counts[1].token_lengths > embedder.max_length - 2).mean())
    return ShiftReport(
        source=DomainSummary.of(ours),
        target=DomainSummary.of(theirs),
        mmd=_mmd(test),
        statistics=tuple(found),
        classes=classes,
        probe=probe,
        risk=risk,
        most_shifted=texts,
        embedding_map=picture,
        null=test.null,
        model=encoder["model"],
        encoder=encoder,
        strategy=strategy,
        seed=seed,
        translation=translation,
        caveats=report_caveats(ours, theirs, risk, translation, cut, embedder.max_length),
        timings=clock.seconds,
        seconds=round(time.perf_counter() - started, 3),
    )


class _Clock:
    """Seconds of each part."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 3)


def _embed(embedder: Embedder, ours: Sample, theirs: Sample) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """Embed everything in one go; features of source texts and labelled, of target texts and labelled."""
    parts = [ours.texts, ours.labelled, theirs.texts, theirs.labelled]
    found = embedder.embed([text for part in parts for text in part])
    features = np.split(
        np.asarray(found.features, dtype=np.float32), np.cumsum([len(part) for part in parts])[:-1]
    )
    names = ("model", "revision", "pooling", "normalize", "max_length", "precision")
    encoder = {name: getattr(found, name) for name in names}
    return features[0], features[1], features[2], features[3], encoder


def _tokenizer(embedder: Embedder) -> Any:
    from nlp_transfer.models.load import quiet

    def tokenize(texts: list[str]) -> list[list[int]]:
        clean = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        with quiet():
            return embedder.tokenizer(clean, add_special_tokens=False, return_attention_mask=False)[
                "input_ids"
            ]

    return tokenize


def _forecast(
    ours: Sample,
    theirs: Sample,
    x: np.ndarray,
    y: np.ndarray,
    y_labelled: np.ndarray,
    strategy: StrategyName,
    wanted: int | None,
    seed: int,
) -> tuple[ProbeResult | None, Risk | None]:
    if not len(ours.labels):
        return None, None
    known = {"labelled": y_labelled, "labels": theirs.labels} if len(theirs.labels) else {}
    probe = run_probe(x, ours.labels, unlabelled=y, seed=seed, max_rows=max(len(x), len(y)), **known)
    count = theirs.total_labels if wanted is None else len(theirs.labels)
    return probe, assess(probe, strategy=strategy, n_target_labels=count)


def _mmd(test: MMDResult) -> dict[str, Any]:
    keys = (
        "value",
        "p_value",
        "effect_size",
        "inhomogeneity",
        "interval",
        "method",
        "method_reason",
        "permutations",
    )
    return {key: getattr(test, key) for key in (*keys, "kernel", "bandwidth", "bandwidths", "values")}


def _figure(figure: Figure | None) -> dict[str, float] | None:
    return asdict(figure) if figure else None
