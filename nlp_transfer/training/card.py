"""The model card of a run: data, figures, shift and how to load it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nlp_transfer.reporting.summary import figure, human
from nlp_transfer.reporting.words import METRIC_NAMES, against_baselines, ledger

if TYPE_CHECKING:
    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.training.run import RunResult


def model_card(recipe: Recipe, domains: dict[str, DomainData], result: RunResult) -> str:
    """Markdown with the metadata block that the hub reads."""
    metadata: dict[str, Any] = {
        "library_name": "peft" if recipe.strategy.kind == "lora" else "transformers",
        "pipeline_tag": "translation" if recipe.task.kind == "translation" else "text-classification",
        "tags": ["nlp-transfer", recipe.task.kind, recipe.strategy.kind],
    }
    if not Path(recipe.model.name).exists():  # the hub wants the id of a hub model here
        metadata["base_model"] = recipe.model.name
    target = domains["target"].name
    way = f", from {_plain(domains['source'].name)} to {_plain(target)}" if "source" in domains else ""
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---",
        f"# {_plain(recipe.model.name)} on {_plain(target)}",
        f"Trained with the strategy `{recipe.strategy.kind}`{way}.",
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
        mmd = result.shift.mmd
        parts += [
            "## Domain shift, measured before training",
            f"MMD² {mmd['value']:.5f}, permutation p-value {mmd['p_value']:.4f}, effect size "
            f"{mmd['effect_size']:.1f} standard deviations of the null.",
        ]
    if (guard := result.metrics.get("guard")) is not None:
        verdict = f"**{guard['verdict'].capitalize()}.** {_plain(guard['sentence'])}"
        parts += ["## Did the source help?", verdict]
    parts += [
        "## Cost",
        f"{result.training_seconds:.1f} s of training, {result.peak_memory_mib:,.0f} MiB peak memory, "
        f"{human(result.trainable_parameters)} of {human(result.total_parameters)} parameters trained.",
        "## Use",
        "```python\nfrom nlp_transfer import load_model\n\n"
        f'model = load_model({str(result.output_dir)!r})\nmodel.predict(["..."])\n```',
        "`recipe.yaml` and `environment.json` hold what is needed to repeat the run.",
    ]
    return "\n\n".join(parts) + "\n"


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
