"""The model card of a run: data, figures, shift and how to load it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from nlp_transfer.reporting.summary import METRIC_NAMES, figure, human

if TYPE_CHECKING:
    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.recipe import Recipe
    from nlp_transfer.training.run import RunResult


def model_card(recipe: Recipe, domains: dict[str, DomainData], result: RunResult) -> str:
    """Markdown with the metadata block that the hub reads."""
    metadata: dict[str, Any] = {
        "library_name": "peft" if recipe.strategy.kind == "lora" else "transformers",
        "pipeline_tag": "text-classification",
        "base_model": recipe.model.name,
        "tags": ["nlp-transfer", "sentiment", recipe.strategy.kind],
    }
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {recipe.model.name} on {domains['target'].name}",
        f"Trained with the strategy `{recipe.strategy.kind}`"
        + (f", from {domains['source'].name} to {domains['target'].name}." if "source" in domains else "."),
        "## Data",
        _data_table(domains),
        "## Figures",
        _figures_table(result),
        "95 % bootstrap intervals in brackets. `metrics.json` has all figures, per class too.",
    ]
    if result.shift is not None:
        mmd = result.shift.mmd
        parts += [
            "## Domain shift, measured before training",
            f"MMD² {mmd['value']:.5f}, permutation p-value {mmd['p_value']:.4f}, effect size "
            f"{mmd['effect_size']:.1f} standard deviations of the null.",
        ]
    cost = result.metrics["cost"]
    parts += [
        "## Cost",
        f"{cost['training_seconds']:.1f} s of training, {cost['peak_memory_mib']:,.0f} MiB peak memory, "
        f"{human(cost['trainable_parameters'])} of {human(cost['total_parameters'])} parameters trained.",
        "## Use",
        "```python\nfrom nlp_transfer import load_model\n\n"
        f'model = load_model("{result.output_dir.name}")\nmodel.predict(["..."])\n```',
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
    columns = [(role, split) for role, splits in domains.items() for split in ("validation", "test") if split in splits]
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
    return name.replace("|", "\\|")
