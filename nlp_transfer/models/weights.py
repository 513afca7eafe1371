"""Safetensors files: their headers, whether they are whole, and a fingerprint of the weights."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.errors import ModelError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from nlp_transfer.models.source import ModelSource

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MAX_HEADER = 100_000_000
"""Bytes: the limit that the safetensors format sets."""

_VOLATILE = {
    "_name_or_path",
    "_commit_hash",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
    "problem_type",
    "use_cache",
}


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's (header, offset of the first tensor byte).

    Raises:
        ValueError: the file is cut short or is no safetensors file; the message says which.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 10 or length > min(size - 8, MAX_HEADER):
            raise ValueError(f"{size:,} bytes without a complete safetensors header")
        try:
            header = json.loads(stream.read(length))
        except ValueError:
            raise ValueError("a header that is not JSON") from None
    if not isinstance(header, dict):
        raise ValueError("a header that is not a JSON object")
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    try:
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (TypeError, KeyError, IndexError):
        raise ValueError("a header without tensor offsets") from None
    if end != size:
        raise ValueError(f"{size:,} bytes where the header announces {end:,}")
    return header, 8 + length


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder: one, the shards, or the adapter's; [] without any.

    Raises:
        ModelError: an index that cannot be read or that names a missing shard.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise ModelError(
                f"{index}: not a safetensors index",
                found=str(error),
                fix="copy or download the checkpoint again",
            ) from None
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise ModelError(
                f"{folder}: {len(missing)} of {len(names)} weight files are missing",
                expected=", ".join(names),
                found=f"no {missing[0]}",
                fix="copy or download the checkpoint again",
            )
        return [folder / name for name in names]
    return [folder / ADAPTER_WEIGHTS] if (folder / ADAPTER_WEIGHTS).is_file() else []


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes; kept for this process while size and time of change stay as they are."""
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def weights_fingerprint(model: PreTrainedModel | ModelSource, config: PretrainedConfig | None = None) -> str:
    """SHA-256 over the weights and the configuration fields that change what they compute.

    Args:
        model: a located checkpoint, whose safetensors bytes are streamed, or a model in memory, whose
            state is hashed. The two do not give the same value for the same weights.
        config: the configuration, needed with a located checkpoint.

    Cost: O(bytes); about 0.1 s for 90 MB.
    """
    import torch

    digest = hashlib.sha256()
    if isinstance(model, torch.nn.Module):
        config = model.config
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        for path in weight_files(model.folder):
            digest.update(file_sha256(path).encode())
    if config is not None:
        fields = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
        digest.update(json.dumps(fields, sort_keys=True, default=str).encode())
    return digest.hexdigest()
