"""Ship a trained model: merged weights for plain transformers, or ONNX, each checked against the original."""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import calm
from nlp_transfer.errors import ModelError, NlpTransferError, OutputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.predict import TextModel

CHECK_ROWS = 128
"""Texts on which the exported model is compared with the original."""
TOLERANCE = 1e-3
"""Largest difference between two float32 logits, relative to the largest logit (at least 1)."""
EXPORT_FILE = "export.json"
"""In the exported folder: how it was checked."""
ONNX_FILE = "model.onnx"
TEXTS = (
    "A fine film, from the first scene to the last.",
    "It broke after two days.",
    "I do not know what to make of it; the second half is better than the first, if a little long.",
    "No.",
)
"""Checked where the run's own validation rows cannot be read."""


@dataclass(frozen=True)
class Exported:
    """An exported model, and how it compares with the original.

    Attributes:
        folder: where it is.
        format: merged or onnx.
        int8: whether its weights are 8-bit integers.
        megabytes: size of its weights.
        rows: texts of the comparison; 0: there was none.
        difference: largest absolute difference of the logits.
        agreement: share of the texts with the same predicted class; None for ratings.
        seconds, original_seconds: for these texts, one by one, with the exported model and in torch.
    """

    folder: Path
    format: str
    int8: bool
    megabytes: float
    rows: int = 0
    difference: float | None = None
    agreement: float | None = None
    seconds: float | None = None
    original_seconds: float | None = None

    @property
    def speedup(self) -> float | None:
        """How many times faster than torch, text by text."""
        if not self.seconds or not self.original_seconds:
            return None
        return self.original_seconds / self.seconds


@dataclass(frozen=True)
class Job:
    """One export: the loaded model, the folder that is written, the texts of the check, and 8 bits or not."""

    loaded: TextModel
    folder: Path
    texts: list[str] = field(default_factory=list)
    int8: bool = False


@dataclass(frozen=True)
class Format:
    """One export format.

    Attributes:
        tasks: that it can export.
        write: fills the folder of a job and returns the figures of ``Exported`` that it measured.
        int8: whether 8-bit weights can be asked for.
    """

    tasks: tuple[str, ...]
    write: Callable[[Job], dict[str, Any]]
    int8: bool = False


