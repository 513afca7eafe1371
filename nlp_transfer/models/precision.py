"""Whether bfloat16 is there, and whether it is faster."""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PAYS_FROM = 1.4
"""Speed-up of a matrix product by bfloat16 from which a CPU uses it. Processors fall far to either side:
0.5 to 0.7 where it is half emulated, 2 to 2.8 with fast AVX-512 BF16, more with AMX."""
_settled: list[bool] = []


@functools.cache
def bf16_supported(device: str = "cpu") -> bool:
    """True where the device computes bfloat16 in hardware.

    Args:
        device: "cpu", "cuda" or "mps". A CPU needs AVX-512 BF16, AMX, or Arm's BF16 instructions: without
            them bfloat16 works, but is emulated.
    """
    import torch

    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        has = _cpu_flags()
        return has("amx_bf16") or has("avx512_bf16") or has("arm_bf16")
    return False


def bf16_pays(device: str = "cpu") -> bool:
    """True where bfloat16 makes a transformer faster, not just possible.

    CUDA: wherever it is supported. CPU: where ``NLP_TRANSFER_BF16`` says so (0 or 1); else where a run has
    settled it (see ``bf16_settled``); else where a matrix product is faster (``bf16_speedup``). The flags of
    a processor do not tell: AVX-512 BF16 without AMX made a MiniLM training step 1.4 times faster on an AMD
    EPYC (Zen 4) and 1.4 to 1.8 times slower on a Xeon.
    """
    if device != "cpu":
        return bf16_supported(device)
    chosen = os.environ.get("NLP_TRANSFER_BF16", "")
    if chosen in ("0", "1"):
        return chosen == "1"
    if _settled:
        return _settled[-1]
    return bf16_supported("cpu") and bf16_speedup() >= PAYS_FROM


@contextlib.contextmanager
def bf16_settled(pays: bool) -> Iterator[None]:
    """Within this block ``bf16_pays("cpu")`` is ``pays``: one answer for a run, its ranks and its resumes."""
    _settled.append(pays)
    try:
        yield
    finally:
        _settled.pop()


@functools.cache
def bf16_speedup(size: int = 384, pairs: int = 10) -> float:
    """How many times faster the CPU multiplies two bfloat16 matrices than two float32 ones.

    Measured once in a process, on one thread: the least processor time of ten products of either type, in
    turns, so that other load on the machine hardly matters. Cost: 20 to 60 ms.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    full = torch.randn(size, size, generator=generator)
    half = full.to(torch.bfloat16)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = [[_seconds(matrix) for matrix in (full, half)] for _ in range(pairs + 1)][1:]
    finally:
        torch.set_num_threads(threads)
    return min(pair[0] for pair in seconds) / min(pair[1] for pair in seconds)


def _seconds(matrix: torch.Tensor) -> float:
    """Processor seconds of this thread for one product."""
    started = time.thread_time()
    matrix.mm(matrix)
    return time.thread_time() - started


def _cpu_flags():
    """A function from the name of an instruction set to whether this processor has it."""
    import torch

    flags = getattr(torch.cpu, "get_capabilities", None)
    if flags is not None:
        found = flags()
        return lambda name: bool(found.get(name, False))
    probes = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return lambda name: bool(getattr(torch.cpu, probes.get(name, ""), lambda: False)())
