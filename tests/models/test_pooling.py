from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from nlp_transfer.errors import ModelError
from nlp_transfer.models.pooling import pool, pool_layers

LENGTHS = [5, 1, 3, 7]


def batch(side: str) -> tuple[torch.Tensor, torch.Tensor]:
    hidden = torch.randn(len(LENGTHS), 7, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(len(LENGTHS), 7, dtype=torch.long)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = 1
    return hidden, mask if side == "right" else mask.flip(1)


def naive(hidden: torch.Tensor, mask: torch.Tensor, how: str) -> torch.Tensor:
    rows = []
    for vectors, keep in zip(hidden.tolist(), mask.tolist(), strict=True):
        tokens = [vector for vector, on in zip(vectors, keep, strict=True) if on]
        if how == "mean":
            rows.append([sum(column) / len(tokens) for column in zip(*tokens, strict=True)])
        else:
            rows.append(tokens[0] if how == "cls" else tokens[-1])
    return torch.tensor(rows)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_pool_equals_a_plain_loop(side, how):
    hidden, mask = batch(side)
    torch.testing.assert_close(pool(hidden, mask, how), naive(hidden, mask, how))


@pytest.mark.parametrize("how", ["mean", "cls", "last"])
def test_no_mask_means_no_padding(how):
    hidden, _ = batch("right")
    torch.testing.assert_close(pool(hidden, None, how), naive(hidden, torch.ones(4, 7), how))


def test_padding_values_do_not_matter():
    hidden, mask = batch("left")
    other = torch.where(mask[..., None] == 1, hidden, 1e4)
    for how in ("mean", "cls", "last"):
        torch.testing.assert_close(pool(hidden, mask, how), pool(other, mask, how))


def test_mean_of_a_text_without_tokens_is_zero():
    assert pool(torch.ones(1, 3, 2), torch.zeros(1, 3), "mean").tolist() == [[0.0, 0.0]]


def test_bf16_mean_is_computed_in_float32():
    hidden = torch.full((1, 4096, 1), 1.0).bfloat16()
    hidden[0, 0] = 257  # lost in a bfloat16 running sum
    expected = (4095 + float(hidden[0, 0])) / 4096
    assert float(pool(hidden, None, "mean")) == pytest.approx(expected, rel=2**-8)


def test_layers():
    hidden, mask = batch("right")
    states = (hidden, hidden * 2, hidden * 6)
    outputs = SimpleNamespace(last_hidden_state=states[-1], hidden_states=states)
    last = naive(states[-1], mask, "mean")
    torch.testing.assert_close(pool_layers(outputs, mask, "mean", "last"), last)
    torch.testing.assert_close(pool_layers(outputs, mask, "mean", -1), last)
    torch.testing.assert_close(pool_layers(outputs, mask, "mean", 0), last / 6)
    torch.testing.assert_close(pool_layers(outputs, mask, "mean", "mean"), last / 2)
    every = pool_layers(outputs, mask, "mean", "all")
    assert every.shape == (4, 3, 4)
    torch.testing.assert_close(every[:, [2, 0]], pool_layers(outputs, mask, "mean", (-1, 0)))
    with pytest.raises(ModelError, match="layer 3 does not exist"):
        pool_layers(outputs, mask, "mean", 3)
