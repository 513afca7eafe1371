"""What training does: against torch, against arithmetic, against what was planted."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from nlp_transfer import load_model, train
from nlp_transfer.arguments import training_fields
from nlp_transfer.errors import RecipeError
from tests.training.conftest import Record, equal_weights, planted_rows, weights, write_rows

STEPS_PER_EPOCH = 4
CHECKPOINTING = ("gradient_checkpointing", "activation_checkpointing")
"""The name before transformers 5.21 and the one since: what the installed version knows is tested."""


def moved(recipe, **settings):
    """Names of the parameters that moved in each epoch."""
    before, epochs = {}, []

    def look(model=None, **_):
        now = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        if before:
            epochs.append({name for name in now if not torch.equal(now[name], before[name])})
        before.update(now)

    recorder = Record(on_train_begin=look, on_epoch_end=look)
    return train(recipe, callbacks=[recorder], **settings), epochs


def test_early_stopping_and_the_best_checkpoint_is_saved(make_recipe):
    """A constant rate that learns the planted words, multiplied until it ruins the model."""
    saved = {}

    def ruin(state, optimizer, lr_scheduler, **_):
        if state.epoch == 6:
            lr_scheduler.base_lrs = [3.0 for _ in lr_scheduler.base_lrs]

    def keep(state, model, **_):
        saved[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}

    recipe = make_recipe(
        "training.num_train_epochs=20",
        "training.lr_scheduler_type=constant",
        "training.learning_rate=5e-3",
        "training.save_total_limit=1",
        early_stopping={"patience": 3},
    )
    result = train(recipe, callbacks=[Record(on_epoch_end=ruin, on_save=keep)])
    phase = result.metrics["phases"][0]
    assert phase["steps"] < 20 * STEPS_PER_EPOCH
    assert phase["steps"] == phase["best_step"] + 3 * STEPS_PER_EPOCH
    assert phase["best_metric"] == result.score("target", "validation")
    best = saved[phase["best_step"]]
    assert not torch.equal(best["classifier.weight"], saved[phase["steps"]]["classifier.weight"])
    final = {key.split(":")[1]: value for key, value in weights(recipe.output_dir).items()}
    assert all(torch.equal(best[name], value) for name, value in final.items())
    left = {path.name for path in (Path(recipe.output_dir) / "checkpoints" / "target").iterdir()}
    assert left == {f"checkpoint-{phase['best_step']}"}


def test_accumulation_gives_the_weights_of_the_large_batch(make_recipe):
    still = ["model.dropout=0.0", "training.train_sampling_strategy=random", "training.learning_rate=1e-3"]
    runs = {}
    for name, size, accumulate in (("large", 8, 1), ("small", 2, 4)):
        overrides = [f"training.per_device_train_batch_size={size}"]
        overrides += [f"training.gradient_accumulation_steps={accumulate}", "training.bf16=false"]
        recipe = make_recipe(*still, *overrides, name=name, training={"num_train_epochs": 2, "optim": "sgd"})
        train(recipe)
        runs[name] = weights(recipe.output_dir)
    for name, value in runs["large"].items():
        torch.testing.assert_close(runs["small"][name], value, atol=1e-6, rtol=0)


@pytest.mark.parametrize("field", [name for name in CHECKPOINTING if name in training_fields()])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_activation_checkpointing_changes_memory_not_weights(field, kind, make_recipe):
    strategy = {"kind": kind} if kind == "full" else {"kind": kind, "r": 2}
    still = ["model.dropout=0.0", "training.max_steps=3"]
    plain, checkpointed = make_recipe(*still, name="plain", strategy=strategy), None
    seen = []
    checkpointed = make_recipe(*still, f"training.{field}=true", name="checkpointed", strategy=strategy)
    train(plain)
    watch = Record(
        on_step_end=lambda model, **_: seen.append(
            sum(getattr(m, "gradient_checkpointing", False) for m in model.modules())
        )
    )
    train(checkpointed, callbacks=[watch])
    assert min(seen) > 0
    first, second = weights(plain.output_dir), weights(checkpointed.output_dir)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, atol=1e-6, rtol=1e-5)


def test_class_weights_and_smoothing_reach_the_loss(make_recipe, tmp_path):
    """One step over all rows at a rate of nothing: the logged loss is torch's, at the saved weights."""
    rows = [row for number, row in enumerate(planted_rows(32, 5)) if number % 2 or number < 12]
    path = write_rows(tmp_path / "unequal.jsonl", rows)
    recipe = make_recipe(
        "model.dropout=0.0",
        target={"train": path, "validation": path},
        task={"class_weights": "balanced", "label_smoothing": 0.2},
        training={"max_steps": 1, "learning_rate": 1e-12, "per_device_train_batch_size": 64},
    )
    loss = train(recipe).metrics["phases"][0]["training_loss"]
    found = load_model(recipe.output_dir).predict([row["text"] for row in rows])
    names = ["negative", "positive"]
    logs = torch.tensor([[np.log(item["probabilities"][name]) for name in names] for item in found])
    labels = torch.tensor([names.index(row["label"]) for row in rows])
    counts = torch.bincount(labels)
    balanced = len(labels) / (2 * counts.double())
    expected = functional.cross_entropy(logs, labels, weight=balanced, label_smoothing=0.2)
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert abs(functional.cross_entropy(logs, labels).item() - loss) > 1e-4


