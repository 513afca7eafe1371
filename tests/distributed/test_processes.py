"""What one process computes, two compute too; and a failing one ends all."""

import json
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from nlp_transfer import Recipe, train
from nlp_transfer.strategies.full import Full
from tests.distributed.conftest import launch_jobs
from tests.distributed.worker import with_idle_head
from tests.training.conftest import weights

LORA = {"kind": "lora", "r": 4, "dropout": 0.0}
GUARDED = {"source": True, "shift": {"enabled": False}}
JOBS = {
    "full": {"strategy": {"kind": "full"}},
    "idle-head": {"strategy": {"kind": "full"}, "idle_head": True},
    "gradual": {"strategy": {"kind": "full", "gradual_unfreezing": 0.5}},
    "lora": {"strategy": LORA},
    "frozen": {"strategy": {"kind": "frozen"}, "source": True},
    "guarded": {"strategy": LORA, **GUARDED, "guard": {"baseline": "target_only"}},
    "probed": {"strategy": {"kind": "full"}, **GUARDED},
    "mmd": {"strategy": {"kind": "full"}, "source": True, "adaptation": [{"kind": "mmd"}]},
    "dann": {"strategy": LORA, "source": True, "adaptation": [{"kind": "dann", "hidden": 8}]},
    "terminated": {"strategy": {"kind": "full"}, "terminate": True},
    "translation": {"strategy": {"kind": "full"}, "translate": True},
}
PLANTS = ("idle_head", "terminate")


@pytest.fixture(scope="module")
def two(values, tmp_path_factory, own_caches):
    """Every job on two processes, in one launch: {job: run folder}."""
    folder = tmp_path_factory.mktemp("two")
    jobs = []
    for name, job in JOBS.items():
        plants = {key: job[key] for key in PLANTS if key in job}
        settings = {key: value for key, value in job.items() if key not in PLANTS}
        jobs.append({"recipe": values(folder / name, accumulation=2, **settings), **plants})
    outcome = launch_jobs(jobs, folder, count=2, cpu=True)
    _, errors = outcome.communicate(timeout=400)
    assert outcome.returncode == 0, errors
    assert {path.name for path in folder.glob("done-*")} == {"done-0-of-2", "done-1-of-2"}
    assert "accelerate launch --multi_gpu --num_processes 2" in errors
    return folder


@pytest.fixture
def one(values, tmp_path, monkeypatch):
    """A function that runs a job on this process: its run folder and metrics."""

    def run(name):
        job = JOBS[name]
        settings = {key: value for key, value in job.items() if key not in PLANTS}
        if job.get("idle_head"):
            monkeypatch.setattr(Full, "prepare", with_idle_head(Full.prepare))
        result = train(Recipe.from_dict(values(tmp_path / name, **settings)))
        return tmp_path / name, result.metrics

    return run


