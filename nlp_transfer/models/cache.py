"""Embeddings on disk: one folder per encoder and setting, append-only shards, safe for many writers."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
import uuid
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nlp_transfer.console import is_main_process, warn
from nlp_transfer.models.weights import read_header

if TYPE_CHECKING:
    from numpy.typing import NDArray

KEY_BYTES = 16
KEY_TYPE = np.dtype(f"S{KEY_BYTES}")
SMALL_SHARD = 8 << 20
"""Bytes: shards below this are merged when there are more than ``MAX_SMALL``."""
MAX_SMALL = 64
ABANDONED = 24 * 3600
"""Seconds after which the temporary file of a writer that died is removed."""


def cache_root() -> Path:
    """``$NLP_TRANSFER_CACHE/embeddings``, else ``embeddings`` in the user's cache folder for nlp_transfer."""
    chosen = os.environ.get("NLP_TRANSFER_CACHE")
    if chosen:
        return Path(chosen).expanduser() / "embeddings"
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return Path(base).expanduser() / "nlp_transfer" / "embeddings"


def text_keys(texts: Iterable[str]) -> NDArray[np.bytes_]:
    """BLAKE2b-128 of each text, [n] of 16 bytes."""
    digests = (hashlib.blake2b(text.encode("utf-8"), digest_size=KEY_BYTES).digest() for text in texts)
    return np.frombuffer(b"".join(digests), dtype=KEY_TYPE)


@dataclass(frozen=True, eq=False)
class _Shard:
    keys: NDArray[np.bytes_]
    features: NDArray[np.float32]
    path: Path | None


