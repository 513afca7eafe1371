from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from nlp_transfer.errors import DataError
from nlp_transfer.models import cache as cache_module
from nlp_transfer.models import embed as embed_module
from nlp_transfer.models.cache import EmbeddingStore, cache_root, text_keys
from nlp_transfer.models.embed import Embedder
from nlp_transfer.models.load import load_encoder, load_tokenizer
from tests.models.conftest import source_of
from tests.tiny import KINDS, TEXTS, tiny_model

ODD = ["", " ", "🙂🙂 café 漢字", "word " * 2000, "x", "\x00", "half \ud800 character"]


def embedder(folder: Path, **settings) -> Embedder:
    return Embedder.load(*source_of(folder), **settings)


@pytest.fixture
def passes(monkeypatch):
    """Rows that went through the encoder."""
    seen = []
    original = embed_module.pool_layers

    def counting(outputs, mask, *rest):
        seen.append(len(mask))
        return original(outputs, mask, *rest)

    monkeypatch.setattr(embed_module, "pool_layers", counting)
    return seen


DECODERS = ("gpt2", "llama", "qwen2")


def one_by_one(folder: Path, texts: list[str], pooling: str = "mean") -> np.ndarray:
    source, options = source_of(folder)
    encoder, tokenizer = load_encoder(source, options).eval(), load_tokenizer(source, options)
    rows = []
    for text in texts:
        inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
        with torch.no_grad():
            hidden = encoder(input_ids=inputs["input_ids"]).last_hidden_state
        rows.append((hidden[0].mean(0) if pooling == "mean" else hidden[0, -1]).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_batched_equals_one_by_one(tmp_path, kind):
    folder = tiny_model(tmp_path / "m", kind)
    found = embedder(folder, batch_tokens=40).embed(TEXTS)
    pooling = "last" if kind in DECODERS else "mean"
    np.testing.assert_allclose(found.features, one_by_one(folder, TEXTS, pooling), atol=1e-5)
    assert found.features.dtype == np.float32
    assert (found.hits, found.misses, found.pooling, found.max_length) == (0, 8, pooling, 64)


def test_each_distinct_text_goes_through_once(bert, passes):
    first = embedder(bert)
    once = first.embed(TEXTS + TEXTS[:3])
    assert (sum(passes), once.misses, once.hits) == (8, 8, 3)
    np.testing.assert_array_equal(once.features[:3], once.features[8:])
    again = embedder(bert)  # another run
    cached = again.embed([*TEXTS[::-1], "new"])
    assert (sum(passes), cached.misses, cached.hits) == (9, 1, 8)
    np.testing.assert_array_equal(cached.features[:8], once.features[:8][::-1])
    assert once.key == cached.key


def test_the_encoder_is_not_loaded_for_known_texts(bert, monkeypatch):
    embedder(bert).embed(TEXTS)
    monkeypatch.setattr(embed_module.load, "load_encoder", lambda *_: pytest.fail("loaded"))
    assert embedder(bert).embed(TEXTS).misses == 0


def test_without_a_cache_folder_memory_serves(bert, passes, tmp_path):
    memory = embedder(bert, cache_dir=False)
    first = memory.embed(TEXTS).features
    np.testing.assert_array_equal(memory.embed(TEXTS).features, first)
    assert sum(passes) == 8
    assert not (tmp_path / "cache").exists()
    np.testing.assert_allclose(embedder(bert).embed(TEXTS).features, first, atol=1e-6)


def test_an_unwritable_cache_is_said_once_and_gone_without(bert, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert embedder(bert, cache_dir=tmp_path / "file" / "below").embed(TEXTS).misses == 8
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_a_read_only_cache_is_read(bert, monkeypatch, passes):
    embedder(bert).embed(TEXTS)

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", denied)
    monkeypatch.setattr(Path, "write_bytes", denied)
    assert embedder(bert).embed(TEXTS).misses == 0
    assert embedder(bert).embed([*TEXTS, "new"]).misses == 1


def test_files_of_writers_that_died_are_cleared(tmp_path):
    old, young = tmp_path / ".shard-a.tmp", tmp_path / ".shard-b.tmp"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    EmbeddingStore(tmp_path).add(text_keys(["a"]), np.ones((1, 2), np.float32))
    assert not old.exists()
    assert young.exists()


def test_a_full_disk_is_survived(bert, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    machine = embedder(bert)
    machine.embed(TEXTS[:2])
    monkeypatch.setattr(cache_module, "_write", full)
    assert machine.embed(TEXTS).misses == 6
    assert machine.embed(TEXTS).misses == 0
    assert "No space left" in capsys.readouterr().err


def test_settings_have_keys_of_their_own(bert, tmp_path):
    other = tiny_model(tmp_path / "other", seed=1)
    machines = [
        embedder(bert),
        embedder(bert, pooling="cls"),
        embedder(bert, layer=1),
        embedder(bert, layer="all"),
        embedder(bert, max_length=9),
        embedder(bert, precision="bf16"),
        embedder(other),
        Embedder.load(*source_of(bert, dtype="bfloat16")),
    ]
    assert len({machine.key for machine in machines}) == len(machines)
    assert embedder(bert, normalize=True, batch_tokens=7).key == machines[0].key


def test_normalised_vectors_share_the_cache(bert, passes):
    plain = embedder(bert).embed(TEXTS).features
    unit = embedder(bert, normalize=True).embed(TEXTS).features
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)
    assert sum(passes) == 8


def test_several_layers_from_one_pass(bert, passes):
    every = embedder(bert, layer="all").embed(TEXTS).features
    assert every.shape == (8, 3, 32)
    assert sum(passes) == 8
    np.testing.assert_allclose(every[:, -1], embedder(bert).embed(TEXTS).features, atol=1e-6)
    np.testing.assert_allclose(every.mean(1), embedder(bert, layer="mean").embed(TEXTS).features, atol=1e-6)
    np.testing.assert_allclose(
        every[:, [0, 2]], embedder(bert, layer=(0, -1)).embed(TEXTS).features, atol=1e-6
    )


def test_order_and_company_do_not_matter(bert):
    alone = [embedder(bert, cache_dir=False).embed([text]).features[0] for text in TEXTS]
    np.testing.assert_allclose(
        embedder(bert, cache_dir=False).embed(TEXTS + ODD).features[:8], alone, atol=1e-5
    )


@pytest.mark.parametrize("kind", ["bert", "gpt2", "t5"])
def test_odd_texts(tmp_path, kind):
    machine = embedder(tiny_model(tmp_path / "m", kind))
    found = machine.embed(ODD)
    assert found.features.shape == (len(ODD), 32)
    assert np.isfinite(found.features).all()
    for index, text in enumerate(ODD):
        np.testing.assert_allclose(
            embedder(tmp_path / "m", cache_dir=False).embed([text]).features[0],
            found.features[index],
            atol=1e-5,
        )


def test_datasets_columns_and_arrays(bert):
    from datasets import Dataset

    rows = Dataset.from_dict({"text": TEXTS, "label": list(range(8))})
    expected = embedder(bert).embed(TEXTS).features
    for texts in (rows, rows["text"], tuple(TEXTS), np.array(TEXTS)):
        np.testing.assert_array_equal(embedder(bert).embed(texts).features, expected)


@pytest.mark.parametrize(
    ("texts", "message"), [("one", "one string"), ([], "no texts"), (["a", None], "row 1")]
)
def test_not_texts(bert, texts, message):
    with pytest.raises(DataError, match=message):
        embedder(bert).embed(texts)


def test_windows_and_memory_maps(bert, monkeypatch):
    expected = embedder(bert, cache_dir=False).embed(TEXTS).features
    monkeypatch.setattr(embed_module, "WINDOW", 3)
    monkeypatch.setattr(embed_module, "IN_MEMORY", 0)
    found = embedder(bert).embed(TEXTS)
    assert isinstance(found.features, np.memmap)
    np.testing.assert_allclose(found.features, expected, atol=1e-6)
    assert len(list((cache_root() / found.key).glob("shard-*"))) == 3


def test_an_encoder_in_memory(bert):
    source, options = source_of(bert)
    encoder = load_encoder(source, options).train()
    machine = Embedder(encoder, load_tokenizer(source, options), max_length=64)
    np.testing.assert_allclose(machine.embed(TEXTS).features, embedder(bert).embed(TEXTS).features, atol=1e-6)
    assert encoder.training


def test_bf16_stays_close(bert):
    full, half = (embedder(bert, precision=kind).embed(TEXTS).features for kind in ("fp32", "bf16"))
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))


