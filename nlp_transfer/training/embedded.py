"""Adaptations that act before training: row weights, maps of embeddings, labels for target rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.adaptation.base import DomainFeatures
from nlp_transfer.console import notice, warn
from nlp_transfer.errors import Problem, RecipeError
from nlp_transfer.numeric.features import KernelMap, LinearMap, Map
from nlp_transfer.numeric.weights import draw_by_weight, effective_sample_size
from nlp_transfer.tasks import SentimentTask
from nlp_transfer.training.phases import target_texts

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from nlp_transfer.adaptation.instance import RowWeights
    from nlp_transfer.adaptation.propagation import LabelMethod
    from nlp_transfer.models.embed import Embedder
    from nlp_transfer.tasks.base import Task
    from nlp_transfer.training.phases import Setup

FEW_EFFECTIVE = 0.1
"""Share of the source's rows below which its effective sample size is warned about."""


def domain_features(setup: Setup, embedder: Embedder) -> DomainFeatures:
    """Embeddings and labels of both domains' training rows, and of the target texts without labels.

    Parallel text has no labels: its rows are embedded by the side to translate.

    Raises:
        RecipeError: rows are to be drawn one by one for batches by tokens, which are cut once.
    """
    drawn = any(method.options.apply == "sampler" for method in setup.adaptations("instance"))
    if drawn and setup.task.cuts_batches(setup.recipe.training):
        message = (
            "sampler draws sentences, and this run cuts its batches by tokens: set apply to loss, or "
            "training.per_device_train_batch_size to count sentences"
        )
        raise RecipeError("recipe", [Problem("adaptation.0.apply", None, message)])
    task, source, target = setup.task, setup.domains["source"], setup.domains["target"]
    assert source.train is not None
    texts = target_texts(target)
    rows = np.asarray(embedder.embed(source.train).features)
    labelled, labels = np.empty((0, rows.shape[1]), rows.dtype), np.empty(0, int)
    if target.train is not None:
        labelled = np.asarray(embedder.embed(target.train).features)
        labels = _labels(task, target.train, "target.train")
    return DomainFeatures(
        source=rows,
        source_labels=_labels(task, source.train, "source.train"),
        target=labelled if texts is None else np.asarray(embedder.embed(texts).features),
        classes=task.num_labels
        if isinstance(task, SentimentTask) and task.objective == "classification"
        else None,
        labelled=labelled,
        labels=labels,
        seed=setup.recipe.seed,
    )


def _labels(task: Task, rows: Dataset, name: str) -> NDArray:
    return task.label_array(rows, name=name) if isinstance(task, SentimentTask) else np.zeros(len(rows))


def row_weights(setup: Setup, data: DomainFeatures, *, tell: bool = True) -> RowWeights | None:
    """Weights of the training rows by the recipe's instance method, told to the user; None without one."""
    methods = setup.adaptations("instance")
    if not methods:
        return None
    method = methods[0]
    found = method.weigh(data)
    if not tell:
        return found
    size, rows = effective_sample_size(found.source), len(found.source)
    share = f"{size:,.0f} of {rows:,} source rows ({size / rows:.0%})"
    text = f"{method.options.kind}: effective sample size {share}"
    if found.clipped:
        text += f"; {found.clipped:.1%} of the weights cut at {method.options.max_weight:g}"
    if found.power < 1:
        text += f"; flattened to the power {found.power:.2f}"
    if size < FEW_EFFECTIVE * rows:
        warn(f"{text}: few rows decide; raise min_effective, or expect weighting to hurt")
    else:
        notice(text)
    return found


def phase_weights(weights: RowWeights, name: str, rows: int) -> NDArray[np.float64]:
    """The weights of a phase's rows: the source's, those of the target's labelled rows, then ones."""
    of_target = weights.target
    if name == "target":
        return np.ones(rows) if of_target is None else of_target / of_target.mean()
    further = np.ones(rows - len(weights.source))
    if not len(further):
        return weights.source
    if of_target is not None:
        further[: len(of_target)] = of_target
    together = np.concatenate([weights.source, further])
    return together / together.mean()


