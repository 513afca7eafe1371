"""The shift report: how far apart a source and a target domain are, before any training."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data.domains import DomainData, load_domain
from nlp_transfer.data.options import DomainOptions
from nlp_transfer.errors import DataError, OutputError
from nlp_transfer.models.load import ModelOptions, locate

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class DomainSummary:
    """What the report says of one domain: its name, texts in all and used, and the texts' fingerprint."""

    name: str
    texts: int
    used: int
    fingerprint: str


@dataclass(frozen=True)
class ShiftReport:
    """The result of :func:`shift_report`.

    Attributes:
        source, target: what was compared.
        mmd: ``value`` (unbiased MMD squared), ``p_value``, ``effect_size``, ``method``, ``permutations``.
        caveats: what the figures cannot say.
        model: the encoder's name.
        seconds: wall time, embedding included.
    """

    source: DomainSummary
    target: DomainSummary
    mmd: Mapping[str, Any]
    model: str
    seconds: float
    caveats: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        return asdict(self)

    def print(self) -> None:
        """Show the summary in the terminal."""
        from nlp_transfer.reporting.summary import print_shift

        print_shift(self)


def shift_report(
    source: DomainData,
    target: DomainData,
    *,
    model: ModelOptions | None = None,
    max_samples: int = 2000,
    permutations: int = 200,
    seed: int = 42,
) -> ShiftReport:
    """Compare the texts of two domains by a two-sample test on their embeddings.

    Args:
        source, target: loaded domains; the unlabelled texts are used where there are any, else the training
            texts, else validation and test.
        model: the encoder; its embeddings are cached.
        max_samples: texts drawn from each domain, by seed.
        permutations: of the test; the smallest p-value is 1 / (1 + permutations).
        seed: of the draw and of the permutations.

    Cost: one forward pass a text (cached), then O((n + m)^2 (d + permutations)).
    """
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.numeric.mmd import mmd_test

    started = time.perf_counter()
    options = model or ModelOptions()
    embedder = Embedder.load(locate(options), options)
    drawn = [draw(data, max_samples, seed) for data in (source, target)]
    x, y = (np_features(embedder.embed(rows)) for rows in drawn)
    test = mmd_test(x, y, permutations=permutations, seed=seed)
    return ShiftReport(
        source=_summary(source, drawn[0]),
        target=_summary(target, drawn[1]),
        mmd={
            "value": float(test.value),
            "p_value": float(test.p_value),
            "effect_size": float(test.effect_size),
            "method": test.method,
            "permutations": permutations,
        },
        model=options.name,
        seconds=round(time.perf_counter() - started, 3),
        caveats=("MMD says how far apart the texts are; by itself it hardly predicts whether transfer hurts.",),
    )


def np_features(embeddings: Any) -> np.ndarray:
    """The features as one float32 array."""
    import numpy as np

    return np.asarray(embeddings.features, dtype=np.float32)


def texts_of(data: DomainData) -> Dataset:
    """The texts that stand for a domain: unlabelled, else train, else validation, else test.

    Raises:
        DataError: the domain has no texts.
    """
    for rows in (data.unlabeled, data.train, data.validation, data.test):
        if rows is not None and len(rows):
            return rows
    raise DataError(f"domain {data.name} has no texts", fix="give it a train or an unlabeled file")


def draw(data: DomainData, max_samples: int, seed: int) -> Dataset:
    """At most ``max_samples`` texts of a domain, drawn by seed.

    Raises:
        DataError: fewer than two texts.
    """
    rows = texts_of(data)
    if len(rows) < 2:
        raise DataError(
            f"domain {data.name} has too few texts to compare", expected="at least 2", found=str(len(rows))
        )
    return rows if len(rows) <= max_samples else rows.shuffle(seed=seed).select(range(max_samples))


def _summary(data: DomainData, drawn: Dataset) -> DomainSummary:
    rows = texts_of(data)
    splits = {"unlabeled": data.unlabeled, "train": data.train, "validation": data.validation, "test": data.test}
    split = next(name for name, value in splits.items() if value is rows)
    return DomainSummary(data.name, len(rows), len(drawn), data.fingerprints[split])


def shift_report_from_files(
    source: str,
    target: str,
    *,
    model: str | None = None,
    output: Path | None = None,
    max_samples: int = 2000,
    permutations: int = 200,
    seed: int = 42,
    text_column: str | None = None,
    overwrite: bool = False,
) -> ShiftReport:
    """Compare two files (or ``sample:NAME``) and write ``report.json`` where ``output`` is given.

    Raises:
        DataError: a file cannot be read.
        OutputError: ``output`` holds a report already.
    """
    if output is not None and (output / "report.json").exists() and not overwrite:
        raise OutputError(f"{output / 'report.json'} exists", fix="choose another --output, or pass --overwrite")
    domains = [
        load_domain(_as_options(name, text_column), role=role, objective="none", seed=seed)
        for role, name in (("source", source), ("target", target))
    ]
    options = ModelOptions(name=model) if model else ModelOptions()
    report = shift_report(*domains, model=options, max_samples=max_samples, permutations=permutations, seed=seed)
    if output is not None:
        from nlp_transfer.training.artifacts import write_json

        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{output} cannot be made: {error.strerror}", fix="choose another --output") from error
        write_json(output / "report.json", report.to_dict())
    return report


def _as_options(name: str, text_column: str | None) -> DomainOptions:
    if name.startswith("sample:"):
        return DomainOptions(dataset=name, text_column=text_column)
    return DomainOptions(train=name, text_column=text_column)
