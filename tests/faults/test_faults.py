"""Each fault, injected: a clear error, and the last checkpoint as it was."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml

from nlp_transfer import Recipe, train
from nlp_transfer.errors import DataError, InterruptedTraining, OutputError, TrainingError
from nlp_transfer.training.checkpoints import damage, last_checkpoint
from nlp_transfer.training.trainer import TransferTrainer
from tests.training.conftest import Crash, CrashAfter, Record, equal_weights, weights

LAST = "training.load_best_model_at_end=false"
STEPS = ("training.save_strategy=steps", "training.save_steps=1", "training.eval_strategy=no", LAST)
STEPS_PER_EPOCH = 4


def phase_of(recipe, name="target"):
    return Path(recipe.output_dir) / "checkpoints" / name


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "weights cut": ("model.safetensors", cut),
    "weights gone": ("model.safetensors", Path.unlink),
    "optimizer cut": ("optimizer.pt", cut),
    "optimizer altered": ("optimizer.pt", flip),
    "optimizer gone": ("optimizer.pt", Path.unlink),
    "scheduler gone": ("scheduler.pt", Path.unlink),
    "random state gone": ("rng_state.pth", Path.unlink),
    "random state cut": ("rng_state.pth", cut),
    "state cut": ("trainer_state.json", cut),
    "config cut": ("config.json", cut),
}


def test_damaged_checkpoints_are_passed_over(make_recipe, tmp_path, capsys):
    whole, broken = make_recipe(*STEPS, name="whole"), make_recipe(*STEPS, name="broken")
    train(whole)
    with pytest.raises(Crash):
        train(broken, callbacks=[CrashAfter(3)])
    newest = phase_of(broken) / "checkpoint-2"
    assert damage(newest) is None
    for name, (file, harm) in DAMAGES.items():
        copy = tmp_path / "copies" / name / "checkpoint-2"
        shutil.copytree(newest, copy)
        harm(copy / file)
        assert damage(copy), name
        assert last_checkpoint(copy.parent) is None, name
        assert copy.exists() == (name != "state cut"), (
            "a lost or altered file is no reason to delete the rest"
        )
    cut(newest / "optimizer.pt")
    result = train(broken, resume=True)
    assert result.metrics["phases"][0]["resumed_at"] == 1
    assert "optimizer.pt is damaged: going on without this checkpoint" in capsys.readouterr().err
    assert equal_weights(whole.output_dir, broken.output_dir)


def test_weights_alone_are_neither_resumed_nor_deleted(make_recipe):
    recipe = make_recipe(*STEPS, "training.save_only_model=true")
    with pytest.raises(Crash):
        train(recipe, callbacks=[CrashAfter(3)])
    before = {path: path.read_bytes() for path in phase_of(recipe).rglob("*") if path.is_file()}
    assert {path.parent.name for path in before} == {"checkpoint-1", "checkpoint-2"}
    with pytest.raises(OutputError, match="hold the weights alone") as caught:
        train(recipe, resume=True)
    assert "save_only_model" in caught.value.expected
    assert last_checkpoint(phase_of(recipe)) is None
    assert {path: path.read_bytes() for path in phase_of(recipe).rglob("*") if path.is_file()} == before


def test_out_of_memory_begins_anew_where_weights_alone_were_saved(make_recipe, monkeypatch):
    recipe, calls = make_recipe(*STEPS, "training.save_only_model=true"), []
    original = TransferTrainer.training_step

    def greedy(self, model, inputs, num_items_in_batch=None):
        calls.append(len(inputs["input_ids"]))
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(TransferTrainer, "training_step", greedy)
    phase = train(recipe).metrics["phases"][0]
    assert (phase["steps"], phase["resumed_at"]) == (2 * STEPS_PER_EPOCH, None)


def test_the_files_of_deepspeed_are_a_whole_checkpoint(make_recipe):
    """As its documentation lists them; it keeps optimizer and scheduler in a folder of its own."""
    recipe = make_recipe(*STEPS)
    with pytest.raises(Crash):
        train(recipe, callbacks=[CrashAfter(2)])
    (checkpoint,) = phase_of(recipe).glob("checkpoint-*")
    own = checkpoint / "global_step1"
    own.mkdir()
    (checkpoint / "latest").write_text("global_step1")
    (checkpoint / "optimizer.pt").rename(own / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    (checkpoint / "scheduler.pt").rename(own / "mp_rank_00_model_states.pt")
    assert damage(checkpoint) is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("step", [3, STEPS_PER_EPOCH])
def test_a_signal_writes_a_checkpoint_and_says_how_to_go_on(number, code, step, make_recipe):
    """At the last step of an epoch the evaluation must not get lost: it decides which checkpoint is best."""
    whole, stopped = make_recipe(name="whole"), make_recipe(name="stopped")
    expected = train(whole)

    def send(state, **_):
        if state.global_step == step:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(InterruptedTraining, match=f"after step {step} of 8") as caught:
        train(stopped, callbacks=[Record(on_step_end=send)])
    assert signal.getsignal(number) is before
    assert caught.value.exit_code == code
    assert f"nlp-transfer train {stopped.output_dir}/recipe.yaml --resume" in caught.value.fix
    result = train(stopped, resume=True)
    assert result.metrics["phases"][0]["resumed_at"] == step
    assert result.metrics["phases"][0]["best_step"] == expected.metrics["phases"][0]["best_step"]
    assert equal_weights(whole.output_dir, stopped.output_dir)


def test_the_best_checkpoint_is_never_deleted(make_recipe, tmp_path, monkeypatch):
    """Not when newer ones fill the limit, and not when the run folder has been moved in between."""
    best, original = 2 * STEPS_PER_EPOCH, TransferTrainer.evaluation_loop

    def planted(self, *args, **kwargs):
        found = original(self, *args, **kwargs)
        found.metrics["eval_accuracy"] = 0.9 if self.state.global_step == best else 0.1
        return found

    monkeypatch.setattr(TransferTrainer, "evaluation_loop", planted)
    wanted = ("training.save_total_limit=1", "training.metric_for_best_model=accuracy")
    recipe = make_recipe(*wanted, "training.num_train_epochs=6", name="first")
    with pytest.raises(Crash):
        train(recipe, callbacks=[CrashAfter(4 * STEPS_PER_EPOCH + 1)])
    shutil.move(recipe.output_dir, tmp_path / "moved")
    moved = make_recipe(*wanted, "training.num_train_epochs=6", name="moved")
    result = train(moved, resume=True)
    assert result.metrics["phases"][0]["best_step"] == best
    kept = {path.name for path in phase_of(moved).glob("checkpoint-*")}
    assert f"checkpoint-{best}" in kept
    saved = weights(moved.output_dir)
    from safetensors.torch import load_file

    for key, value in load_file(phase_of(moved) / f"checkpoint-{best}" / "model.safetensors").items():
        assert torch.equal(saved[f"model.safetensors:{key}"], value)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own: a function that mounts or remounts it with options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        outcome = subprocess.run(command, capture_output=True, text=True)
        if outcome.returncode:
            pytest.skip(f"a file system of its own needs root: {outcome.stderr.strip()}")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True)


def test_full_disk(make_recipe, small_disk):
    disk = small_disk("size=2m")
    recipe = make_recipe(*STEPS, "training.save_total_limit=20", f"output_dir={disk}/run")
    with pytest.raises(OutputError, match="No space left"):
        train(recipe)
    intact = last_checkpoint(phase_of(recipe))
    assert intact is not None
    assert all(damage(path) is None for path in phase_of(recipe).glob("checkpoint-*"))
    small_disk("remount", "size=64m")
    whole = make_recipe(*STEPS, name="whole")
    train(whole)
    assert train(recipe, resume=True).metrics["phases"][0]["resumed_at"] == int(intact.name.split("-")[1])
    assert equal_weights(recipe.output_dir, whole.output_dir)


def test_disk_becomes_read_only(make_recipe, small_disk):
    disk = small_disk("size=64m")
    recipe = make_recipe(*STEPS, f"output_dir={disk}/run")

    def close(state, **_):
        if state.global_step == 3:
            small_disk("remount", "ro")

    with pytest.raises(OutputError, match="Read-only file system"):
        train(recipe, callbacks=[Record(on_step_end=close)])
    assert last_checkpoint(phase_of(recipe)).name == "checkpoint-2"


def test_data_file_has_vanished_when_the_run_is_resumed(make_recipe, data, tmp_path):
    gone = tmp_path / "gone.jsonl"
    shutil.copy(data["target.train"], gone)
    recipe = make_recipe(*STEPS, f"target.train={gone}")
    with pytest.raises(Crash):
        train(recipe, callbacks=[CrashAfter(3)])
    gone.unlink()
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        train(recipe, resume=True)
    assert last_checkpoint(phase_of(recipe)).name == "checkpoint-2"


def test_data_file_beside_the_recipe_has_vanished(make_recipe, data, tmp_path):
    """Its name in the recipe is relative; that it is gone does not make the recipe another one."""
    gone = tmp_path / "gone.jsonl"
    shutil.copy(data["target.train"], gone)
    values = make_recipe(*STEPS).resolved()
    values["target"]["train"] = gone.name
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(Crash):
        train(Recipe.load(file), callbacks=[CrashAfter(3)])
    gone.unlink()
    with pytest.raises(DataError, match=r"(?s)gone\.jsonl is gone.*put it back"):
        train(Recipe.load(file), resume=True)
    shutil.copy(data["target.train"], gone)
    assert train(Recipe.load(file), resume=True).metrics["phases"][-1]["resumed_at"] == 2


@pytest.mark.parametrize(
    ("after", "strategy"),
    [(0, {}), (5, {}), (0, {"gradual_unfreezing": 0.5}), (5, {"gradual_unfreezing": 0.5})],
)
def test_out_of_memory_halves_the_batch_and_keeps_the_effective_one(
    after, strategy, make_recipe, monkeypatch, capsys
):
    """With the same sums of gradients, the weights are those of a run that had the memory."""
    settings = {"strategy": {"kind": "full", **strategy}}
    plain = make_recipe(LAST, "model.dropout=0.0", name="plain", **settings)
    tight = make_recipe(LAST, "model.dropout=0.0", name="tight", **settings)
    train(plain)
    steps, original = [], TransferTrainer.training_step

    def greedy(self, model, inputs, num_items_in_batch=None):
        steps.append(len(inputs["input_ids"]))
        if len(steps) > after and steps[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return original(self, model, inputs, num_items_in_batch)

    monkeypatch.setattr(TransferTrainer, "training_step", greedy)
    result = train(tight)
    assert set(steps[after + 1 :]) == {4}
    assert result.metrics["phases"][0]["steps"] == 2 * STEPS_PER_EPOCH
    assert result.metrics["phases"][0]["resumed_at"] == (STEPS_PER_EPOCH if after else None)
    assert capsys.readouterr().err.count("out of memory with 8 rows at a time: going on with 4 and 2") == 1
    first, second = weights(plain.output_dir), weights(tight.output_dir)
    assert all(torch.allclose(first[key], second[key], atol=1e-5) for key in first)


def test_out_of_memory_with_one_row_is_an_error(make_recipe, monkeypatch):
    def never(self, model, inputs, num_items_in_batch=None):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(TransferTrainer, "training_step", never)
    with pytest.raises(TrainingError, match="one row at a time"):
        train(make_recipe())


def test_other_runtime_errors_are_not_taken_for_memory(make_recipe, monkeypatch):
    def broken(self, model, inputs, num_items_in_batch=None):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(TransferTrainer, "training_step", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(make_recipe())


def test_loss_that_is_not_finite_names_step_and_batch(make_recipe, monkeypatch):
    recipe, original = make_recipe(*STEPS), TransferTrainer.compute_loss

    def poisoned(self, model, inputs, *args, **kwargs):
        loss = original(self, model, inputs, *args, **kwargs)
        return loss * float("nan") if self.state.global_step == 2 else loss

    monkeypatch.setattr(TransferTrainer, "compute_loss", poisoned)
    with pytest.raises(TrainingError, match="the loss of step 3 is not finite") as caught:
        train(recipe)
    assert "nan on batch" in caught.value.found
    assert "8 rows" in caught.value.found
    assert caught.value.exit_code == 2
    assert last_checkpoint(phase_of(recipe)).name == "checkpoint-2"
    assert not (Path(recipe.output_dir) / "model").exists()


def test_weights_that_are_not_finite_are_never_saved(make_recipe, monkeypatch):
    """The last step's gradient ruins the weights after a finite loss: no loss comes after it to tell."""
    recipe = make_recipe("training.save_strategy=no")

    def ruin(state, model, **_):
        if state.global_step == 2 * STEPS_PER_EPOCH:
            next(p for p in model.parameters() if p.requires_grad).data.fill_(float("inf"))

    with pytest.raises(TrainingError, match="no longer finite after step 8"):
        train(recipe, callbacks=[Record(on_step_end=ruin)])
    assert not (Path(recipe.output_dir) / "model").exists()
