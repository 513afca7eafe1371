"""Frozen-encoder embeddings: each distinct text goes through the encoder once, ever."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from nlp_transfer.console import is_main_process
from nlp_transfer.errors import DataError, ModelError
from nlp_transfer.models import load
from nlp_transfer.models.attention import bf16_attention
from nlp_transfer.models.cache import EmbeddingStore, cache_root, text_keys
from nlp_transfer.models.inference import token_batches
from nlp_transfer.models.load import ModelOptions, ModelSource
from nlp_transfer.models.pooling import Layer, Pooling, pool_layers
from nlp_transfer.models.precision import bf16_pays
from nlp_transfer.models.weights import weights_fingerprint
from nlp_transfer.processes import gather, rank, world_size

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WINDOW = 20_000
"""Texts that are sorted by length, encoded and written together: what a crash can lose."""
IN_MEMORY = 1 << 30
"""Bytes of features that are returned in memory; more are returned as a memory map of a temporary file."""
BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}
PROGRESS_FROM = 512


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of texts, and how they were made.

    Attributes:
        features: float32 [n, d], or [n, layers, d] for several layers; a memory map above 1 GiB.
        model: hub id or folder of the encoder.
        revision: its commit, where known.
        pooling: mean, cls or last.
        layer: which hidden layer or layers.
        normalize: whether each vector has length one.
        max_length: tokens of a text that were read.
        precision: fp32 or bf16.
        key: of the cache folder; equal keys and equal texts mean equal vectors (before ``normalize``).
        seconds: wall time.
        hits: rows that needed no pass through the encoder.
        misses: distinct texts that went through it.
    """

    features: NDArray[np.float32]
    model: str
    revision: str | None
    pooling: Pooling
    layer: Layer
    normalize: bool
    max_length: int
    precision: str
    key: str
    seconds: float
    hits: int
    misses: int

    def __len__(self) -> int:
        return len(self.features)


