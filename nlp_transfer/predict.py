"""Use a trained model: load it, predict texts or files, score files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import calm, warn
from nlp_transfer.data.columns import find_text_column
from nlp_transfer.data.domains import load_domain
from nlp_transfer.data.options import place_options
from nlp_transfer.data.partial import PartialWriter
from nlp_transfer.data.rows import iter_rows
from nlp_transfer.errors import DataError, ModelError, OutputError, did_you_mean
from nlp_transfer.plain_json import plain

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from nlp_transfer.tasks.base import Task


class TextModel:
    """A trained model that takes texts.

    Attributes:
        model, tokenizer: the transformers objects.
        task: what it was trained for; knows the labels.
        max_length: tokens of a text that are read: what it was trained with, unless given.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        max_length: int | None = None,
    ) -> None:
        from nlp_transfer.models.load import resolve_max_length

        self.model, self.tokenizer, self.task = model, tokenizer, task
        self.max_length = resolve_max_length(tokenizer, model.config, max_length)

    @calm()
    def predict(self, texts: str | Sequence[str]) -> list[dict[str, Any]]:
        """One prediction a text, in order; a single string is one text.

        Returns:
            for classes ``{"label", "score", "probabilities"}``, for ratings ``{"rating"}``, for translation
            ``{"translation"}``.
        """
        texts = [texts] if isinstance(texts, str) else texts
        if not len(texts):
            return []
        return self.task.predict(self.model, self.tokenizer, texts, self.max_length)

    def outputs(self, rows: Dataset) -> Any:
        """What the model says of labelled rows, before it is scored; see ``Task.outputs``."""
        return self.task.outputs(self.model, self.tokenizer, rows, self.max_length)


@calm()
def load_model(run: str | Path) -> TextModel:
    """Load a run folder, or a model folder, ready to predict.

    Raises:
        ModelError: no model there, or one that was not trained for a task of this toolkit.
    """
    import torch

    from nlp_transfer.models.load import ModelOptions, is_encoder_half, load_config, load_tokenizer, locate
    from nlp_transfer.models.seq2seq import is_seq2seq
    from nlp_transfer.tasks import TASKS
    from nlp_transfer.tasks.base import TASK_FILE

    folder = Path(run)
    if not folder.is_dir():
        names = did_you_mean(folder.name, _siblings(folder))
        found = "a file" if folder.exists() else f"no such folder; {names}"
        raise ModelError(
            f"{folder} is not a folder",
            expected="a run folder, or its model/",
            found=found,
            fix="give a run's output_dir",
        )
    if (folder / "model").is_dir():
        folder = folder / "model"
    elif (folder / "recipe.yaml").is_file() and not (folder / "config.json").is_file():
        raise ModelError(
            f"{run} holds an unfinished run",
            expected="model/, which a run writes when its training is done",
            found=", ".join(sorted(path.name for path in folder.iterdir())),
            fix=f"finish it with: nlp-transfer train {folder / 'recipe.yaml'} --resume",
        )
    _refuse_export(run, folder)
    options = ModelOptions(name=str(folder), dtype="auto")
    where = locate(options)
    saved = where.read_json(TASK_FILE)
    translates = is_seq2seq(load_config(where, options)) and not is_encoder_half(load_config(where, options))
    kind = saved.get("task", "translation" if translates else "sentiment")
    if kind not in TASKS:
        raise ModelError(
            f"{folder / TASK_FILE}: no such task",
            expected=" or ".join(TASKS),
            found=repr(kind),
            fix="load it with the version of nlp-transfer that wrote it",
        )
    task_class = TASKS[kind][0]
    model, tokenizer = task_class.load_trained(where, options), load_tokenizer(where, options)
    if torch.cuda.is_available():
        model.to("cuda")  # type: ignore[arg-type]
    task = task_class.from_model(model.config, saved).settle(tokenizer, model.config)
    return TextModel(model, tokenizer, task, saved.get("max_length"))


