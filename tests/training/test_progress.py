"""The lines that a training prints where there is no terminal."""

import re

import pytest
from transformers import TrainerControl, TrainerState

from nlp_transfer import train
from nlp_transfer.training.callbacks import Progress, shown


def test_penalties_and_discriminators_are_shown_beside_the_task():
    logs = {"loss": 1, "task_loss": 0.5, "mmd_loss": 0.25, "dann_accuracy": 0.75, "eval_chrf": 24.33}
    logs |= {"eval_loss": 2, "train_loss": 3, "learning_rate": 1e-3, "eval_guard_gain": 0.1}
    assert shown(logs) == {
        "loss": "1.0000",
        "task loss": "0.5000",
        "mmd loss": "0.2500",
        "dann accuracy": "0.7500",
        "chrF": "24.3",
    }


@pytest.mark.parametrize(("steps", "lines"), [(3, 3), (1000, 21)])
def test_many_evaluations_print_few_lines(steps, lines, capsys):
    progress, state = Progress("train"), TrainerState(max_steps=steps)
    for step in range(1, steps + 1):
        state.global_step = step
        progress.on_evaluate(None, state, TrainerControl())
    printed = [int(step) for step in re.findall(r"step (\d+)/", capsys.readouterr().err)]
    assert len(printed) == lines
    assert (printed[0], printed[-1]) == (1, steps)


def test_the_evaluation_that_stops_a_training_is_printed(capsys):
    progress, state = Progress("train"), TrainerState(max_steps=10_000)
    for step in (100, 200, 300):
        state.global_step = step
        progress.on_evaluate(None, state, TrainerControl(should_training_stop=step == 300))
    assert re.findall(r"step (\d+)/", capsys.readouterr().err) == ["100", "300"]


def test_a_training_without_evaluations_prints_its_losses(make_recipe, capsys):
    train(make_recipe("training.eval_strategy=no", "training.logging_steps=1"))
    said = capsys.readouterr().err
    steps = [tuple(map(int, found)) for found in re.findall(r"step (\d+)/(\d+)  loss \d\.\d+", said)]
    assert len(steps) > 1
    assert steps[-1][0] == steps[-1][1]
