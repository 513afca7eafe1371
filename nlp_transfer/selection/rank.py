"""Pretrained models ranked for a target by transferability scores of their features, beside their cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nlp_transfer.console import calm
from nlp_transfer.data.domains import load_domain
from nlp_transfer.data.options import place_options
from nlp_transfer.errors import DataError, NlpTransferError, OutputError
from nlp_transfer.numeric.draws import draw_numbers
from nlp_transfer.numeric.layer_choice import best_layer, selection_optimism
from nlp_transfer.numeric.transferability import DEFAULT_SCORE, SCORES, Estimate, estimate, scores_of
from nlp_transfer.selection.cost import encoding_cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

Objective = Literal["classification", "regression", "translation"]
Labels = Literal["classification", "regression"]
LayerChoice = Literal["last", "mean", "best"]

SCHEMA_VERSION = 1
TRANSLATED = 100
"""Pairs that translation models translate."""
LEAST_ROWS = 20
"""Labelled rows without which no score means anything."""


@dataclass(frozen=True)
class Candidate:
    """One model of the ranking.

    Attributes:
        model: hub name or folder.
        scores: by name; empty where the model failed.
        layer: hidden layer that was scored.
        parameters: of the encoder (or of the translation model).
        disk_mb, memory_mb: size of its weights' files; most memory that it added while it was loaded and
            worked, of the GPU where there is one; both in 10^6 bytes.
        seconds_per_1000: seconds for 1,000 of the target's texts, measured on this machine, without a cache.
        optimism: with ``layer: best``, what the choice of the layer added to each score, which has been
            subtracted (see ``numeric/layer_choice.py``).
        pareto: no other model is both better and faster.
        error: why the model could not be judged.
    """

    model: str
    scores: dict[str, Estimate] = field(default_factory=dict)
    layer: int | str = "last"
    parameters: int | None = None
    disk_mb: float | None = None
    memory_mb: float | None = None
    seconds_per_1000: float | None = None
    pareto: bool = False
    error: str | None = None
    optimism: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """Models in the order of ``score``, those that failed last.

    Attributes:
        target: what they were judged on.
        objective: classification, regression or translation.
        rows: labelled rows (or pairs) used.
        score: the score that orders.
        candidates: the models.
    """

    target: str
    objective: Objective
    rows: int
    score: str
    candidates: list[Candidate]

    @property
    def titles(self) -> dict[str, str]:
        """Names of the scores in tables, the one that orders first."""
        if self.objective == "translation":
            from nlp_transfer.selection.rank_translation import TITLES

            return dict(TITLES)
        names = sorted(scores_of(self.objective), key=lambda name: name != self.score)
        return {name: SCORES[name].title for name in names}

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {"schema_version": SCHEMA_VERSION, **asdict(self)}

    def write(self, path: Path) -> Path:
        """Write the figures as JSON, and beside them the page; return the page's path.

        Raises:
            OutputError: they cannot be written, or ``path`` does not end in .json.
        """
        from nlp_transfer.reporting.rank_page import rank_page
        from nlp_transfer.training.artifacts import write_json, write_text

        page = page_beside(path)
        write_json(path, self.to_dict())
        write_text(page, rank_page(self))
        return page


def page_beside(path: Path) -> Path:
    """Where the page of a JSON file goes.

    Raises:
        OutputError: the file's name does not end in .json, so that the page could take its place.
    """
    if path.suffix.lower() != ".json":
        raise OutputError(
            f"{path} is no JSON file",
            expected="a name that ends in .json; the page goes beside it, as .html",
            found=str(path.name or path),
            fix="choose another --output, such as ranking.json",
        )
    return path.with_suffix(".html")


@calm()
def rank_models(
    models: Sequence[str],
    target: str,
    *,
    layer: LayerChoice = "best",
    objective: Labels = "classification",
    languages: tuple[str, str] | None = None,
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
        layer: last, mean (over all layers), or best: the one with the best default score, less what the
            choice adds by chance.
        objective: how to read the labels.
        languages: source and target language of parallel text: translation models are then judged as they
            are, by greedy chrF on 100 pairs, loss and token fertility.
        max_samples: labelled rows drawn, by seed.
        seed: of the draw and the resamples, the same rows for every model.
        text_column, label_column: of the file; None to find them.
        output: JSON file, its name in .json; the page goes beside it, as .html.
        overwrite: replace them.

    Raises:
        DataError: too few labelled rows, or a single class.
        OutputError: ``output`` exists, or does not end in .json.

    Cost: for each model one cached pass over the rows, one over 64 texts for the time, and some 10 fits.
    """
    from nlp_transfer.training.artifacts import check_output_file

    if output is not None:
        for path in (output, page_beside(output)):
            check_output_file(path, overwrite=overwrite)
    if languages is not None:
        ranking = _rank_translators(models, target, languages, min(max_samples, TRANSLATED), seed)
    else:
        columns = {"text_column": text_column, "label_column": label_column}
        texts, labels = _labelled(target, objective, max_samples, seed, **columns)
        found = _judged(models, lambda name: _candidate(name, texts, labels, layer, objective, seed))
        ranking = Ranking(target, objective, len(texts), DEFAULT_SCORE, _ordered(found, DEFAULT_SCORE))
    if output is not None:
        ranking.write(output)
    return ranking


