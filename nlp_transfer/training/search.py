"""Hyper-parameter search (``nlp-transfer tune``): Optuna over a recipe's ``tune`` ranges, kept in a file."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nlp_transfer.arguments import training_fields
from nlp_transfer.console import calm, notice
from nlp_transfer.errors import MissingExtraError, OutputError, Problem, RecipeError, did_you_mean
from nlp_transfer.recipe import Recipe
from nlp_transfer.strategies import STRATEGIES
from nlp_transfer.tasks import TASKS
from nlp_transfer.training.artifacts import RunFolder, write_json, write_text
from nlp_transfer.training.phases import Setup

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import BaseTrial

    from nlp_transfer.recipe_options import SearchRange

STUDY, BEST, TRIALS, BASE = "study.db", "best.yaml", "trials.json", "recipe.yaml"
"""In the output folder: the study (SQLite), the best recipe, all trials, the recipe that was searched."""
CHECKPOINTS = "checkpoints"
"""There too: what the source phase leaves."""
STUDY_NAME = "tune"
SEARCHED = ("model.dropout", "model.attention_dropout")
"""Keys of ``model`` that can be searched: they change neither the texts that are read nor the weights."""
STARTUP_TRIALS = 4
"""Trials that are never cut short: the median of fewer says little."""


@dataclass(frozen=True)
class Trial:
    """One set of values that was tried.

    Attributes:
        number: in the study, from 0.
        values: by key of ``tune``.
        score: the task's best metric on held-out target rows; None where the trial failed.
        state: complete, pruned (cut short) or failed.
    """

    number: int
    values: dict[str, Any]
    score: float | None
    state: str


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        folder: with study.db, best.yaml and trials.json.
        metric: what the scores are, such as accuracy.
        greater_is_better: whether more of it is better.
        held_out: what it was measured on.
        best: the recipe with the best values, as written to best.yaml.
        best_trial: they come from.
        trials: all, in their order.
    """

    folder: Path
    metric: str
    greater_is_better: bool
    held_out: str
    best: Recipe
    best_trial: Trial
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Space:
    """The ranges of a recipe, and how values go back into it."""

    recipe: Recipe
    ranges: dict[str, SearchRange]

    def suggest(self, trial: BaseTrial, keys: list[str] | None = None) -> dict[str, Any]:
        """Values for a trial; the same key of a trial always has the same value."""
        found: dict[str, Any] = {}
        for key in self.ranges if keys is None else keys:
            wanted = self.ranges[key]
            if wanted.choices is not None:
                found[key] = trial.suggest_categorical(key, wanted.choices)
                continue
            low, high = wanted.low, wanted.high
            assert low is not None
            assert high is not None
            if isinstance(low, int) and isinstance(high, int):
                step = int(wanted.step or 1)
                found[key] = trial.suggest_int(key, low, high, log=wanted.log, step=step)
            else:
                found[key] = trial.suggest_float(key, low, high, log=wanted.log, step=wanted.step)
        return found

    def recipe_with(self, values: dict[str, Any]) -> Recipe:
        """The recipe with these values in place, and without ``tune``.

        Raises:
            RecipeError: values that the recipe refuses.
        """
        overrides = [f"{_path(key)}={json.dumps(value)}" for key, value in values.items()]
        whole = self.recipe.model_dump(exclude_unset=True, exclude={"tune"})
        whole["strategy"] = {"kind": self.recipe.strategy.kind, **whole.get("strategy", {})}
        made = Recipe.from_dict(whole, overrides)
        made._base = self.recipe._base
        return made

    def own_values(self) -> dict[str, Any]:
        """What the recipe itself says for the keys, where it is among the values tried."""
        found = {}
        for key, wanted in self.ranges.items():
            section, _, name = _path(key).partition(".")
            values = getattr(self.recipe, section)
            value = values.get(name) if isinstance(values, dict) else getattr(values, name, None)
            if name == "learning_rate" and value is None:
                value = STRATEGIES[self.recipe.strategy.kind][0].default_learning_rate
            inside = wanted.choices is not None and value in wanted.choices
            if wanted.choices is None and isinstance(value, (int, float)) and not isinstance(value, bool):
                inside = wanted.low <= value <= wanted.high and wanted.step is None  # type: ignore[operator]
            if inside:
                found[key] = value
        return found


def _path(key: str) -> str:
    """A key of ``tune`` as a path in the recipe: a bare name is a field of ``training``."""
    return key if "." in key else f"training.{key}"


