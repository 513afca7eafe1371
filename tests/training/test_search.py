"""Hyper-parameter search: the best values are found, kept, gone on with, and run as a recipe."""

import json

import optuna
import pytest
from optuna.trial import TrialState

from nlp_transfer import Recipe, train
from nlp_transfer.cli import main
from nlp_transfer.errors import OutputError, RecipeError
from nlp_transfer.training import search_frozen, search_trainer
from nlp_transfer.training.search import BEST, STUDY, STUDY_NAME, TRIALS, check, search


def study_of(folder):
    return optuna.load_study(study_name=STUDY_NAME, storage=f"sqlite:///{folder / STUDY}")


def test_lora_is_searched_by_the_trainer_and_the_best_recipe_runs(make_recipe, bert, tmp_path):
    ranges = {
        "learning_rate": {"low": 1e-7, "high": 1e-1, "log": True},
        "per_device_train_batch_size": {"choices": [4, 16]},
        "strategy.r": {"choices": [2, 4]},
    }
    recipe = make_recipe(model={"name": str(bert)}, strategy={"kind": "lora", "r": 4}, tune=ranges)
    found = search(recipe, 2)
    assert found.folder == tmp_path / "run-tune"
    assert found.metric == "accuracy"
    assert found.trials[0].values["learning_rate"] == 1e-3  # the recipe's own
    assert {trial.state for trial in found.trials} <= {"complete", "pruned"}
    assert not list(found.folder.glob("checkpoints/**/*.safetensors"))
    first = [trial.values for trial in found.trials]
    again = search(recipe, 3)
    assert [trial.values for trial in again.trials[:2]] == first  # kept
    assert len(again.trials) == 3
    assert search(recipe, 2).trials == again.trials  # nothing to go
    best = max(again.trials, key=lambda trial: trial.score or 0)
    assert again.best_trial.score == best.score
    written = Recipe.load(again.folder / BEST)
    assert written == again.best
    assert written.tune is None
    assert written.training["learning_rate"] == again.best_trial.values["learning_rate"]
    assert written.strategy.r == again.best_trial.values["strategy.r"]
    result = train(written)
    assert result.score("target", "validation") == pytest.approx(again.best_trial.score)
    assert json.loads((again.folder / TRIALS).read_text())["best"] == again.best_trial.number


