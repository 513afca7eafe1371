"""A run that was interrupted and resumed ends with the weights of the run that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from nlp_transfer import Recipe, train
from nlp_transfer.errors import OutputError
from nlp_transfer.training.artifacts import RunFolder
from tests.training.conftest import Crash, CrashAfter, Record, equal_weights

STRATEGIES = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4, "dropout": 0.1},
    "gradual": {"kind": "full", "gradual_unfreezing": 1},
}
STEPS_PER_EPOCH = 4
LAST = "training.load_best_model_at_end=false"
"""Save the last weights: the best ones may be from before the crash, which would prove nothing."""


def interrupted(recipe, *callbacks, **settings):
    with pytest.raises(Crash):
        train(recipe, callbacks=callbacks, **settings)
    run = Path(recipe.output_dir)
    assert not (run / "metrics.json").exists()
    assert not (run / "model").exists()


@pytest.mark.parametrize("kind", STRATEGIES)
def test_resumed_in_either_phase_equals_uninterrupted(kind, make_recipe):
    settings = {"source": True, "strategy": STRATEGIES[kind]}
    whole = make_recipe(LAST, name="whole", **settings)
    train(whole)
    for phase in (1, 2):
        recipe = make_recipe(LAST, name=f"crash-{phase}", **settings)
        interrupted(recipe, CrashAfter(STEPS_PER_EPOCH + 2, phase))
        begun: list[dict] = []
        result = train(
            recipe, resume=True, callbacks=[Record(on_train_begin=lambda b=begun, **_: b.append(1))]
        )
        assert equal_weights(recipe.output_dir, whole.output_dir)
        assert len(begun) == 3 - phase, "a finished source phase must not be repeated"
        resumed = result.metrics["phases"]
        assert [record["phase"] for record in resumed] == ["source", "target"]
        assert resumed[phase - 1]["resumed_at"] == STEPS_PER_EPOCH
        assert resumed[0]["history"]


@pytest.mark.parametrize("sampling", ["group_by_length", "random"])
@pytest.mark.parametrize("crash", [2, 7])
def test_resumed_inside_an_epoch_equals_uninterrupted(sampling, crash, make_recipe):
    steps = [
        "training.save_strategy=steps",
        "training.save_steps=1",
        f"training.train_sampling_strategy={sampling}",
    ]
    whole, broken = make_recipe(LAST, *steps, name="whole"), make_recipe(LAST, *steps, name="broken")
    train(whole)
    interrupted(broken, CrashAfter(crash))
    assert train(broken, resume=True).metrics["phases"][0]["resumed_at"] == crash - 1
    assert equal_weights(broken.output_dir, whole.output_dir)


def test_killed_process_and_half_written_checkpoint(make_recipe):
    whole, broken = make_recipe(LAST, name="whole"), make_recipe(LAST, name="broken")
    train(whole)
    code = (
        "import os, sys, yaml\n"
        "from transformers import TrainerCallback\n"
        "from nlp_transfer import Recipe, train\n"
        "class Kill(TrainerCallback):\n"
        "    def on_save(self, args, state, control, **kwargs):\n"
        f"        if state.global_step == {2 * STEPS_PER_EPOCH}: os.kill(os.getpid(), {signal.SIGKILL:d})\n"
        "train(Recipe.from_dict(yaml.safe_load(sys.stdin.read())), callbacks=[Kill()])\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], input=broken.dump(), text=True, capture_output=True
    )
    assert outcome.returncode == -signal.SIGKILL, outcome.stderr
    newest = Path(broken.output_dir) / "checkpoints" / "target" / f"checkpoint-{2 * STEPS_PER_EPOCH}"
    state = newest / "trainer_state.json"
    state.write_text(state.read_text()[:100])
    (newest / "optimizer.pt").unlink()
    assert train(broken, resume=True).metrics["phases"][0]["resumed_at"] == STEPS_PER_EPOCH
    assert equal_weights(broken.output_dir, whole.output_dir)


def test_crash_between_training_and_the_model_folder(make_recipe, monkeypatch):
    whole, broken = make_recipe(LAST, name="whole"), make_recipe(LAST, name="broken")
    train(whole)
    with monkeypatch.context() as patched:
        patched.setattr("nlp_transfer.training.run.evaluate_domains", lambda *_: (_ for _ in ()).throw(Crash))
        interrupted(broken)
    train(broken, resume=True)
    assert equal_weights(broken.output_dir, whole.output_dir)


def test_early_stopping_remembers_its_patience(make_recipe):
    """Nothing is learned at this rate, so the first evaluation is the best one."""
    still = {"early_stopping": {"patience": 3}}
    rates = ["training.learning_rate=1e-12", "training.num_train_epochs=9"]
    stop = 4 * STEPS_PER_EPOCH
    for name, crash in (
        ("inside", CrashAfter(2 * STEPS_PER_EPOCH + 1)),
        ("after", Record(on_train_end=raise_crash)),
    ):
        recipe = make_recipe(*rates, name=name, **still)
        interrupted(recipe, crash)
        phase = train(recipe, resume=True).metrics["phases"][0]
        assert phase["steps"] == stop
        assert phase["best_step"] == STEPS_PER_EPOCH


def raise_crash(**_):
    raise Crash


def test_resume_without_a_checkpoint_starts_anew(make_recipe):
    whole, fresh, early = (
        make_recipe(LAST, name="whole"),
        make_recipe(LAST, name="fresh"),
        make_recipe(LAST, name="early"),
    )
    train(whole)
    train(fresh, resume=True)
    interrupted(early, CrashAfter(1))
    assert train(early, resume=True).metrics["phases"][0]["resumed_at"] is None
    assert equal_weights(fresh.output_dir, whole.output_dir)
    assert equal_weights(early.output_dir, whole.output_dir)


@pytest.mark.parametrize("resume", [True, False])
def test_killed_in_its_very_first_write(resume, tmp_path):
    """Nothing but half of the recipe is there, under the name that it had before it was renamed."""
    draft = tmp_path / "run" / ".recipe.yaml.4711"
    draft.parent.mkdir()
    draft.write_text("# The resol")
    RunFolder.open(draft.parent, resume=resume).start("strategy: full\n")
    assert os.listdir(draft.parent) == ["recipe.yaml"]
    (draft.parent / "recipe.yaml").rename(draft.with_suffix(".old"))
    with pytest.raises(OutputError, match=r"no run wrote|not empty"):
        RunFolder.open(draft.parent, resume=resume)


def test_resume_of_a_finished_run_says_so(make_recipe):
    recipe = make_recipe()
    train(recipe)
    before = (Path(recipe.output_dir) / "metrics.json").read_bytes()
    with pytest.raises(OutputError, match="finished run: there is nothing to resume"):
        train(recipe, resume=True)
    assert (Path(recipe.output_dir) / "metrics.json").read_bytes() == before


def test_resume_of_another_recipe_is_refused(make_recipe, bert):
    recipe = make_recipe()
    interrupted(recipe, CrashAfter(STEPS_PER_EPOCH + 1))
    with pytest.raises(OutputError, match="another recipe") as caught:
        train(make_recipe(f"model.name={bert}"), resume=True)
    assert "model" in caught.value.found
    with pytest.raises(OutputError, match="another recipe") as caught:
        train(make_recipe("training.seed=7"), resume=True)
    assert caught.value.found == "other values under: training.seed"
    longer = train(make_recipe("training.num_train_epochs=3"), resume=True)
    assert any("num_train_epochs" in text for text in longer.metrics["warnings"])
    assert longer.metrics["phases"][0]["steps"] == 3 * STEPS_PER_EPOCH


def test_data_may_move_but_not_change(make_recipe, data, tmp_path):
    """Moved rows end in the weights of the uninterrupted run; one changed label is noticed."""
    whole, recipe = make_recipe(LAST, name="whole"), make_recipe(LAST)
    train(whole)
    interrupted(recipe, CrashAfter(STEPS_PER_EPOCH + 1))
    changed, moved = tmp_path / "changed.jsonl", tmp_path / "moved.jsonl"
    rows = Path(data["target.train"]).read_text("utf-8")
    moved.write_text(rows, "utf-8")
    changed.write_text(rows.replace("positive", "negative", 1), "utf-8")
    with pytest.raises(OutputError, match="on other data") as caught:
        train(make_recipe(LAST, f"target.train={changed}"), resume=True)
    assert caught.value.found == "other rows in: target.train"
    result = train(make_recipe(LAST, f"target.train={moved}"), resume=True)
    assert result.metrics["phases"][0]["resumed_at"] == STEPS_PER_EPOCH
    assert equal_weights(whole.output_dir, recipe.output_dir)


def test_data_is_compared_by_place_where_its_content_is_not_known(make_recipe, data, tmp_path):
    recipe = make_recipe(LAST)
    interrupted(recipe, CrashAfter(STEPS_PER_EPOCH + 1))
    (Path(recipe.output_dir) / "checkpoints" / "began.json").unlink()
    moved = shutil.copy(data["target.train"], tmp_path / "moved.jsonl")
    with pytest.raises(OutputError, match="another recipe"):
        train(make_recipe(LAST, f"target.train={moved}"), resume=True)
    assert train(recipe, resume=True).metrics["phases"][0]["resumed_at"] == STEPS_PER_EPOCH


def test_other_evaluations_that_change_the_rows_are_named(make_recipe, data):
    """Without evaluations no validation rows are split off, so all the file is trained on."""
    alone = {"target": {"train": data["target.train"]}}
    interrupted(make_recipe(**alone), CrashAfter(STEPS_PER_EPOCH))
    with pytest.raises(OutputError, match="on other data") as caught:
        train(make_recipe("training.eval_strategy=no", **alone), resume=True)
    assert "the same training.eval_strategy" in caught.value.fix


def test_warnings_of_a_finished_phase_outlive_the_interruption(make_recipe):
    recipe = make_recipe("model.max_length=6", source=True)
    interrupted(recipe, CrashAfter(2, phase=2))
    kept = train(recipe, resume=True).metrics["warnings"]
    assert [text for text in kept if text.startswith("source training:")]


def test_resume_with_data_beside_the_recipe(make_recipe, data, tmp_path):
    """By the recipe's own file, and by the copy in the run folder: found and resumed, as if uninterrupted."""
    beside = tmp_path / "beside"
    (beside / "shop").mkdir(parents=True)
    for split in ("train", "validation", "test"):
        shutil.copy(data[f"target.{split}"], beside / f"{split}.jsonl")
        shutil.copy(data[f"source.{split}"], beside / "shop" / f"{split}.jsonl")
    values = yaml.safe_load(make_recipe(LAST).dump())
    values["target"] = {split: f"{split}.jsonl" for split in ("train", "validation", "test")}
    values["source"] = {"dataset": "./shop"}
    (beside / "recipe.yaml").write_text(yaml.safe_dump(values))

    def load(name, file=beside / "recipe.yaml"):
        return Recipe.load(file, [f"output_dir={tmp_path / name}"])

    train(load("whole"))
    for name in ("original", "copy"):
        interrupted(load(name), CrashAfter(STEPS_PER_EPOCH + 1, phase=2))
        saved = tmp_path / name / "recipe.yaml"
        result = train(load(name) if name == "original" else load(name, saved), resume=True)
        assert result.metrics["phases"][1]["resumed_at"] == STEPS_PER_EPOCH
        assert equal_weights(tmp_path / name, tmp_path / "whole")


def test_resume_and_overwrite_leave_foreign_files_alone(make_recipe):
    recipe = make_recipe()
    folder = Path(recipe.output_dir)
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for settings in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(OutputError):
            train(recipe, **settings)
    assert os.listdir(folder) == ["thesis.txt"]


def test_damaged_figures_of_a_phase_mean_that_it_is_repeated(make_recipe):
    whole, broken = (
        make_recipe(LAST, name="whole", source=True),
        make_recipe(LAST, name="broken", source=True),
    )
    train(whole)
    interrupted(broken, CrashAfter(1, phase=2))
    source = Path(broken.output_dir) / "checkpoints" / "source"
    assert json.loads((source / "finished.json").read_text())["phase"] == "source"
    (source / "finished.json").unlink()
    shutil.rmtree(source / "final")
    train(broken, resume=True)
    assert equal_weights(broken.output_dir, whole.output_dir)
