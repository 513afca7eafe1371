"""The command line where all is well: predict, evaluate, recipes, doctor and the help pages."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from nlp_transfer.cli import app, run_command
from tests.tiny import TEXTS, tiny_model

LABELS = ("negative", "positive")
ODD = [
    "",
    "   ",
    "naïve café ☕",
    "👩‍👩‍👧 loved it 🎉",
    'größer, "quoted" text',
    "line one\nline two",
    "日本語 عربى",
]
ENDINGS = ("csv", "tsv", "jsonl", "parquet")


def run(*arguments: object) -> int:
    return run_command(lambda: app([str(argument) for argument in arguments], standalone_mode=False))


def trained(folder: Path, problem: str = "single_label_classification", seed: int = 0) -> Path:
    """A run folder with a tiny classifier whose predictions differ from text to text."""
    import torch

    from nlp_transfer.models.classifier import build_classifier, save_classifier
    from nlp_transfer.models.load import ModelOptions, load_tokenizer, locate

    names = {0: "rating"} if problem == "regression" else dict(enumerate(LABELS))
    options = ModelOptions(name=str(tiny_model(folder / "tiny", seed=seed)), pooling="mean")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_classifier(
            locate(options), options, num_labels=len(names), id2label=names, problem_type=problem
        )
    tokenizer = load_tokenizer(locate(options), options)
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    model.eval()
    with torch.no_grad():
        head.weight.mul_(50)
        logits = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
        margins = logits[:, -1] - (logits[:, 0] if len(names) > 1 else 0)
        head.bias[-1] -= margins.sort().values[len(TEXTS) // 2 - 1 :][:2].mean()  # half of them each way
    save_classifier(model, folder / "run/model")
    tokenizer.save_pretrained(folder / "run/model")
    return folder / "run"


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("classifier"))


@pytest.fixture(scope="module")
def rater(tmp_path_factory) -> Path:
    return trained(tmp_path_factory.mktemp("rater"), "regression")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    import datasets

    folder = tmp_path_factory.mktemp("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def sample_rows(count: int = 40) -> list[dict[str, object]]:
    """Rows in an order that no sort by length keeps, with odd texts among them."""
    texts = [*TEXTS, *ODD]
    order = np.random.default_rng(0).integers(0, len(texts), count)
    return [
        {"id": f"{number:03}", "review": texts[index], "sentiment": LABELS[number % 2], "note": f"n{number}"}
        for number, index in enumerate(order)
    ]


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows with other code than the package's own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def read(path: Path) -> list[dict]:
    """Read rows with other code than the package's own."""
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def expected_probabilities(run_folder: Path, texts: list[str]) -> np.ndarray:
    """Softmax of one text at a time through the saved model, in plain torch."""
    import torch

    from nlp_transfer.models.classifier import load_classifier
    from nlp_transfer.models.load import ModelOptions, load_tokenizer, locate

    options = ModelOptions(name=str(run_folder))
    model, tokenizer = load_classifier(run_folder).eval(), load_tokenizer(locate(options), options)
    with torch.no_grad():
        logits = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in texts]
    return torch.stack(logits).float().softmax(-1).numpy()


@pytest.mark.parametrize("ending_in", ENDINGS)
@pytest.mark.parametrize("ending_out", ENDINGS)
def test_predict_keeps_rows_and_columns_in_every_format(ending_in, ending_out, classifier, tmp_path):
    rows = sample_rows()
    source, target = write(tmp_path / f"in.{ending_in}", rows), tmp_path / f"out/deep.{ending_out}"
    assert run("predict", classifier, "--input", source, "--output", target, "--batch-rows", 7) == 0
    found = read(target)
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    assert list(found[0]) == [*rows[0], "label", "score", "probability_negative", "probability_positive"]
    probabilities = expected_probabilities(classifier, [str(row["review"]) for row in rows])
    wrote = np.array([[float(row[f"probability_{name}"]) for name in LABELS] for row in found])
    np.testing.assert_allclose(wrote, probabilities, atol=1e-5)
    assert [row["label"] for row in found] == [LABELS[index] for index in wrote.argmax(1)]
    assert len({row["label"] for row in found}) == 2
    np.testing.assert_allclose([float(row["score"]) for row in found], wrote.max(1))
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_predict_renames_its_columns_where_the_file_has_them(classifier, tmp_path):
    rows = [{"text": text, "label": "mine", "predicted_label": "mine too", "score": 3} for text in TEXTS]
    once, twice = tmp_path / "once.jsonl", tmp_path / "twice.jsonl"
    assert run("predict", classifier, "--input", write(tmp_path / "in.jsonl", rows), "--output", once) == 0
    found = read(once)
    assert [{key: row[key] for key in rows[0]} for row in found] == rows
    assert {row["predicted_predicted_label"] for row in found} == set(LABELS)
    wrote = [[row[f"probability_{name}"] for name in LABELS] for row in found]
    assert [row["predicted_predicted_label"] for row in found] == [
        LABELS[i] for i in np.argmax(wrote, axis=1)
    ]
    assert all(0.5 <= row["predicted_score"] <= 1 for row in found)
    assert run("predict", classifier, "--input", once, "--output", twice) == 0
    assert [{key: row[key] for key in found[0]} for row in read(twice)] == found


