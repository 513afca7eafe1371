"""predict, killed at any moment and resumed, writes the file of a run that was left alone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nlp_transfer import load_model
from nlp_transfer.data.rows import iter_rows
from nlp_transfer.errors import DataError, OutputError
from nlp_transfer.predict import predict_file
from nlp_transfer.tasks import TranslationOptions, TranslationTask
from nlp_transfer.tasks.base import TASK_FILE
from tests.translators import sample_pairs, tiny_translator

ROOT = Path(__file__).parents[2]
KILLER = """
import json, os, signal, sys
from pathlib import Path
import torch, transformers.models.marian
from nlp_transfer.data import partial, writer
from nlp_transfer.predict import load_model, predict_file

torch.set_num_threads(1)
run, source, *outputs = sys.argv[1:]
whole = Path(source).with_suffix(".whole.jsonl")
predict_file(Path(run), Path(source), whole, batch_rows=8)

def die(*args): os.kill(os.getpid(), signal.SIGKILL)

def dying(call, number):
    def planted(*args, **kwargs):
        planted.left -= 1
        if planted.left < 0:
            die()
        return call(*args, **kwargs)
    planted.left = number
    return planted

def attempt(output, point):
    child = os.fork()
    if child == 0:
        where, number = point
        if where == "write":
            writer.RowWriter.write = dying(writer.RowWriter.write, number)
        elif where == "record":
            partial.os.replace = dying(os.replace, number)
        elif where == "translate":
            from nlp_transfer.predict import TextModel
            TextModel.predict = dying(TextModel.predict, number)
        predict_file(Path(run), Path(source), Path(output), batch_rows=8, resume=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

POINTS = [("write", 3), ("record", 0), ("write", 13), ("translate", 1), ("record", 1), ("write", 7)]
kept = {}
for output in outputs:
    kept[output] = []
    for point in POINTS:
        assert attempt(output, point) == -signal.SIGKILL, (output, point)
        record = Path(output).with_name(f".{Path(output).name}.partial.json")
        kept[output].append(json.loads(record.read_text())["rows"] if record.exists() else 0)
    assert attempt(output, ("nowhere", 0)) == 0
print(json.dumps(kept))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A model folder of a tiny translator, as a run leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "model"
    start = tiny_translator(folder.parent / "start")
    folder.mkdir()
    for path in start.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    options = TranslationOptions(source_lang="de", target_lang="en", max_new_tokens=6, num_beams=2)
    described = {"task": "translation", **TranslationTask(options).describe()}
    (folder / TASK_FILE).write_text(json.dumps(described))
    return folder


def write_source(path, count=43):
    rows = [{"id": i, "de": german} for i, (german, _) in enumerate(sample_pairs()[:count])]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_killed_again_and_again(run, tmp_path):
    source = write_source(tmp_path / "in.jsonl")
    outputs = [str(tmp_path / name) for name in ("out.jsonl", "out.csv", "out.csv.gz")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLER, str(run), str(source), *outputs]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert outcome.returncode == 0, outcome.stderr
    kept = json.loads(outcome.stdout.strip().splitlines()[-1])
    expected = list(iter_rows(tmp_path / "in.whole.jsonl"))
    for output in outputs:
        assert kept[output] == [0, 0, 8, 16, 24, 24], "whole windows of 8 are kept"
        found = list(iter_rows(output))
        assert [row["translation"] for row in found] == [row["translation"] for row in expected]
        assert [int(row["id"]) for row in found] == list(range(43))
    assert not list(tmp_path.glob(".*"))


class Stop(Exception):
    pass


def stop_after(monkeypatch, windows):
    """The model fails behind so many windows."""
    from nlp_transfer.predict import TextModel

    real, calls = TextModel.predict, []

    def predict(self, texts):
        calls.append(len(texts))
        if len(calls) > windows:
            raise Stop
        return real(self, texts)

    monkeypatch.setattr(TextModel, "predict", predict)
    return calls


@pytest.fixture
def stopped(run, tmp_path, monkeypatch):
    """An output of which two windows of 8 rows are there."""
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Stop):
            predict_file(run, write_source(tmp_path / "in.jsonl"), tmp_path / "out.jsonl", batch_rows=8)
    assert not (tmp_path / "out.jsonl").exists()
    return tmp_path / "out.jsonl"


