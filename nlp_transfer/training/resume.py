"""Going on where an interrupted run stopped: its checkpoints, its finished phases, its recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import is_main_process, remember, warn, warned
from nlp_transfer.data.options import SPLITS
from nlp_transfer.errors import DataError, OutputError
from nlp_transfer.models.precision import bf16_pays
from nlp_transfer.recipe import Recipe
from nlp_transfer.training.artifacts import RunFolder, write_json
from nlp_transfer.training.checkpoints import checkpoints, half_written, read_state, weights_alone

if TYPE_CHECKING:
    from torch import nn
    from transformers import Trainer

    from nlp_transfer.tasks.base import Task

FINAL = "final"
"""Folder of a finished phase's weights, beside its checkpoints."""
FINISHED = "finished.json"
"""The phase's figures; written after its weights, so it marks the phase as finished."""


def check_resumable(folder: RunFolder, recipe: Recipe) -> list[str]:
    """Refuse to go on with a finished run, or with a run of another recipe.

    Fields under ``training`` may differ (more epochs, another batch size): they are named in a warning,
    since what a checkpoint holds, such as the learning-rate schedule, stays as it was. The seed may not.

    Data files may lie elsewhere: ``check_same_data`` compares their content.

    Returns:
        The fields under ``training`` that differ.

    Raises:
        DataError: a data file of the interrupted run is gone, and no other is named in its place.
        OutputError: the run is finished, its task, model, data, strategy or early stopping differ, or a phase
            that it did not finish has saved nothing but weights.
    """
    if folder.metrics.exists():
        raise OutputError(
            f"output_dir {folder.path} holds a finished run: there is nothing to resume",
            expected="an interrupted run",
            found="metrics.json, which is written last",
            fix="use it as it is, choose another output_dir, or pass --overwrite to run it again",
        )
    saved = folder.path / "recipe.yaml"
    if not saved.is_file():
        return []
    if is_main_process():  # the others may come when this one has begun to write
        for phase in sorted(saved.with_name("checkpoints").glob("*/")):
            _refuse_weights_alone(phase)
    before, now = Recipe.load(saved).resolved(), recipe.resolved()
    changed = {key for key in before.keys() | now.keys() if before.get(key) != now.get(key)}
    changed -= {"output_dir", "shift"}
    for role in changed & {"source", "target"}:
        old, new = before.get(role) or {}, now.get(role) or {}
        _refuse_gone(folder, old, new)
        if _but_files(old) == _but_files(new) and "data_fingerprints" in _began(folder):
            changed.remove(role)
    old, new = before["training"], now["training"]
    names = sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    others = sorted(changed - {"training"}) + ["training.seed"] * ("seed" in names)
    if others:
        raise OutputError(
            f"output_dir {folder.path} holds an interrupted run of another recipe",
            expected=f"the values of {saved}",
            found=f"other values under: {', '.join(others)}",
            fix="resume with the same recipe, choose another output_dir, or pass --overwrite",
        )
    if names:
        warn(
            f"resuming with other training fields ({', '.join(names)}): what the checkpoint holds, such as "
            "the learning-rate schedule, stays as it was"
        )
    return names


def check_same_data(
    folder: RunFolder, fingerprints: dict[str, dict[str, str]], changed: Sequence[str] = ()
) -> None:
    """Refuse to go on with other rows than the interrupted run began with, wherever they lie.

    Args:
        folder: of the run.
        fingerprints: of the rows that are there now, by role and split.
        changed: fields under ``training`` that differ from those that the run began with.

    Raises:
        OutputError: rows that are not those that the run began with.
    """
    before = _began(folder).get("data_fingerprints", fingerprints)
    places = {(role, split) for data in (before, fingerprints) for role in data for split in data[role]}
    other = [
        f"{role}.{split}"
        for role, split in sorted(places)
        if before.get(role, {}).get(split) != fingerprints.get(role, {}).get(split)
    ]
    if other:
        # without evaluations no validation rows are split off
        same = "training.eval_strategy" if "eval_strategy" in changed else "data"
        raise OutputError(
            f"output_dir {folder.path} holds an interrupted run on other data",
            expected=f"the rows whose fingerprints {folder.began} holds",
            found=f"other rows in: {', '.join(other)}",
            fix=f"resume with the same {same}, choose another output_dir, or pass --overwrite",
        )


