"""One run: domains, task, strategy, training, evaluation, run folder."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nlp_transfer.console import calm, is_main_process, notice, warn
from nlp_transfer.data.checks import cross_check
from nlp_transfer.data.domains import DomainData, load_domain
from nlp_transfer.recipe import Recipe
from nlp_transfer.strategies import STRATEGIES
from nlp_transfer.tasks import TASKS
from nlp_transfer.training.artifacts import RunFolder, environment, peak_memory_mib, write_json, write_text
from nlp_transfer.training.phases import Trained

if TYPE_CHECKING:
    from pathlib import Path

    from datasets import Dataset

    from nlp_transfer.shift.report import ShiftReport
    from nlp_transfer.strategies import Strategy
    from nlp_transfer.tasks.base import Task

METRICS_SCHEMA = 1


@dataclass(frozen=True)
class RunResult:
    """What a run found and where it is.

    Attributes:
        output_dir: the run folder.
        metrics: the content of ``metrics.json``: for each domain and split, every figure with its interval.
        strategy: full, frozen or lora.
        seconds: wall time of the whole run.
        training_seconds: wall time of training (or of embedding and fitting) alone.
        trainable_parameters, total_parameters: numbers of weights.
        peak_memory_mib: of this process, or of the GPU where that is larger.
        shift: the shift report, where source and target were there.
    """

    output_dir: Path
    metrics: dict[str, Any]
    strategy: str
    seconds: float
    training_seconds: float
    trainable_parameters: int
    total_parameters: int
    peak_memory_mib: float
    shift: ShiftReport | None = None

    def score(self, domain: str = "target", split: str = "test", metric: str = "accuracy") -> float:
        """One figure, such as the target's test accuracy."""
        return self.metrics["domains"][domain][split][metric]["value"]


@calm()
def train(recipe: Recipe, *, overwrite: bool = False, resume: bool = False) -> RunResult:
    """Run a recipe: load the domains, look at the shift, train, evaluate and write the run folder.

    Args:
        recipe: what to do.
        overwrite: replace an earlier run in ``output_dir``.
        resume: go on from the last checkpoint in ``output_dir``.

    Raises:
        NlpTransferError: bad data, model, options or output folder; nothing is written before the data and
            the model are known to be good.
    """
    from nlp_transfer.models.load import load_tokenizer, locate

    started = time.perf_counter()
    folder = RunFolder.open(recipe.output_dir, overwrite=overwrite, resume=resume)
    task = TASKS[recipe.task.kind](recipe.task)
    strategy = STRATEGIES[recipe.strategy.kind][0](recipe.strategy)
    domains = load_domains(recipe, task)
    training_rows = {f"{role}.train": data.train for role, data in domains.items() if data.train is not None}
    task = task.bind(training_rows)
    where = locate(recipe.model)
    tokenizer = load_tokenizer(where, recipe.model)
    shift = shift_summary(recipe, domains) if recipe.shift.enabled and "source" in domains else None
    if strategy.extracts:
        from nlp_transfer.training.extract import fit_frozen as fit
    else:
        from nlp_transfer.training.tune import fine_tune as fit
    trained = fit(recipe, task, strategy, domains, where, tokenizer, folder, resume=resume)
    scores = evaluate_domains(task, trained, domains, recipe)
    result = RunResult(
        output_dir=folder.path,
        metrics=_metrics(recipe, task, domains, scores, trained, shift, time.perf_counter() - started),
        strategy=recipe.strategy.kind,
        seconds=time.perf_counter() - started,
        training_seconds=trained.seconds,
        trainable_parameters=trained.trainable,
        total_parameters=trained.total,
        peak_memory_mib=peak_memory_mib(),
        shift=shift,
    )
    if is_main_process():
        _write(folder, recipe, domains, trained, result, where)
    return result