@pytest.mark.parametrize("name", [name for name in JOBS if name != "frozen"])
def test_two_processes_train_as_one_with_twice_the_accumulation(name, one, two):
    folder, metrics = one(name)
    first, second = weights(folder), weights(two / name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_allclose(second[key].numpy(), value.numpy(), atol=1e-5, err_msg=key)
    other = json.loads((two / name / "metrics.json").read_text())
    if name != "terminated":
        np.testing.assert_allclose(
            other["phases"][0]["training_loss"], metrics["phases"][0]["training_loss"], rtol=1e-5
        )
    same_figures(metrics["domains"], other["domains"])
    same_figures(evaluations(metrics), evaluations(other))


@pytest.mark.parametrize("name", ["guarded", "probed"])
def test_two_processes_reach_the_verdict_of_one(name, one, two):
    _, metrics = one(name)
    other = json.loads((two / name / "metrics.json").read_text())["guard"]
    assert len(other["looks"]) == 2
    same_figures(*({k: v for k, v in guard.items() if k != "seconds"} for guard in (metrics["guard"], other)))


def evaluations(metrics):
    """What the Trainer's own evaluations found, epoch by epoch."""
    keys = ("eval_accuracy", "eval_macro_f1", "eval_loss")
    return [
        {key: entry[key] for key in keys}
        for entry in metrics["phases"][0]["history"]
        if "eval_accuracy" in entry
    ]


def same_figures(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            same_figures(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            same_figures(a, b)
    elif isinstance(first, float):
        assert second == pytest.approx(first, abs=2e-5)
    else:
        assert first == second


def test_frozen_embeds_once_over_all_processes(one, two, values, tmp_path):
    """The shift report has embedded the training texts before; the test texts are new."""
    folder, metrics = one("frozen")
    other = json.loads((two / "frozen" / "metrics.json").read_text())
    for key, value in weights(folder).items():
        np.testing.assert_allclose(weights(two / "frozen")[key].numpy(), value.numpy(), atol=1e-6)
    same_figures(metrics["domains"], other["domains"])
    assert other["shift"]["mmd"]["value"] == pytest.approx(metrics["shift"]["mmd"]["value"], abs=1e-6)
    assert [phase["embedded"] for phase in metrics["phases"]] == [0, 0], "two processes have filled the cache"


def test_one_crashing_rank_ends_all_within_seconds(values, tmp_path):
    recipe = values(tmp_path / "run", strategy={"kind": "full"})
    outcome = launch_jobs([{"recipe": recipe, "crash": True}], tmp_path, count=2, cpu=True)
    _, errors = outcome.communicate(timeout=120)
    assert outcome.returncode == 1
    assert errors.count("ZeroDivisionError: planted on one rank") == 1
    assert "ChildFailedError" not in errors
    assert not (tmp_path / "run" / "model").exists()


def test_bad_input_is_one_message(values, tmp_path):
    recipe = values(tmp_path / "run", strategy={"kind": "full"})
    recipe["target"]["train"] = str(tmp_path / "nowhere.jsonl")
    outcome = launch_jobs([{"recipe": recipe}], tmp_path, count=2, cpu=True)
    _, errors = outcome.communicate(timeout=120)
    assert outcome.returncode == 2
    assert errors.count("nowhere.jsonl: no such file") == 1
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


@pytest.fixture
def machines():
    """Two network namespaces that see each other over a pair of virtual cables: their names."""
    names = ("nlpt-0", "nlpt-1")
    if shutil.which("ip") is None:
        pytest.skip("no ip command here: network namespaces cannot be made")
    commands = [f"ip netns add {name}" for name in names]
    commands += ["ip link add nlpt-a netns nlpt-0 type veth peer name nlpt-b netns nlpt-1"]
    for number, (name, device) in enumerate(zip(names, ("nlpt-a", "nlpt-b"), strict=True), 1):
        commands += [f"ip -n {name} addr add 10.77.0.{number}/24 dev {device}"]
        commands += [f"ip -n {name} link set {device} up", f"ip -n {name} link set lo up"]
    try:
        for command in commands:
            made = subprocess.run(command.split(), capture_output=True, text=True)
            if made.returncode:
                pytest.skip(f"network namespaces need root and CAP_NET_ADMIN: {made.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def test_two_machines_train_as_one(machines, values, one, tmp_path):
    recipe = values(tmp_path / "far", strategy={"kind": "full"}, accumulation=2)
    runs = []
    for number, (name, device) in enumerate(zip(machines, ("nlpt-a", "nlpt-b"), strict=True)):
        prefix = ("ip", "netns", "exec", name, "env", f"GLOO_SOCKET_IFNAME={device}")
        settings = {"count": 2, "cpu": True, "machines": 2, "machine_rank": number}
        settings["main_address"] = "10.77.0.1:29511"
        runs.append(launch_jobs([{"recipe": recipe}], tmp_path / str(number), prefix=prefix, **settings))
        time.sleep(0.5)
    for run in runs:
        _, errors = run.communicate(timeout=200)
        assert run.returncode == 0, errors
    assert (tmp_path / "0" / "done-0-of-2").exists()
    assert (tmp_path / "1" / "done-1-of-2").exists()
    folder, _ = one("full")
    for key, value in weights(folder).items():
        np.testing.assert_allclose(weights(Path(tmp_path / "far"))[key].numpy(), value.numpy(), atol=1e-5)