def _judged(models: Sequence[str], judge: Callable[[str], Candidate]) -> list[Candidate]:
    """Each model once; one that cannot be judged, with its reason."""
    found = []
    for name in dict.fromkeys(models):
        try:
            found.append(judge(name))
        except NlpTransferError as error:
            found.append(Candidate(name, error=str(error)))
    return found


def _rank_translators(
    models: Sequence[str], target: str, languages: tuple[str, str], rows: int, seed: int
) -> Ranking:
    from nlp_transfer.selection.rank_translation import judge_model
    from nlp_transfer.shift.rows import load_pairs
    from nlp_transfer.shift.translation import draw_pairs
    from nlp_transfer.tasks.translation import TranslationOptions, TranslationTask

    task = TranslationTask(TranslationOptions(source_lang=languages[0], target_lang=languages[1]))
    pairs, _ = draw_pairs(load_pairs(target, "target", languages, seed=seed), rows, seed)

    def judge(name: str) -> Candidate:
        scores, cost = judge_model(name, task, pairs, seed)
        return Candidate(name, scores, "all", **asdict(cost))

    return Ranking(target, "translation", len(pairs), "chrf", _ordered(_judged(models, judge), "chrf"))


def _labelled(
    target: str, objective: Labels, max_samples: int, seed: int, **columns: Any
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
        rows = rows.select(draw_numbers(len(rows), max_samples, np.random.default_rng(seed)))
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
    name: str, texts: list[str], labels: NDArray, layer: LayerChoice, objective: Labels, seed: int
) -> Candidate:
    """Embed and score one model.

    Raises:
        NlpTransferError: it cannot be loaded, or its features are not finite.
    """
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import ModelOptions, locate

    options = ModelOptions(name=name)
    source = locate(options)
    cost = encoding_cost(source, options, texts, seed=seed)
    embedder = Embedder.load(source, options, layer="all" if layer == "best" else layer)
    features = np.asarray(embedder.embed(texts).features)
    chosen: int | str = layer
    optimism: dict[str, float] = {}
    if layer == "best":
        chosen = best_layer(features, labels, objective=objective)
        optimism = selection_optimism(features, labels, objective=objective, seed=seed)
        features = features[:, chosen]
    scores = {}
    for score in scores_of(objective):
        found = estimate(score, features, labels, objective=objective, seed=seed)
        extra = optimism.get(score, 0.0)
        scores[score] = Estimate(found.value - extra, found.low - extra, found.high - extra)
    return Candidate(name, scores, chosen, **asdict(cost), optimism=optimism)


def _ordered(candidates: list[Candidate], score: str) -> list[Candidate]:
    """By a score, with the Pareto set marked."""
    good = [candidate for candidate in candidates if candidate.error is None]
    good.sort(key=lambda candidate: -candidate.scores[score].value)
    fastest, marked = float("inf"), []
    for candidate in good:
        assert candidate.seconds_per_1000 is not None
        marked.append(replace(candidate, pareto=candidate.seconds_per_1000 < fastest))
        fastest = min(fastest, candidate.seconds_per_1000)
    return marked + [candidate for candidate in candidates if candidate.error is not None]
