from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nlp_transfer.models.attention import NAME, attention, bf16_attention
from tests.tiny import TEXTS, tiny_model

LAYER = SimpleNamespace(is_causal=False)


def _tensors(n=3, heads=4, tokens=7, size=8, groups=1):
    generator = torch.Generator().manual_seed(0)
    shapes = [(n, heads, tokens, size)] + 2 * [(n, heads // groups, tokens, size)]
    return [torch.randn(shape, generator=generator).bfloat16() for shape in shapes]


def _naive(query, key, value, seen, scale):
    """One text, head and token after the other, in float64."""
    n, heads, tokens, size = query.shape
    group = heads // key.shape[1]
    out = torch.zeros(n, tokens, heads, size, dtype=torch.float64)
    for text in range(n):
        for head in range(heads):
            keys, values = (x[text, head // group].double() for x in (key, value))
            for token in range(tokens):
                scores = keys @ query[text, head, token].double() * scale
                scores[~seen[text, token]] = -torch.inf
                out[text, token, head] = scores.softmax(0) @ values
    return out


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["boolean", "additive"])
def test_equals_a_naive_loop(kind, groups):
    query, key, value = _tensors(groups=groups)
    lengths = torch.tensor([7, 4, 1])
    seen = (torch.arange(7) < lengths[:, None])[:, None, :].expand(3, 7, 7) & torch.ones(7, 7).tril().bool()
    mask = seen[:, None]
    if kind == "additive":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    layer = SimpleNamespace(is_causal=False, num_key_value_groups=groups)
    found, weights = attention(layer, query, key, value, mask, scaling=0.3)
    assert weights is None
    torch.testing.assert_close(found.double(), _naive(query, key, value, seen, 0.3), atol=0.02, rtol=0.02)


def test_a_token_that_sees_nothing_is_finite_and_harms_no_gradient():
    query, key, value = (x.requires_grad_() for x in _tensors())
    mask = torch.ones(3, 1, 7, 7, dtype=torch.bool)
    mask[1, :, 2] = False
    found, _ = attention(LAYER, query, key, value, mask)
    found[:, 3].float().sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in (query, key, value))
    assert torch.isfinite(found).all()


def test_what_the_fused_kernel_is_for_is_left_to_it():
    causal = SimpleNamespace(is_causal=True)
    query, key, value = _tensors()
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    found, _ = attention(causal, query, key, value, None)
    assert torch.equal(found, expected.transpose(1, 2))
    full = [x.float() for x in (query, key, value)]
    found, _ = attention(LAYER, *full, None)
    assert torch.equal(found, torch.nn.functional.scaled_dot_product_attention(*full).transpose(1, 2))


@pytest.mark.parametrize("kind", ["bert", "modernbert", "llama", "t5"])
def test_gradients_are_as_near_to_float32_as_those_of_the_fused_kernel(tmp_path, kind):
    folder = tiny_model(tmp_path, kind)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    batch.pop("token_type_ids", None)

    def gradient(half):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = model(**batch).logits
        torch.nn.functional.cross_entropy(logits.float(), torch.arange(len(TEXTS)) % 2).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    exact, fused = gradient(False), gradient(True)
    before = model.config._attn_implementation
    with bf16_attention(model):
        ours = gradient(True)
        if before == "sdpa":
            assert model.config._attn_implementation == NAME
        model.save_pretrained(tmp_path / "saved")
    assert model.config._attn_implementation == before
    assert NAME not in json.dumps(json.loads((tmp_path / "saved" / "config.json").read_text()))
    assert torch.linalg.vector_norm(ours - exact) <= 1.5 * torch.linalg.vector_norm(fused - exact)