def _refuse_export(run: str | Path, folder: Path) -> None:
    """Say what an export for another engine is; raises ModelError."""
    for name, engine in (("model.bin", "ctranslate2.Translator"), ("model.onnx", "onnxruntime")):
        if (folder / name).is_file() and (folder / "export.json").is_file():
            raise ModelError(
                f"{run} is an export: its {name} is not for torch",
                expected="a run folder, its model/, or an export with --format merged",
                fix=f"load it with {engine}; its export.json says how it is called",
            )


@calm()
def predict_file(
    run: Path,
    source: Path,
    output: Path,
    *,
    text_column: str | None = None,
    batch_rows: int = 4096,
    overwrite: bool = False,
    resume: bool = False,
) -> tuple[int, float]:
    """Add a prediction to every row of a file; streams, keeps order and columns.

    ``batch_rows`` rows are held at once, sorted by length and predicted in batches by tokens. After each such
    window its rows are on the disk for good: killed, the run goes on from there with ``resume``, which wants
    the same input and the same model. With the precision noted, a resumed file is the file of one run.

    The new columns are ``label``, ``score`` and one ``probability_CLASS`` each, or ``rating``, or
    ``translation``; where the file has such a column already, the new one is called ``predicted_label`` and
    so on. Classes are written by name, as text. Into ``.txt`` goes the label, rating or translation alone, a
    line a row. A translation model reads the column (or the key of ``translation``) of its source language. A
    row that lacks a column (JSON Lines) gets it as null; a missing or null text counts as an empty one.

    Returns:
        rows of the file, and seconds.

    Raises:
        DataError, ModelError, OutputError: nothing is left half-written, unless something was resumed.
    """
    from nlp_transfer.models.precision import bf16_pays, bf16_settled

    started = time.perf_counter()
    if output.resolve() == source.resolve():
        raise OutputError(f"--output {output} is the input file", fix="choose another --output")
    if not batch_rows > 0:
        raise DataError("batch_rows must be positive", found=str(batch_rows))
    rows = iter_rows(source)
    first = list(islice(rows, batch_rows))
    writer = PartialWriter(output, overwrite=overwrite, resume=resume)
    columns = writer.fact("columns", list(dict.fromkeys(key for row in first for key in row)))
    pairs, column = _text_column(run, source, columns, first[0], text_column)
    model = load_model(run)
    bf16 = bool(writer.fact("precision", bf16_pays(model.model.device.type)))
    writer.same({**_identity(model), "column": column, "columns": columns, "precision": bf16}, source)
    rows = chain(first, rows)
    writer.skip(rows, source)
    empty = 0
    with writer, bf16_settled(bf16):
        for chunk in _chunks(rows, batch_rows):
            inputs = [row.get("translation") or {} for row in chunk] if pairs else chunk
            _check_rows(source, inputs, list(inputs[0]) if pairs else columns, column, writer.rows)
            texts = [row.get(column) or "" for row in inputs]
            empty += sum(not text.strip() for text in texts)
            predictions = [_flat(prediction) for prediction in model.predict(texts)]
            names = {key: _free_name(key, columns) for key in predictions[0]}
            for row, prediction in zip(chunk, predictions, strict=True):
                writer.read(row)
                new = {names[key]: value for key, value in prediction.items()}
                whole = {**{key: row.get(key) for key in columns}, **new}
                writer.write(dict(islice(new.items(), 1)) if writer.lines else whole)
            writer.checkpoint(len(chunk))
    if empty:
        warn(f"{source}: empty texts: {empty:,}, whose predictions mean nothing")
    return writer.rows, time.perf_counter() - started


def _identity(model: TextModel) -> dict[str, Any]:
    """What the predictions depend on beside the input: weights, and settings of task and generation."""
    from nlp_transfer.models.weights import weights_fingerprint

    settings = json.dumps(model.task.describe(), sort_keys=True, default=str)
    generation = getattr(model.model, "generation_config", None)
    settings += generation.to_json_string() if generation is not None else ""
    return {
        "model": weights_fingerprint(model.model)[:16],
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
    }


