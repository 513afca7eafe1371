"""One run: domains, task, strategy, training, evaluation, run folder."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import calm, is_main_process, kept_warnings, notice, warn
from nlp_transfer.errors import Problem, RecipeError
from nlp_transfer.models.load import resolve_max_length
from nlp_transfer.plain_json import plain
from nlp_transfer.processes import from_main, start_processes
from nlp_transfer.recipe import Recipe
from nlp_transfer.strategies import STRATEGIES
from nlp_transfer.tasks import TASKS, SentimentTask, TranslationTask
from nlp_transfer.tasks.base import TASK_FILE
from nlp_transfer.training.artifacts import RunFolder, environment, peak_memory_mib, write_json, write_text
from nlp_transfer.training.domains import check_labels, load_domains
from nlp_transfer.training.doubts import doubts
from nlp_transfer.training.guard import conclude
from nlp_transfer.training.hub import claim_repository, upload
from nlp_transfer.training.phases import Setup, Trained, fingerprints
from nlp_transfer.training.resume import began_in_bf16, check_resumable, check_same_data
from nlp_transfer.training.scoring import evaluate_domains, forgetting, other_run

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainerCallback

    from nlp_transfer.data.domains import DomainData
    from nlp_transfer.models.source import ModelSource
    from nlp_transfer.shift.report import ShiftReport
    from nlp_transfer.tasks.base import Task

METRICS_SCHEMA = 1
"""Version of the layout of ``metrics.json``; it rises when a key changes its meaning or goes."""


@dataclass(frozen=True)
class RunResult:
    """What a run found and where it is.

    Attributes:
        output_dir: the run folder.
        metrics: the content of ``metrics.json``: for each domain and split, every figure with its interval.
        shift: the shift report, where source and target were there.
    """

    output_dir: Path
    metrics: dict[str, Any]
    shift: ShiftReport | None = None

    @property
    def strategy(self) -> str:
        """full, frozen or lora."""
        return self.metrics["strategy"]

    @property
    def seconds(self) -> float:
        """Wall time of the whole run, up to the writing of the model."""
        return self.metrics["cost"]["seconds"]

    @property
    def training_seconds(self) -> float:
        """Wall time of training (or of embedding and fitting) alone."""
        return self.metrics["cost"]["training_seconds"]

    @property
    def trainable_parameters(self) -> int:
        """Number of weights that moved."""
        return self.metrics["cost"]["trainable_parameters"]

    @property
    def total_parameters(self) -> int:
        """Number of weights."""
        return self.metrics["cost"]["total_parameters"]

    @property
    def peak_memory_mib(self) -> float:
        """Of the GPU where there is one, else of this process."""
        return self.metrics["cost"]["peak_memory_mib"]

    def score(self, domain: str = "target", split: str = "test", metric: str | None = None) -> float:
        """One figure; by default the task's own (accuracy, mse, chrf) on the target's test set.

        Raises:
            KeyError: no such domain, split or metric in this run.
        """
        figures = self.metrics["domains"][domain][split]
        return figures[metric or self.metrics["headline"]]["value"]


@calm()
def train(
    recipe: Recipe,
    *,
    overwrite: bool = False,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    on_shift: Callable[[ShiftReport], None] | None = None,
) -> RunResult:
    """Run a recipe: load the domains, look at the shift, train, evaluate and write the run folder.

    On one CPU process equal recipes, data and versions give equal weights, resumed or not. The global
    generators of ``random``, NumPy and torch (CPU) are seeded with ``training.seed`` while this runs, as
    ``transformers.Trainer`` needs it, and are afterwards where they were before.

    Args:
        recipe: what to do.
        overwrite: replace an earlier run in ``output_dir``.
        resume: go on from the last complete checkpoint in ``output_dir``; without one, start anew. A finished
            source phase is not repeated.
        callbacks: for ``transformers.Trainer``, in every phase; the frozen strategy calls none.
        on_shift: takes the shift report before any training, on the main process; by default its verdict is
            told in a line.

    Raises:
        NlpTransferError: bad data, model, options or output folder; nothing is written before the data and
            the model are known to be good.
    """
    from nlp_transfer.models.precision import bf16_settled

    started = time.perf_counter()
    start_processes(recipe.training.get("ddp_timeout", 1800))
    folder = RunFolder.open(recipe.output_dir, overwrite=overwrite, resume=resume)
    with kept_warnings() as warnings:
        changed = check_resumable(folder, recipe) if resume else []
        with bf16_settled(from_main(lambda: began_in_bf16(folder, resume=resume))):
            return _run(
                recipe, folder, callbacks, on_shift, warnings, changed, resume=resume, started=started
            )


def _run(
    recipe: Recipe,
    folder: RunFolder,
    callbacks: Sequence[TrainerCallback],
    on_shift: Callable[[ShiftReport], None] | None,
    warnings: list[str],
    changed: Sequence[str],
    *,
    resume: bool,
    started: float,
) -> RunResult:
    """The run itself, in a folder that may be written, with its precision settled and its warnings kept."""
    from nlp_transfer.models.load import load_config, load_tokenizer
    from nlp_transfer.training.faults import clear_errors

    task = TASKS[recipe.task.kind][0](recipe.task)
    strategy = STRATEGIES[recipe.strategy.kind][0](recipe.strategy)
    domains = load_domains(recipe, task)
    if resume:
        check_same_data(folder, fingerprints(domains), changed)
    task = task.bind(
        {
            f"{role}.train": data.training_labels
            for role, data in domains.items()
            if data.training_labels is not None
        }
    )
    check_labels(task, domains)
    repository = from_main(lambda: claim_repository(recipe))
    pretrained = _start(recipe, task, domains)
    tokenizer = load_tokenizer(pretrained, recipe.model)
    config = load_config(pretrained, recipe.model)
    task = task.settle(tokenizer, config)
    check_precision(recipe, config)
    rival = other_run(recipe, task, domains)
    compares = recipe.shift.enabled and "source" in domains and domains["source"].train is not None
    shift = from_main(lambda: shift_summary(recipe, domains, task, pretrained)) if compares else None
    if shift is not None:
        _tell_shift(shift, recipe, on_shift)
    setup = Setup(recipe, task, strategy, domains, pretrained, tokenizer, folder, resume, callbacks)
    with _random_state_kept():
        trained = _fit(setup)
    verdict, trained = conclude(setup, trained)
    trained.before |= rival
    scores = evaluate_domains(setup, trained)
    shipped = None if verdict is None else verdict["shipped"]
    for doubt in doubts(scores, None if shipped == "baseline" else shift, recipe.strategy.kind):
        warn(doubt)
    metrics = _metrics(setup, scores, trained, shift, time.perf_counter() - started)
    metrics |= {"guard": verdict, "warnings": warnings}
    result = RunResult(folder.path, plain(metrics), shift)
    if is_main_process():
        with clear_errors(folder.path):
            _write(setup, trained, result)
        if repository is not None:
            notice(f"pushed to {upload(recipe, repository, folder.path)}")
    return result


def _tell_shift(report: ShiftReport, recipe: Recipe, on_shift: Callable[[ShiftReport], None] | None) -> None:
    """Hand the report to ``on_shift``; say the forecast in a line, beside ``on_shift`` only a high risk."""
    risk = report.risk
    if risk is not None and (risk.level == "high" or on_shift is None):
        (warn if risk.level == "high" else notice)(
            f"before training: {risk.level} risk ({risk.probability:.0%}) that {report.source.name} costs "
            f"more than a point on {report.target.name}; advice: {risk.advice}"
        )
    if on_shift is not None and is_main_process():
        on_shift(report)
    joint = recipe.source is not None and recipe.source.mode == "joint"
    if joint and recipe.strategy.kind != "frozen" and report.own_forecast is not None:
        notice("the forecast is of trainings on the source, then on the target; this one mixes both")


def check_precision(recipe: Recipe, config: Any) -> None:
    """Refuse float16 for models whose activations overflow in it.

    Raises:
        RecipeError: T5 and its kin with ``training.fp16``.
    """
    from nlp_transfer.models.languages import NO_HALF

    if recipe.training.get("fp16") and config.model_type in NO_HALF:
        message = f"{config.model_type} overflows in float16: set training.bf16=true, or leave both out"
        raise RecipeError("training", [Problem("training.fp16", None, message)])


def _start(recipe: Recipe, task: Task, domains: dict[str, DomainData]) -> ModelSource:
    """The model that training starts from: a pretrained one, or a new one for these pairs."""
    if recipe.model.init == "pretrained" or not isinstance(task, TranslationTask):
        from nlp_transfer.models.load import locate

        return locate(recipe.model)
    from nlp_transfer.models.scratch import scratch_model

    tables = [data.train for data in domains.values() if data.train is not None]
    pairs = (pair for rows in tables for pair in zip(rows["text"][:], rows["translation"][:], strict=True))
    return scratch_model(recipe.model.scratch, pairs, languages=task.languages[:2], seed=recipe.seed)


def _fit(setup: Setup) -> Trained:
    if setup.strategy.extracts and isinstance(setup.task, SentimentTask):
        from nlp_transfer.training.extract import fit_frozen

        return fit_frozen(setup)
    from nlp_transfer.training.tune import fine_tune

    return fine_tune(setup)


@contextlib.contextmanager
def _random_state_kept() -> Iterator[None]:
    """Leave the CPU generators of random, NumPy and torch where they were."""
    import random

    import numpy as np
    import torch

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def shift_summary(
    recipe: Recipe, domains: dict[str, DomainData], task: Task, pretrained: ModelSource
) -> ShiftReport | None:
    """The shift between source and target text, before any training."""
    from nlp_transfer.shift.report import shift_report

    translator = None
    if isinstance(task, TranslationTask):
        from nlp_transfer.shift.translation import Translator

        translator = Translator(task, recipe.model, pretrained)
    return shift_report(
        domains["source"],
        domains["target"],
        model=recipe.model,
        translator=translator,
        strategy=recipe.strategy.kind,
        max_samples=recipe.shift.max_samples,
        permutations=recipe.shift.permutations,
        seed=recipe.seed,
    )


def _metrics(
    setup: Setup,
    scores: dict[str, dict[str, Any]],
    trained: Trained,
    shift: ShiftReport | None,
    seconds: float,
) -> dict[str, Any]:
    """The content of ``metrics.json``; docs/run-folder.md describes the keys."""
    recipe, domains = setup.recipe, setup.domains
    return {
        "schema_version": METRICS_SCHEMA,
        "task": setup.task.kind,
        "headline": setup.task.headline_metric,
        "strategy": recipe.strategy.kind,
        "model": recipe.model.name if recipe.model.init == "pretrained" else "from scratch",
        "domains": {role: {"name": domains[role].name, **splits} for role, splits in scores.items()},
        "cost": {
            "seconds": round(seconds, 3),
            "training_seconds": round(trained.seconds, 3),
            "peak_memory_mib": peak_memory_mib(),
            "trainable_parameters": trained.trainable,
            "total_parameters": trained.total,
        },
        "forgetting": forgetting(scores),
        "phases": trained.phases,
        "data": [
            {"domain": role, **asdict(finding)} for role, data in domains.items() for finding in data.checks
        ],
        "shift": shift.to_dict() if shift is not None else None,
    }


def _write(setup: Setup, trained: Trained, result: RunResult) -> None:
    """Write the model and what describes it; ``metrics.json`` last, as the mark of a finished run."""
    from nlp_transfer.training.card import model_card

    recipe, folder, source = setup.recipe, setup.folder, setup.pretrained

    def save(path: Path) -> None:
        setup.task.save_model(trained.model, path)
        setup.tokenizer.save_pretrained(path)
        length = resolve_max_length(setup.tokenizer, trained.model.config, recipe.model.max_length)
        write_json(path / TASK_FILE, setup.task.record(length))

    folder.save_model(save)
    model = {"name": result.metrics["model"], "revision": source.revision, "embedded": source.embedded}
    write_json(
        folder.path / "environment.json", environment(recipe.seed, setup.fingerprints, {"model": model})
    )
    write_text(folder.path / "README.md", model_card(recipe, setup.domains, result))
    write_json(folder.metrics, result.metrics)
