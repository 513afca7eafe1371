"""Bad input of every kind: one clear message, exit code 2, and nothing written or changed.

Each case runs the command line inside this process in a folder of its own. The folder is compared byte for
byte before and after: a half-written run, a leftover temporary file or a damaged input fails the test.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nlp_transfer.cli import app, run_command
from nlp_transfer.training.artifacts import RunFolder
from tests.bad_inputs import CASES, GOOD, RECIPE, Case
from tests.tiny import tiny_model

WAY_OUT = (
    r"expected|fix:|did you mean|valid names|one of|give |set |keep one|check|quote|leave out|save it|must be"
    r"|indent with|only .* supported"
)
"""What a message says at least one of: what would have been right, or what to do."""


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """A tiny encoder, and a run folder with a tiny classifier."""
    from nlp_transfer.models.classifier import build_classifier, save_classifier
    from nlp_transfer.models.load import ModelOptions, load_tokenizer, locate

    folder = tmp_path_factory.mktemp("models")
    options = ModelOptions(name=str(tiny_model(folder / "tiny")), pooling="mean")
    names = {0: "negative", 1: "positive"}
    model = build_classifier(
        locate(options), options, num_labels=2, id2label=names, problem_type="single_label_classification"
    )
    save_classifier(model, folder / "run/model")
    load_tokenizer(locate(options), options).save_pretrained(folder / "run/model")
    write_run_recipe(folder / "run")
    (folder / "run/metrics.json").write_text("{}")
    return folder


@pytest.fixture
def cache(tmp_path_factory, monkeypatch) -> Path:
    """A cache of its own for the data sets of a test."""
    import datasets

    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def write_run_recipe(folder: Path) -> None:
    """The recipe as a run leaves it behind."""
    RunFolder(folder).start(RECIPE)


def furnish(folder: Path, models: Path, files: dict[str, str | bytes | None]) -> None:
    shutil.copytree(models, folder, dirs_exist_ok=True)
    for name, content in (GOOD | files).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content or b"")


def snapshot(folder: Path) -> dict[str, str]:
    """Every file and folder, hidden ones too, with the digest of its bytes."""
    return {
        str(path.relative_to(folder)): digest(path) if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def check_message(message: str, case: Case) -> None:
    assert "Traceback" not in message
    assert message.count("error:") == 1, message
    text = message[message.index("error:") :]
    for words in case.says:
        assert words in text, f"{words!r} is not in: {text}"
    assert re.search(WAY_OUT, text), text
    assert len(text.splitlines()) <= 8, text


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "-"))
def test_one_clear_message_and_nothing_written(case, models, cache, tmp_path, monkeypatch, capsys):
    furnish(tmp_path, models, case.files)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        if case.arrange is not None:
            case.arrange(tmp_path, patch)
        before = snapshot(tmp_path)
        code = run_command(lambda: app(case.command.split(), standalone_mode=False))
    output = capsys.readouterr()
    check_message(output.err, case)
    assert code == 2
    assert output.out == ""
    assert snapshot(tmp_path) == before
    assert not [
        path for path in cache.rglob("*") if path.suffix in (".part", ".tmp") or path.name.startswith(".")
    ]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("train recipe.yaml target.train=trian.jsonl", "trian.jsonl: no such file"),
        ("predict tiny --input test.jsonl --output o.csv", "no classification head"),
        ("train recipe.yaml --overwite", "--overwite"),
    ],
)
def test_as_a_process(command, says, models, tmp_path):
    furnish(tmp_path, models, {})
    before = snapshot(tmp_path)
    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path.parent / f"{tmp_path.name}-cache")}
    done = subprocess.run(
        [sys.executable, "-m", "nlp_transfer.cli", *command.split()],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert done.stderr.count("error:") == 1
    assert "Traceback" not in done.stderr
    assert snapshot(tmp_path) == before


def run(command: str) -> int:
    return run_command(lambda: app(command.split(), standalone_mode=False))


def test_ctrl_c(models, cache, tmp_path, monkeypatch, capsys):
    """Inside a command, where typer sees the interrupt first, and outside of one."""

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    furnish(tmp_path, models, {})
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    monkeypatch.setattr("nlp_transfer.predict.TextModel.predict", interrupt)
    assert run("predict run --input test.jsonl --output o.csv") == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"
    assert snapshot(tmp_path) == before
    assert run_command(interrupt) == 130


def test_a_bug_is_no_bad_input(models, cache, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise ZeroDivisionError("a mistake of ours")

    furnish(tmp_path, models, {})
    monkeypatch.chdir(tmp_path)
    before = snapshot(tmp_path)
    monkeypatch.setattr("nlp_transfer.predict.TextModel.predict", fail)
    assert run("predict run --input test.jsonl --output o.csv") == 1
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert "ZeroDivisionError: a mistake of ours" in message
    assert "bug" in message
    assert snapshot(tmp_path) == before


def test_there_are_enough_cases():
    assert len({case.name for case in CASES}) == len(CASES) >= 40
