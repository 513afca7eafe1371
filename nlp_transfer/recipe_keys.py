"""Every key of a recipe with its default and meaning: ``nlp-transfer recipes keys`` and docs/recipe.md."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from nlp_transfer.data.options import ParallelFiles
from nlp_transfer.options import Options
from nlp_transfer.recipe import Recipe
from nlp_transfer.recipe_problems import options_in


class Key(NamedTuple):
    """One key: its path below its section, its default as it would be written, and what it means."""

    name: str
    default: str
    meaning: str


def recipe_keys() -> dict[str, list[Key]]:
    """The keys by section: ``recipe`` for the top, then ``source``, ``strategy.lora`` and the like."""
    sections = {"recipe": [_key(name, field) for name, field in Recipe.model_fields.items()]}
    for name, field in Recipe.model_fields.items():
        models = options_in(field.annotation)
        for model in models:
            kind = model.model_fields["kind"].default if "kind" in model.model_fields else None
            sections[name if kind is None else f"{name}.{kind}"] = list(_keys(model))
    return {name: keys for name, keys in sections.items() if keys}


def as_markdown() -> str:
    """docs/recipe.md."""
    parts = [
        "# The keys of a recipe",
        "Made by `nlp-transfer recipes keys --markdown`. `training:` takes the fields of "
        "`transformers.TrainingArguments` by their own names. Any key can be set on the command line or in "
        'Python: `nlp-transfer train my.yaml strategy.r=8`, `Recipe.load("my.yaml", ["strategy.r=8"])`; a '
        "recipe does not change afterwards. `label_map` and the columns of a domain hold for all its splits.",
    ]
    for section, keys in recipe_keys().items():
        if section == "target":
            parts += ["## target", "The keys of `source`, but for `mode`, `select` and `mix`."]
            continue
        parts += [f"## {section}", "| key | default | |\n|---|---|---|\n" + "\n".join(map(_row, keys))]
    return "\n\n".join(parts) + "\n"


def _row(key: Key) -> str:
    meaning = key.meaning.replace("|", "\\|").replace("``", "`")
    return f"| `{key.name}` | {f'`{key.default}`' if key.default else ''} | {meaning} |"


def _keys(model: type[Options], prefix: str = "") -> Iterator[Key]:
    for name, field in model.model_fields.items():
        if name == "kind":
            continue
        inner = [one for one in options_in(field.annotation) if one is not ParallelFiles]
        if inner:
            for one in inner:
                yield from _keys(one, f"{prefix}{name}.")
        else:
            yield _key(prefix + name, field)


def _key(name: str, field: Any) -> Key:
    default = "required" if field.is_required() else _written(field.get_default(call_default_factory=True))
    return Key(name, default, " ".join((field.description or "").split()))


def _written(value: Any) -> str:
    """A default as YAML writes it; nothing for null, for sections and for what is empty."""
    if value is None or isinstance(value, Options) or value in ({}, [], ()):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
