"""Killed at any moment, again and again, a run ends with the weights of the run that was left alone."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from nlp_transfer import train
from tests.training.conftest import equal_weights

ROOT = Path(__file__).parents[2]
STRATEGIES = {
    "full": {"kind": "full"},
    "lora": {"kind": "lora", "r": 4, "dropout": 0.1},
    "frozen": {"kind": "frozen"},
}
SAVE_OFTEN = ("training.save_strategy=steps", "training.save_steps=2", "training.eval_strategy=steps")


@pytest.fixture
def one_thread():
    """As many threads as the killer's runs have: sums over more threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def killed(make_recipe, tmp_path, monkeypatch, one_thread):
    """A function that runs {name: points} in the killer: {name: how it went}, beside runs left alone."""
    monkeypatch.setenv("NLP_TRANSFER_CACHE", str(tmp_path / "cache"))

    def run(points):
        jobs = []
        for name, chosen in points.items():
            overrides = () if name == "frozen" else SAVE_OFTEN
            recipe = make_recipe(
                *overrides, name=f"{name}-killed", strategy=STRATEGIES[name], source=name == "full"
            )
            jobs.append({"recipe": yaml.safe_load(recipe.dump()), "points": chosen})
            train(make_recipe(*overrides, name=name, strategy=STRATEGIES[name], source=name == "full"))
        (tmp_path / "jobs.json").write_text(json.dumps(jobs))
        command = [sys.executable, str(Path(__file__).with_name("killer.py")), str(tmp_path / "jobs.json")]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment["NLP_TRANSFER_CACHE"] = str(tmp_path / "cache-of-the-killed")
        outcome = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
        assert outcome.returncode == 0, outcome.stderr
        found = json.loads(outcome.stdout.strip().splitlines()[-1])
        return {name: how | {"stderr": outcome.stderr} for name, how in zip(points, found, strict=True)}

    return run


def test_killed_at_twenty_points(killed, tmp_path):
    generator = random.Random(0)
    writes = {"full": (1, 2, 4, 5, 7), "lora": (3, 4, 6), "frozen": (1, 2)}
    latest = {"full": 0.9, "lora": 0.9, "frozen": 0.2}
    points = {}
    for name, count in {"full": 4, "lora": 4, "frozen": 2}.items():
        moments = [{"seconds": round(generator.uniform(0.02, latest[name]), 3)} for _ in range(count)]
        points[name] = [*moments, *({"write": number} for number in writes[name])]
        generator.shuffle(points[name])
    outcomes = killed(points)
    for name, outcome in outcomes.items():
        assert outcome["code"] == 0, outcome["stderr"]
        assert equal_weights(tmp_path / name, tmp_path / f"{name}-killed"), name
        assert not list((tmp_path / f"{name}-killed").glob(".model-*"))
        assert outcome["kills"] >= len(points[name]) // 2, "the rest came too late"
