"""Which checkpoints are whole: a crash, a full disk or a lost file leaves others behind."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

from nlp_transfer.console import is_main_process, warn
from nlp_transfer.models.weights import read_header

STATE = "trainer_state.json"
"""The last file that the Trainer writes into a checkpoint."""
_WEIGHTS = "the weights"
_PARTS = {
    _WEIGHTS: ("*model*.safetensors", "pytorch_model*", "global_step*/*model_states.pt"),
    "the optimizer's state": ("optimizer*", "global_step*/*optim_states.pt"),
    "the scheduler's state": ("scheduler.pt", "global_step*/*model_states.pt"),
    "the random state": ("rng_state*.pth",),
}
"""Files of each part: those of the Trainer and of FSDP, then those of DeepSpeed."""


def checkpoints(phase: Path) -> list[Path]:
    """The checkpoint folders of a phase, the newest first, whole or not."""
    found = [path for path in phase.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The Trainer's state in a checkpoint; empty where it cannot be read."""
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) and "global_step" in state else {}


def damage(checkpoint: Path) -> str | None:
    """What is missing in a checkpoint, or cut short or altered; None where it is whole.

    Cost: reads the optimizer's file once; of the weights, the header and the size.
    """
    if not read_state(checkpoint):
        return f"{STATE} is missing or cut short"
    if weights_alone(checkpoint):
        return "it holds the weights alone (training.save_only_model)"
    if missing := _missing(checkpoint):
        return f"{missing[0]} {'are' if missing[0] == _WEIGHTS else 'is'} missing"
    for index in checkpoint.glob("*.safetensors.index.json"):
        shards = set(_json(index).get("weight_map", {"": "its content"}).values())
        if absent := sorted(name for name in shards if not (checkpoint / name).is_file()):
            return f"{absent[0]} is missing"
    for path in sorted(checkpoint.iterdir()):
        if path.is_file() and not _readable(path):
            return f"{path.name} is damaged"
    return None


def _missing(checkpoint: Path) -> list[str]:
    """The parts of which no file is there."""
    return [
        part for part, patterns in _PARTS.items() if not any(any(checkpoint.glob(name)) for name in patterns)
    ]


def half_written(checkpoint: Path) -> bool:
    """Whether its writing was broken off: what is written last is missing or cut short."""
    return not read_state(checkpoint)


def weights_alone(checkpoint: Path) -> bool:
    """Whether it was written, to its end, under ``training.save_only_model``: no training goes on from it."""
    return not half_written(checkpoint) and _missing(checkpoint) == [
        part for part in _PARTS if part != _WEIGHTS
    ]


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _readable(path: Path) -> bool:
    try:
        if path.suffix == ".safetensors":
            header, start = read_header(path)
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return start + max(ends, default=0) == path.stat().st_size
        if path.suffix in (".pt", ".pth") or path.name in ("optimizer.bin", "pytorch_model_fsdp.bin"):
            with zipfile.ZipFile(path) as archive:
                return archive.testzip() is None
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, NotImplementedError):
        return False
    return True


def last_checkpoint(phase: Path) -> Path | None:
    """The newest whole checkpoint of a phase, or None; newer ones that are not whole are named.

    Of those, half-written ones are removed; the others stay, since parts of them may be of use. The path of
    the best checkpoint is put right where the run folder has been moved since.
    """
    for path in checkpoints(phase):
        found = damage(path)
        if found is None:
            _anchor_best(path)
            return path
        if is_main_process():
            warn(f"{path}: {found}: going on without this checkpoint")
            if half_written(path):
                shutil.rmtree(path, ignore_errors=True)
    return None


def remove_half_written(phase: Path) -> None:
    """Take away what a failed write has left, to free its space."""
    for path in checkpoints(phase):
        if half_written(path):
            shutil.rmtree(path, ignore_errors=True)


def _anchor_best(checkpoint: Path) -> None:
    """Point the state at the best checkpoint where it lies now, or the Trainer would delete and forget it."""
    from nlp_transfer.training.artifacts import write_text

    state = read_state(checkpoint)
    best = state.get("best_model_checkpoint")
    if not best or not is_main_process():
        return
    here = checkpoint.parent / Path(best.replace("\\", "/")).name
    if str(here) != best and here.is_dir():
        write_text(
            checkpoint / STATE, json.dumps(state | {"best_model_checkpoint": str(here)}, indent=2) + "\n"
        )