@calm()
def search(
    recipe: Recipe, trials: int, *, output: str | Path | None = None, overwrite: bool = False
) -> Search:
    """Search the ranges under ``tune`` for the values with the best score on held-out target rows.

    Strategies full and lora go through ``Trainer.hyperparameter_search`` on the last training phase; the
    source phase of a sequential recipe is trained once. Strategy frozen is cross-validated on cached
    embeddings. The first trial has the recipe's own values where they lie in the ranges; the others are drawn
    by the tree-structured Parzen estimator; those that fall behind the median are cut short. Every trial is
    kept at once: called again, a search goes on until the study has ``trials`` of them.

    Args:
        recipe: with ``tune``.
        trials: that the study holds at the end, those of earlier calls too.
        output: folder; None: that of the recipe, with ``-tune`` behind it.
        overwrite: begin anew.

    Raises:
        RecipeError: no ranges, values that the recipe refuses, or a key that cannot be searched.
        OutputError: the folder holds something else, or the study of another recipe.
        MissingExtraError: Optuna is not installed.

    Cost: at most ``trials`` trainings without their checkpoints; frozen: one embedding of the texts for each
    layer tried, and a few heads a trial.
    """
    optuna = _optuna()
    folder = Path(output) if output is not None else Path(f"{recipe.output_dir}-tune")
    space = check(recipe)
    _open(folder, recipe, overwrite)
    setup = _setup(recipe, folder)
    _, greater = setup.task.best_metric
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            **study_settings(folder, recipe.seed, 0),
            direction="maximize" if greater else "minimize",
            load_if_exists=True,
        )
        left = _left(study, trials)
        study.sampler = study_settings(folder, recipe.seed, len(study.trials))["sampler"]
        if not study.trials and (own := space.own_values()):
            study.enqueue_trial(own)
        if left:
            notice(f"tune: {left} of {trials} trials to go, in {folder / STUDY}")
            if recipe.strategy.kind == "frozen":
                from nlp_transfer.training.search_frozen import optimize
            else:
                from nlp_transfer.training.search_trainer import optimize
            optimize(setup, space, study, left)
    finally:
        optuna.logging.set_verbosity(verbosity)
    return _finish(folder, space, study, setup)


def study_settings(folder: Path, seed: int, done: int) -> dict[str, Any]:
    """Of ``optuna.create_study``: where the study lies, how values are drawn and trials cut short."""
    import optuna

    return {
        "study_name": STUDY_NAME,
        "storage": f"sqlite:///{(folder / STUDY).resolve()}",
        "sampler": optuna.samplers.TPESampler(seed=seed + done),
        "pruner": optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1),
    }


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("optuna", "tune", "tune") from None
    return optuna


def check(recipe: Recipe) -> Space:
    """The search space of a recipe, with every end of every range tried on the recipe itself.

    Raises:
        RecipeError: nothing to search, or keys or values that do not fit; all of them at once.
    """
    problems = []
    if not recipe.tune:
        message = "required: give keys and ranges, such as learning_rate: {low: 1e-5, high: 1e-3, log: true}"
        raise RecipeError("recipe", [Problem("tune", None, message)])
    if recipe.task.kind != "sentiment":
        problems.append(Problem("task.kind", None, f"expected sentiment, found {recipe.task.kind}"))
    if recipe.adaptation:
        problems.append(Problem("adaptation", None, "tune takes recipes without: leave it out"))
    if not recipe.target.trains:
        problems.append(Problem("target.train", None, "tune needs labelled target rows to judge by"))
    space = Space(recipe, dict(recipe.tune))
    for key, wanted in space.ranges.items():
        why = _why_not(recipe, key)
        if why is not None:
            problems.append(Problem(f"tune.{key}", None, why))
            continue
        for value in wanted.ends:
            try:
                space.recipe_with({key: value})
            except RecipeError as error:
                problems += [Problem(f"tune.{key}", None, problem.message) for problem in error.problems]
                break
    if problems:
        raise RecipeError("recipe", problems)
    return space


def _why_not(recipe: Recipe, key: str) -> str | None:
    """What keeps a key from being searched."""
    section, _, name = _path(key).partition(".")
    frozen = recipe.strategy.kind == "frozen"
    if section == "training" and not frozen:
        fields = training_fields()
        return None if name in fields else f"unknown field of TrainingArguments; {did_you_mean(name, fields)}"
    if section == "training":
        return "strategy frozen trains no encoder: search keys of strategy, such as strategy.C"
    if section != "strategy" and (frozen or _path(key) not in SEARCHED):
        able = "strategy.*" if frozen else f"fields of training, strategy.* and {', '.join(SEARCHED)}"
        return f"it cannot be searched; expected {able}"
    if name == "kind":
        return "each strategy has its own ranges: tune a recipe of each"
    sequential = recipe.source is not None and recipe.source.trains and recipe.source.mode == "sequential"
    if sequential and not frozen:
        return (
            "the source phase of a sequential recipe is trained once for all trials, so the model is "
            "settled: search fields of training, or set source.mode=joint"
        )
    return None


