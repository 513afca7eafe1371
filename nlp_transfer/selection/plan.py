"""Whether to transfer, from which source, with which strategy: from probes and measured cost."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nlp_transfer.adaptation.base import DomainFeatures
from nlp_transfer.console import calm
from nlp_transfer.data.labels import same_polarity
from nlp_transfer.errors import DataError, did_you_mean
from nlp_transfer.models.options import ModelOptions
from nlp_transfer.selection.choices import (
    BATCH,
    STRATEGIES,
    Known,
    Option,
    StrategyName,
    all_options,
    calibrated_forecasts,
    choose,
    limited,
)
from nlp_transfer.selection.cost import (
    TIMED_TEXTS,
    TrainingCost,
    peak_memory,
    seconds_per_text,
    training_cost,
)
from nlp_transfer.selection.plan_words import headline, reasons, recipe_of
from nlp_transfer.selection.trials import frozen_trials
from nlp_transfer.shift.report import shift_report
from nlp_transfer.shift.rows import Sample, draw, load_side

if TYPE_CHECKING:
    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.source import ModelSource
    from nlp_transfer.shift.report import ShiftReport

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """What to do, why, and what else there was.

    Attributes:
        target: its name.
        target_labels: labelled rows it has.
        choice: the option to take.
        options: all, best first.
        headline, reasons: the answer in plain words with the figures behind it.
        recipe: for ``Recipe.from_dict``, or as written to a file.
        reports: of the shift from each source.
        seconds: that planning took.
    """

    target: str
    target_labels: int
    choice: Option
    options: tuple[Option, ...]
    headline: str
    reasons: tuple[str, ...]
    recipe: Mapping[str, Any]
    reports: tuple[ShiftReport, ...]
    seconds: float

    @property
    def transfer(self) -> bool:
        """Whether a source is to be used."""
        return self.choice.source is not None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; of the shift reports only what they forecast."""
        values = {name: getattr(self, name) for name in ("target", "target_labels", "headline", "seconds")}
        return {
            "schema_version": SCHEMA_VERSION,
            **values,
            "transfer": self.transfer,
            "choice": asdict(self.choice),
            "options": [asdict(option) for option in self.options],
            "reasons": list(self.reasons),
            "recipe": dict(self.recipe),
            "risk": {report.source.name: report.to_dict()["risk"] for report in self.reports},
        }