def test_predict_takes_missing_texts_and_missing_columns(classifier, tmp_path, capsys):
    rows = [{"text": TEXTS[0], "a": 1}, {"text": None, "a": 2}, {"a": 3}, {"text": TEXTS[1], "b": {"c": [1]}}]
    source, target = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    assert run("predict", classifier, "--input", source, "--output", target) == 0
    assert "empty texts: 2" in capsys.readouterr().err
    found = read(target)
    assert [(row["text"], row["a"], row["b"]) for row in found] == [
        (TEXTS[0], 1, None),
        (None, 2, None),
        (None, 3, None),
        (TEXTS[1], None, {"c": [1]}),
    ]
    empty = expected_probabilities(classifier, [""])[0]
    for row in found[1:3]:
        np.testing.assert_allclose([row[f"probability_{name}"] for name in LABELS], empty, atol=1e-5)


def test_predict_holds_few_rows_in_memory(classifier, tmp_path, monkeypatch):
    """The reader is never more than one chunk ahead of the writer."""
    from nlp_transfer import predict
    from nlp_transfer.data.writer import RowWriter

    read_rows, ahead = 0, []
    real_rows, real_write = predict.iter_rows, RowWriter.write

    def count_rows(path):
        nonlocal read_rows
        for row in real_rows(path):
            read_rows += 1
            yield row

    def count_written(writer, row):
        ahead.append(read_rows - len(ahead))
        real_write(writer, row)

    monkeypatch.setattr(predict, "iter_rows", count_rows)
    monkeypatch.setattr(RowWriter, "write", count_written)
    source = write(tmp_path / "in.csv", sample_rows(100))
    assert (
        run("predict", classifier, "--input", source, "--output", tmp_path / "o.csv", "--batch-rows", 8) == 0
    )
    assert len(ahead) == 100
    assert max(ahead) <= 8


def test_predict_does_not_depend_on_the_chunks(classifier, tmp_path):
    source = write(tmp_path / "in.jsonl", sample_rows(30))
    for size in (1, 30):
        assert (
            run(
                "predict",
                classifier,
                "--input",
                source,
                "--output",
                tmp_path / f"{size}.jsonl",
                "--batch-rows",
                size,
            )
            == 0
        )
    one, all_rows = read(tmp_path / "1.jsonl"), read(tmp_path / "30.jsonl")
    np.testing.assert_allclose([row["score"] for row in one], [row["score"] for row in all_rows], atol=1e-5)


def test_a_single_string_is_one_text(classifier):
    from nlp_transfer.predict import load_model

    model = load_model(classifier)
    found = model.predict("Sharp, light")
    assert len(found) == 1
    assert found == model.predict(["Sharp, light"])


def test_predict_text_file_and_overwrite(classifier, tmp_path):
    source, target = tmp_path / "in.txt", tmp_path / "out.csv"
    source.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    target.write_text("old")
    assert run("predict", classifier, "--input", source, "--output", target, "--overwrite") == 0
    assert [row["text"] for row in read(target)] == TEXTS


def test_predict_into_a_text_file(classifier, tmp_path):
    """Line for line the labels that a table gets, with nothing beside them."""
    source = tmp_path / "in.txt"
    source.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    for name in ("out.txt", "out.csv"):
        assert run("predict", classifier, "--input", source, "--output", tmp_path / name) == 0
    lines = (tmp_path / "out.txt").read_text("utf-8").splitlines()
    assert lines == [row["label"] for row in read(tmp_path / "out.csv")]


def test_predict_ratings(rater, tmp_path):
    target = tmp_path / "out.jsonl"
    assert (
        run("predict", rater, "--input", write(tmp_path / "in.csv", sample_rows(9)), "--output", target) == 0
    )
    found = read(target)
    assert all(isinstance(row["rating"], float) for row in found)
    assert "label" not in found[0]


