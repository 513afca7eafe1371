"""What an adaptation is: one way in which a source, or unlabelled target text, helps the target."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, TypeVar

from nlp_transfer.options import Options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Stage = Literal["pretraining", "instance", "feature", "penalty", "teacher", "labels", "rounds"]


class AdaptationOptions(Options):
    """The base of every adaptation's options."""

    kind: str


OptionsT = TypeVar("OptionsT", bound=AdaptationOptions)


@dataclass(frozen=True, eq=False)
class DomainFeatures:
    """Embeddings of both domains, for methods that act before training.

    Attributes:
        source: labelled source rows [n, d].
        source_labels: class numbers, or ratings, [n].
        target: target rows whose labels are not looked at [m, d].
        classes: number of classes; None for ratings and for text.
        labelled: target rows that have labels [k, d]; k may be 0.
        labels: of those [k].
        seed: of every draw.
    """

    source: NDArray[np.floating]
    source_labels: NDArray
    target: NDArray[np.floating]
    classes: int | None
    labelled: NDArray[np.floating]
    labels: NDArray
    seed: int = 42


class Adaptation(ABC, Generic[OptionsT]):
    """One method. Its ``stage`` says where the engine calls it.

    * ``pretraining``: before the task is trained, on text alone;
    * ``instance``: weights for the rows of the source (``adaptation/instance.py``);
    * ``feature``: a map of frozen embeddings, kept inside the model (``adaptation/feature.py``);
    * ``penalty``: a term of the loss while training;
    * ``teacher``: a source-trained model whose outputs or relations are learned too;
    * ``labels``: labels for unlabelled target rows;
    * ``rounds``: further training phases on the model's own labels for target rows.
    """

    summary: ClassVar[str]
    """One line for ``nlp-transfer recipes list`` and the docs table."""
    stage: ClassVar[Stage]
    strategies: ClassVar[tuple[str, ...]]
    """The strategies that it works with."""
    tasks: ClassVar[tuple[str, ...]] = ("sentiment",)
    """The tasks that it works with."""
    needs_source: ClassVar[bool] = True
    needs_target_text: ClassVar[bool] = True
    """It looks at target texts without their labels: ``target.unlabeled`` and those of ``target.train``."""
    needs_target_labels: ClassVar[bool] = False
    """It needs labelled rows in ``target.train``."""
    needs_classes: ClassVar[bool] = False
    """It does not work with ratings."""
    alone_in_stage: ClassVar[bool] = False
    """No second method of its stage may stand beside it."""

    def __init__(self, options: OptionsT) -> None:
        self.options = options


@dataclass(frozen=True)
class Setting:
    """What a recipe is about, as far as it decides which adaptations fit."""

    strategy: str
    task: str
    classes: bool
    has_source: bool
    has_target_text: bool
    has_target_labels: bool
    mixes: bool = False
    """Whether ``source.mix`` draws the source rows."""


def misfits(methods: Sequence[tuple[str, type[Adaptation]]], setting: Setting) -> dict[int, str]:
    """What is wrong with each method of a recipe's list: {position: message}; empty where all fit."""
    problems: dict[int, str] = {}
    for index, (kind, method) in enumerate(methods):
        message = _misfit(kind, method, setting)
        before = [other for other in methods[:index] if other[1].stage == method.stage]
        if kind in dict(before):
            message = f"{kind} is given twice: keep one"
        elif before and (method.alone_in_stage or before[0][1].alone_in_stage):
            message = f"{kind} and {before[0][0]} cannot act together: keep one"
        if message:
            problems[index] = message
    return problems


def _misfit(kind: str, method: type[Adaptation], setting: Setting) -> str | None:
    if setting.strategy not in method.strategies:
        fitting = " or ".join(method.strategies)
        return f"{kind} needs strategy {fitting}, found {setting.strategy}"
    if setting.task not in method.tasks:
        return f"{kind} works for the task {' or '.join(method.tasks)}, found {setting.task}"
    if method.needs_classes and not setting.classes:
        return f"{kind} needs classes, and this task predicts ratings: leave it out, or set task.loss"
    if method.needs_source and not setting.has_source:
        return f"{kind} needs a source: give source.train, or leave it out"
    if method.needs_target_labels and not setting.has_target_labels:
        return f"{kind} needs labelled target rows: give target.train"
    if method.needs_target_text and not setting.has_target_text:
        return f"{kind} needs target texts: give target.unlabeled (labels are not needed) or target.train"
    if setting.mixes and method.stage != "pretraining":
        return f"{kind} acts on all rows of the source, and source.mix shows a part of them: leave one out"
    return None