FILES = (*SPLITS, "dataset")
"""The keys of a domain that say where its rows lie."""


def _but_files(domain: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in domain.items() if key not in FILES}


def _refuse_gone(folder: RunFolder, old: dict[str, Any], new: dict[str, Any]) -> None:
    """A file beside the recipe that is gone is found nowhere, so the new recipe has it without a folder."""
    for split in SPLITS:
        for place, now in zip(_places(old.get(split)), _places(new.get(split)), strict=False):
            there = Path(place).exists() or Path(now).exists()
            if not there and Path(place).is_absolute() and Path(place).name == Path(now).name:
                raise DataError(
                    f"{place} is gone: the interrupted run in {folder.path} reads it",
                    expected="the data files of the run",
                    found="no such file",
                    fix="put it back, name it where it lies now, or pass --overwrite",
                )


def _places(value: Any) -> Iterator[str]:
    """All texts within a recipe's values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _places(item)


def _refuse_weights_alone(phase: Path) -> None:
    """A phase begun anew would delete them, and one that went on from them would be another training."""
    there = [path for path in checkpoints(phase) if not half_written(path)]
    if there and all(map(weights_alone, there)) and finished_phase(phase) is None:
        raise OutputError(
            f"{phase} cannot be resumed: its checkpoints hold the weights alone",
            expected="optimizer, scheduler and random state too, which training.save_only_model leaves out",
            found=", ".join(path.name for path in there),
            fix="pass --overwrite to run it again, or start another run with model.name set to one of them",
        )


def began_in_bf16(folder: RunFolder, *, resume: bool) -> bool:
    """Whether the CPU computes in bfloat16 in this run: where it is resumed, as it began."""
    began = _began(folder) if resume else {}
    return bool(began["bf16_on_cpu"]) if "bf16_on_cpu" in began else bf16_pays("cpu")


def _began(folder: RunFolder) -> dict[str, Any]:
    """What the interrupted run began with; empty where it did not come so far."""
    try:
        return json.loads(folder.began.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def stopped_early(checkpoint: Path) -> int | None:
    """The step at which early stopping ended the phase, where this is its last checkpoint, else None."""
    state = read_state(checkpoint)
    stopping = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback")
    if not stopping:
        return None
    counter = stopping["attributes"]["early_stopping_patience_counter"]
    return state["global_step"] if counter >= stopping["args"]["early_stopping_patience"] else None


def keep_phase(
    trainer: Trainer, phase: Path, record: dict[str, Any], *, save: Callable[[Path], None] | None = None
) -> None:
    """Store a finished phase: its weights, then its figures. Every process must call this.

    Args:
        trainer: of the phase.
        phase: its folder.
        record: its figures.
        save: writes the model into a folder, where the trainer's module holds more than that.
    """
    if save is None:
        trainer.save_model(str(phase / FINAL))
    elif is_main_process():
        save(phase / FINAL)
    if is_main_process():
        write_json(phase / FINISHED, record | {"warnings": warned()})


def finished_phase(phase: Path) -> dict[str, Any] | None:
    """The figures of a finished phase, or None."""
    try:
        return json.loads((phase / FINISHED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def take_over(model: nn.Module, phase: Path, task: Task) -> dict[str, Any] | None:
    """Put the weights of a finished phase into the model and keep its warnings.

    Returns:
        Its figures; None where it is not finished.

    Raises:
        ModelError: the stored weights are damaged.
    """
    record = finished_phase(phase)
    if record is not None:
        load_phase(model, phase, task)
        remember(record.pop("warnings", ()))
    return record


def load_phase(model: nn.Module, phase: Path, task: Task) -> None:
    """Put the weights of a finished phase into the model, which has the same architecture.

    Raises:
        ModelError: the stored weights are damaged.
    """
    folder = phase / FINAL
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))
        return
    from nlp_transfer.models.load import ModelOptions, locate

    options = ModelOptions(name=str(folder), dtype="auto")
    model.load_state_dict(task.load_trained(locate(options), options).state_dict())