@calm()
def evaluate_file(
    run: Path | TextModel,
    data: Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    baseline: Path | TextModel | None = None,
    output: Path | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score a trained model on labelled rows; write the report as JSON where ``output`` is given.

    Args:
        run: a run folder, or a loaded model.
        data: the rows.
        text_column, label_column: of the file; None to find them.
        baseline: another run, scored on the same rows: the report's ``against_baseline`` holds the paired
            differences.
        output: where to write the report.
        overwrite: replace an earlier one.

    Raises:
        DataError: the file, a column or a label does not fit the model.
        ModelError: no model in ``run`` or ``baseline``, or two models that do not compare.
        OutputError: ``output`` exists.
    """
    from nlp_transfer.tasks import TranslationTask
    from nlp_transfer.training.artifacts import check_output_file, write_json

    if output is not None:
        check_output_file(output, overwrite=overwrite)
    options = place_options(str(data), split="test", text_column=text_column, label_column=label_column)
    loaded = run if isinstance(run, TextModel) else load_model(run)
    domain = load_domain(
        options,
        role="target",
        objective=loaded.task.objective,
        seed=42,
        languages=loaded.task.languages[:2] if isinstance(loaded.task, TranslationTask) else None,
    )
    assert domain.test is not None
    other = load_model(baseline) if isinstance(baseline, Path) else baseline
    said = None if other is None else _comparable(loaded, other).outputs(domain.test)
    report = loaded.task.score(
        loaded.model, loaded.tokenizer, domain.test, loaded.max_length, name=str(data), baseline=said
    )
    if other is not None:
        report["baseline"] = other.model.name_or_path
    report = plain(report)
    if output is not None:
        write_json(
            output,
            {
                "model": loaded.model.name_or_path,
                "data": str(data),
                "fingerprint": domain.fingerprints["test"],
                **report,
            },
        )
    return report


def _comparable(model: TextModel, other: TextModel) -> TextModel:
    """The other model. Raises ModelError where it does something else."""
    misfit = model.task.misfit(other.task)
    if misfit is not None:
        raise ModelError(
            f"{other.model.name_or_path} cannot be the baseline: {misfit}",
            fix="name a run of the same task, classes and languages",
        )
    return other


def _text_column(
    run: Path, source: Path, columns: list[str], row: dict[str, Any], given: str | None
) -> tuple[bool, str]:
    """Whether the texts stand in dictionaries under ``translation``, and the column (or key) to read."""
    from nlp_transfer.tasks.base import TASK_FILE

    saved = next((path for path in (run / "model" / TASK_FILE, run / TASK_FILE) if path.is_file()), None)
    if given is None and saved is not None:
        try:
            languages = json.loads(saved.read_text(encoding="utf-8")).get("languages") or [None]
        except (OSError, ValueError):
            languages = [None]
        if languages[0] in columns:
            return False, languages[0]
        if isinstance(row.get("translation"), dict) and languages[0] in row["translation"]:
            return True, languages[0]
    return False, find_text_column(columns, given, where=str(source))


def _chunks(rows: Iterator[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    while chunk := list(islice(rows, size)):
        yield chunk


def _check_rows(
    source: Path, rows: list[dict[str, Any]], columns: list[str], column: str, before: int
) -> None:
    """Refuse a text that is none, and a column that the first rows did not have."""
    known = set(columns)
    for number, row in enumerate(rows, before + 1):
        value = row.get(column)
        if not isinstance(value, str | None):
            raise DataError(
                f"{source}: row {number}, column {column!r} is not a text",
                expected="a string",
                found=f"{type(value).__name__} {value!r}",
                fix="choose the column of texts with --text-column",
            )
        if not row.keys() <= known:
            raise DataError(
                f"{source}: row {number} has other columns than the rows before",
                expected=", ".join(columns),
                found=", ".join(sorted(row.keys() - known)),
                fix="write all columns in the first row, or raise --batch-rows beyond this row",
            )


def _free_name(key: str, columns: list[str]) -> str:
    while key in columns:
        key = f"predicted_{key}"
    return key


def _siblings(folder: Path) -> list[str]:
    return [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []


def _flat(prediction: dict[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in prediction.items() if key != "probabilities"}
    flat |= {f"probability_{name}": value for name, value in prediction.get("probabilities", {}).items()}
    return flat