@calm()
def make_plan(
    sources: Sequence[str],
    target: str,
    *,
    model: ModelOptions | None = None,
    strategies: Sequence[StrategyName] = STRATEGIES,
    budget_minutes: float | None = None,
    memory_gb: float | None = None,
    max_samples: int = 2000,
    permutations: int = 200,
    seed: int = 42,
    text_column: str | None = None,
    label_column: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> Plan:
    """Decide whether a target should learn from a source, from which, and how; write the recipe.

    Args:
        sources: labelled files (or ``sample:NAME``), one or more.
        target: a file (or ``sample:NAME``) with some labels; without any, only the source can teach.
        model: which encoder, and how much of a text it reads.
        strategies: those to choose from.
        budget_minutes: longest run on this machine; None: any.
        memory_gb: most memory of the run (of the GPU where there is one), in 10^9 bytes; None: any.
        max_samples: texts of each domain that are looked at.
        permutations: of the shift report's tests.
        seed: of every draw; the recipe's too.
        text_column, label_column: of all files; None to find them.
        output: YAML file of the recipe.
        overwrite: replace it.

    Raises:
        DataError: a file cannot be read, a source has no labels or one class only, or no option fits the
            limits.
        OutputError: ``output`` exists.

    Cost: a shift report and some thirty heads a source, and four training steps of each gradient strategy.
    """
    from nlp_transfer.training.artifacts import check_output_file, write_text

    started = time.perf_counter()
    for name in strategies:
        if name not in STRATEGIES:
            raise DataError(f"unknown strategy {name!r}", fix=did_you_mean(name, STRATEGIES))
    if output is not None:
        check_output_file(output, overwrite=overwrite)
    options = model or ModelOptions()
    columns = {"text_column": text_column, "label_column": label_column}
    theirs = load_side(target, "target", seed=seed, **columns)
    loaded = _load(sources, theirs, seed, columns)
    known = _look(loaded, theirs, options, strategies, max_samples, permutations, seed)
    judged = [limited(option, budget_minutes, memory_gb) for option in all_options(known, strategies)]
    judged.sort(key=lambda option: (option.why_not is not None, -option.accuracy.estimate))
    choice = choose(judged)
    files = {source.data.name: (source.place, source.renamed) for source in loaded}
    plan = Plan(
        theirs.name,
        known.labels,
        choice,
        tuple(judged),
        headline(choice, judged, theirs.name, known.labels),
        reasons(choice, judged, known, budget_minutes, memory_gb),
        recipe_of(choice, files, target, theirs, options, columns, seed),
        tuple(known.reports),
        round(time.perf_counter() - started, 1),
    )
    if output is not None:
        write_text(output, _document(plan))
    return plan


class _Source(NamedTuple):
    """A source as it was given and read; ``renamed`` are its classes in the target's spelling."""

    place: str
    data: DomainData
    renamed: dict[str, str]


def _load(
    places: Sequence[str], target: DomainData, seed: int, columns: Mapping[str, str | None]
) -> list[_Source]:
    """Read the sources; those of one name go by their files."""
    places = list(dict.fromkeys(places))
    read = [load_side(place, "source", seed=seed, **columns) for place in places]
    names = [data.name for data in read]
    found = []
    for place, data in zip(places, read, strict=True):
        named = data if names.count(data.name) == 1 else replace(data, name=place)
        found.append(_Source(place, named, _label_map(named, target)))
    return found


def _look(
    sources: Sequence[_Source],
    target: DomainData,
    options: ModelOptions,
    strategies: Sequence[StrategyName],
    max_samples: int,
    permutations: int,
    seed: int,
) -> Known:
    """Compare, cross-validate and time."""
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.models.load import locate

    samples = [_samples(source, target, max_samples, seed) for source in sources]
    located, labels = locate(options), _labelled_rows(target)
    with peak_memory() as peak:
        unit = Embedder.load(located, options, normalize=True)
        reports = [
            shift_report(
                source.data,
                target,
                embedder=unit,
                max_samples=max_samples,
                permutations=permutations,
                seed=seed,
            )
            for source in sources
        ]
        plain = Embedder.load(located, options)
        trials = frozen_trials([_features(plain, *pair, seed=seed) for pair in samples], seed=seed)
        texts = list(dict.fromkeys([*samples[0][1].texts[:TIMED_TEXTS], *samples[0][0].texts[:TIMED_TEXTS]]))
        fresh = Embedder.load(located, options, cache_dir=False, progress=False)
        text_seconds = seconds_per_text(fresh, texts)
    return Known(
        reports,
        trials,
        rows=[_labelled_rows(source.data) for source in sources],
        labels=labels,
        costs=_training_costs(strategies, samples, located, options, seed),
        text_seconds=text_seconds,
        frozen_memory=peak.most,
        calibrated=calibrated_forecasts(reports, strategies, labels),
    )


def _document(plan: Plan) -> str:
    """The recipe as YAML, with the answer above it as comments."""
    import yaml

    lines = [plan.headline, *plan.reasons]
    comments = "".join(f"# {' '.join(line.split())}\n" for line in lines)
    return comments + yaml.safe_dump(dict(plan.recipe), sort_keys=False, allow_unicode=True)


def _labelled_rows(domain: DomainData) -> int:
    return sum(domain.label_counts.get("train", {}).values())


def _label_map(source: DomainData, target: DomainData) -> dict[str, str]:
    """New names of the source's classes, where they are other spellings of the target's; mostly none.

    Raises:
        DataError: no labels in the source, or no class in common.
    """
    ours, theirs = (set(domain.label_counts.get("train", {})) for domain in (source, target))
    if not ours:
        raise DataError(
            f"source {source.name} has no labels, so nothing can be learned from it",
            expected="labelled training rows",
            fix="name the column with --label-column",
        )
    if not theirs or ours & theirs:
        return {}
    meant = {name: same_polarity(name, theirs) for name in ours}
    if any(value is None for value in meant.values()) or len(set(meant.values())) < len(meant):
        raise DataError(
            f"source {source.name} and target {target.name} have no class in common",
            expected=", ".join(sorted(theirs)[:5]),
            found=", ".join(sorted(ours)[:5]),
            fix="give both the same class names",
        )
    return {name: str(value) for name, value in meant.items()}


def _samples(source: _Source, target: DomainData, max_samples: int, seed: int) -> tuple[Sample, Sample]:
    """The rows that a shift report draws, with the target's class names.

    Raises:
        DataError: the source's rows are not of two classes or more.
    """
    ours = draw(source.data, max_samples=max_samples, seed=seed)
    names = np.unique(ours.labels).tolist()
    if len(names) < 2:
        raise DataError(
            f"nothing can be learned from source {ours.name}",
            expected="labelled rows of at least two classes",
            found=f"{len(ours.labels)} rows, all {names[0]!r}" if names else ours.notes[0],
            fix="leave it out, or give it rows of the other classes",
        )
    theirs = draw(target, max_samples=max_samples, seed=seed + 1)
    if source.renamed:
        ours = replace(ours, labels=np.array([source.renamed[name] for name in ours.labels.tolist()]))
    return ours, theirs


def _features(embedder: Embedder, ours: Sample, theirs: Sample, *, seed: int) -> DomainFeatures:
    """Embeddings and class numbers; the classes of both, in one order."""
    names = np.unique([*ours.labels.tolist(), *theirs.labels.tolist()])
    rows = np.asarray(embedder.embed(ours.labelled).features)
    labelled = np.asarray(embedder.embed(theirs.labelled).features) if theirs.labelled else rows[:0]
    return DomainFeatures(
        source=rows,
        source_labels=np.searchsorted(names, ours.labels),
        target=np.asarray(embedder.embed(theirs.texts).features),
        classes=len(names),
        labelled=labelled,
        labels=np.searchsorted(names, theirs.labels) if len(theirs.labels) else np.empty(0, int),
        seed=seed,
    )


def _training_costs(
    strategies: Sequence[str],
    samples: Sequence[tuple[Sample, Sample]],
    located: ModelSource,
    options: ModelOptions,
    seed: int,
) -> dict[str, TrainingCost]:
    """Measured on rows of the first source and of the target."""
    from datasets import Dataset

    from nlp_transfer.strategies import STRATEGIES as TABLE
    from nlp_transfer.tasks import SentimentTask

    ours, theirs = samples[0]
    labels = [*ours.labels.tolist(), *theirs.labels.tolist()]
    rows = Dataset.from_dict({"text": [*ours.labelled, *theirs.labelled], "label": labels})
    task = SentimentTask().bind({"target.train": rows})
    costs = {}
    for name in strategies:
        if name != "frozen":
            made, its_options = TABLE[name]
            costs[name] = training_cost(
                made(its_options()), task, located, options, rows, batch=BATCH, seed=seed
            )
    return costs
