"""Pretrained models ranked for a target by transferability scores of their features, beside their cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nlp_transfer.console import calm
from nlp_transfer.data.domains import load_domain
from nlp_transfer.data.options import place_options
from nlp_transfer.errors import DataError, NlpTransferError
from nlp_transfer.numeric.transferability import DEFAULT_SCORE, SCORES, Estimate, estimate, scores_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Objective = Literal["classification", "regression"]
LayerChoice = Literal["last", "mean", "best"]

SCHEMA_VERSION = 1
TIMED_TEXTS = 64
"""Texts on which the speed is measured."""
LEAST_ROWS = 20
"""Labelled rows without which no score means anything."""


@dataclass(frozen=True)
class Candidate:
    """One model of the ranking.

    Attributes:
        model: hub name or folder.
        scores: by name; empty where the model failed.
        layer: hidden layer that was scored.
        parameters: of the encoder.
        seconds_per_1000: seconds for 1,000 of the target's texts, measured on this machine, without a cache.
        pareto: no other model is both better and faster.
        error: why the model could not be judged.
    """

    model: str
    scores: dict[str, Estimate] = field(default_factory=dict)
    layer: int | str = "last"
    parameters: int | None = None
    seconds_per_1000: float | None = None
    pareto: bool = False
    error: str | None = None


@dataclass(frozen=True)
class Ranking:
    """Models in the order of ``score``, those that failed last.

    Attributes:
        target: what they were judged on.
        objective: classification or regression.
        rows: labelled rows used.
        score: the score that orders.
        candidates: the models.
    """

    target: str
    objective: Objective
    rows: int
    score: str
    candidates: list[Candidate]

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}


@calm()
def rank_models(
    models: Sequence[str],
    target: str,
    *,
    layer: LayerChoice = "last",
    objective: Objective = "classification",
    max_samples: int = 1000,
    seed: int = 42,
    text_column: str | None = None,
    label_column: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> Ranking:
    """Score models on a target's labelled rows, without fine-tuning; a model that fails is listed with why.

    Args:
        models: hub names or folders.
        target: a labelled file, or ``sample:NAME``.
        layer: last, mean (over all layers), or best: the one with the best default score, which makes that
            score optimistic, the more so the more layers there are.
        objective: how to read the labels.
        max_samples: labelled rows drawn, by seed.
        seed: of the draw and the resamples, the same rows for every model.
        text_column, label_column: of the file; None to find them.
        output: JSON file.
        overwrite: replace it.

    Raises:
        DataError: too few labelled rows, or a single class.
        OutputError: ``output`` exists.

    Cost: for each model one cached pass over the rows, one over 64 texts for the time, and some 10 fits.
    """
    from nlp_transfer.training.artifacts import check_output_file, write_json

    if output is not None:
        check_output_file(output, overwrite=overwrite)
    texts, labels = _labelled(
        target, objective, max_samples, seed, text_column=text_column, label_column=label_column
    )
    found = []
    for name in dict.fromkeys(models):
        try:
            found.append(_candidate(name, texts, labels, layer, objective, seed))
        except NlpTransferError as error:
            found.append(Candidate(name, error=str(error)))
    ranking = Ranking(target, objective, len(texts), DEFAULT_SCORE, _ordered(found))
    if output is not None:
        write_json(output, ranking.to_dict())
    return ranking


def _labelled(
    target: str, objective: Objective, max_samples: int, seed: int, **columns: Any
) -> tuple[list[str], NDArray]:
    """The texts that models are judged on, and their class numbers or ratings."""
    options = place_options(target, **columns)
    data = load_domain(options, role="target", objective=objective, seed=seed, need=())
    rows = data.train
    if rows is None or len(rows) < LEAST_ROWS:
        raise DataError(
            f"{target}: too few labelled rows to judge models by",
            expected=f"at least {LEAST_ROWS}",
            found=str(0 if rows is None else len(rows)),
            fix="label more rows",
        )
    if len(rows) > max_samples:
        chosen = np.random.default_rng(seed).choice(len(rows), max_samples, replace=False)
        rows = rows.select(np.sort(chosen))
    values = rows["label"][:]
    if objective == "regression":
        return list(rows["text"][:]), np.asarray(values, dtype=float)
    names, labels = np.unique([str(value) for value in values], return_inverse=True)
    if len(names) < 2 or np.bincount(labels).min() < 4:
        raise DataError(
            f"{target}: too few rows of a class to judge models by",
            expected="at least two classes with 4 rows each",
            found=", ".join(
                f"{name}: {count}" for name, count in zip(names, np.bincount(labels), strict=True)
            ),
            fix="label more rows, or raise --max-samples; --ratings reads labels as numbers",
        )
    return list(rows["text"][:]), labels


def _candidate(
    name: str, texts: list[str], labels: NDArray, layer: LayerChoice, objective: Objective, seed: int
) -> Candidate:
    """Embed and score one model.

    Raises:
        NlpTransferError: it cannot be loaded, or its features are not finite.
    """
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions, locate

    options = ModelOptions(name=name)
    source = locate(options)
    embedder = Embedder.load(source, options, layer="all" if layer == "best" else layer)
    features = np.asarray(embedder.embed(texts).features)
    chosen: int | str = layer
    if layer == "best":
        values = [
            SCORES[DEFAULT_SCORE].compute(features[:, i], labels, objective) for i in range(features.shape[1])
        ]
        chosen = int(np.argmax(values))
        features = features[:, chosen]
    scores = {
        score: estimate(score, features, labels, objective=objective, seed=seed)
        for score in scores_of(objective)
    }
    parameters = sum(parameter.numel() for parameter in embedder.encoder.parameters())
    return Candidate(name, scores, chosen, parameters, _seconds(embedder.encoder, embedder, texts, seed))


def _seconds(encoder: Any, embedder: Any, texts: list[str], seed: int) -> float:
    """Seconds for 1,000 texts through the loaded encoder, nothing of them known before."""
    from nlp_transfer.models.embed import Embedder

    drawn = np.random.default_rng(seed).choice(len(texts), min(TIMED_TEXTS, len(texts)), replace=False)
    sample = list(dict.fromkeys(texts[index] for index in drawn))
    timed = Embedder(
        encoder,
        embedder.tokenizer,
        pooling=embedder.pooling,
        max_length=embedder.max_length,
        cache_dir=False,
        progress=False,
    )
    timed.embed([f"{sample[0]} {sample[0]}"])
    started = time.perf_counter()
    timed.embed(sample)
    return round((time.perf_counter() - started) / len(sample) * 1000, 3)


def _ordered(candidates: list[Candidate]) -> list[Candidate]:
    """By the default score, with the Pareto set marked."""
    good = [candidate for candidate in candidates if candidate.error is None]
    good.sort(key=lambda candidate: -candidate.scores[DEFAULT_SCORE].value)
    fastest, marked = float("inf"), []
    for candidate in good:
        assert candidate.seconds_per_1000 is not None
        marked.append(replace(candidate, pareto=candidate.seconds_per_1000 < fastest))
        fastest = min(fastest, candidate.seconds_per_1000)
    return marked + [candidate for candidate in candidates if candidate.error is not None]