def load_domains(recipe: Recipe, task: Task) -> dict[str, DomainData]:
    """Load target and source, print what was found about them, and check them against each other."""
    held_out = () if STRATEGIES[recipe.strategy.kind][0].extracts else ("validation",)
    domains = {}
    for role, options in (("source", recipe.source), ("target", recipe.target)):
        if options is None:
            continue
        trains = role == "source" or options.trains
        domains[role] = load_domain(
            options,
            role=role,
            objective=task.objective,
            seed=recipe.seed,
            base=recipe.base,
            need=("train", *held_out) if trains else (),
        )
    findings = [(f"{role} ", finding) for role, data in domains.items() for finding in data.checks]
    if len(domains) == 2:
        findings += [("", finding) for finding in cross_check(domains["source"], domains["target"])]
    for role, finding in findings:
        (warn if finding.level == "warning" else notice)(f"{role}{finding.message}")
    return domains


def shift_summary(recipe: Recipe, domains: dict[str, DomainData]) -> ShiftReport | None:
    """The shift between source and target text, before any training."""
    from nlp_transfer.shift.report import shift_report

    return shift_report(
        domains["source"],
        domains["target"],
        model=recipe.model,
        max_samples=recipe.shift.max_samples,
        permutations=recipe.shift.permutations,
        seed=recipe.seed,
    )


def evaluate_domains(
    task: Task, trained: Trained, domains: dict[str, DomainData], recipe: Recipe
) -> dict[str, dict[str, Any]]:
    """Score the model on every labelled validation and test split of every domain."""
    scores: dict[str, dict[str, Any]] = {}
    for role, data in domains.items():
        for split in ("validation", "test"):
            rows: Dataset | None = getattr(data, split)
            if rows is not None and len(rows):
                if trained.logits is None:
                    limit = recipe.model.max_length
                    report = score(task, trained.model, trained.tokenizer, rows, limit, name=f"{role}.{split}")
                else:
                    report = task.evaluate(trained.logits(rows), task.label_array(rows, name=f"{role}.{split}"))
                scores.setdefault(role, {})[split] = report
    return scores


def score(
    task: Task, model: Any, tokenizer: Any, rows: Dataset, max_length: int | None, *, name: str = "data"
) -> dict[str, Any]:
    """Score a model on labelled rows; ``name`` is what error messages call them."""
    from nlp_transfer.models.inference import predict_logits
    from nlp_transfer.models.load import resolve_max_length

    encoded = task.encode(rows, tokenizer, resolve_max_length(tokenizer, model.config, max_length), name=name)
    logits = predict_logits(model, encoded, task.collator(tokenizer))
    return task.evaluate(logits, encoded["labels"])


def _metrics(
    recipe: Recipe,
    task: Task,
    domains: dict[str, DomainData],
    scores: dict[str, dict[str, Any]],
    trained: Trained,
    shift: ShiftReport | None,
    seconds: float,
) -> dict[str, Any]:
    return {
        "schema_version": METRICS_SCHEMA,
        "task": task.kind,
        "strategy": recipe.strategy.kind,
        "model": recipe.model.name,
        "domains": {role: {"name": domains[role].name, **splits} for role, splits in scores.items()},
        "cost": {
            "seconds": round(seconds, 3),
            "training_seconds": round(trained.seconds, 3),
            "peak_memory_mib": peak_memory_mib(),
            "trainable_parameters": trained.trainable,
            "total_parameters": trained.total,
        },
        "phases": trained.phases,
        "data": [asdict(finding) for data in domains.values() for finding in data.checks],
        "shift": shift.to_dict() if shift is not None else None,
    }


def _write(
    folder: RunFolder, recipe: Recipe, domains: dict[str, DomainData], trained: Trained, result: RunResult, where: Any
) -> None:
    from nlp_transfer.models.classifier import save_classifier
    from nlp_transfer.training.card import model_card

    def save(path: Path) -> None:
        save_classifier(trained.model, path)
        trained.tokenizer.save_pretrained(path)

    folder.save_model(save)
    fingerprints = {role: data.fingerprints for role, data in domains.items()}
    extra = {"model": {"name": recipe.model.name, "revision": where.revision, "embedded": where.embedded}}
    write_json(folder.path / "environment.json", environment(recipe.seed, fingerprints, extra))
    write_text(folder.path / "README.md", model_card(recipe, domains, result))
    write_json(folder.metrics, result.metrics)