def test_evaluate_agrees_with_scikit_learn_on_what_predict_wrote(classifier, tmp_path, capsys):
    from sklearn import metrics

    rows = [row for row in sample_rows(60) if str(row["review"]).strip()]
    source, target, report_file = (
        write(tmp_path / "in.csv", rows),
        tmp_path / "out.csv",
        tmp_path / "new/report.json",
    )
    assert run("predict", classifier, "--input", source, "--output", target) == 0
    assert run("evaluate", classifier, "--data", source, "--output", report_file) == 0
    assert "accuracy" in capsys.readouterr().out
    report, found = json.loads(report_file.read_text()), read(target)
    truth, predicted = [row["sentiment"] for row in found], [row["label"] for row in found]
    probabilities = np.array([[float(row[f"probability_{name}"]) for name in LABELS] for row in found])
    assert report["rows"] == len(rows)
    assert report["accuracy"]["value"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert report["macro_f1"]["value"] == pytest.approx(metrics.f1_score(truth, predicted, average="macro"))
    assert report["matthews_correlation"]["value"] == pytest.approx(
        metrics.matthews_corrcoef(truth, predicted)
    )
    assert report["loss"]["value"] == pytest.approx(metrics.log_loss(truth, probabilities), rel=1e-4)
    by_class = metrics.classification_report(truth, predicted, output_dict=True, zero_division=0)
    for name in LABELS:
        row = report["per_class"][name]
        assert row["precision"] == pytest.approx(by_class[name]["precision"])
        assert row["recall"] == pytest.approx(by_class[name]["recall"])
        assert row["support"] == by_class[name]["support"]


def test_evaluate_ratings_agrees_with_scikit_learn(rater, tmp_path):
    from sklearn import metrics

    rows = [{"text": text, "stars": float(number)} for number, text in enumerate(TEXTS)]
    source, target, report_file = (
        write(tmp_path / "in.jsonl", rows),
        tmp_path / "out.jsonl",
        tmp_path / "r.json",
    )
    assert run("predict", rater, "--input", source, "--output", target) == 0
    assert run("evaluate", rater, "--data", source, "--output", report_file) == 0
    report, found = json.loads(report_file.read_text()), read(target)
    pairs = [row["stars"] for row in found], [row["rating"] for row in found]
    assert report["mse"]["value"] == pytest.approx(metrics.mean_squared_error(*pairs), rel=1e-5)
    assert report["mae"]["value"] == pytest.approx(metrics.mean_absolute_error(*pairs), rel=1e-5)


def test_shift_writes_a_report(classifier, tmp_path, capsys):
    model = classifier.parent / "tiny"
    command = ("shift", "--source", "sample:cafes", "--target", "sample:laptops", "--model", model)
    assert run(*command, "--max-samples", 30, "--permutations", 20, "--output", tmp_path / "report") == 0
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert 0 < report["mmd"]["p_value"] <= 1
    assert "cafes" in capsys.readouterr().out


def test_recipes_list_show_and_schema(tmp_path, capsys):
    from nlp_transfer.recipe import Recipe, shipped_recipes

    assert run("recipes", "list") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in shipped_recipes())
    assert run("recipes", "show", "sentiment/lora") == 0
    shown = capsys.readouterr().out
    (tmp_path / "mine.yaml").write_text(shown, encoding="utf-8")
    assert Recipe.load(tmp_path / "mine.yaml").dump() == Recipe.load("sentiment/lora").dump()
    assert yaml.safe_load(shown)["strategy"]["kind"] == "lora"
    assert run("recipes", "schema") == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"task", "model", "source", "target", "strategy", "training"} <= set(schema["properties"])


def test_doctor_runs_and_prints_json(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    code = run("doctor", "--json")
    output = capsys.readouterr()
    findings = json.loads(output.out)
    assert {"python", "torch", "hub", "embedded encoder", "embedding cache", "working folder"} <= {
        finding["name"] for finding in findings
    }
    assert all(finding["level"] in ("ok", "info", "problem") for finding in findings)
    problems = [finding for finding in findings if finding["level"] == "problem"]
    assert all(finding["cure"] for finding in problems)
    assert code == (2 if problems else 0)
    assert run("doctor") == code
    assert "what to do" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_doctor_names_an_old_package_and_its_cure(monkeypatch):
    from nlp_transfer import doctor

    monkeypatch.setattr(doctor, "version", lambda name: "1.0.0")
    finding = doctor._package("torch")
    assert finding.level == "problem"
    assert 'pip install "torch>=2.6"' in (finding.cure or "")


HELP = {
    "": "Transfer learning",
    "train": "RECIPE",
    "launch": "--processes",
    "evaluate": "--data",
    "predict": "--input",
    "shift": "--target",
    "rank": "--models",
    "plan": "--budget-minutes",
    "tune": "--trials",
    "export": "--format",
    "doctor": "--json",
    "demo": "--output",
    "recipes": "schema",
    "recipes list": "shipped",
    "recipes show": "sentiment/lora",
    "recipes keys": "defaults and meanings",
    "recipes schema": "JSON Schema",
}


@pytest.mark.parametrize("command", HELP)
def test_help_of_every_command(command, capsys):
    assert run(*command.split(), "--help") == 0
    output = capsys.readouterr()
    assert "Usage:" in output.out
    assert HELP[command] in output.out
    assert output.err == ""


def test_every_command_has_a_help_page_here():
    named = {command.name or command.callback.__name__ for command in app.registered_commands}
    named |= {group.name for group in app.registered_groups}
    assert named <= set(HELP)


def test_without_a_command_the_help_is_shown(capsys):
    assert run() == 2
    output = capsys.readouterr()
    assert "train" in output.out + output.err


def test_version(capsys):
    from nlp_transfer import __version__

    assert run("--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_a_closed_pipe_is_no_error():
    code = (
        "import sys; from nlp_transfer.cli import app, run_command; "
        "sys.exit(run_command(lambda: app(['recipes', 'list'], standalone_mode=False)))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