class EmbeddingStore:
    """Vectors of texts by the texts' hash; on disk where there is a folder, in memory where there is none.

    Every writer writes shards of its own under a temporary name and renames them, so readers never see half a
    shard and writers never wait. Features are memory-mapped. A shard that is cut or altered is reported,
    removed and not used.

    Args:
        folder: of one encoder and setting; None keeps everything in memory.
        description: written to ``about.json`` for people who look into the folder.
    """

    def __init__(self, folder: Path | None, description: dict[str, Any] | None = None) -> None:
        self.folder, self.description = folder, description
        self._shards: list[_Shard] = []
        self._seen: set[str] = set()
        self._keys = np.empty(0, dtype=KEY_TYPE)
        self._where = np.empty(0, dtype=np.int64)

    def refresh(self) -> None:
        """Take in the shards that other processes have written; merge small ones when there are many."""
        if self.folder is None:
            return
        fresh = [
            path for path in sorted(self.folder.glob("shard-*.safetensors")) if path.name not in self._seen
        ]
        loaded = [shard for path in fresh if (shard := _open(path, self._width())) is not None]
        self._seen.update(path.name for path in fresh)
        self._shards += loaded
        if loaded:
            self._index()
        self._merge()

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.int64]:
        """Where each key's vector lies, for ``take``; -1 where it is not here."""
        if not len(self._keys):
            return np.full(len(keys), -1, dtype=np.int64)
        position = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[position] == keys, self._where[position], -1)

    def take(self, where: NDArray[np.int64], out: NDArray[np.float32]) -> None:
        """Copy vectors into ``out`` [n, ...]."""
        shard_of, row_of = where >> 32, where & 0xFFFFFFFF
        for number in np.unique(shard_of):
            chosen = np.flatnonzero(shard_of == number)
            out[chosen] = self._shards[number].features[row_of[chosen]]

    def shape(self) -> tuple[int, ...]:
        """Shape of one vector; there must be one."""
        return self._shards[0].features.shape[1:]

    def add(self, keys: NDArray[np.bytes_], features: NDArray[np.float32]) -> None:
        """Keep the vectors [m, ...] of these keys [m]; on disk where that works, else in memory."""
        shard = _Shard(keys, np.ascontiguousarray(features, dtype=np.float32), None)
        if self.folder is not None and is_main_process():
            try:
                self._prepare(self.folder)
                path = _write(self.folder, shard)
                self._seen.add(path.name)
                shard = _open(path, None) or shard
            except OSError as error:
                self._give_up(error)
        self._shards.append(shard)
        self._index()

    def _prepare(self, folder: Path) -> None:
        """Make the folder, say in it what it is, and clear what writers that died left behind."""
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "about.json").is_file():
            _write_atomically(folder / "about.json", (json.dumps(self.description, indent=2) + "\n").encode())
        for path in folder.glob(".*.tmp"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    path.unlink()

    def _index(self) -> None:
        keys = np.concatenate([shard.keys for shard in self._shards])
        where = np.concatenate(
            [(number << 32) + np.arange(len(shard.keys)) for number, shard in enumerate(self._shards)]
        )
        self._keys, first = np.unique(keys, return_index=True)
        self._where = where[first]

    def _width(self) -> tuple[int, ...] | None:
        return self.shape() if self._shards else None

    def _merge(self) -> None:
        small = [
            shard for shard in self._shards if shard.path is not None and shard.features.nbytes < SMALL_SHARD
        ]
        if self.folder is None or len(small) <= MAX_SMALL or not is_main_process():
            return
        keys, first = np.unique(np.concatenate([shard.keys for shard in small]), return_index=True)
        features = np.concatenate([shard.features for shard in small])[first]
        try:
            path = _write(self.folder, _Shard(keys, features, None))
        except OSError as error:
            self._give_up(error)
            return
        merged = _open(path, None)
        if merged is None:
            return
        self._seen.add(path.name)
        self._shards = [shard for shard in self._shards if shard not in small] + [merged]
        self._index()
        for shard in small:
            _remove(shard.path)

    def _give_up(self, error: OSError) -> None:
        _warn_once(
            f"the embedding cache in {self.folder} cannot be written ({error.strerror}): going on without it"
        )
        self.folder = None


@functools.cache
def _warn_once(text: str) -> None:
    warn(text)


def _remove(path: Path | None) -> None:
    if path is not None:
        with contextlib.suppress(OSError):  # someone else was faster, or (Windows) still reads it
            path.unlink()


def _checksum(keys: NDArray, features: NDArray) -> str:
    return f"{zlib.crc32(features.reshape(-1).data, zlib.crc32(keys.data)):08x}"


def _write(folder: Path, shard: _Shard) -> Path:
    from safetensors.numpy import save

    keys = np.frombuffer(shard.keys.tobytes(), dtype=np.uint8).reshape(-1, KEY_BYTES)
    content = save(
        {"keys": keys, "features": shard.features},
        metadata={"format": "nlp_transfer embeddings 1", "crc32": _checksum(keys, shard.features)},
    )
    path = folder / f"shard-{uuid.uuid4().hex}.safetensors"
    _write_atomically(path, content)
    return path


def _write_atomically(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        _remove(temporary)
        raise


def _open(path: Path, width: tuple[int, ...] | None) -> _Shard | None:
    """Memory-map a shard; None where it is gone, or was damaged and is now removed."""
    try:
        header, start = read_header(path)
        parts = {}
        for name, kind in (("keys", np.uint8), ("features", np.float32)):
            offset = start + header[name]["data_offsets"][0]
            shape = tuple(header[name]["shape"])
            parts[name] = np.memmap(path, kind, "r", offset, shape) if shape[0] else np.empty(shape, kind)
        keys, features = parts["keys"], parts["features"]
        if width is not None and features.shape[1:] != width:
            raise ValueError(f"vectors of shape {features.shape[1:]} among those of shape {width}")
        if _checksum(keys, features) != header["__metadata__"]["crc32"]:
            raise ValueError("a checksum that does not fit")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, OSError) as error:
        warn(f"{path}: damaged embeddings ({error}): removed, and computed again where they are needed")
        _remove(path)
        return None
    return _Shard(np.frombuffer(keys.tobytes(), dtype=KEY_TYPE), features, path)