def test_only_the_missing_rows_are_predicted(run, stopped, monkeypatch, tmp_path):
    calls = stop_after(monkeypatch, 100)
    rows, _ = predict_file(run, tmp_path / "in.jsonl", stopped, batch_rows=20, resume=True)
    assert (rows, calls) == (43, [20, 7])
    assert [row["id"] for row in iter_rows(stopped)] == list(range(43))


def test_an_earlier_start_is_not_lost_by_mistake(run, stopped, tmp_path):
    with pytest.raises(OutputError, match="stopped here") as refused:
        predict_file(run, tmp_path / "in.jsonl", stopped)
    assert "--resume" in refused.value.fix
    predict_file(run, tmp_path / "in.jsonl", stopped, overwrite=True)
    assert len(list(iter_rows(stopped))) == 43
    assert not list(tmp_path.glob(".*"))


def test_another_input_is_refused_and_nothing_lost(run, stopped, tmp_path):
    source, before = tmp_path / "in.jsonl", {path: path.read_bytes() for path in tmp_path.glob(".*")}
    text = source.read_text("utf-8")
    source.write_text(text.replace('"id": 3,', '"id": 33,'), "utf-8")
    with pytest.raises(DataError, match="has changed since"):
        predict_file(run, source, stopped, resume=True)
    source.write_text("\n".join(text.splitlines()[:5]), "utf-8")
    with pytest.raises(DataError, match="has changed since"):
        predict_file(run, source, stopped, resume=True)
    source.write_text(text + '{"id": 44, "de": 5}\n', "utf-8")
    with pytest.raises(DataError, match="row 44"):
        predict_file(run, source, stopped, batch_rows=1, resume=True)
    record = json.loads((tmp_path / ".out.jsonl.partial.json").read_text())
    assert record["rows"] == 43
    assert (tmp_path / ".out.jsonl.partial").read_bytes().startswith(before[tmp_path / ".out.jsonl.partial"])


def test_another_model_is_refused(run, stopped, tmp_path):
    import torch

    other = load_model(run)
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    other.model.save_pretrained(tmp_path / "other")
    for path in run.iterdir():
        if not (tmp_path / "other" / path.name).exists():
            (tmp_path / "other" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(OutputError, match="come from another model"):
        predict_file(tmp_path / "other", tmp_path / "in.jsonl", stopped, resume=True)


@pytest.mark.parametrize(
    ("name", "content"), [("partial.json", "{"), ("partial.json", "[]"), ("partial", "")]
)
def test_a_damaged_start_is_named(name, content, run, stopped, tmp_path):
    (tmp_path / f".out.jsonl.{name}").write_text(content)
    with pytest.raises(OutputError, match="cannot be continued"):
        predict_file(run, tmp_path / "in.jsonl", stopped, resume=True)


def test_resume_without_a_start_begins(run, tmp_path):
    assert predict_file(run, write_source(tmp_path / "in.jsonl", 9), tmp_path / "o.tsv", resume=True)[0] == 9
    with pytest.raises(OutputError, match="complete already"):
        predict_file(run, tmp_path / "in.jsonl", tmp_path / "o.tsv", resume=True)
    with pytest.raises(OutputError, match="Parquet"):
        predict_file(run, tmp_path / "in.jsonl", tmp_path / "o.parquet", resume=True)
    with pytest.raises(OutputError, match="one of them"):
        predict_file(run, tmp_path / "in.jsonl", tmp_path / "new.csv", resume=True, overwrite=True)


def test_memory_holds_one_window(run, tmp_path, monkeypatch):
    """The input is a stream: no row behind the window is read before its predictions are on the disk."""
    from nlp_transfer import predict

    read, real = [0], predict.iter_rows

    def counted(path):
        for row in real(path):
            read[0] += 1
            yield row

    seen = []
    monkeypatch.setattr(predict, "iter_rows", counted)
    monkeypatch.setattr(
        predict.PartialWriter, "checkpoint", lambda writer, rows: seen.append((read[0], writer.rows))
    )
    predict_file(run, write_source(tmp_path / "in.jsonl"), tmp_path / "o.jsonl", batch_rows=8)
    assert [count for count, _ in seen] == [8, 16, 24, 32, 40, 43]