def test_the_source_phase_is_trained_once(make_recipe, monkeypatch):
    trained = []
    fit = search_trainer.fit_phase
    monkeypatch.setattr(
        search_trainer,
        "fit_phase",
        lambda *args, **kwargs: trained.append(args[2].name) or fit(*args, **kwargs),
    )
    ranges = {"learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
    recipe = make_recipe(source=True, tune=ranges)
    search(recipe, 1)
    found = search(recipe, 2)
    assert trained == ["source"]
    assert len(found.trials) == 2


def test_a_trial_that_falls_behind_is_cut_short_and_one_that_diverges_fails(make_recipe, monkeypatch):
    recipe = make_recipe(
        tune={"learning_rate": {"choices": [1e-3, 1e-4]}},
        training={"num_train_epochs": 2, "per_device_train_batch_size": 16},
    )
    values = iter([0.9] * 8 + [0.1] * 2)
    monkeypatch.setattr(
        "nlp_transfer.tasks.sentiment.SentimentTask.compute_metrics", lambda *_: {"accuracy": next(values)}
    )
    found = search(recipe, 5)
    assert [trial.state for trial in found.trials] == ["complete"] * 4 + ["pruned"]
    from nlp_transfer.errors import TrainingError

    def diverge(*_):
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr("nlp_transfer.training.trainer.check_finite_loss", diverge)
    assert search(recipe, 6).trials[-1].state == "failed"


def test_frozen_is_searched_on_cached_embeddings_without_a_trainer(make_recipe, data, monkeypatch):
    """The chosen C is that of an exhaustive search with scikit-learn-like folds of our own."""
    monkeypatch.setattr("nlp_transfer.training.trainer.TransferTrainer.__init__", None)
    embedded = []
    embed = search_frozen.Embedder.embed

    def counted(self, texts):
        found = embed(self, texts)
        embedded.append(found.misses)
        return found

    monkeypatch.setattr(search_frozen.Embedder, "embed", counted)
    ranges = {
        "strategy.C": {"choices": [1e-6, 0.1]},
        "strategy.layer": {"choices": ["last", 0, 1]},
        "strategy.normalize": {"choices": [True, False]},
    }
    target = {"train": data["target.train"]}
    found = search(make_recipe(strategy={"kind": "frozen"}, target=target, tune=ranges, training={}), 12)
    assert "cross-validated" in found.held_out
    assert found.best_trial.score == max(trial.score or 0 for trial in found.trials)
    assert sum(embedded) <= 3 * 32  # each layer once
    again = search(make_recipe(strategy={"kind": "frozen"}, target=target, tune=ranges, training={}), 12)
    assert again.trials == found.trials
    result = train(found.best)
    assert result.strategy == "frozen"


def test_an_interrupted_trial_counts_as_failed(make_recipe, data):
    ranges = {"strategy.C": {"low": 1e-4, "high": 1.0, "log": True}}
    recipe = make_recipe(strategy={"kind": "frozen"}, source=True, tune=ranges, training={})
    found = search(recipe, 2)
    assert found.held_out.startswith("12 validation rows")
    study_of(found.folder).ask()  # what a kill leaves behind
    again = search(recipe, 4)
    assert [trial.state for trial in again.trials] == ["complete", "complete", "failed", "complete"]
    assert study_of(found.folder).get_trials(states=(TrialState.RUNNING,)) == []


def test_a_search_that_goes_on_tries_other_values(make_recipe):
    ranges = {"strategy.C": {"low": 1e-4, "high": 10.0, "log": True}}
    recipe = make_recipe(strategy={"kind": "frozen"}, tune=ranges, training={})
    for trials in (3, 5):
        found = search(recipe, trials)
    assert len({trial.values["strategy.C"] for trial in found.trials}) == 5


def test_beginning_anew_removes_the_study_alone(make_recipe):
    ranges = {"strategy.C": {"choices": [0.1, 1.0]}}
    recipe = make_recipe(strategy={"kind": "frozen"}, tune=ranges, training={})
    folder = search(recipe, 2).folder
    (folder / "checkpoints" / "source").mkdir(parents=True)
    (folder / "notes.txt").write_text("mine")
    assert len(search(recipe, 1, overwrite=True).trials) == 1
    assert {path.name for path in folder.iterdir()} == {"notes.txt", STUDY, BEST, TRIALS, "recipe.yaml"}


def test_a_study_belongs_to_one_recipe(make_recipe, tmp_path):
    ranges = {"strategy.C": {"choices": [0.1, 1.0]}}
    frozen = {"strategy": {"kind": "frozen"}, "tune": ranges, "training": {}}
    search(make_recipe(**frozen), 1)
    with pytest.raises(OutputError, match="another recipe"):
        search(make_recipe("training.seed=1", **frozen), 1)
    assert len(search(make_recipe("training.seed=1", **frozen), 1, overwrite=True).trials) == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else"):
        search(make_recipe(**frozen), 1, output=tmp_path / "mine", overwrite=True)


@pytest.mark.parametrize(
    ("ranges", "words"),
    [
        ({"learning_rat": {"low": 1e-5, "high": 1e-3}}, "unknown field"),
        ({"learning_rate": {"low": -1e-5, "high": 1e-3}}, "expected 0 or more"),
        ({"strategy.r": {"choices": [0]}}, "unknown key"),
        ({"strategy.kind": {"choices": ["lora"]}}, "each strategy"),
        ({"model.name": {"choices": ["a"]}}, "cannot be searched"),
    ],
)
def test_bad_ranges_are_all_told_before_any_work(make_recipe, ranges, words):
    recipe = make_recipe(tune={**ranges, "training.batch": {"choices": [1]}})
    with pytest.raises(RecipeError, match=words) as stop:
        check(recipe)
    assert "tune.training.batch" in str(stop.value)


@pytest.mark.parametrize("wrong", [{}, {"low": 1}, {"low": 2, "high": 1}, {"choices": [1], "log": True}])
def test_a_range_has_two_ends_or_choices(make_recipe, wrong):
    with pytest.raises(RecipeError, match="tune"):
        make_recipe(tune={"learning_rate": wrong})


def test_the_command_prints_the_trials(make_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    recipe = make_recipe(strategy={"kind": "frozen"}, tune={"strategy.C": {"choices": [0.1]}}, training={})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.dump())
    with pytest.raises(SystemExit) as stop:
        main(["tune", str(path), "--trials", "1", "--output", str(tmp_path / "study")])
    assert stop.value.code == 0
    assert "best.yaml" in capsys.readouterr().out
