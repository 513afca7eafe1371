from __future__ import annotations

from pathlib import Path

import pytest

from nlp_transfer.models.load import ModelOptions, ModelSource, locate
from tests.tiny import tiny_model, tiny_sentence_encoder


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NLP_TRANSFER_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "bert")


@pytest.fixture
def sentence_encoder(tmp_path: Path) -> Path:
    return tiny_sentence_encoder(tmp_path / "sentence")


def source_of(folder: Path, **changes: object) -> tuple[ModelSource, ModelOptions]:
    options = ModelOptions(name=str(folder), **changes)  # type: ignore[arg-type]
    return locate(options), options
