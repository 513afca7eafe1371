"""One run on several processes: that all of them came up, what each does alone, and how errors get out."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from nlp_transfer.console import is_main_process
from nlp_transfer.errors import LaunchError

T = TypeVar("T")

EXPECTED = "NLP_TRANSFER_PROCESSES"
"""Set by the launcher: the number of processes that were asked for, over all machines."""
REPORTS = "NLP_TRANSFER_FAILURES"
"""Set by the launcher: the folder where each process says why it ended; the launcher prints it."""
_PEER_GRACE = 3.0
"""Seconds that a process lives on after another one has failed: enough for its own message, if it has one."""


def start_processes(timeout: float = 1800) -> None:
    """Join the other processes of this run, if it has any; every later call does nothing.

    Args:
        timeout: seconds that one process waits for the others.

    Raises:
        LaunchError: fewer or more processes came up than were asked for, or they cannot do what was asked.
    """
    _check_environment()
    if int(os.environ.get("WORLD_SIZE", "1") or 1) < 2:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # DDP's advice on unused parameters, every time
    import torch

    if torch.distributed.is_initialized():
        return
    from accelerate.state import PartialState
    from transformers.utils import logging

    if not is_main_process():
        logging.set_verbosity_error()

    on_cpu = wants_cpu() or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" and on_cpu:
        raise LaunchError(
            "FSDP needs GPUs",
            expected="a GPU for each process: accelerate shards on accelerators only",
            found="processes on the CPU, where it would train unsharded without a word",
            fix="leave out FSDP on the CPU (recipes/accelerate/cpu.yaml), or run on GPUs",
        )
    if not on_cpu:
        check_devices(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    _watch_peers()
    PartialState(cpu=on_cpu, timeout=timedelta(seconds=timeout))
    _check_count(torch.distributed.get_world_size())


def leave_processes() -> None:
    """Wait for the others and part, at the end of a run that went well."""
    if world_size() > 1:
        import torch

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def wants_cpu() -> bool:
    """Whether ``ACCELERATE_USE_CPU`` asks for the CPU, GPUs or not."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def check_devices(local: int) -> None:
    """Refuse more processes than there are GPUs on this machine.

    Raises:
        LaunchError: there are fewer.
    """
    import torch

    found = torch.cuda.device_count()
    if torch.cuda.is_available() and local > found:
        raise LaunchError(
            f"{local} processes were asked for on this machine, which has {found} GPU{'s' * (found != 1)}",
            expected=f"at most {found}",
            found=str(local),
            fix=f"use --processes {found}, or --cpu",
        )


def _check_environment() -> None:
    """Find out that processes are missing before anything is loaded."""
    launched = os.environ.get("WORLD_SIZE")
    if launched:
        _check_count(int(launched))
    elif os.environ.get(EXPECTED, "1") != "1":
        _check_count(1)
    elif "MASTER_PORT" in os.environ and "RANK" not in os.environ and not _under_mpi():
        raise LaunchError(
            "accelerate launch has started one process where more were asked for",
            expected="several processes",
            found="one: with --cpu, accelerate starts the others only under MPI",
            fix="use nlp-transfer launch --cpu --processes N, or "
            "accelerate launch --config_file recipes/accelerate/cpu.yaml --num_processes N",
        )


def _under_mpi() -> bool:
    return any(name.startswith(("OMPI_", "PMI_", "I_MPI_", "MV2_")) for name in os.environ)


def _check_count(found: int) -> None:
    expected = int(os.environ.get(EXPECTED, found))
    if found != expected:
        raise LaunchError(
            f"{expected} processes were asked for, {found} came up",
            expected=str(expected),
            found=str(found),
            fix="look at the printed command and at the accelerate configuration it uses",
        )


def rank() -> int:
    """This process's number; 0 outside distributed runs."""
    return _group()[0]


def world_size() -> int:
    """The number of processes that have joined; 1 outside distributed runs."""
    return _group()[1]


def _group() -> tuple[int, int]:
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """The value of every process, in order; every process must call this. Any picklable value."""
    if world_size() == 1:
        return [value]
    import torch

    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def from_main(compute: Callable[[], T]) -> T:
    """Compute on the main process while the others wait; all get its result. Every process must call this."""
    if world_size() == 1:
        return compute()
    import torch

    values: list[Any] = [compute() if is_main_process() else None]
    torch.distributed.broadcast_object_list(values, src=0)
    return values[0]


def main_first(compute: Callable[[], T]) -> T:
    """Compute on the main process, then on the others, which find its files in the cache."""
    if world_size() == 1:
        return compute()
    if not is_main_process():
        gather(None)
    result = compute()
    if is_main_process():
        gather(None)
    return result


def report_failure(message: str, exit_code: int, trace: str | None = None) -> bool:
    """Tell the launcher why this process ends; False where there is none, and the caller must print it.

    Without a launcher of ours the main process speaks first; where it has the same to say, the others are
    ended before they speak.
    """
    folder = os.environ.get(REPORTS)
    if folder and os.environ.get("RANK"):
        report = {"message": message, "exit_code": exit_code, "trace": trace, "time": time.time()}
        path = Path(folder) / f"rank-{os.environ['RANK']}.json"
        with contextlib.suppress(OSError):
            scratch = path.with_suffix(".part")
            scratch.write_text(json.dumps(report), encoding="utf-8")
            scratch.replace(path)
            return True
    if not is_main_process():
        time.sleep(_PEER_GRACE)
    return False


@functools.cache
def _watch_peers() -> None:
    """End this process when another one has failed, even where it hangs in a collective."""
    folder = os.environ.get(REPORTS)
    if folder:
        own = f"rank-{os.environ.get('RANK')}.json"
        threading.Thread(target=_end_with_peers, args=(Path(folder), own), daemon=True).start()


def _end_with_peers(folder: Path, own: str) -> None:
    while folder.is_dir():
        names = {path.name for path in folder.glob("rank-*.json")}
        if names - {own}:
            time.sleep(_PEER_GRACE)
            os._exit(1)
        time.sleep(0.5)