def _open(folder: Path, recipe: Recipe, overwrite: bool) -> None:
    """Begin a study's folder, or go on in it if it is of the same recipe."""
    text = recipe.dump()
    study, base = folder / STUDY, folder / BASE
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file", expected="a folder", fix="choose another --output")
    if folder.is_dir() and any(folder.iterdir()):
        if not (study.is_file() and base.is_file()):
            raise OutputError(f"{folder} holds something else", fix="choose another --output")
        if overwrite:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            for name in (STUDY, f"{STUDY}-journal", BEST, TRIALS, BASE):
                (folder / name).unlink(missing_ok=True)
        elif base.read_text(encoding="utf-8") != text:
            raise OutputError(
                f"{folder} holds the study of another recipe",
                fix="choose another --output, or pass --overwrite to begin anew",
            )
    write_text(base, text)


def _setup(recipe: Recipe, folder: Path) -> Setup:
    """All that training needs, checked and loaded; nothing is saved but what the source phase leaves."""
    from nlp_transfer.models.load import load_config, load_tokenizer, locate
    from nlp_transfer.training.domains import check_labels, load_domains

    quiet = {"save_strategy": "no"} if recipe.strategy.kind != "frozen" else {}
    plain = recipe.model_copy(update={"training": {**recipe.training, **quiet}, "early_stopping": None})
    plain._base = recipe._base
    task = TASKS[recipe.task.kind][0](recipe.task)
    domains = load_domains(plain, task)
    trained = {f"{role}.train": data.train for role, data in domains.items() if data.train is not None}
    task = task.bind(trained)
    check_labels(task, domains)
    pretrained = locate(recipe.model)
    tokenizer = load_tokenizer(pretrained, recipe.model)
    task = task.settle(tokenizer, load_config(pretrained, recipe.model))
    strategy = STRATEGIES[recipe.strategy.kind][0](recipe.strategy)
    return Setup(plain, task, strategy, domains, pretrained, tokenizer, RunFolder(folder), resume=True)


def _left(study: Study, wanted: int) -> int:
    """Trials to go; those that an interruption left running count as failed and are not repeated."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return max(wanted - len(done), 0)


def _finish(folder: Path, space: Space, study: Study, setup: Setup) -> Search:
    """Write the best recipe and all trials.

    Raises:
        OutputError: not one trial came to its end.
    """
    states = {"COMPLETE": "complete", "PRUNED": "pruned"}
    found = tuple(
        Trial(trial.number, dict(trial.params), trial.value, states.get(trial.state.name, "failed"))
        for trial in study.trials
        if trial.state.is_finished()
    )
    if not any(trial.state == "complete" for trial in found):
        raise OutputError(
            f"{folder}: no trial came to its end",
            found=f"{len(found)} trials, all failed",
            fix="narrow the ranges (a lower learning_rate), and begin anew with --overwrite",
        )
    best = next(trial for trial in found if trial.number == study.best_trial.number)
    recipe = space.recipe_with(best.values)
    metric, greater = setup.task.best_metric
    held_out = held_out_rows(setup)
    comment = f"# Best of {len(found)} trials: {metric} {best.score:.4f} on {held_out}, which chose it.\n"
    write_text(folder / BEST, comment + recipe.dump())
    rows = [vars(trial) for trial in found]
    values = {"metric": metric, "held_out": held_out, "best": best.number, "trials": rows}
    write_json(folder / TRIALS, values)
    return Search(folder, metric, greater, held_out, recipe, best, found)


def held_out_rows(setup: Setup) -> str:
    """What the scores are measured on, in words."""
    target = setup.domains["target"]
    if target.validation is not None:
        return f"{len(target.validation):,} validation rows of {target.name}"
    assert target.train is not None
    return f"{len(target.train):,} cross-validated training rows of {target.name}"


@contextlib.contextmanager
def unprinted() -> Iterator[None]:
    """Keep what the Trainer prints of every evaluation off the screen."""
    with contextlib.redirect_stdout(None):
        yield