def test_layer_wise_rates_keep_their_ratios(make_recipe):
    rates = []

    def look(optimizer, **_):
        rates.append(sorted({round(group["lr"], 15) for group in optimizer.param_groups}, reverse=True))

    recipe = make_recipe(strategy={"kind": "full", "layer_decay": 0.5})
    train(recipe, callbacks=[Record(on_pre_optimizer_step=look)])
    highest = [row[0] for row in rates if row[0] > 0]
    assert len(set(highest)) > 3, "a schedule"
    for row in rates:
        if row[0] > 0:
            np.testing.assert_allclose(np.array(row) / row[0], [1, 0.5, 0.25, 0.125], rtol=1e-6)


def test_gradual_unfreezing_frees_a_layer_an_epoch(make_recipe):
    recipe = make_recipe("training.num_train_epochs=4", strategy={"kind": "full", "gradual_unfreezing": 1})
    result, epochs = moved(recipe)
    parts = ("classifier", "layer.1.", "layer.0.", "embeddings.")
    for number, names in enumerate(epochs):
        assert {part for part in parts if any(part in name for name in names)} == set(parts[: number + 1])
    assert result.trainable_parameters == result.total_parameters


def test_frozen_layers_are_bit_identical_afterwards(make_recipe, encoder):
    from safetensors.torch import load_file

    recipe = make_recipe(strategy={"kind": "full", "freeze_layers": 1})
    result = train(recipe)
    before = load_file(encoder / "model.safetensors")
    after = {
        key.split(":")[1].removeprefix("encoder."): value for key, value in weights(recipe.output_dir).items()
    }
    held = {name for name in before if name in after and torch.equal(before[name], after[name])}
    assert {name for name in held if "pooler" not in name} == {
        name for name in before if "embeddings" in name or "layer.0." in name
    }
    assert result.trainable_parameters < result.total_parameters


def test_equal_seeds_give_equal_weights_and_the_caller_keeps_its_generators(make_recipe):
    a, b, other = (
        make_recipe(f"training.seed={seed}", name=name) for seed, name in ((1, "a"), (1, "b"), (2, "c"))
    )
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(a)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]  # noqa: NPY002
    torch.manual_seed(6)
    train(b)
    train(other)
    assert equal_weights(a.output_dir, b.output_dir)
    assert not equal_weights(a.output_dir, other.output_dir)


def test_a_tracker_sees_the_figures(make_recipe):
    seen = []
    result = train(make_recipe(), callbacks=[Record(on_log=lambda logs, **_: seen.append(dict(logs)))])
    names = set().union(*seen)
    assert {"loss", "learning_rate", "grad_norm", "eval_accuracy", "eval_loss", "train_runtime"} <= names
    assert [entry["eval_accuracy"] for entry in seen if "eval_accuracy" in entry] == [
        entry["eval_accuracy"] for entry in result.metrics["phases"][0]["history"] if "eval_accuracy" in entry
    ]


def test_unknown_and_missing_trackers_are_named(make_recipe):
    with pytest.raises(RecipeError, match="blackboard is not supported"):
        train(make_recipe("training.report_to=blackboard"))
    with pytest.raises(RecipeError, match=r"clearml.*not installed"):
        train(make_recipe("training.report_to=clearml"))


def test_contradicting_fields_are_a_message(make_recipe):
    with pytest.raises(RecipeError, match="training"):
        train(make_recipe("training.lr_scheduler_type=upwards"))
    steps = make_recipe("training.save_strategy=steps", "training.save_steps=3", name="steps")
    history = train(steps).metrics["phases"][0]["history"]
    assert [entry["step"] for entry in history if "eval_accuracy" in entry] == [3, 6, 8]


def padding_share(recipe):
    """Share of padding among all tokens of the training batches that the model sees."""
    counts = np.zeros(2)

    def look(model, **_):
        def count(_, args, kwargs):
            if model.training:
                mask = kwargs["attention_mask"]
                counts[:] += mask.numel() - int(mask.sum()), mask.numel()

        model.register_forward_pre_hook(count, with_kwargs=True)

    train(recipe, callbacks=[Record(on_train_begin=look)])
    return counts[0] / counts[1]


