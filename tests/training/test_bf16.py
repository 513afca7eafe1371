"""Training in bfloat16: it learns what float32 learns, is saved in float32, and a resumed run keeps to it."""

import numpy as np
import pytest
import torch

from nlp_transfer import load_model, train
from nlp_transfer.models import precision
from tests.training.conftest import Crash, CrashAfter, equal_weights, planted_rows, weights

STEPS_PER_EPOCH = 4
SHAPES = {
    "full": {"strategy": {"kind": "full"}},
    "lora": {"strategy": {"kind": "lora", "r": 4}},
    "with a penalty": {"source": True, "adaptation": [{"kind": "mmd"}]},
}


@pytest.fixture
def speed(monkeypatch):
    """A function that plants how much faster bfloat16 is on this processor."""
    monkeypatch.delenv("NLP_TRANSFER_BF16")
    monkeypatch.setattr(precision, "bf16_supported", lambda device="cpu": True)
    return lambda times: monkeypatch.setattr(precision, "bf16_speedup", lambda: times)


@pytest.mark.parametrize("shape", SHAPES)
def test_learns_what_float32_learns(shape, make_recipe, speed):
    """The same steps on the same batches: losses and predictions differ by bfloat16's eight bits, no more."""
    texts = [row["text"] for row in planted_rows(40, seed=7)]
    losses, said, phases = {}, {}, {}
    for name, times in (("bf16", 2.0), ("fp32", 0.5)):
        speed(times)
        recipe = make_recipe("model.dropout=0.0", "training.logging_steps=1", name=name, **SHAPES[shape])
        phases[name] = train(recipe).metrics["phases"][-1]
        losses[name] = [entry["loss"] for entry in phases[name]["history"] if "loss" in entry]
        found = load_model(recipe.output_dir).predict(texts)
        said[name] = np.array([row["probabilities"]["positive"] for row in found])
        assert all(
            v.dtype == torch.float32 and v.isfinite().all() for v in weights(recipe.output_dir).values()
        )
    assert [phases[name]["bf16"] for name in ("bf16", "fp32")] == [True, False]
    assert losses["bf16"] != losses["fp32"], "nothing was computed in bfloat16"
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], rtol=0.02)
    np.testing.assert_allclose(said["bf16"], said["fp32"], atol=0.02)


@pytest.mark.parametrize(("began", "now"), [(2.0, 0.5), (0.5, 2.0)])
def test_a_run_resumed_on_another_processor_keeps_its_precision(began, now, make_recipe, speed):
    """Bit for bit the run that was left alone, though the processor would choose otherwise."""
    last = "training.load_best_model_at_end=false"
    whole, broken = make_recipe(last, name="whole"), make_recipe(last, name="broken")
    speed(began)
    train(whole)
    with pytest.raises(Crash):
        train(broken, callbacks=[CrashAfter(STEPS_PER_EPOCH + 2)])
    speed(now)
    phase = train(broken, resume=True).metrics["phases"][0]
    assert phase["resumed_at"] == STEPS_PER_EPOCH
    assert phase["bf16"] is (began > 1)
    assert equal_weights(broken.output_dir, whole.output_dir)
    other = make_recipe(last, name="other")
    train(other)
    assert not equal_weights(other.output_dir, whole.output_dir), "the planted speed changes nothing"
