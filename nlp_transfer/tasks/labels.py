"""From the labels in the data to class ids, class weights and ratings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import warn
from nlp_transfer.data.labels import canonical, natural_order, same_polarity
from nlp_transfer.errors import DataError, did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_SHOWN = 10


def settle_names(train: Mapping[str, Dataset], wanted: Sequence[str] | None) -> list[str]:
    """The class names in id order: ``wanted``, or those found, numbers by size and words by alphabet.

    Raises:
        DataError: fewer than two classes in the data, a label outside ``wanted``, or splits whose classes
            are not contained in one another (they do not name the same things).
    """
    found = {split: _label_texts(dataset, split) for split, dataset in train.items()}
    texts = set().union(*(set(values.values()) for values in found.values()))
    if len(texts) < 2:
        raise DataError(
            f"the training data has {len(texts)} class{'' if len(texts) == 1 else 'es'}",
            expected="two classes or more in the label column",
            found=", ".join(map(repr, sorted(texts))) or "no labelled rows",
            fix="add rows of the other classes, or set task.loss=mse if the labels are ratings",
        )
    if wanted is not None:
        for split, values in found.items():
            _class_ids(values, wanted, split)
        return list(wanted)
    names = natural_order(texts)
    _check_nested(found)
    return names


def settle_weights(
    train: Mapping[str, Dataset],
    names: Sequence[str],
    wanted: str | Sequence[float] | Mapping[str, float] | None,
) -> list[float] | None:
    """One weight per class, scaled to a mean of one over the training rows; None where none are wanted.

    ``balanced`` gives n / (C * n_c) as scikit-learn does; a class without training rows gets 0.

    Raises:
        DataError: weights that do not fit the classes, or that are 0 for every training row.
    """
    if wanted is None:
        return None
    counts = [0] * len(names)
    for split, dataset in train.items():
        ids = _class_ids(_label_texts(dataset, split), names, split)
        for value, count in Counter(dataset["label"][:]).items():
            counts[ids[value]] += count
    if wanted == "balanced":
        weights = [1 / count if count else 0.0 for count in counts]
    else:
        weights = _given_weights(wanted, names)
    mean = sum(weight * count for weight, count in zip(weights, counts, strict=True)) / sum(counts)
    if not mean:
        raise DataError(
            "task.class_weights is 0 for every class in the training data",
            expected="a weight above 0 for at least one class that occurs",
            found=str(dict(zip(names, weights, strict=True))),
            fix="raise the weights of the classes that occur",
        )
    return [weight / mean for weight in weights]


def mean_rating(train: Mapping[str, Dataset]) -> float:
    """The mean rating of all training rows.

    Raises:
        DataError: ratings that are not finite numbers, or that are all the same.
    """
    counts: Counter[float] = Counter()
    for split, dataset in train.items():
        ratings = _ratings(dataset, split)
        for value, count in Counter(dataset["label"][:]).items():
            counts[ratings[value]] += count
    if len(counts) < 2:
        raise DataError(
            "there is nothing to learn from these ratings",
            expected="ratings that differ from row to row",
            found=f"only {next(iter(counts)):g}" if counts else "no labelled rows",
            fix="check which column task and data take for the label",
        )
    return math.fsum(value * count for value, count in counts.items()) / sum(counts.values())


def converter(dataset: Dataset, split: str, names: Sequence[str] | None) -> Callable[[list], list]:
    """A function from a batch of labels to class ids, or to ratings where ``names`` is None.

    Raises:
        DataError: a label that is missing, unknown or not a number, before any row is converted.
    """
    table: dict[Any, int] | dict[Any, float]
    table = (
        _ratings(dataset, split) if names is None else _class_ids(_label_texts(dataset, split), names, split)
    )
    return lambda values: [table[value] for value in values]


def _label_texts(dataset: Dataset, split: str) -> dict[Any, str]:
    """Each different label in the data with its one spelling."""
    return {value: canonical(value) or "" for value in _unique(dataset, split)}


def _unique(dataset: Dataset, split: str) -> list[Any]:
    if "label" not in dataset.column_names:
        raise DataError(
            f"{split}: there are no labels to learn from",
            expected="a column 'label'",
            found=f"columns {', '.join(dataset.column_names)}",
            fix="name the column that holds the label in the recipe",
        )
    values = dataset.unique("label")
    if any(canonical(value) is None for value in values):
        raise DataError(
            f"{split}: there are rows without a label",
            expected="a label in every row",
            found="empty labels",
            fix="drop these rows, or give them as unlabeled data",
        )
    return values


def _class_ids(values: Mapping[Any, str], names: Sequence[str], split: str) -> dict[Any, int]:
    """Match labels with class names by name, or by position where no name is a number."""
    by_name = {name: index for index, name in enumerate(names)}
    if not any(_number(name) is not None for name in names):
        by_name = {str(index): index for index in range(len(names))} | by_name
    unknown = [text for text in values.values() if text not in by_name]
    if unknown:
        raise DataError(
            f"{split}: labels that the task does not know",
            expected=f"one of {_listed(names)}",
            found=_listed(natural_order(unknown)),
            fix="choose another label_column, spell the labels as these classes, or drop these rows (in "
            f"a recipe also: label_map, task.labels); {did_you_mean(unknown[0], names)}",
        )
    return {value: by_name[text] for value, text in values.items()}


def _check_nested(found: Mapping[str, Mapping[Any, str]]) -> None:
    """Splits may lack some classes, but each must fit into the widest one; a gap is worth a warning."""
    sets = {split: set(values.values()) for split, values in found.items()}
    widest = max(sets, key=lambda split: len(sets[split]))
    for split, texts in sets.items():
        extra, lacking = texts - sets[widest], sets[widest] - texts
        if extra:
            meant = {name: same_polarity(name, sets[widest]) for name in natural_order(texts)}
            pairs = ", ".join(f"{name}: {other}" for name, other in meant.items())
            fix = "give both domains the same label names, or name every class in task.labels"
            if all(meant.values()):
                role = split.partition(".")[0]
                fix = f"set {role}.label_map to {{{pairs}}}, or name every class in task.labels"
            raise DataError(
                f"{split} and {widest} have different classes",
                expected=f"labels among {_listed(natural_order(sets[widest]))}, as in {widest}",
                found=f"also {_listed(natural_order(extra))} in {split}",
                fix=fix,
            )
        if lacking:
            warn(f"{split} has no rows of {_listed(natural_order(lacking))}, which {widest} has")


def _given_weights(wanted: Any, names: Sequence[str]) -> list[float]:
    if isinstance(wanted, Mapping):
        if set(wanted) == set(names):
            return [float(wanted[name]) for name in names]
        found = _listed(list(wanted))
    elif len(wanted) == len(names):
        return [float(weight) for weight in wanted]
    else:
        found = f"{len(wanted)} weights"
    raise DataError(
        "task.class_weights does not fit the classes",
        expected=f"one weight for each of {_listed(names)}",
        found=found,
        fix="give one weight per class, or set task.class_weights=balanced",
    )


def _ratings(dataset: Dataset, split: str) -> dict[Any, float]:
    ratings = {value: _number(value) for value in _unique(dataset, split)}
    bad = [value for value, rating in ratings.items() if rating is None]
    if bad:
        raise DataError(
            f"{split}: labels that are not ratings",
            expected="numbers (task.loss is mse)",
            found=_listed([str(value) for value in bad]),
            fix="set task.loss=cross_entropy to learn classes, or turn the labels into numbers",
        )
    return {value: rating for value, rating in ratings.items() if rating is not None}


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _listed(texts: Sequence[str]) -> str:
    shown = ", ".join(repr(text) for text in texts[:_SHOWN])
    return shown + (f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")
