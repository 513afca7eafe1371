"""Ship a trained model: merged, as ONNX or for CTranslate2, each checked against the original."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nlp_transfer.console import calm, notice
from nlp_transfer.errors import ModelError, OutputError
from nlp_transfer.export_checks import (
    CHECK_ROWS,
    CheckRows,
    check_rows,
    compare_logits,
    compare_translations,
    token_rows,
    torch_logits,
    translations,
)
from nlp_transfer.models.load import POOLED_MODEL_TYPE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nlp_transfer.predict import TextModel

EXPORT_FILE = "export.json"
"""In the exported folder: how it was checked."""
_WEIGHTS = (".onnx", ".data", ".safetensors", ".bin")
ONNX_FILE = "model.onnx"
POOLED_MODULE = "nlp_transfer.models.pooled"
Quantization = Literal["float32", "int8"]


@dataclass(frozen=True)
class Exported:
    """An exported model, and how it compares with the original.

    Attributes:
        folder: where it is.
        format: merged, onnx or ctranslate2.
        quantization: of its weights, float32 or int8.
        megabytes: size of its weights.
        rows: texts of the comparison; 0: there was none.
        difference: largest absolute difference of the logits.
        agreement: share of the texts with the same predicted class (None for ratings), or translation.
        bleu, original_bleu: of translations of these rows, where they have references.
        seconds, original_seconds: for these texts with the exported model and in torch; classes one by one.
        calling: how it is called: of CTranslate2 what to give to ``translate_batch`` and the prefix of each
            text, of ONNX inputs, length and output; of a merged model with a pooled head the module that
            makes its architecture known to transformers.
    """

    folder: Path
    format: str
    quantization: str
    megabytes: float
    rows: int = 0
    difference: float | None = None
    agreement: float | None = None
    bleu: float | None = None
    original_bleu: float | None = None
    seconds: float | None = None
    original_seconds: float | None = None
    calling: dict[str, Any] | None = None

    @property
    def speedup(self) -> float | None:
        """How many times faster than torch."""
        if not self.seconds or not self.original_seconds:
            return None
        return self.original_seconds / self.seconds


@dataclass(frozen=True)
class Job:
    """One export: the loaded model, the folder that is written, the rows of the check."""

    loaded: TextModel
    folder: Path
    check: CheckRows = field(default_factory=lambda: CheckRows([]))
    quantization: Quantization = "float32"


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
    quantization: Quantization = "float32",
    overwrite: bool = False,
) -> Exported:
    """Write a trained model in another form.

    Args:
        run: a run folder, or a model folder.
        output: the new folder.
        format: a key of ``FORMATS``.
        quantization: of the weights; int8 where the format has it.
        overwrite: replace an earlier export in ``output``.

    Raises:
        ModelError: no model in ``run``, one that this format cannot hold, or an exported model whose logits
            differ from the original's, or whose BLEU falls below it; nothing is left behind then.
        MissingExtraError: the format needs a package that is not installed.
        OutputError: ``output`` is there already.

    Cost: the check, one pass in each form over 128 texts (CTranslate2: 500) at most; ONNX takes another 10 s
    to trace; CTranslate2 holds the weights twice.
    """
    from nlp_transfer.predict import load_model
    from nlp_transfer.training.artifacts import write_json

    chosen, output = FORMATS[format], Path(output)
    if quantization != "float32" and not chosen.int8:
        able = [name for name, other in FORMATS.items() if other.int8]
        raise ModelError(
            f"--quantization {quantization} is not for the format {format}",
            expected=f"--format {' or '.join(able)}",
        )
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
        figures = chosen.write(Job(loaded, folder, check_rows(Path(run)), quantization))
        weights = [path for path in folder.rglob("*") if path.suffix in _WEIGHTS]
        size = sum(path.stat().st_size for path in weights) / 1e6
        result = Exported(output, format, quantization, round(size, 1), **figures)
        record = {key: value for key, value in asdict(result).items() if key != "folder"}
        files = [path.relative_to(folder).as_posix() for path in _files(folder)]
        write_json(folder / EXPORT_FILE, {**record, "speedup": result.speedup, "files": files})
        _put(folder, output)
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
        _own_files(output)
    parent = next(path for path in output.absolute().parents if path.exists())
    if not parent.is_dir():
        raise OutputError(f"{output} cannot be written: {parent} is a file", fix="choose another --output")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _own_files(output: Path) -> list[Path]:
    """The files of an earlier export.

    Raises:
        OutputError: it does not say which they are, so that others could be lost.
    """
    try:
        names = json.loads((output / EXPORT_FILE).read_text(encoding="utf-8"))["files"]
        found = [output / name for name in names]
        if all(path.resolve().is_relative_to(output.resolve()) for path in found):
            return found
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise OutputError(
        f"{output} does not say which of its files are the export's",
        expected=f"their names under files in {EXPORT_FILE}",
        fix="choose another --output, or remove the folder yourself",
    )


def _put(folder: Path, output: Path) -> None:
    """Move an export to its place, whose own files alone it replaces; its record last."""
    if not output.exists():
        folder.rename(output)
        return
    for path in _own_files(output) if (output / EXPORT_FILE).exists() else ():
        path.unlink(missing_ok=True)
    for path in sorted(_files(folder), key=lambda path: path == folder / EXPORT_FILE):
        place = output / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, place)


def write_merged(job: Job) -> dict[str, Any]:
    """One folder with all weights, an adapter folded in, and the tokenizer; read back and compared."""
    from nlp_transfer.predict import load_model
    from nlp_transfer.tasks.base import TASK_FILE
    from nlp_transfer.training.artifacts import write_json

    loaded, task = job.loaded, job.loaded.task
    task.save_model(loaded.model, job.folder)
    loaded.tokenizer.save_pretrained(job.folder)
    write_json(job.folder / TASK_FILE, task.record(loaded.max_length))
    again = load_model(job.folder)
    again.model.float().cpu()
    if task.kind != "sentiment":
        few = CheckRows(job.check.texts[:CHECK_ROWS], (job.check.references or [])[:CHECK_ROWS] or None)
        return compare_translations(loaded, few, lambda texts: translations(again, texts), "the merged model")
    rows = token_rows(loaded, job.check.texts)
    figures = compare_logits(loaded, rows, lambda row: torch_logits(again, row), "the merged model")
    if loaded.model.config.model_type != POOLED_MODEL_TYPE:
        return figures
    notice(f"its head reads pooled states: plain transformers loads it after `import {POOLED_MODULE}`")
    return {**figures, "calling": {"import": POOLED_MODULE}}


def write_onnx(job: Job) -> dict[str, Any]:
    """``model.onnx``: token ids and mask to logits, any number of texts and tokens; pooling included."""
    from nlp_transfer.models import onnx

    loaded, graph = job.loaded, job.folder / ONNX_FILE
    onnx.write_graph(loaded.model, graph, int8=job.quantization == "int8")
    loaded.tokenizer.save_pretrained(job.folder)
    loaded.model.config.save_pretrained(job.folder)
    session = onnx.session(graph)

    def logits(row: dict[str, NDArray]) -> NDArray:
        return session.run(None, row)[0]

    rows = token_rows(loaded, job.check.texts)
    figures = compare_logits(loaded, rows, logits, "the ONNX model", exact=job.quantization == "float32")
    calling = {
        "inputs": dict.fromkeys(("input_ids", "attention_mask"), "int64 [texts, tokens]"),
        "max_length": loaded.max_length,
        "pad_token_id": loaded.tokenizer.pad_token_id,
        "output": "logits, float32 [texts, classes or 1]",
        "labels": list(getattr(loaded.task, "names", ())),
    }
    return {**figures, "calling": calling}


def write_ctranslate2(job: Job) -> dict[str, Any]:
    """A folder for ``ctranslate2.Translator``, with the tokenizer; its translations compared."""
    from nlp_transfer.models import ct2
    from nlp_transfer.tasks.base import TASK_FILE
    from nlp_transfer.training.artifacts import write_json

    loaded, task = job.loaded, job.loaded.task
    settings = ct2.convert(loaded.model, loaded.tokenizer, job.folder, quantization=job.quantization)
    loaded.tokenizer.save_pretrained(job.folder)
    write_json(job.folder / TASK_FILE, {**task.record(loaded.max_length), "format": "ctranslate2"})
    prefix = getattr(task, "prefix", "")
    length = loaded.max_length

    def translate(texts: list[str]) -> list[str]:
        return ct2.translate(
            job.folder,
            loaded.tokenizer,
            [prefix + text for text in texts],
            settings,
            quantization=job.quantization,
            max_length=length,
            max_new_tokens=task.options.max_new_tokens,
        )

    figures = compare_translations(
        loaded, job.check, translate, f"the CTranslate2 model ({job.quantization})"
    )
    return {**figures, "calling": {"prefix": prefix, **settings.arguments()}}


FORMATS: dict[str, Format] = {
    "merged": Format(("sentiment", "translation"), write_merged),
    "onnx": Format(("sentiment",), write_onnx, int8=True),
    "ctranslate2": Format(("translation",), write_ctranslate2, int8=True),
}
"""What can be exported; a new format is a function and a line here."""
