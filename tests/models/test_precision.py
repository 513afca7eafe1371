from __future__ import annotations

import torch

from nlp_transfer.models.precision import bf16_pays, bf16_supported


def test_answers_are_booleans_and_ordered():
    for device in ("cpu", "cuda", "mps"):
        assert bf16_supported(device) in (True, False)
        assert bf16_supported(device) or not bf16_pays(device)


def test_no_cuda_means_no():
    if not torch.cuda.is_available():
        assert not bf16_supported("cuda")