class Embedder:
    """A frozen encoder with pooling and a cache on disk.

    The encoder is loaded when a text is not in the cache, not before.

    Args:
        model: a located model, or an encoder in memory (whose weights must not change afterwards).
        tokenizer: of that model.
        options: how to load a located model.
        pooling: mean (of the tokens), cls (first token) or last (last token).
        layer: hidden layer: an index (0 = embeddings, -1 = last), "last", "mean" (over all), a tuple, "all".
            Several layers come from one pass, as [n, layers, d].
        normalize: scale each vector to length one. The cache keeps the vectors as they were before.
        max_length: tokens of a text that are read.
        precision: auto (bf16 where it is faster, see ``bf16_pays``), fp32 or bf16.
        batch_tokens: padded tokens in one pass; None: 1,024 on a CPU (measured fastest), 65,536 on CUDA.
        cache_dir: None: ``cache_root()``; False: keep embeddings in memory only.
        device: None: CUDA where there is one, else the CPU.
        progress: show a bar for long inputs on a terminal.
        sharded: share the passes out among the processes of a launched run, all of which must then call
            ``embed`` with the same texts; the main one writes the cache.

    Cost: one forward pass per distinct new text, sorted by length within windows of 20,000 texts.

    Example:
        >>> embedder = Embedder.load(locate(ModelOptions()), ModelOptions())  # doctest: +SKIP
        >>> embedder.embed(["a fine book", "a dull book"]).features.shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self,
        model: PreTrainedModel | ModelSource,
        tokenizer: PreTrainedTokenizerBase,
        *,
        options: ModelOptions | None = None,
        pooling: Pooling = "mean",
        layer: Layer = "last",
        normalize: bool = False,
        max_length: int = load.DEFAULT_MAX_LENGTH,
        precision: Literal["auto", "fp32", "bf16"] = "auto",
        batch_tokens: int | None = None,
        cache_dir: str | Path | Literal[False] | None = None,
        device: str | torch.device | None = None,
        progress: bool = True,
        sharded: bool = False,
    ) -> None:
        self.source = model if isinstance(model, ModelSource) else None
        self._model = None if isinstance(model, ModelSource) else model
        self.tokenizer = tokenizer
        self.options = options or ModelOptions()
        self.pooling: Pooling = pooling
        self.layer: Layer = tuple(layer) if isinstance(layer, list | tuple) else layer
        self.normalize, self.max_length, self.progress = normalize, max_length, progress
        self.sharded = sharded and world_size() > 1
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if precision == "auto":
            precision = "bf16" if bf16_pays(self.device.type) else "fp32"
        self.precision: Literal["fp32", "bf16"] = precision
        self.batch_tokens = batch_tokens or BATCH_TOKENS.get(self.device.type, 8192)
        self._root = (
            None if cache_dir is False else Path(cache_dir) if cache_dir is not None else cache_root()
        )

    @classmethod
    def load(
        cls, source: ModelSource, options: ModelOptions, *, pooling: Pooling | None = None, **settings: Any
    ) -> Embedder:
        """An embedder for a located model, with its tokenizer, declared pooling and length limit.

        Args:
            source: from ``locate``.
            options: the recipe's ``model``. Where its pooling is auto or stock: what the checkpoint declares,
                else the last token of a decoder and the mean over an encoder's.
            pooling: in place of the options'.
            settings: of ``Embedder``.
        """
        tokenizer = load.load_tokenizer(source, options)
        if pooling is None and options.pooling in ("mean", "cls", "last"):
            pooling = options.pooling
        settings.setdefault(
            "max_length",
            load.resolve_max_length(tokenizer, load.load_config(source, options), options.max_length),
        )
        chosen = (
            pooling
            or load.declared_pooling(source)
            or load.default_pooling(load.load_config(source, options))
        )
        return cls(source, tokenizer, options=options, pooling=chosen, **settings)

    @functools.cached_property
    def encoder(self) -> PreTrainedModel:
        """The encoder, loaded on first use."""
        if self._model is not None:
            model = self._model
        else:
            assert self.source is not None
            model = load.load_encoder(self.source, self.options).eval()
        torch.nn.Module.to(model, self.device)
        return model

    @functools.cached_property
    def key(self) -> str:
        """Name of the cache folder: SHA-256 over everything that the vectors depend on, except the texts."""
        return hashlib.sha256(json.dumps(self._description, sort_keys=True).encode()).hexdigest()[:40]

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        if self._model is not None:
            weights, name = weights_fingerprint(self._model), self._model.name_or_path
        else:
            assert self.source is not None
            config = load.load_config(self.source, self.options)
            weights, name = weights_fingerprint(self.source, config), self.source.name
            if self.source.is_adapter:
                weights += weights_fingerprint(load.base_of(self.source, self.options))
        return {
            "model": name,
            "weights": weights,
            "tokenizer": _tokenizer_fingerprint(self.tokenizer),
            "dtype": self.options.dtype if self._model is None else str(self._model.dtype),
            "pooling": self.pooling,
            "layer": self.layer,
            "max_length": self.max_length,
            "precision": self.precision,
        }

    @functools.cached_property
    def _store(self) -> EmbeddingStore:
        return EmbeddingStore(None if self._root is None else self._root / self.key, self._description)

    def embed(self, texts: Sequence[str] | Any) -> Embeddings:
        """Embed texts, in their order.

        Args:
            texts: a sequence of strings, a column of a dataset, or a dataset with a column ``text``.

        Raises:
            DataError: no texts, or something that is not a text.
            ModelError: the encoder cannot be loaded, or gives values that are not finite.
        """
        from tqdm.auto import tqdm

        started = time.perf_counter()
        texts = _column(texts)
        total, misses, features = len(texts), 0, None
        self._store.refresh()
        visible = self.progress and total >= PROGRESS_FROM and sys.stderr.isatty() and is_main_process()
        with tqdm(total=total, desc="embedding", unit="text", disable=not visible, leave=False) as bar:
            for start in range(0, total, self._window):
                window = _strings(texts[start : start + self._window], start)
                keys, first, inverse = np.unique(text_keys(window), return_index=True, return_inverse=True)
                missing = self._missing(keys)
                bar.update(len(window) - len(missing))
                if len(missing):
                    absent = [window[index] for index in first[missing]]
                    vectors = (self._encode_shares if self.sharded else self._encode)(absent, bar)
                    self._store.add(keys[missing], vectors)
                    misses += len(missing)
                if features is None:
                    features = _empty((total, *self._store.shape()))
                self._store.take(self._store.find(keys)[inverse], features[start : start + len(window)])
                if self.normalize:
                    _normalize(features[start : start + len(window)])
        assert features is not None
        return Embeddings(
            features=features,
            model=self._description["model"],
            revision=None if self.source is None else self.source.revision,
            pooling=self.pooling,
            layer=self.layer,
            normalize=self.normalize,
            max_length=self.max_length,
            precision=self.precision,
            key=self.key,
            seconds=time.perf_counter() - started,
            hits=total - misses,
            misses=misses,
        )

    @property
    def _window(self) -> int:
        if self.layer == "all":
            return WINDOW // 8
        return WINDOW // len(self.layer) + 1 if isinstance(self.layer, tuple) else WINDOW

    def _missing(self, keys: NDArray) -> NDArray[np.intp]:
        """Which keys' vectors are not there; on many processes, not there on one of them at least."""
        absent = self._store.find(keys) < 0
        if self.sharded:
            absent = np.logical_or.reduce(gather(absent))
        return np.flatnonzero(absent)

    def _encode_shares(self, texts: list[str], bar: Any) -> NDArray[np.float32]:
        """``_encode`` shared out among the processes: each takes every n-th text by length, all get all."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        own = order[rank() :: world_size()]
        found = gather(self._encode([texts[index] for index in own], bar) if len(own) else None)
        parts = [part for part in found if part is not None]
        result = np.empty((len(texts), *parts[0].shape[1:]), dtype=np.float32)
        for number, part in enumerate(parts):
            result[order[number :: world_size()]] = part
        return result

    @torch.inference_mode()
    def _encode(self, texts: list[str], bar: Any) -> NDArray[np.float32]:
        """Forward passes over texts, longest first: float32 [n, ...] in the order of the texts."""
        tokenizer, encoder = self.tokenizer, self.encoder
        accepts = inspect.signature(encoder.forward).parameters
        fixed: dict[str, Any] = {"use_cache": False} if "use_cache" in accepts else {}
        if self.layer != "last":
            fixed["output_hidden_states"] = True
        with load.quiet():
            ids = tokenizer(
                texts,
                truncation=True,
                max_length=self.max_length,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        substitute = [tokenizer.pad_token_id]
        ids = [row or substitute for row in ids]
        result: NDArray[np.float32] | None = None
        was_training = encoder.training
        encoder.eval()
        half = self.precision == "bf16"
        try:  # autocast keeps its copies of the weights until its block ends: one block for all batches
            with (
                torch.autocast(self.device.type, torch.bfloat16, enabled=half),
                bf16_attention(encoder, half),
            ):
                for indices in token_batches([len(row) for row in ids], self.batch_tokens):
                    inputs, mask = _pad([ids[index] for index in indices], tokenizer.pad_token_id)
                    inputs, mask = inputs.to(self.device), mask.to(self.device)
                    outputs = encoder(input_ids=inputs, attention_mask=mask, return_dict=True, **fixed)
                    vectors = pool_layers(outputs, mask, self.pooling, self.layer).float().cpu().numpy()
                    if result is None:
                        result = np.empty((len(ids), *vectors.shape[1:]), dtype=np.float32)
                    result[indices] = vectors
                    bar.update(len(indices))
        finally:
            encoder.train(was_training)
        assert result is not None
        broken = int((~np.isfinite(result.reshape(len(ids), -1))).any(1).sum())
        if broken:
            raise ModelError(
                f"{self._description['model']}: the embeddings are not finite",
                expected="finite numbers",
                found=f"NaN or infinity in {broken} of {len(ids)} texts",
                fix="set model.dtype=float32, and check the checkpoint",
            )
        return result


def _pad(rows: list[list[int]], pad_token: int) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_token, dtype=np.int64)
    ids[mask] = np.concatenate(rows)
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def _column(texts: Any) -> Any:
    if isinstance(texts, str):
        raise DataError(
            "one string where texts are wanted", expected="a sequence of strings", fix="pass [text]"
        )
    names = getattr(texts, "column_names", None)
    if names is not None:
        if "text" not in names:
            raise DataError(
                "the dataset has no column 'text'", expected="a column text", found=", ".join(names)
            )
        texts = texts["text"]
    if not len(texts):
        raise DataError("no texts to embed", expected="at least one text", found="none")
    return texts


def _strings(window: Any, start: int) -> list[str]:
    """The texts of a window; half characters (lone surrogates) become question marks."""
    rows = list(window)
    for offset, text in enumerate(rows):
        if not isinstance(text, str):
            raise DataError(
                f"row {start + offset} is not a text",
                expected="a string",
                found=f"{type(text).__name__}: {text!r:.60}",
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            rows[offset] = text.encode("utf-8", "replace").decode("utf-8")
    return rows


def _normalize(features: NDArray[np.float32]) -> None:
    length = np.sqrt(np.einsum("...d,...d->...", features, features))[..., None]
    features /= np.maximum(length, 1e-12)


def _empty(shape: tuple[int, ...]) -> NDArray[np.float32]:
    if int(np.prod(shape)) * 4 <= IN_MEMORY:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile() as file:  # the map keeps the file alive
        return np.memmap(file, np.float32, "w+", shape=shape)


def _tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what decides the token ids: the tokenizer's state without padding and truncation."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        state = json.loads(backend.to_str())
        state["padding"] = state["truncation"] = None
    else:
        state = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    content = json.dumps([state, tokenizer.truncation_side], sort_keys=True, default=str)
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
