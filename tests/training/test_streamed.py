"""Runs on streamed rows: bit for bit those on copied rows, also resumed."""

import numpy as np
import pytest
import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from nlp_transfer import train
from nlp_transfer.training.callbacks import StreamSampler
from tests.training.conftest import Crash, CrashAfter, equal_weights

STREAMED = "target.streaming=true"
LAST = "training.load_best_model_at_end=false"


@pytest.mark.parametrize("strategy", [{"kind": "full"}, {"kind": "lora", "r": 2}])
def test_equal_to_a_run_on_copied_rows(make_recipe, strategy):
    shuffled = ("training.train_sampling_strategy=random", "source.streaming=false")
    copied = make_recipe(*shuffled, name="copied", source=True, strategy=strategy)
    streamed = make_recipe(
        *shuffled, STREAMED, "source.streaming=true", name="streamed", source=True, strategy=strategy
    )
    ours, theirs = train(streamed), train(copied)
    assert equal_weights(streamed.output_dir, copied.output_dir)
    assert [record["rows"] for record in ours.metrics["phases"]] == [32, 32]
    assert ours.metrics["domains"] == theirs.metrics["domains"]


def test_resumed_inside_an_epoch(make_recipe):
    steps = (STREAMED, LAST, "training.save_strategy=steps", "training.save_steps=1")
    whole = make_recipe(*steps, name="whole")
    train(whole)
    recipe = make_recipe(*steps, name="crashed")
    with pytest.raises(Crash):
        train(recipe, callbacks=[CrashAfter(6)])
    result = train(recipe, resume=True)
    assert result.metrics["phases"][-1]["resumed_at"] >= 5
    assert equal_weights(recipe.output_dir, whole.output_dir)


def test_the_sampler_shows_every_row_once_in_batches_of_like_length():
    lengths = np.random.default_rng(0).integers(1, 500, 4_321)
    orders = []
    for seed in (1, 1, 2):
        sampler = StreamSampler(8, lengths)
        sampler.generator = torch.Generator().manual_seed(seed)
        orders.append(list(sampler))
    assert len(sampler) == len(lengths)
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(len(lengths)))

    def padding(order):
        batches = [lengths[order[start : start + 8]] for start in range(0, len(order), 8)]
        return sum(int((batch.max() - batch).sum()) for batch in batches) / lengths.sum()

    reference = get_length_grouped_indices(lengths.tolist(), 8)
    assert padding(orders[0]) == pytest.approx(padding(reference), rel=0.1)
