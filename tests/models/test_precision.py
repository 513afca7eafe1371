from __future__ import annotations

import pytest
import torch

from nlp_transfer.models import precision
from nlp_transfer.models.precision import PAYS_FROM, bf16_pays, bf16_settled, bf16_speedup, bf16_supported


@pytest.fixture
def unpinned(monkeypatch):
    monkeypatch.delenv("NLP_TRANSFER_BF16")


def test_answers_are_booleans_and_ordered(unpinned):
    for device in ("cpu", "cuda", "mps"):
        assert bf16_supported(device) in (True, False)
        assert bf16_supported(device) or not bf16_pays(device)


def test_no_cuda_means_no():
    if not torch.cuda.is_available():
        assert not bf16_supported("cuda")


def test_a_cpu_is_judged_by_its_products(unpinned, monkeypatch):
    monkeypatch.setattr(precision, "bf16_supported", lambda device="cpu": True)
    for speed in (0.5, PAYS_FROM - 0.01, PAYS_FROM, 4.0):
        monkeypatch.setattr(precision, "bf16_speedup", lambda speed=speed: speed)
        assert bf16_pays() == (speed >= PAYS_FROM)


def test_unsupported_never_pays(unpinned, monkeypatch):
    monkeypatch.setattr(precision, "bf16_supported", lambda device="cpu": False)
    monkeypatch.setattr(precision, "bf16_speedup", lambda: 4.0)
    assert not bf16_pays()


def test_measuring_leaves_threads_and_generator_alone():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    assert bf16_speedup.__wrapped__(64, 3) > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_settled_for_a_block_and_the_environment_rules(unpinned, monkeypatch):
    before = bf16_pays()
    with bf16_settled(not before):
        assert bf16_pays() != before
        with bf16_settled(before):
            assert bf16_pays() == before
        monkeypatch.setenv("NLP_TRANSFER_BF16", "1" if before else "0")
        assert bf16_pays() == before
    monkeypatch.delenv("NLP_TRANSFER_BF16")
    assert bf16_pays() == before
