"""Out of memory with batches by tokens: more passes, and the weights of a run that had the room."""

import pytest
import torch
from transformers import Trainer

from nlp_transfer import Recipe, train
from nlp_transfer.errors import TrainingError
from nlp_transfer.tasks.pairs import split_batch
from tests.training.conftest import weights
from tests.translators import tiny_translator


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return tiny_translator(tmp_path_factory.mktemp("translators") / "marian")


def recipe(translator, folder, **strategy):
    values = {
        "task": {"kind": "translation", "source_lang": "de", "target_lang": "en", "batch_tokens": 512},
        "model": {"name": str(translator), "max_length": 64, "dropout": 0.0},
        "target": {"dataset": "sample:travel", "max_samples": 40},
        "strategy": {"kind": "full", **strategy},
        "training": {"num_train_epochs": 2, "learning_rate": 1e-3, "eval_strategy": "no"},
        "output_dir": str(folder),
    }
    return Recipe.from_dict(values)


def greedy(monkeypatch, most, after=0):
    """Let every pass of more than ``most`` pairs fail, once ``after`` passes are done; the passes' sizes."""
    sizes, original = [], Trainer.training_step

    def step(self, model, inputs, num_items_in_batch=None):
        sizes.append(len(inputs["labels"]))
        if len(sizes) > after and sizes[-1] > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(Trainer, "training_step", step)
    return sizes


@pytest.mark.parametrize("kind", ["full", "frozen"])
@pytest.mark.parametrize("after", [0, 8])
def test_more_passes_give_the_same_weights(kind, after, translator, tmp_path, monkeypatch, capsys):
    plain = train(recipe(translator, tmp_path / "plain", kind=kind)).metrics["phases"][0]
    with monkeypatch.context() as patch:
        sizes = greedy(patch, 3, after)
        tight = train(recipe(translator, tmp_path / "tight", kind=kind)).metrics["phases"][0]
    assert max(sizes[-8:]) <= 3
    assert max(sizes) > 6, "one halving would not have been enough"
    told = capsys.readouterr().err
    assert "out of memory with batches of 512 tokens: going on with 256 and 2 passes for each" in told
    assert "out of memory with batches of 256 tokens: going on with 128 and 4 passes for each" in told
    assert tight["steps"] == plain["steps"]
    assert (tight["resumed_at"] is None) == (after == 0)
    first, second = weights(tmp_path / "plain"), weights(tmp_path / "tight")
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)


def test_one_pair_that_is_too_much_is_an_error(translator, tmp_path, monkeypatch):
    greedy(monkeypatch, 0)
    with pytest.raises(TrainingError, match="one pair at a time"):
        train(recipe(translator, tmp_path / "run"))


def test_parts_hold_every_pair_once():
    from transformers.modeling_outputs import BaseModelOutput

    batch = {
        "labels": torch.arange(14).view(7, 2),
        "encoder_outputs": BaseModelOutput(last_hidden_state=torch.arange(21).view(7, 3, 1)),
    }
    for parts in (1, 2, 4, 16):
        found = split_batch(batch, parts)
        assert len(found) <= parts
        assert torch.equal(torch.cat([part["labels"] for part in found]), batch["labels"])
        states = [part["encoder_outputs"].last_hidden_state for part in found]
        assert torch.equal(torch.cat(states), batch["encoder_outputs"].last_hidden_state)