def weigh_rows(setup: Setup, weights: RowWeights, name: str, encoded: Dataset) -> Dataset:
    """Give a phase's encoded rows the column that the Trainer reads: ``weight`` or ``draw``."""
    column = "draw" if setup.adaptations("instance")[0].options.apply == "sampler" else "weight"
    values = phase_weights(weights, name, len(encoded)).astype(np.float32)
    return encoded.add_column(column, values.tolist())


@dataclass
class Adapted:
    """What the frozen strategy fits its head on.

    Attributes:
        data: embeddings of both domains, mapped.
        source: maps further source rows.
        target: maps target rows; the model holds it.
        weights: of rows, or None.
        drawn: rows are drawn in proportion to their weight.
        labels: the method that labels target rows, or None.
        components: the mapped columns are components, whose sizes count.
        records: for ``metrics.json``.
    """

    data: DomainFeatures
    source: Callable[[NDArray], NDArray]
    target: Map
    weights: RowWeights | None
    drawn: bool
    labels: LabelMethod | None
    components: bool = False
    records: list[dict[str, Any]] = field(default_factory=list)

    def rows(self, name: str, features: NDArray, seed: int) -> tuple[NDArray, NDArray | None]:
        """Mapped features and weights of a phase's rows: source rows come first where both are mixed."""
        n = {"source": len(features), "target": 0}.get(name, len(self.data.source))
        mapped = np.concatenate([self.source(features[:n]), self.target(features[n:])])
        if self.weights is None:
            return mapped, None
        weights = phase_weights(self.weights, name, len(features))
        if self.drawn:
            picked = draw_by_weight(weights, np.random.default_rng(seed))
            weights = np.bincount(picked, minlength=len(weights)).astype(float)
        return mapped, weights


def adapt_frozen(setup: Setup, data: DomainFeatures, *, tell: bool = True) -> Adapted:
    """Fit the recipe's maps, then its weights on mapped embeddings.

    Args:
        setup: of a run with adaptations.
        data: embeddings of both domains.
        tell: say what came of it.

    Cost: see the methods.
    """
    identity: Map = LinearMap.identity(data.source.shape[1])
    steps: list[Callable[[NDArray], NDArray]] = []
    target, components, records = identity, False, []
    for method in setup.adaptations("feature"):
        found = method.align(data)
        steps.append(found.source)
        target = _after(target, found.target)
        components = components or found.components
        data = replace(
            data,
            source=found.source(data.source),
            target=found.target(data.target),
            labelled=found.target(data.labelled) if len(data.labelled) else np.empty((0, len(target.bias))),
        )
        records.append({"method": method.options.kind, "dimensions": int(data.source.shape[1])})

    def to_source(rows: NDArray) -> NDArray:
        for step in steps:
            rows = step(rows)
        return rows

    weights = row_weights(setup, data, tell=tell)
    drawn = False
    if weights is not None:
        options = setup.adaptations("instance")[0].options
        drawn = options.apply == "sampler"
        size = effective_sample_size(weights.source)
        records.append({"method": options.kind, **weight_record(weights, size)})
    labels = next(iter(setup.adaptations("labels")), None)
    return Adapted(data, to_source, target, weights, drawn, labels, components, records)


def weight_record(weights: RowWeights, size: float) -> dict[str, float]:
    """What ``metrics.json`` says about row weights."""
    return {
        "effective_sample_size": round(size, 1),
        "clipped": weights.clipped,
        "power": round(weights.power, 4),
    }


def _after(first: Map, second: Map) -> Map:
    """Both maps as one; a kernel map stands alone in a recipe, so that none comes after another."""
    if isinstance(second, KernelMap):
        return second
    if isinstance(first, KernelMap):
        return replace(first, weight=second.weight @ first.weight, bias=second(first.bias[None])[0])
    return LinearMap(second.weight @ first.weight, second(first.bias[None])[0])


def fold(
    layers: tuple[tuple[NDArray, NDArray], ...], target: Map
) -> tuple[tuple[tuple[NDArray, NDArray], ...], tuple[NDArray, float] | None]:
    """Fold a map into the head behind it: its layers, and (landmarks, bandwidth) of a kernel map."""
    (weight, bias), *rest = layers
    first = (weight @ target.weight, bias + weight @ target.bias)
    kernel = (target.landmarks, target.bandwidth) if isinstance(target, KernelMap) else None
    return (first, *rest), kernel
