"""A plan in plain words with its figures, and its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.data.options import SAMPLE_PREFIX, place_options
from nlp_transfer.models.options import ModelOptions
from nlp_transfer.reporting.words import percent, points
from nlp_transfer.selection.choices import BATCH, CLOSE, LEARNING_RATES, weighting_gain

if TYPE_CHECKING:
    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.selection.choices import Known, Option
    from nlp_transfer.shift.labelled import Figure

WAYS = {
    "frozen": "a frozen encoder with a fitted head",
    "lora": "LoRA adapters",
    "full": "fine-tuning of all weights",
}


def headline(choice: Option, options: Sequence[Option], target: str, labels: int) -> str:
    """The answer in one sentence."""
    if choice.source is None:
        alone = f"train {WAYS[choice.strategy]} on the {labels:,} labels of {target} alone"
        able = [option for option in options if option.source is not None and option.why_not is None]
        best = max(able, key=lambda option: option.accuracy.estimate, default=None)
        gain = 0.0 if best is None else best.accuracy.estimate - choice.accuracy.estimate
        if best is None or gain < -CLOSE:
            return f"Do not transfer: {alone}."
        return f"Transfer hardly matters: {alone}; {best.source} would change {points(gain)} points."
    rows = "its rows weighted by how much they look like the target" if choice.weighted else "all rows alike"
    return f"Transfer from {choice.source} to {target}: {WAYS[choice.strategy]}, {rows}."


def reasons(
    choice: Option,
    options: Sequence[Option],
    known: Known,
    budget_minutes: float | None,
    memory_gb: float | None,
) -> tuple[str, ...]:
    """Why, with the figures: transfer or not, the source, weights, the strategy, the limits."""
    found = [*_about_sources(known), *_about_weights(known), *_about_strategies(choice, options)]
    found.append(_about_cost(choice, budget_minutes, memory_gb))
    found += [
        f"{option.strategy} {_where(option)} is ruled out: {option.why_not}."
        for option in options
        if option.why_not
    ]
    for report in known.reports:
        if report.risk is not None and report.risk.evidence.outside:
            outside = "; ".join(report.risk.evidence.outside)
            found.append(f"Read the forecast for {report.source.name} with care: {outside}.")
    return tuple(dict.fromkeys(found))


def _where(option: Option) -> str:
    return f"with {option.source}" if option.source else "on the target alone"


def _about_sources(known: Known) -> list[str]:
    if known.trials:
        alone = known.trials[0].accuracy
        found = [
            f"The {known.labels:,} target labels alone give {percent(alone)} (held out, frozen encoder)."
        ]
    else:
        found = ["Too few target labels to train or check on: only a source can teach."]
    for report in known.reports:
        risk = report.risk
        if risk is None:
            continue
        name = report.source.name
        gain = f"expected gain {points(risk.predicted_gain.estimate)} points ({_ends(risk.predicted_gain)})"
        if not known.trials:
            accuracy = risk.predicted_target_accuracy
            gain = f"expected accuracy {percent(accuracy.estimate)} of a model trained on it alone"
        harm = f"{100 * risk.probability:.0f} %"
        found.append(f"{name}: {gain}; chance that it costs more than a point: {harm}.")
    return found


def _ends(figure: Figure) -> str:
    return f"80 % interval {points(figure.low)} to {points(figure.high)}"


def _about_weights(known: Known) -> list[str]:
    found = []
    for number, report in enumerate(known.reports):
        pair = {trial.weighted: trial for trial in known.trials if trial.source == number}
        if pair:
            difference, error = pair[True].gain_over(pair[False])
            counted = weighting_gain(known.trials, number)
            found.append(
                f"Weighting the rows of {report.source.name} changes held-out accuracy by "
                f"{points(difference)} points (standard error {100 * error:.1f}), "
                f"counted as {points(counted)}."
            )
    return found


def _about_strategies(choice: Option, options: Sequence[Option]) -> list[str]:
    """The best option of each strategy, side by side."""
    found = []
    for strategy in WAYS:
        own = [option for option in options if option.strategy == strategy]
        if own:
            best = max(own, key=lambda option: option.accuracy.estimate)
            best = choice if strategy == choice.strategy else best
            low, high = (percent(value) for value in (best.accuracy.low, best.accuracy.high))
            found.append(
                f"{strategy} {_where(best)}: expected accuracy {percent(best.accuracy.estimate)} (80 % "
                f"interval {low} to {high}), {best.minutes:.1f} minutes."
            )
    return found


def _about_cost(choice: Option, budget_minutes: float | None, memory_gb: float | None) -> str:
    epochs = "" if choice.epochs is None else f" for {choice.epochs} epochs"
    cost = f"{choice.minutes:.1f} minutes{epochs} and {choice.memory_gb:.1f} GB"
    text = f"The run takes about {cost} on this machine"
    limits = [f"{budget_minutes:g} minutes"] if budget_minutes is not None else []
    limits += [f"{memory_gb:g} GB"] if memory_gb is not None else []
    return f"{text} (limits: {', '.join(limits)})." if limits else f"{text}."


def recipe_of(
    choice: Option,
    sources: Mapping[str, tuple[str, Mapping[str, str]]],
    target: str,
    loaded: DomainData,
    model: ModelOptions,
    columns: Mapping[str, str | None],
    seed: int,
) -> dict[str, Any]:
    """The recipe of an option, as plain values.

    Args:
        choice: the option.
        sources: by name, the file and new names of its classes.
        target: its file.
        loaded: the target as it was read.
        model: options of the model.
        columns: ``text_column`` and ``label_column``, None to find them.
        seed: of the run.
    """
    labelled = bool(loaded.label_counts.get("train"))
    recipe: dict[str, Any] = {
        "task": {"kind": "sentiment"},
        "model": {"name": model.name, **model.model_dump(exclude_defaults=True, exclude={"name"})},
    }
    if choice.source is not None:
        place, renamed = sources[choice.source]
        recipe["source"] = _place(place, "train", columns)
        if renamed:
            recipe["source"]["label_map"] = dict(renamed)
        if labelled and choice.strategy == "frozen":
            recipe["source"]["mode"] = "joint"
    recipe["target"] = _place(target, "train" if labelled else "unlabeled", columns)
    recipe["strategy"] = {"kind": choice.strategy}
    if choice.weighted:
        recipe["adaptation"] = [{"kind": "density_ratio"}]
    training: dict[str, Any] = {"seed": seed}
    if choice.epochs is not None:
        training |= {"num_train_epochs": choice.epochs, "per_device_train_batch_size": BATCH}
        training["learning_rate"] = LEARNING_RATES[choice.strategy]
    recipe["training"] = training
    if choice.source is not None and labelled and choice.strategy == "frozen":
        recipe["guard"] = {"baseline": "probe", "on_negative_transfer": "fallback"}
    way = f"{choice.source}-to-{loaded.name}" if choice.source is not None else loaded.name
    recipe["output_dir"] = "runs/" + "".join(c if c.isalnum() or c in "-_." else "-" for c in way)
    return recipe


def _place(place: str, split: str, columns: Mapping[str, str | None]) -> dict[str, Any]:
    """The keys of a domain: a sample's name, or a file by its whole path, which a run finds from anywhere."""
    values = place_options(place, split=split, **columns).model_dump(exclude_defaults=True)
    if not place.startswith(SAMPLE_PREFIX):
        values[split] = str(Path(place).resolve())
    if split == "unlabeled":
        values.pop("label_column", None)
    return values
