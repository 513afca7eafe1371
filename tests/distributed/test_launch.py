"""What the launcher refuses, prints and passes on, without launching anything."""

import json
import os
from pathlib import Path

import pytest
import yaml

from nlp_transfer import launch as launcher
from nlp_transfer.errors import LaunchError
from nlp_transfer.launch import Processes
from nlp_transfer.processes import EXPECTED, REPORTS, report_failure, start_processes

CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "accelerate").glob("*.yaml"))
HERE = {"cpu": 2, "multi_gpu": 8, "fsdp": 8, "multi_node": 8}
"""Processes on one machine that each shipped configuration stands for."""


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_understands_the_shipped_configurations(path):
    """By accelerate's own parser and checks: the launcher it chooses, and the environment it makes."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    known = set(load_config_from_file(str(path)).to_dict())
    assert set(yaml.safe_load(path.read_text())) <= known | {"main_process_ip", "main_process_port"}
    parsed = launch_command_parser().parse_args(["--config_file", str(path), "recipes/train.py", "x.yaml"])
    arguments, _, _ = _validate_launch_command(parsed)
    assert arguments.multi_gpu or arguments.use_fsdp, "one process would start, whatever num_processes says"
    arguments.main_process_port = arguments.main_process_port or 0
    arguments.machine_rank = 1 if arguments.num_machines > 1 else 0
    environment = prepare_multi_gpu_env(arguments)
    assert int(arguments.nproc_per_node) == HERE[path.stem]
    assert environment.get("ACCELERATE_USE_FSDP", "false") == str(path.stem == "fsdp").lower()


def test_every_configuration_is_there():
    assert {path.stem for path in CONFIGS} == set(HERE)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"count": 3, "machines": 2}, "shared out evenly"),
        ({"count": 2, "machines": 2, "machine_rank": 2, "main_address": "a:1"}, "not one of 2 machines"),
        ({"count": 2, "machines": 2}, "address of the main one"),
        ({"count": 2, "machines": 2, "main_address": "host:port"}, "address of the main one"),
        ({"count": 2, "config": Path("nowhere.yaml")}, "is not a file"),
    ],
)
def test_what_cannot_come_up_is_refused(wanted, message):
    with pytest.raises(LaunchError, match=message):
        Processes(**wanted, cpu=True).check()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(LaunchError, match="which has 1 GPU") as caught:
        Processes(2).check()
    assert caught.value.fix == "use --processes 1, or --cpu"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({EXPECTED: "4", "WORLD_SIZE": "2", "RANK": "0"}, "4 processes were asked for, 2 came up"),
        ({EXPECTED: "2"}, "2 processes were asked for, 1 came up"),
        ({"MASTER_PORT": "29500", "ACCELERATE_USE_CPU": "True"}, "has started one process"),
        ({"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_FSDP": "true"}, "FSDP needs GPUs"),
    ],
)
def test_processes_that_did_not_come_up_are_missed(environment, message, monkeypatch):
    """accelerate launch --cpu --num_processes 2 starts one; FSDP on CPUs silently trains unsharded."""
    for name in ("WORLD_SIZE", "RANK", "MASTER_PORT", EXPECTED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=message):
        start_processes()


@pytest.mark.parametrize(
    ("cores", "processes", "given", "share"), [(16, 4, None, "4"), (2, 8, None, "1"), (16, 4, "3", "3")]
)
def test_cores_are_shared_out(cores, processes, given, share, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert launcher._settings(Processes(processes, cpu=True))["OMP_NUM_THREADS"] == share


def report(folder, rank, message, exit_code, time, monkeypatch):
    monkeypatch.setenv(REPORTS, str(folder))
    monkeypatch.setenv("RANK", str(rank))
    assert report_failure(message, exit_code)
    path = folder / f"rank-{rank}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"time": time}))


def test_the_environment_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    monkeypatch.delenv(EXPECTED, raising=False)
    before, inside = dict(os.environ), []
    monkeypatch.setattr(launcher, "_run", lambda *_: inside.append(dict(os.environ)) or 7)
    assert launcher.launch(["x.yaml"], Processes(2, cpu=True)) == 7

    def fail() -> None:
        with launcher.one_process(["x.yaml"], cpu=True):
            inside.append(dict(os.environ))
            raise LaunchError("planted")

    with pytest.raises(LaunchError):
        fail()
    assert [found["CUDA_VISIBLE_DEVICES"] for found in inside] == ["", ""]
    assert inside[0][EXPECTED] == "2"
    assert dict(os.environ) == before


def test_the_first_failure_is_told_once(tmp_path, monkeypatch, capsys):
    report(tmp_path, 0, "connection closed by peer", 1, 2.0, monkeypatch)
    report(tmp_path, 1, "the loss is not finite", 2, 1.0, monkeypatch)
    assert launcher._outcome({0: 1, 1: 2}, tmp_path) == 2
    told = capsys.readouterr().err
    assert "rank 1: the loss is not finite" in told
    assert "connection" not in told


def test_a_killed_process_is_named(tmp_path, monkeypatch, capsys):
    report(tmp_path, 0, "connection closed by peer", 1, 2.0, monkeypatch)
    assert launcher._outcome({0: 1, 1: -9}, tmp_path) == 137
    assert "rank 1 was killed by SIGKILL" in capsys.readouterr().err
