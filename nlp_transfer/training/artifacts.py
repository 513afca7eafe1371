"""The run folder: checked before the work, written so that nothing is ever half there."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nlp_transfer.console import is_main_process
from nlp_transfer.errors import OutputError
from nlp_transfer.models.precision import bf16_pays

PACKAGES = (
    "nlp-transfer",
    "torch",
    "transformers",
    "datasets",
    "peft",
    "accelerate",
    "evaluate",
    "scikit-learn",
    "numpy",
)
"""Packages whose versions ``environment.json`` records."""

_SCRATCH = ".model-"
_DRAFT = re.compile(r"\.recipe\.yaml\.\d+")
"""All that a run leaves which is killed in its very first write."""
_MARK = "# The resolved recipe of an nlp-transfer run, which owns this folder.\n"
"""First line of a run's recipe.yaml; without it --overwrite would remove somebody's own model/."""


@dataclass(frozen=True)
class RunFolder:
    """One run's output: ``recipe.yaml`` (resolved), ``checkpoints/``, then ``model/``, ``environment.json``,
    ``README.md`` and, last, ``metrics.json``, which marks a finished run. See docs/run-folder.md.
    """

    path: Path
    replaces: bool = False
    """Whether an earlier run here is to be removed when this one starts."""

    @classmethod
    def open(cls, path: str | Path, *, overwrite: bool = False, resume: bool = False) -> RunFolder:
        """Check that the run may write here; creates nothing.

        Raises:
            OutputError: a finished run is there already, the path is a file, or it cannot be written.
        """
        folder = cls(Path(path), replaces=overwrite)
        if overwrite and resume:
            raise OutputError(
                "--overwrite and --resume are both given",
                fix="give --overwrite (start again) or --resume (go on)",
            )
        parent = next(p for p in (folder.path, *folder.path.absolute().parents) if p.exists())
        if not parent.is_dir():
            raise OutputError(
                f"output_dir {path} is a file"
                if parent == folder.path
                else f"output_dir {path} lies inside a file",
                expected="a folder",
                found=f"{parent} is a file",
                fix="choose another output_dir",
            )
        if not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(
                f"output_dir {path} cannot be written",
                found=f"no permission in {parent}",
                fix="choose another output_dir",
            )
        if is_main_process():  # the others may come when this one has begun to write
            folder._check_content(overwrite=overwrite, resume=resume)
        return folder

    def _check_content(self, *, overwrite: bool, resume: bool) -> None:
        names = sorted(item.name for item in self.path.iterdir()) if self.path.is_dir() else []
        found = [name for name in names if not _DRAFT.fullmatch(name)]
        if found and not (overwrite or resume):
            raise OutputError(
                f"output_dir {self.path} is not empty",
                expected="a new or empty folder",
                found="the files of an earlier run" if self._is_run() else "other files",
                fix="choose another output_dir, or pass --overwrite (start again) or --resume (go on)",
            )
        if found and not self._is_run():
            raise OutputError(
                f"output_dir {self.path} holds files that no run wrote",
                expected=f"an earlier run, whose recipe.yaml begins with: {_MARK.strip()}",
                found=", ".join(found[:3]),
                fix="choose another output_dir: --overwrite and --resume are for earlier runs",
            )

    def _is_run(self) -> bool:
        try:
            with (self.path / "recipe.yaml").open(encoding="utf-8") as file:
                return file.readline() == _MARK
        except (OSError, ValueError):
            return False

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """The figures."""
        return self.path / "metrics.json"

    @property
    def began(self) -> Path:
        """What the run began with and must go on with: its data's fingerprints, and whether the CPU computes
        in bfloat16."""
        return self.path / "checkpoints" / "began.json"

    def checkpoints(self, phase: str) -> Path:
        """The checkpoints of one training phase."""
        return self.path / "checkpoints" / phase

    def start(self, recipe_yaml: str, *, data: dict[str, dict[str, str]] | None = None) -> None:
        """Create the folder with its recipe, once data and model are known to be good; rank 0 only.

        Args:
            recipe_yaml: the resolved recipe.
            data: fingerprints by role and split, where the run will write checkpoints, from which it may be
                resumed.
        """
        if not is_main_process():
            return
        if self.replaces and self.path.is_dir():
            for name in ("recipe.yaml", "metrics.json", "README.md", "environment.json", "shift.json"):
                (self.path / name).unlink(missing_ok=True)
            for name in ("model", "checkpoints"):
                shutil.rmtree(self.path / name, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        for scratch in self.path.glob(f"{_SCRATCH}*"):  # of a run that was killed while it saved
            shutil.rmtree(scratch, ignore_errors=True)
        for draft in self.path.iterdir():
            if _DRAFT.fullmatch(draft.name):
                draft.unlink()
        write_text(self.path / "recipe.yaml", _MARK + recipe_yaml)  # first: it marks the folder as ours
        if data is not None:
            write_json(self.began, {"bf16_on_cpu": bf16_pays("cpu"), "data_fingerprints": data})

    def save_model(self, save: Callable[[Path], None]) -> None:
        """Let ``save`` write into a temporary folder, then put it in place as ``model/``."""
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=self.path))
        try:
            save(scratch)
            scratch.chmod(0o755)
            if self.model.exists():
                shutil.rmtree(self.model)
            scratch.rename(self.model)
        except BaseException:
            shutil.rmtree(scratch, ignore_errors=True)
            raise


def write_text(path: Path, text: str) -> None:
    """Write a file in one step: a temporary file beside it, then a rename.

    Raises:
        OutputError: the disk is full, or no permission.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(path)
        except BaseException:
            scratch.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written", found=error.strerror, fix="free space or choose another folder"
        ) from error


def check_output_file(path: Path, *, overwrite: bool = False) -> None:
    """Check that a file may be written, before the work whose result goes there.

    Raises:
        OutputError: it exists, is a folder, or lies inside a file or where one may not write.
    """
    if path.is_dir():
        raise OutputError(f"{path} is a folder", expected="a file name", fix="name a file in it")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists", fix="choose another --output, or pass --overwrite")
    parent = next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        found = f"no permission in {parent}" if parent.is_dir() else f"{parent} is a file"
        raise OutputError(f"{path} cannot be written", found=found, fix="choose another --output")


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step; NaN is refused, since other readers cannot take it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def environment(seed: int, fingerprints: dict[str, dict[str, str]], extra: dict[str, Any]) -> dict[str, Any]:
    """Versions, hardware, seed and data fingerprints: what another person needs to repeat the run."""
    import torch

    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "processor": processor_name(),
        "cpu_threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cuda_devices": devices,
        "processes": int(os.environ.get("WORLD_SIZE", "1") or 1),
        "seed": seed,
        "data_fingerprints": fingerprints,
        **extra,
    }


def processor_name() -> str:
    """The processor's name where the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_mib() -> float:
    """Peak memory in MiB: of the GPU's allocator where there is one, else of this process since it began."""
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(used / 2**20 if platform.system() == "Darwin" else used / 2**10, 1)