def test_length_grouped_batches_waste_less_padding(make_recipe, tmp_path):
    train_file = write_rows(tmp_path / "long.jsonl", planted_rows(400, 9, longest=50))
    small = write_rows(tmp_path / "small.jsonl", planted_rows(8, 10))
    target = {"train": train_file, "validation": small}
    quick = ["training.max_steps=50"]
    grouped = padding_share(make_recipe(*quick, name="grouped", target=target))
    shuffled = padding_share(
        make_recipe(*quick, "training.train_sampling_strategy=random", name="random", target=target)
    )
    assert shuffled > 0.25
    assert grouped < shuffled / 3


def test_evaluation_by_length_pairs_predictions_with_labels(make_recipe, tmp_path):
    """Validation rows in no order of length: the Trainer's figure equals one from single predictions."""
    rows = planted_rows(31, 12, longest=40)
    random.Random(0).shuffle(rows)
    path = write_rows(tmp_path / "validation.jsonl", rows)
    recipe = make_recipe(
        "target.validation=" + path, "training.num_train_epochs=6", "training.learning_rate=3e-3"
    )
    result = train(recipe)
    model = load_model(recipe.output_dir)
    right = np.mean([model.predict([row["text"]])[0]["label"] == row["label"] for row in rows])
    assert right > 0.6, "something was learned, so that the order matters"
    assert result.metrics["phases"][0]["best_metric"] == pytest.approx(right)


@pytest.mark.parametrize("kind", ["full", "frozen"])
def test_tiny_and_odd_data(kind, make_recipe, tmp_path):
    odd = ["", "👍🏽 ❤️", "word " * 2000, "\u202eتقييم", "\x00\x07", "a"]
    rows = [{"text": text or " ", "label": ("good", "bad")[n % 2]} for n, text in enumerate(["fine", "poor"])]
    train_file = write_rows(tmp_path / "two.jsonl", rows)
    one = write_rows(tmp_path / "one.jsonl", rows[:1])
    target = {"train": train_file, "validation": one, "test": one}
    recipe = make_recipe("training.per_device_train_batch_size=1", target=target, strategy={"kind": kind})
    result = train(recipe)
    figure = result.metrics["domains"]["target"]["test"]["accuracy"]
    assert figure["value"] in (0.0, 1.0)
    found = load_model(recipe.output_dir).predict(odd)
    assert len(found) == len(odd)
    assert all(0 <= item["score"] <= 1 for item in found)


def test_without_validation_the_last_weights_are_saved(make_recipe, data):
    target = {"train": data["target.train"], "test": data["target.test"]}
    recipe = make_recipe("training.eval_strategy=no", target=target)
    result = train(recipe)
    assert result.metrics["phases"][0]["rows"] == 32, "no rows are split off when nothing is validated"
    assert "validation" not in result.metrics["domains"]["target"]
    assert result.metrics["phases"][0]["best_metric"] is None


def test_divergence_is_a_message(make_recipe):
    from nlp_transfer.errors import TrainingError

    with pytest.raises(TrainingError, match="not finite"):
        train(make_recipe("training.learning_rate=1e30", "training.max_grad_norm=0"))


def test_figures_are_valid_json(make_recipe):
    recipe = make_recipe("training.logging_nan_inf_filter=false")
    train(recipe)
    text = (Path(recipe.output_dir) / "metrics.json").read_text("utf-8")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in metrics.json"))


def test_a_few_rows_split_off_do_not_choose_the_checkpoint(make_recipe, data, capsys):
    """Three rows, the same accuracy at each epoch: the last weights are kept, or the first, as the best."""
    saved = {}

    def keep(state, model, **_):
        saved[state.global_step] = {name: value.clone() for name, value in model.state_dict().items()}

    def kept(recipe):
        saved.clear()
        train(recipe, callbacks=[Record(on_save=keep)])
        final = {key.split(":")[1]: value for key, value in weights(recipe.output_dir).items()}
        return [step for step, at in saved.items() if all(torch.equal(at[k], v) for k, v in final.items())]

    alone = {"target": {"train": data["target.train"]}, "training": {"num_train_epochs": 3}}
    assert kept(make_recipe(name="few", **alone)) == [3]
    assert "too few to choose a checkpoint by" in capsys.readouterr().err
    assert kept(make_recipe("training.load_best_model_at_end=true", name="asked", **alone)) == [1]
    assert "too few" not in capsys.readouterr().err
