"""The run folder: checked before the work, written so that nothing is ever half there."""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nlp_transfer.console import is_main_process
from nlp_transfer.errors import OutputError

PACKAGES = ("nlp-transfer", "torch", "transformers", "datasets", "peft", "accelerate", "evaluate", "scikit-learn", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """One run's output.

    ``recipe.yaml`` (resolved), ``metrics.json``, ``model/``, ``README.md``, ``environment.json`` and
    ``checkpoints/``.
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
        folder = cls(Path(path), replaces=overwrite and not resume)
        if folder.path.exists() and not folder.path.is_dir():
            raise OutputError(
                f"output_dir {path} is a file", expected="a folder", found="a file", fix="choose another output_dir"
            )
        parent = next(p for p in (folder.path, *folder.path.absolute().parents) if p.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise OutputError(
                f"output_dir {path} cannot be written", found=f"no permission in {parent}", fix="choose another output_dir"
            )
        occupied = folder.path.is_dir() and any(folder.path.iterdir())
        if occupied and not (overwrite or resume):
            raise OutputError(
                f"output_dir {path} is not empty",
                expected="a new or empty folder",
                found="the files of an earlier run" if folder.metrics.exists() else "other files",
                fix="choose another output_dir, or pass --overwrite (start again) or --resume (go on)",
            )
        if occupied and overwrite and not resume and not folder._is_run():
            raise OutputError(
                f"output_dir {path} holds files that no run wrote",
                expected="an earlier run (recipe.yaml, model/ or checkpoints/)",
                found=", ".join(sorted(item.name for item in folder.path.iterdir())[:3]),
                fix="choose another output_dir: --overwrite only replaces earlier runs",
            )
        return folder

    def _is_run(self) -> bool:
        return any((self.path / name).exists() for name in ("recipe.yaml", "model", "checkpoints"))

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        """The figures."""
        return self.path / "metrics.json"

    def checkpoints(self, phase: str) -> Path:
        """The checkpoints of one training phase."""
        return self.path / "checkpoints" / phase

    def start(self, recipe_yaml: str) -> None:
        """Create the folder with its recipe, once data and model are known to be good; rank 0 only."""
        if not is_main_process():
            return
        if self.replaces and self.path.is_dir():
            for name in ("recipe.yaml", "metrics.json", "README.md", "environment.json", "shift.json"):
                (self.path / name).unlink(missing_ok=True)
            for name in ("model", "checkpoints"):
                shutil.rmtree(self.path / name, ignore_errors=True)
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "recipe.yaml", recipe_yaml)

    def save_model(self, save: Callable[[Path], None]) -> None:
        """Let ``save`` write into a temporary folder, then put it in place as ``model/``."""
        scratch = Path(tempfile.mkdtemp(prefix=".model-", dir=self.path))
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
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror}", fix="free space or choose another folder") from error


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
    """Peak resident memory of this process and, on CUDA, of the GPU's allocator, in MiB (the larger)."""
    import torch

    gpu = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else 0.0
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        resident = used / 2**20 if platform.system() == "Darwin" else used / 2**10
    except ImportError:
        resident = 0.0
    return round(max(gpu, resident), 1)
