"""Bad input of exported and loaded translation models: one clear error each, and nothing written."""

import json

import pytest

from nlp_transfer import load_model
from nlp_transfer.errors import DataError, MissingExtraError, ModelError
from nlp_transfer.export import export_model
from nlp_transfer.predict import evaluate_file, predict_file
from nlp_transfer.tasks.base import TASK_FILE
from tests.models.test_ct2 import trained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("model"), "marian")


def lines(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


PREDICT = [
    ([{"en": "Yes", "id": 3}], "no text column"),
    ([{"de": 3}], "row 1, column 'de' is not a text"),
    ([{"translation": {"de": "Ja"}}, {"translation": {"de": ["Nein"]}}], "row 2, column 'de' is not a text"),
    ([{"translation": {"fr": "Oui"}}], "no text column"),
]


@pytest.mark.parametrize(("rows", "message"), PREDICT)
def test_what_predict_refuses(rows, message, model, tmp_path):
    source = lines(tmp_path / "in.jsonl", *rows)
    with pytest.raises(DataError, match=message):
        predict_file(model, source, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


EVALUATE = [
    ([{"translation": {"de": "Ja", "fr": "Oui"}}] * 3, "no text in the target language 'en'"),
    ([{"de": "Ja"}], "no text in the target language 'en'"),
    ([{"translation": {"de": " ", "en": "Yes"}}], "no pair is left"),
]


@pytest.mark.parametrize(("rows", "message"), EVALUATE)
def test_what_evaluate_refuses(rows, message, model, tmp_path):
    source = lines(tmp_path / "in.jsonl", *rows)
    with pytest.raises(DataError, match=message):
        evaluate_file(model, source, output=tmp_path / "report.json")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "onnx"}, "model for translation, which the format onnx cannot hold"),
        ({"format": "merged", "quantization": "int8"}, "--quantization int8 is not for the format merged"),
    ],
)
def test_what_a_format_cannot_hold(settings, message, model, tmp_path):
    with pytest.raises(ModelError, match=message):
        export_model(model, tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_two_vocabularies_are_refused(model, tmp_path):
    from nlp_transfer.models.ct2 import convert

    loaded = load_model(model)
    loaded.tokenizer.separate_vocabs = True
    with pytest.raises(ModelError, match="a vocabulary for each language"):
        convert(loaded.model, loaded.tokenizer, tmp_path, quantization="float32")


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    from importlib import util

    real = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name: None if name == "ctranslate2" else real(name))
    with pytest.raises(MissingExtraError, match=r"nlp-transfer\[export\]"):
        export_model(model, tmp_path / "out", format="ctranslate2")
    assert not list(tmp_path.iterdir())


def test_an_export_is_no_model_for_torch(model, tmp_path):
    pytest.importorskip("ctranslate2")
    export_model(model, tmp_path / "out", format="ctranslate2", quantization="int8")
    with pytest.raises(ModelError, match=r"model\.bin is not for torch") as refused:
        load_model(tmp_path / "out")
    assert "ctranslate2.Translator" in refused.value.fix


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"languages": None}, "does not say which languages"),
        ({"options": {"source_lang": "de", "target_lang": "de"}}, "does not say which languages"),
        ({"task": "summary"}, "no such task"),
    ],
)
def test_a_task_file_that_says_something_else(change, message, model, tmp_path):
    import shutil

    shutil.copytree(model, tmp_path / "copy")
    saved = json.loads((model / TASK_FILE).read_text())
    (tmp_path / "copy" / TASK_FILE).write_text(json.dumps(saved | change))
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "copy")
