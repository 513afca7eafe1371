"""Whether bfloat16 is there, and whether it is faster."""

from __future__ import annotations

import functools


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


@functools.cache
def bf16_pays(device: str = "cpu") -> bool:
    """True where bfloat16 makes a transformer faster, not just possible.

    CUDA: wherever it is supported. CPU: with AMX only. AVX-512 BF16 alone was measured 1.4 to 1.8 times
    slower than float32 (MiniLM-L6, two Xeon cores without AMX, 1k to 16k tokens a batch, torch 2.13). The
    answer follows from the processor and not from a timing, so that it, and the cache keys that depend on
    it, are the same in every run.
    """
    if device == "cpu":
        return _cpu_flags()("amx_bf16")
    return bf16_supported(device)


def _cpu_flags():
    """A function from the name of an instruction set to whether this processor has it."""
    import torch

    flags = getattr(torch.cpu, "get_capabilities", None)
    if flags is not None:
        found = flags()
        return lambda name: bool(found.get(name, False))
    probes = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return lambda name: bool(getattr(torch.cpu, probes.get(name, ""), lambda: False)())