def blank(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, blank])
def test_a_damaged_shard_is_removed_and_computed_again(bert, damage, capsys):
    expected = embedder(bert).embed(TEXTS)
    (shard,) = (cache_root() / expected.key).glob("shard-*")
    damage(shard)
    found = embedder(bert).embed(TEXTS)
    assert found.misses == 8
    np.testing.assert_array_equal(found.features, expected.features)
    assert not shard.exists()
    assert "damaged embeddings" in capsys.readouterr().err
    assert embedder(bert).embed(TEXTS).misses == 0


def test_small_shards_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_module, "MAX_SMALL", 4)
    texts = [f"text {number}" for number in range(12)]
    vectors = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
    for number in range(6):
        EmbeddingStore(tmp_path).add(text_keys(texts[2 * number :][:2]), vectors[2 * number :][:2])
    late = EmbeddingStore(tmp_path)
    EmbeddingStore(tmp_path).refresh()
    assert len(list(tmp_path.glob("shard-*"))) == 1
    late.refresh()
    for store in (late, EmbeddingStore(tmp_path)):
        store.refresh()
        where = store.find(text_keys(texts))
        assert (where >= 0).all()
        out = np.empty((12, 3), np.float32)
        store.take(where, out)
        np.testing.assert_array_equal(out, vectors)
        assert store.find(text_keys(["unknown"])).tolist() == [-1]


def test_two_processes_at_once(bert, tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
import numpy as np
import nlp_transfer.models.embed as module
from tests.models.conftest import source_of
from tests.tiny import TEXTS
module.WINDOW = 5
texts = [f"{{text}} {{n}}" for n in range(6) for text in TEXTS]
texts = texts if sys.argv[1] == "0" else texts[::-1]
found = module.Embedder.load(*source_of(Path({str(bert)!r}))).embed(texts).features
np.save(sys.argv[2], found if sys.argv[1] == "0" else found[::-1])
"""
    files = [tmp_path / f"{number}.npy" for number in range(2)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number), str(file)], stderr=subprocess.PIPE, text=True
        )
        for number, file in enumerate(files)
    ]
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
        assert "damaged" not in errors
    first, second = (np.load(file) for file in files)
    np.testing.assert_allclose(first, second, atol=1e-6)
    texts = [f"{text} {n}" for n in range(6) for text in TEXTS]
    assert embedder(bert).embed(texts).misses == 0
