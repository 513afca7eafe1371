"""The model card of a run: data, figures, shift and how to load it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nlp_transfer.models.load import POOLED_MODEL_TYPE
from nlp_transfer.reporting.summary import figure, human
from nlp_transfer.reporting.words import METRIC_NAMES, against_baselines, gain_range, ledger, percent, points
from nlp_transfer.training.hub import HUB_FIELDS, hub_name

if TYPE_CHECKING:
    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.shift.report import ShiftReport
    from nlp_transfer.training.run import RunResult


def model_card(recipe: Recipe, domains: dict[str, DomainData], result: RunResult) -> str:
    """Markdown with the metadata block that the hub reads."""
    metadata: dict[str, Any] = {
        "library_name": "peft" if recipe.strategy.kind == "lora" else "transformers",
        "pipeline_tag": "translation" if recipe.task.kind == "translation" else "text-classification",
        "tags": ["nlp-transfer", recipe.task.kind, recipe.strategy.kind],
    }
    pretrained = recipe.model.init == "pretrained"
    if pretrained and not Path(recipe.model.name).exists():
        metadata["base_model"] = recipe.model.name  # the hub wants the id of a hub model here
    target = domains["target"].name
    way = f", from {_plain(domains['source'].name)} to {_plain(target)}" if "source" in domains else ""
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(recipe.model.name) if pretrained else 'A model from scratch'} on {_plain(target)}",
        f"Trained with the strategy `{recipe.strategy.kind}`{way}{_options(recipe)}.",
        "## Data",
        _data_table(domains),
        "## Figures",
        _figures_table(result),
        "95 % bootstrap intervals in brackets. `metrics.json` has all figures, per class too.",
    ]
    lines = against_baselines(result.metrics["domains"]) + ledger(result.metrics["forgetting"])
    if lines:
        parts += ["## Before and after", "\n".join(f"- {_plain(line)}" for line in lines)]
    if result.shift is not None:
        parts += ["## Domain shift, measured before training", *_shift(result.shift)]
    if (guard := result.metrics.get("guard")) is not None:
        verdict = f"**{guard['verdict'].capitalize()}.** {_plain(guard['sentence'])}"
        parts += ["## Did the source help?", verdict]
    if result.metrics["warnings"]:
        parts += ["## Warnings", "\n".join(f"- {_plain(text)}" for text in result.metrics["warnings"])]
    parts += [
        "## Cost",
        f"{result.training_seconds:.1f} s of training ({result.seconds:.1f} s the whole run), "
        f"{result.peak_memory_mib:,.0f} MiB peak memory, "
        f"{human(result.trainable_parameters)} of {human(result.total_parameters)} parameters trained.",
        "## Use",
        _use(recipe, result),
        "`recipe.yaml` and `environment.json` hold what is needed to repeat the run.",
    ]
    return "\n\n".join(parts) + "\n"


def _options(recipe: Recipe) -> str:
    """Options of the strategy that are not the defaults, the adaptations, and the training fields given."""
    chosen = recipe.strategy.model_dump(exclude_defaults=True, exclude={"kind"})
    given = {name: value for name, value in recipe.training.items() if name not in HUB_FIELDS}
    parts = [
        ", ".join(f"`{key}: {_plain(str(value))}`" for key, value in found.items())
        for found in (chosen, given)
        if found
    ]
    if recipe.adaptation:
        parts.append("adaptation " + ", ".join(f"`{choice.kind}`" for choice in recipe.adaptation))
    return f" ({'; '.join(parts)})" if parts else ""


def _shift(shift: ShiftReport) -> list[str]:
    """The two-sample test, and what was forecast."""
    mmd = shift.mmd
    found = [
        f"MMD² {mmd['value']:.5f}, permutation p-value {mmd['p_value']:.4f}, effect size "
        f"{mmd['effect_size']:.1f} standard deviations of the null."
    ]
    if shift.risk is not None:
        risk = shift.risk
        found.append(
            f"Forecast: {risk.level} risk of negative transfer ({100 * risk.probability:.0f} %), gain from "
            f"the source {points(risk.predicted_gain.estimate)} points ({gain_range(risk.predicted_gain)}), "
            f"target accuracy {percent(risk.predicted_target_accuracy.estimate)}."
        )
    elif shift.translation is not None:
        found.append(_plain(shift.translation.sentence))
    return found


def _use(recipe: Recipe, result: RunResult) -> str:
    """Code that loads the model: with nlp_transfer, and with the libraries that it is saved for."""
    name = hub_name(recipe)
    folder = result.output_dir / "model" if name is None else name
    lines = ["from nlp_transfer import load_model", "", f"model = load_model({str(result.output_dir)!r})"]
    lines += ['model.predict(["..."])']
    config = result.output_dir / "model" / "config.json"
    pooled = config.is_file() and json.loads(config.read_text("utf-8")).get("model_type") == POOLED_MODEL_TYPE
    plain = []
    if recipe.strategy.kind == "lora":
        kind = "Seq2SeqLM" if recipe.task.kind == "translation" else "SequenceClassification"
        plain = [f"from peft import AutoPeftModelFor{kind}", ""]
        plain += [f"model = AutoPeftModelFor{kind}.from_pretrained({str(folder)!r})"]
    elif recipe.task.kind == "sentiment":
        plain = ["import nlp_transfer.models.pooled  # makes its architecture known"] if pooled else []
        plain += ["from transformers import pipeline", ""]
        plain += [f'pipeline("text-classification", model={str(folder)!r})(["..."])']
    blocks = [lines, plain] if plain else [lines]
    return "\n\n".join("```python\n" + "\n".join(block) + "\n```" for block in blocks)


def _data_table(domains: dict[str, DomainData]) -> str:
    lines = ["| domain | split | rows | sha256 |", "|---|---|---|---|"]
    for role, data in domains.items():
        for split, fingerprint in data.fingerprints.items():
            rows = getattr(data, split)
            lines.append(f"| {role}: {_plain(data.name)} | {split} | {len(rows):,} | `{fingerprint[:16]}` |")
    return "\n".join(lines)


def _figures_table(result: RunResult) -> str:
    domains = result.metrics["domains"]
    columns = [
        (role, split)
        for role, splits in domains.items()
        for split in ("validation", "test")
        if split in splits
    ]
    lines = [
        "| metric | " + " | ".join(f"{role} {split}" for role, split in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for key, name in METRIC_NAMES.items():
        cells = [domains[role][split].get(key) for role, split in columns]
        if any(cell is not None for cell in cells):
            lines.append(f"| {name} | " + " | ".join(figure(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _plain(name: str) -> str:
    """A name as Markdown text on one line, in a table or not."""
    return re.sub(r"([\\`*_\[\]<>|#~])", r"\\\1", " ".join(name.split()))