@calm()
def export_model(
    run: str | Path,
    output: str | Path,
    *,
    format: str = "merged",
    int8: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a trained model in another form.

    Args:
        run: a run folder, or a model folder.
        output: the new folder.
        format: a key of ``FORMATS``.
        int8: 8-bit weights, where the format has them.
        overwrite: replace an earlier export in ``output``.

    Raises:
        ModelError: no model in ``run``, one that this format cannot hold, or an exported model whose logits
            differ from the original's; nothing is left behind then.
        OutputError: ``output`` is there already.

    Cost: the check, one pass in each form over 128 texts at most; ONNX takes another 10 s to trace.
    """
    from nlp_transfer.predict import load_model
    from nlp_transfer.training.artifacts import write_json

    chosen, output = FORMATS[format], Path(output)
    if int8 and not chosen.int8:
        able = [name for name, other in FORMATS.items() if other.int8]
        raise ModelError(f"--int8 is not for the format {format}", expected=f"--format {' or '.join(able)}")
    _check_output(output, overwrite)
    loaded = load_model(run)
    if loaded.task.kind not in chosen.tasks:
        able = [name for name, other in FORMATS.items() if loaded.task.kind in other.tasks]
        raise ModelError(
            f"{run} holds a model for {loaded.task.kind}, which the format {format} cannot hold",
            expected=f"a model for {' or '.join(chosen.tasks)}",
            fix=f"use --format {' or '.join(able)}",
        )
    loaded.model.eval().float().cpu()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        figures = chosen.write(Job(loaded, folder, check_texts(Path(run)), int8))
        weights = [path for path in folder.rglob("*") if path.suffix in (".onnx", ".data", ".safetensors")]
        size = sum(path.stat().st_size for path in weights) / 1e6
        result = Exported(output, format, int8, round(size, 1), **figures)
        record = {key: value for key, value in asdict(result).items() if key != "folder"}
        write_json(folder / EXPORT_FILE, {**record, "speedup": result.speedup})
        if output.exists():
            shutil.rmtree(output)
        folder.rename(output)
    return result


def _check_output(output: Path, overwrite: bool) -> None:
    """Refuse a folder that holds anything, unless it is an earlier export that may be replaced."""
    if output.exists() and not output.is_dir():
        raise OutputError(f"{output} is a file", expected="a folder", fix="choose another --output")
    if output.is_dir() and any(output.iterdir()):
        if not (output / EXPORT_FILE).is_file():
            raise OutputError(f"{output} holds something else", fix="choose another --output")
        if not overwrite:
            raise OutputError(f"{output} exists", fix="choose another --output, or pass --overwrite")
    parent = next(path for path in output.absolute().parents if path.exists())
    if not parent.is_dir():
        raise OutputError(f"{output} cannot be written: {parent} is a file", fix="choose another --output")


def check_texts(run: Path) -> list[str]:
    """The run's own held-out target texts, or a few built-in ones where its data is out of reach."""
    from nlp_transfer.data.domains import load_domain
    from nlp_transfer.recipe import Recipe

    try:
        folder = next(path for path in (run, run.parent) if (path / "recipe.yaml").is_file())
        recipe = Recipe.load(folder / "recipe.yaml")
        if recipe.task.kind != "sentiment":
            return []
        rating = getattr(recipe.task, "loss", None) == "mse"
        data = load_domain(
            recipe.target,
            role="target",
            objective="regression" if rating else "classification",
            seed=recipe.seed,
            base=recipe.base,
            need=("validation",) if recipe.target.trains else (),
        )
    except (NlpTransferError, OSError, StopIteration):
        return list(TEXTS)
    rows = data.validation or data.test or data.train
    return list(TEXTS) if not rows else [str(text) for text in rows[:CHECK_ROWS]["text"]]


def write_merged(job: Job) -> dict[str, Any]:
    """One folder with all weights, an adapter folded in, and the tokenizer; read back and compared."""
    from nlp_transfer.predict import load_model
    from nlp_transfer.tasks.base import TASK_FILE
    from nlp_transfer.training.artifacts import write_json

    loaded, task = job.loaded, job.loaded.task
    task.save_model(loaded.model, job.folder)
    loaded.tokenizer.save_pretrained(job.folder)
    write_json(job.folder / TASK_FILE, {"task": task.kind, **task.describe()})
    if task.kind != "sentiment":
        return {}
    again = load_model(job.folder)
    again.model.float().cpu()
    rows = _tokens(loaded, job.texts)
    return _compared(loaded, rows, lambda row: _torch_logits(again, row), "the merged model")


def write_onnx(job: Job) -> dict[str, Any]:
    """``model.onnx``: token ids and mask to logits, any number of texts and tokens; pooling included."""
    import torch

    loaded = job.loaded
    if len(_installed()) < 3:
        raise ModelError(
            "ONNX export needs packages that are not installed",
            expected="onnx, onnxruntime and onnxscript",
            fix="pip install 'nlp-transfer[export]'",
        )
    graph = job.folder / ONNX_FILE
    model: Any = loaded.model
    model.set_attn_implementation("eager")
    ids = torch.randint(5, 20, (2, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with _silence():
        torch.onnx.export(
            _logits_module(model),
            (ids, mask),
            str(graph),
            dynamo=True,
            dynamic_shapes=(axes, axes),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            external_data=_bytes(model) > 1_500_000_000,
            verbose=False,
        )
        if job.int8:
            _quantize(graph)
    loaded.tokenizer.save_pretrained(job.folder)
    model.config.save_pretrained(job.folder)
    session = _session(graph)

    def logits(row: dict[str, NDArray]) -> NDArray:
        return session.run(None, row)[0]

    rows = _tokens(loaded, job.texts)
    return _compared(loaded, rows, logits, "the ONNX model", exact=not job.int8)


FORMATS: dict[str, Format] = {
    "merged": Format(("sentiment", "translation"), write_merged),
    "onnx": Format(("sentiment",), write_onnx, int8=True),
}
"""What can be exported; a new format is a function and a line here."""


def _logits_module(model: Any) -> Any:
    """The model as a module from ids and mask to logits."""
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    return Logits().eval()


def _quantize(graph: Path) -> None:
    """8-bit weights in place of float32."""
    from onnxruntime.quantization import quantize_dynamic

    whole = graph.with_name("whole.onnx")
    graph.rename(whole)
    quantize_dynamic(whole, graph)
    whole.unlink()


def _session(graph: Path) -> Any:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])


def _tokens(loaded: TextModel, texts: list[str]) -> list[dict[str, NDArray]]:
    """Ids and mask [1, tokens] of each text, as they are in prediction."""
    import numpy as np

    from nlp_transfer.models.load import resolve_max_length

    length = resolve_max_length(loaded.tokenizer, loaded.model.config, None)
    found = loaded.tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    rows = [np.asarray([row or [loaded.tokenizer.pad_token_id]], dtype=np.int64) for row in found]
    return [{"input_ids": row, "attention_mask": np.ones_like(row)} for row in rows]


def _torch_logits(loaded: TextModel, row: dict[str, NDArray]) -> NDArray:
    import torch

    with torch.inference_mode():
        return loaded.model(**{name: torch.from_numpy(value) for name, value in row.items()}).logits.numpy()


def _compared(
    loaded: TextModel,
    rows: list[dict[str, NDArray]],
    logits: Callable[[dict[str, NDArray]], NDArray],
    what: str,
    *,
    exact: bool = True,
) -> dict[str, Any]:
    """The exported model's logits against the original's, text by text, and the time that both take.

    Raises:
        ModelError: they differ by more than rounding.
    """
    import numpy as np

    for warm in (logits, lambda row: _torch_logits(loaded, row)):
        warm(rows[0])
    begun = time.perf_counter()
    theirs = np.concatenate([logits(row) for row in rows])
    seconds = time.perf_counter() - begun
    begun = time.perf_counter()
    ours = np.concatenate([_torch_logits(loaded, row) for row in rows])
    original = time.perf_counter() - begun
    difference = float(np.abs(theirs - ours).max())
    if exact and not difference <= TOLERANCE * max(1.0, float(np.abs(ours).max())):
        raise ModelError(
            f"{what} gives other logits than the original",
            expected=f"differences of at most {TOLERANCE:g}",
            found=f"{difference:.3g} on {len(rows)} texts",
            fix="report it, with the model's name",
        )
    same = float((theirs.argmax(1) == ours.argmax(1)).mean()) if ours.shape[1] > 1 else None
    return {
        "rows": len(rows),
        "difference": difference,
        "agreement": same,
        "seconds": round(seconds, 4),
        "original_seconds": round(original, 4),
    }


def _bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _installed() -> set[str]:
    from importlib.util import find_spec

    return {name for name in ("onnx", "onnxruntime", "onnxscript") if find_spec(name)}


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporters' remarks off the screen."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
