"""Runs recipes on every process of a launched run: worker.py JOBS.json, a list of recipes and plants."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from torch import nn
from transformers import TrainerCallback

from nlp_transfer import Recipe, train
from nlp_transfer.cli import run_command
from nlp_transfer.errors import InterruptedTraining
from nlp_transfer.processes import leave_processes, rank, world_size
from nlp_transfer.strategies.full import Full


class At(TrainerCallback):
    """Call a function at the end of a step on one rank."""

    def __init__(self, step, on_rank, act):
        self.step, self.on_rank, self.act = step, on_rank, act

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and rank() == self.on_rank:
            self.act()


def with_idle_head(prepare):
    def planted(self, model):
        model = prepare(self, model)
        model.idle_head = nn.Linear(3, 3)
        nn.init.constant_(model.idle_head.weight, 0.5)
        nn.init.constant_(model.idle_head.bias, 0.5)
        return model

    return planted


def planted_crash():
    raise ZeroDivisionError("planted on one rank")


def run(job):
    recipe = Recipe.from_dict(job["recipe"])
    original = Full.prepare
    if job.get("idle_head"):
        Full.prepare = with_idle_head(original)
    try:
        if job.get("crash"):
            train(recipe, callbacks=[At(2, 1, planted_crash)])
        if job.get("terminate"):  # one rank alone gets the signal: all must stop after the same step
            stop = At(3, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with pytest.raises(InterruptedTraining, match="--processes 2 --resume") as stopped:
                train(recipe, callbacks=[stop])
            assert stopped.value.exit_code == 143
        return train(recipe, resume=bool(job.get("terminate")))
    finally:
        Full.prepare = original


def main():
    path = Path(sys.argv[1])
    for job in json.loads(path.read_text()):
        run(job)
    path.with_name(f"done-{rank()}-of-{world_size()}").touch()
    leave_processes()


if __name__ == "__main__":
    sys.exit(run_command(main))
