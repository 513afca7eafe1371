"""``nlp-transfer launch``: one run on several processes or machines, through ``accelerate launch``."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nlp_transfer.console import fail, stderr
from nlp_transfer.errors import LaunchError
from nlp_transfer.processes import EXPECTED, REPORTS, check_devices

CHECKPOINT_SECONDS = 600
"""Time that the processes have to write their checkpoint after SIGTERM or Ctrl-C before they are killed."""
MEETING_SECONDS = 300
"""Time that the machines have to find each other."""


@dataclass(frozen=True)
class Processes:
    """Which processes to start.

    Attributes:
        count: over all machines.
        cpu: on the CPU (gloo), even where there are GPUs.
        machines: how many machines take part; each runs this command with its own rank.
        machine_rank: 0 on the main machine.
        main_address: HOST:PORT of the main machine.
        config: an accelerate configuration file, such as recipes/accelerate/fsdp.yaml.
    """

    count: int
    cpu: bool = False
    machines: int = 1
    machine_rank: int = 0
    main_address: str | None = None
    config: Path | None = None

    @property
    def here(self) -> int:
        """Processes on this machine."""
        return self.count // self.machines

    def check(self) -> None:
        """Refuse what cannot come up.

        Raises:
            LaunchError: numbers that contradict each other, no address, too few GPUs.
        """
        if self.count % self.machines:
            raise LaunchError(
                f"--processes {self.count} cannot be shared out evenly among --machines {self.machines}",
                expected="the processes of all machines together, a multiple of --machines",
                found=str(self.count),
                fix=f"use --processes {self.machines * max(1, self.here)}",
            )
        if not 0 <= self.machine_rank < self.machines:
            raise LaunchError(
                f"--machine-rank {self.machine_rank} is not one of {self.machines} machines",
                expected=f"a number from 0 to {self.machines - 1}",
                found=str(self.machine_rank),
                fix="give each machine its own --machine-rank, and all of them the same --machines",
            )
        if self.machines > 1:
            self.address()
        if self.config is not None and not self.config.is_file():
            raise LaunchError(
                f"{self.config} is not a file",
                expected="an accelerate configuration",
                fix="such as recipes/accelerate/fsdp.yaml, or one that accelerate config wrote",
            )
        if not self.cpu:
            check_devices(self.here)

    def address(self) -> tuple[str, int]:
        """Host and port of the main machine.

        Raises:
            LaunchError: it is missing or is not HOST:PORT.
        """
        host, _, port = (self.main_address or "").rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise LaunchError(
                "several machines need the address of the main one",
                expected="--main-address HOST:PORT, with a free port, the same on every machine",
                found=self.main_address or "none",
                fix="such as --main-address 10.0.0.1:29500",
            )
        return host.strip("[]"), int(port)


def launch(
    arguments: Sequence[str],
    processes: Processes,
    *,
    program: Sequence[str] = ("-m", "nlp_transfer.cli", "train"),
) -> int:
    """Run ``nlp-transfer train`` with these arguments on several processes; return the exit code.

    The command is printed. Where a process fails, the others are ended within seconds and the first failure
    is shown once.

    Args:
        arguments: of ``nlp-transfer train``: the recipe, its overrides, --overwrite or --resume.
        processes: how many, and where.
        program: what runs in place of ``nlp-transfer train``: a script, or ``-m`` and a module.

    Raises:
        LaunchError: processes that cannot come up.
    """
    processes.check()
    command = [*_accelerate(processes), *program, *arguments]
    settings = _settings(processes)
    _print_command(settings, ["accelerate", "launch", *command])
    with tempfile.TemporaryDirectory(prefix="nlp-transfer-launch-") as reports:
        quiet = {
            REPORTS: reports,
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(CHECKPOINT_SECONDS),
        }
        with _environment({**settings, **quiet, EXPECTED: str(processes.count)}):
            return _run(command, Path(reports), processes)


def _accelerate(processes: Processes) -> list[str]:
    """The arguments of ``accelerate launch`` that say which processes."""
    found = ["--config_file", str(processes.config)] if processes.config is not None else ["--multi_gpu"]
    found += ["--num_processes", str(processes.count), "--num_machines", str(processes.machines)]
    if processes.config is None:
        found += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    if processes.machines > 1:
        host, port = processes.address()
        found += ["--machine_rank", str(processes.machine_rank), "--same_network"]
        found += ["--main_process_ip", host, "--main_process_port", str(port)]
        return [*found, "--rdzv_conf", f"timeout={MEETING_SECONDS}"]
    return [*found, "--main_process_port", str(_free_port())]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Environment variables that hold within the block alone."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def one_process(arguments: Sequence[str], *, cpu: bool) -> Iterator[None]:
    """One process needs no launcher: print the command that does the same; the block has its device."""
    settings = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""} if cpu else {}
    _print_command(settings, ["nlp-transfer", "train", *arguments])
    with _environment(settings):
        yield


def _settings(processes: Processes) -> dict[str, str]:
    """Environment variables of the processes: the device, and their share of the processor's cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = str(max(1, cores // processes.here))
    settings = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", share)}
    if processes.cpu:
        settings |= {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    return settings


def _print_command(settings: dict[str, str], command: list[str]) -> None:
    shown = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    stderr().print(" ".join([*shown, shlex.join(command)]), style="dim", markup=False)


def _run(command: list[str], reports: Path, processes: Processes) -> int:
    """``accelerate launch`` itself, in this process, so that its outcome is known and its noise is not."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    codes: dict[int, int] = {}
    try:
        launch_command(launch_command_parser().parse_args(command))
    except ChildFailedError as error:
        codes = {number: failure.exitcode for number, failure in error.failures.items()}
    except SignalException as stop:
        codes = {0: 130 if stop.sigval == signal.SIGINT else 128 + stop.sigval}
    except (OSError, RuntimeError, ValueError) as error:
        _explain(error, processes)
    return _outcome(codes, reports) if codes else 0


def _explain(error: Exception, processes: Processes) -> None:
    """Turn what goes wrong before any process runs into a message.

    Raises:
        LaunchError: always, with what is known.
    """
    where = processes.main_address if processes.machines > 1 else "this machine"
    raise LaunchError(
        f"the processes could not be started: {' '.join(str(error).split())[:300]}",
        expected=f"every machine reaches {where} within {MEETING_SECONDS} s",
        fix="start the command on every machine, and check address, port and firewall",
    ) from error


def _outcome(codes: dict[int, int], reports: Path) -> int:
    """Say once why the run ended, and give its exit code."""
    found = [_read(path) for path in reports.glob("rank-*.json")]
    told = sorted((report for report in found if report), key=lambda report: report["time"])
    killed = {number: -code for number, code in codes.items() if code < 0 and -code not in (15, 2)}
    if killed and not any(report["exit_code"] == 2 for report in told):
        return _killed(*next(iter(killed.items())))
    if not told:
        return next((code for code in codes.values() if code > 0), 1)
    first = told[0]
    alone = len({report["message"] for report in told}) > 1
    if first["trace"]:
        print(first["trace"], file=sys.stderr)
    fail(f"rank {first['rank']}: {first['message']}" if alone and first["rank"] else first["message"])
    return first["exit_code"]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return {"rank": int(path.stem.partition("-")[2]), **json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError):
        return None


def _killed(number: int, by: int) -> int:
    name = signal.Signals(by).name if by in signal.valid_signals() else f"signal {by}"
    hint = "is the memory of this machine full?" if by == signal.SIGKILL else "see what it wrote above"
    fail(f"rank {number} was killed by {name}: {hint}\n  fix:      go on from the last checkpoint: --resume")
    return 128 + by
