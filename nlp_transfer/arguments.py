"""The ``training:`` part of a recipe: the fields of ``transformers.TrainingArguments`` by their own names.

The names and types are read from the source of the installed transformers without importing it, so that
checking a recipe takes milliseconds and always fits the installed version.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from nlp_transfer.errors import MissingExtraError, did_you_mean

MANAGED = {
    "output_dir": "set output_dir at the top of the recipe",
    "label_smoothing_factor": "set task.label_smoothing",
    "do_train": "a run always trains",
    "do_eval": "a run evaluates on every split it has",
    "do_predict": "use: nlp-transfer predict",
    "resume_from_checkpoint": "use: nlp-transfer train --resume",
    "overwrite_output_dir": "use: nlp-transfer train --overwrite",
    "local_rank": "the launcher sets it",
    "hub_token": "a recipe is kept and shared: log in with hf auth login, or set HF_TOKEN",
    "remove_unused_columns": "the task decides which columns it needs",
    "length_column_name": "the task decides it",
    "dataloader_persistent_workers": "workers that live on would show the first epoch's draws in all epochs",
    "group_by_length": "use train_sampling_strategy: group_by_length (the default here)",
}
"""Fields that have another home, and where it is."""

_AT_LEAST = {
    1: ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
    0: (
        *("learning_rate", "weight_decay", "warmup_steps", "max_grad_norm", "seed", "data_seed"),
        *("dataloader_num_workers", "save_total_limit", "eval_accumulation_steps", "adam_epsilon"),
    ),
}
_ABOVE_ZERO = ("num_train_epochs", "eval_steps", "save_steps", "logging_steps")
_BELOW_ONE = ("adam_beta1", "adam_beta2")
"""Bounds that ``TrainingArguments`` itself does not check before the training."""

_PLAIN = {"int": int, "float": float, "bool": bool, "str": str}


@functools.cache
def training_fields() -> dict[str, str]:
    """{field name: annotation} of the installed ``TrainingArguments``."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None:
        raise MissingExtraError("transformers", "dev", "a recipe")
    tree = ast.parse(Path(spec.origin).with_name("training_args.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments":
            return {
                item.target.id: ast.unparse(item.annotation)
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    raise AssertionError("transformers.training_args has no TrainingArguments")


def _check(values: Any) -> dict[str, Any]:
    """Check names and plain types; every problem of the mapping is in one error's context, by field name."""
    if not isinstance(values, dict):
        raise ValueError(f"expected a mapping of TrainingArguments fields, found {values!r}")
    fields = training_fields()
    problems: dict[str, str] = {}
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name in MANAGED:
            problems[name] = f"not set here; {MANAGED[name]}"
        elif name not in fields:
            problems[name] = f"unknown field of TrainingArguments; {did_you_mean(name, fields)}"
        else:
            try:
                checked[name] = _convert(value, fields[name])
                _check_bounds(name, checked[name])
            except ValueError as error:
                problems[name] = str(error)
    if problems:
        raise PydanticCustomError("training_fields", "bad training fields", {"problems": problems})
    return checked


def _convert(value: Any, annotation: str) -> Any:
    """Check a value against a plain annotation such as ``int`` or ``float | None``; others pass."""
    parts = [part.strip() for part in annotation.split("|")]
    if value is None:
        if "None" in parts:
            return None
        raise ValueError(f"expected {annotation}, found null")
    plain = [_PLAIN[part] for part in parts if part in _PLAIN]
    if len(plain) != len([part for part in parts if part != "None"]):
        return value
    if isinstance(value, bool):
        fits = bool in plain
    elif isinstance(value, int):
        fits = int in plain or float in plain
    else:
        fits = type(value) in plain
    if not fits:
        raise ValueError(f"expected {annotation}, found {value!r}")
    return (
        float(value) if isinstance(value, int) and not isinstance(value, bool) and int not in plain else value
    )


def _check_bounds(name: str, value: Any) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    low = next((low for low, names in _AT_LEAST.items() if name in names), None)
    if low is not None and not value >= low:
        raise ValueError(f"expected {low} or more, found {value}")
    if name in _ABOVE_ZERO and not value > 0:
        raise ValueError(f"expected more than 0, found {value}")
    if name in _BELOW_ONE and not 0 <= value < 1:
        raise ValueError(f"expected a number from 0 to less than 1, found {value}")


def _json_schema() -> dict[str, Any]:
    names = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
    properties: dict[str, Any] = {}
    for name, annotation in training_fields().items():
        kinds = [names[part.strip()] for part in annotation.split("|") if part.strip() in names]
        if name not in MANAGED:
            properties[name] = {"type": kinds[0] if len(kinds) == 1 else kinds} if kinds else {}
    return {"type": "object", "properties": properties, "additionalProperties": False}


TrainingFields = Annotated[dict[str, Any], BeforeValidator(_check), WithJsonSchema(_json_schema())]
